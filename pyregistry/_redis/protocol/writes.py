"""Requests that write without a claim: statuses, cancellations, touches, deletions, settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from pyregistry._core import validation as checks
from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import (
    first_error,
)
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.request import CommandTemplate, PlainRequest, Request
from pyregistry._redis.protocol.request_base import (
    Answers,
    RequestBase,
    branch_fields,
    damaged,
    evicting,
    memoized,
    microseconds,
)
from pyregistry._redis.protocol.transitions import (
    CACHE,
    CANCEL,
    DELETE,
    SET_BRANCH,
    SET_STATUS,
    TOUCH,
)
from pyregistry.backend.values import Cancellation, Cancelled, StatusChange, StatusSet
from pyregistry.errors import (
    DamagedRecord,
    ModelHeld,
)
from pyregistry.models import (
    ModelRef,
)

T = TypeVar("T")
K = TypeVar("K")

_decode_cache = msgspec.msgpack.Decoder(wire.Cache).decode


class WriteRequests(RequestBase):
    """The writing requests that need no claim."""

    def __init__(self, namespace: str, owner: str | None, providers: Iterable[str]) -> None:
        super().__init__(namespace, owner, providers)
        # Kept as an attribute, because this frequent call needs no lookup by key then.
        self._touch_head = self._head("touch", TOUCH, self.keys.shared)
        # Without a script, because a server that refuses writes answers a plain read.
        self._cache_head = CommandTemplate("cache", None, verb="HMGET")
        # Arguments: (name, provider, revision, subset).
        self.touch_model = memoized(self._touch_of)
        self._set_to = memoized(self._setting)  # without a message

    def set_status(self, target: ModelKey, change: StatusChange) -> Request[StatusSet]:
        """Set a status from outside of a claim."""
        # The owner is read for each call, because a forked process is another owner. The status is passed as a str,
        # because a member of an enum takes longer to hash.
        if change.is_plain:
            return self._set_to(target, change.status.value, self.owner)
        return self._setting(
            target,
            change.status.value,
            self.owner,
            change.message or "",
            microseconds(change.retry_in),
            int(change.permanent),
            change.size_bytes or 0,
            change.location or "",
        )

    def _setting(
        self,
        target: ModelKey,
        status: str,
        owner: str,
        message: str = "",
        retry_in: int = 0,
        permanent: int = 0,
        size_bytes: int = 0,
        location: str = "",
    ) -> Request[StatusSet]:
        def decode(answers: Answers) -> StatusSet:
            answer: wire.SetReply = answers[0]
            if isinstance(answer, wire.Damaged):
                raise damaged(target.ref, answer.why)
            if isinstance(answer, wire.SetRefused):
                raise evicting(target.ref, "set_status")
            return answer

        head = self._writing("set_status", SET_STATUS, owner, resend=False)
        argv = (status, message, retry_in, permanent, size_bytes, location)
        return PlainRequest(head, decode, self._records([target]), argv, 1)

    def cancel(self, target: ModelKey, cancellation: Cancellation) -> Request[Cancelled | None]:
        """End a download from outside of its claim. The reply names the claim, or is None if there was none."""
        expected = cancellation.expected_token
        text = cancellation.told_by(self.owner)

        def decode(answers: Answers) -> Cancelled | None:
            answer: wire.CancelReply = answers[0]
            if isinstance(answer, wire.Damaged):
                raise damaged(target.ref, answer.why)
            if isinstance(answer, wire.Again):
                return Cancelled("", expected or 0)
            return answer if isinstance(answer, Cancelled) else None

        head = self._writing("cancel_download", CANCEL, self.owner, resend=expected is not None)
        token = "" if expected is None else expected
        argv = (token, text, microseconds(cancellation.retry_in), int(cancellation.permanent))
        return PlainRequest(head, decode, self._records([target]), argv, 1)

    def _touch_of(self, *model: Any) -> Request[bool]:
        """Touch a model; without a provider, of every provider. The reply is whether any is known."""
        return self._question(self._touch_head, _is_known, self.targets(*model), shared=True)

    def touch(self, targets: Sequence[ModelKey]) -> Request[list[bool | DamagedRecord]]:
        """Touch these models. The reply is whether each is known."""
        decode = partial(are_known, [target.ref for target in targets])
        return PlainRequest(self._touch_head, decode, self._records(targets), (), len(targets))

    def delete(self, targets: Sequence[ModelKey], *, expected_token: int | None, force: bool) -> Request[int]:
        """Delete the records of these models. The reply is the number of deleted records.

        Args:
            targets: The models.
            expected_token: Delete only a record with this token; None: any.
            force: Whether to delete a record too that is being evicted, is held, or can't be read.
        """
        token = "" if expected_token is None else checks.whole("expected_token", expected_token)
        keys: list[str] = []
        argv: list[str | int] = []
        for target in targets:
            keys += (self.keys.record(target.entry), self.keys.holds(target.entry))
            argv += (token, int(bool(force)))

        def decode(answers: Answers) -> int:
            gone = 0
            for target, answer in zip(targets, answers, strict=True):
                if isinstance(answer, wire.Damaged):
                    raise damaged(target.ref, answer.why)
                if isinstance(answer, wire.Evicting):
                    raise evicting(target.ref, "delete_model")
                if isinstance(answer, wire.Held):
                    raise ModelHeld(
                        f"{target.ref.name!r} ({target.ref.provider}) is held {answer.holders} times",
                        model_name=target.ref.name,
                        provider=str(target.ref.provider),
                    )
                gone += isinstance(answer, wire.Deleted)
            return gone

        head = self._writing("delete", DELETE, self.owner, resend=expected_token is not None)
        return PlainRequest(head, decode, keys, argv, len(targets))

    def cache(self, proposed: str | None = None) -> Request[str | None]:
        """Read the cache id of the namespace. If it is not set, set it to `proposed`, unless that is None."""
        if proposed is None:
            return PlainRequest(self._cache_head, _read_cache_id, (self.keys.meta,), ("cache_id",))
        argv = (checks.text("cache_id", proposed, checks.WORD_BYTES),)
        head = self._head("cache", CACHE, (self.keys.meta,))
        return PlainRequest(head, lambda answers: _decode_cache(answers[0]).cache_id or None, (), argv)

    def set_branch(self, target: ModelKey, commit: str, name: str, asked: int) -> Request[None]:
        """Store a hub's answer about a branch.

        Args:
            target: As in `branch`.
            commit: The commit of the branch.
            name: The repository's name as the hub writes it.
            asked: The lease time before the hub was asked (`Branch.time`).
        """
        branch, spelling = branch_fields(target)
        head = self._head("set_branch", SET_BRANCH, (self.keys.meta, self.keys.branches))
        return PlainRequest(head, lambda _answers: None, (), (branch, commit, spelling, name, asked))


def _read_cache_id(answers: Answers) -> str | None:
    (cache_id,) = answers[0]
    return None if cache_id is None else cache_id.decode()


def _is_known(refs: Sequence[ModelRef], answers: Answers) -> bool:
    known = False
    for answer in answers:
        if isinstance(answer, wire.Known):
            known = True
        elif isinstance(answer, wire.Damaged):
            return any(first_error(are_known(refs, answers)))
    return known


def are_known(refs: Sequence[ModelRef], answers: Answers) -> list[bool | DamagedRecord]:
    return [
        damaged(ref, answer.why) if isinstance(answer, wire.Damaged) else isinstance(answer, wire.Known)
        for ref, answer in zip(refs, answers, strict=True)
    ]
