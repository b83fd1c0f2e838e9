"""Requests that only read: records, statuses, pages, counts, the clock, branches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from pyregistry._core.clock import time_of
from pyregistry._core.model_key import ModelKey, parse_entry
from pyregistry._core.values import (
    _preferred,
    preferred_record,
)
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.request import PlainRequest, Request
from pyregistry._redis.protocol.request_base import (
    Answers,
    RequestBase,
    branch_fields,
    damaged,
    memoized,
)
from pyregistry._redis.protocol.transitions import (
    BRANCH,
    COUNTS,
    NOW,
    PAGE,
    READ,
)
from pyregistry.backend.values import Branch, Totals
from pyregistry.errors import (
    DamagedRecord,
)
from pyregistry.models import (
    ModelRecord,
    ModelRef,
    ModelStatus,
    StatusCounts,
)

T = TypeVar("T")
K = TypeVar("K")

_decode_page = msgspec.msgpack.Decoder(list[str | int]).decode
_decode_counts = msgspec.msgpack.Decoder(Totals).decode
_decode_now = msgspec.msgpack.Decoder(wire.Now).decode
_decode_branch = msgspec.msgpack.Decoder(Branch).decode


class ReadRequests(RequestBase):
    """The requests that change nothing."""

    def __init__(self, namespace: str, owner: str | None, providers: Iterable[str]) -> None:
        super().__init__(namespace, owner, providers)
        # Kept as attributes, because these frequent calls need no lookup by key then.
        self._status_head = self._head("get_status", None, near=True)
        self._read_head = self._head("get_model_record", READ, tuple(self.keys.indexes.values()))
        self._stored_head = self._head("get_model_record", None, near=True)
        # Arguments: (name, provider, revision, subset).
        self.get_status = memoized(self._status_of)
        self.get_record = memoized(self._record_of)

    def _status_of(self, *model: Any) -> Request[ModelStatus | None]:
        """Read the status of a model. Without a provider: DOWNLOADED if any has it, else the first status found."""
        return self._question(self._status_head, _read_status, self.targets(*model), shared=True)

    def _record_of(self, *model: Any) -> Request[ModelRecord | None]:
        """Read the record of a model. Without a provider: a DOWNLOADED one if any, else the first found."""
        return self._question(self._read_head, _read_preferred, self.targets(*model), shared=True)

    def read(self, targets: Sequence[ModelKey]) -> Request[list[ModelRecord | DamagedRecord | None]]:
        """Read the records of these models."""
        return self._question(self._read_head, _read_records, targets)

    def look_up(self, targets: Sequence[ModelKey]) -> Request[list[wire.ReadReply]]:
        """Read the stored records of these models, not decoded, each with its last use."""
        return self._question(self._read_head, _as_answered, targets)

    def stored(self, targets: Sequence[ModelKey]) -> Request[list[Any]]:
        """Read the raw values of these models' keys. The near cache may keep them."""
        return self._question(self._stored_head, _as_answered, targets)

    def page(self, status: ModelStatus | None, from_score: int, limit: int) -> Request[list[tuple[str, int]]]:
        """Read a page of index entries by last use, the oldest first, with their scores."""
        indexes = self.keys.indexes
        keys = list(indexes.values()) if status is None else [indexes[status]]

        def decode(answers: Answers) -> list[tuple[str, int]]:
            flat = _decode_page(answers[0])
            return [(str(entry), int(score)) for entry, score in zip(flat[::2], flat[1::2], strict=True)]

        return PlainRequest(self._head("get_models_by_last_used", PAGE), decode, keys, (from_score, limit))

    def listed(self, entries: Sequence[tuple[str, int]]) -> Request[list[ModelRecord | DamagedRecord | None]]:
        """Read the records of index entries, each with its score as last use."""

        def decode(values: Answers) -> list[ModelRecord | DamagedRecord | None]:
            return [
                None if value is None else read_stored(parse_entry(entry), value, score)
                for (entry, score), value in zip(entries, values, strict=True)
            ]

        keys = [self.keys.record(entry) for entry, _ in entries]
        return PlainRequest(self._head("get_models_by_last_used", None), decode, keys, (), len(entries))

    def counts(self) -> Request[StatusCounts]:
        """Count the records by status."""

        def decode(answers: Answers) -> StatusCounts:
            downloading, downloaded, error, _ = _decode_counts(answers[0]).records
            return StatusCounts(downloading, downloaded, error)

        return self._counted(decode)

    def stock(self) -> Request[Totals]:
        """Count the records by status, including EVICTING, and sum their bytes."""
        return self._counted(lambda answers: _decode_counts(answers[0]))

    def _counted(self, decode: Callable[[Answers], T]) -> Request[T]:
        return PlainRequest(self._head("get_status_counts", COUNTS, self.keys.shared), decode)

    def now(self) -> Request[datetime]:
        """Read the lease time."""

        def decode(answers: Answers) -> datetime:
            return time_of(_decode_now(answers[0]).time)

        return PlainRequest(self._head("now", NOW, (self.keys.meta,)), decode)

    def branch(self, target: ModelKey) -> Request[Branch]:
        """Read the stored commit of a branch and the canonical name of its repository.

        Args:
            target: The repository as the caller spells it; its ``revision`` is the branch, or None.
        """
        argv = branch_fields(target)
        head = self._head("branch", BRANCH, (self.keys.meta, self.keys.branches))
        return PlainRequest(head, lambda answers: read_branch(answers[0]), (), argv)


def read_record(ref: ModelRef, answer: wire.ReadReply) -> ModelRecord | DamagedRecord | None:
    """Decode the reply to one read record. None: there is no record."""
    if isinstance(answer, wire.Found):
        return read_stored(ref, answer.record, answer.last_used)
    return damaged(ref, answer.why) if isinstance(answer, wire.Damaged) else None


def read_branch(reply: bytes) -> Branch:
    """Decode the reply to `branch`. An unreadable reply counts as unknown, because it contains raw stored values."""
    try:
        return _decode_branch(reply)
    except ValueError:  # a DecodeError of msgspec, or invalid UTF-8: the hash was edited by hand
        return Branch(0, None, None)


def read_stored(ref: ModelRef, raw: bytes | msgspec.Raw, last_used: int) -> ModelRecord | DamagedRecord:
    """Decode a stored record. A last use of 0 means unknown."""
    try:
        return wire.record_of(ref, wire.decode_record(raw), last_used)
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        return damaged(ref, str(error))


def _read_status(refs: Sequence[ModelRef], values: Answers) -> ModelStatus | None:
    try:
        found = [wire.decode_status(value).status for value in values if value is not None]
    except msgspec.DecodeError:
        return _preferred(_readable_statuses(refs, values), lambda status: status)
    if ModelStatus.DOWNLOADED in found:
        return ModelStatus.DOWNLOADED
    return found[0] if found else None


def _readable_statuses(refs: Sequence[ModelRef], values: Answers) -> Iterator[ModelStatus | DamagedRecord]:
    for ref, value in zip(refs, values, strict=True):
        if value is not None:
            try:
                yield wire.decode_status(value).status
            except msgspec.DecodeError as error:
                yield damaged(ref, str(error))


def _read_preferred(refs: Sequence[ModelRef], answers: Answers) -> ModelRecord | None:
    return preferred_record(map(read_record, refs, answers))


def _read_records(refs: Sequence[ModelRef], answers: Answers) -> list[ModelRecord | DamagedRecord | None]:
    return [read_record(ref, answer) for ref, answer in zip(refs, answers, strict=True)]


def _as_answered(_refs: Sequence[ModelRef], answers: Answers) -> list[Any]:
    return list(answers)
