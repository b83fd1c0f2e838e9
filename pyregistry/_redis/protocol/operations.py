"""What each method asks of the server, and what the answer means. Pure: no I/O, no client.

A client that calls for many models gets as many operations as the batch size asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

import msgspec

from pyregistry._core import validation as checks
from pyregistry._core.claim_ids import ClaimIds, default_owner
from pyregistry._core.clock import time_of, time_or_none
from pyregistry._core.model_key import ModelKey, entry_of, parse_entry
from pyregistry._core.values import (
    ClaimResult,
    Default,
    Lease,
    ProgressUpdate,
    Rejection,
    _preferred,
    first_error,
    next_order,
    preferred_record,
)
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry._redis.protocol.request import CommandTemplate, PlainRequest, Request
from pyregistry._redis.protocol.scripts import BATCH, Script, load
from pyregistry.backend.values import Branch, Cancellation, Cancelled, Ending, StatusChange, StatusSet, Totals
from pyregistry.errors import (
    DamagedRecord,
    EvictionInProgress,
    ModelHeld,
)
from pyregistry.models import (
    AlreadyExists,
    Claim,
    Claimed,
    ModelProvider,
    ModelRecord,
    ModelRef,
    ModelStatus,
    StatusCounts,
)

T = TypeVar("T")
K = TypeVar("K")

SCHEMA: Final = 1
"""The newest layout of a namespace that this version knows."""

OPEN: Final = load("open", 1)
CHECK: Final = load("check", 1)
CLAIM: Final = load("claim", 1)
RETRY: Final = load("retry", 1)
RENEW: Final = load("renew", 1)
FINISH: Final = load("finish", 1)
RELEASE: Final = load("release", 1)
SET_STATUS: Final = load("set_status", 1)
CANCEL: Final = load("cancel", 1)
TOUCH: Final = load("touch", 1)
DELETE: Final = load("delete", 1)
READ: Final = load("read", 1)
PAGE: Final = load("page", 1)
COUNTS: Final = load("counts", 1)
NOW: Final = load("now", 1)
CACHE: Final = load("cache", 1)
BRANCH: Final = load("branch", 1)
SET_BRANCH: Final = load("set_branch", 1)

#: Every script but `open`, which goes first.
SCRIPTS: Final = (
    CHECK,
    CLAIM,
    RETRY,
    RENEW,
    FINISH,
    RELEASE,
    SET_STATUS,
    CANCEL,
    TOUCH,
    DELETE,
    READ,
    PAGE,
    COUNTS,
    NOW,
    CACHE,
    BRANCH,
    SET_BRANCH,
)

MOST_HEADS: Final = 64
"""Of so many owners, leases and the like the heads are kept."""


MOST_OPS: Final = 4096
"""Of so many models, or kinds of models, the commonest operations are kept."""


def damaged(ref: ModelRef, why: str) -> DamagedRecord:
    """The error for a value that can't be read."""
    return DamagedRecord(
        f"the record of {ref.name!r} ({ref.provider}) can't be read: {why}; "
        "delete_model(..., force=True) removes it",
        model_name=ref.name,
        provider=str(ref.provider),
    )


_raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def _splitting(answer: Any) -> Callable[[bytes], list[Any]]:
    """What takes the reply of a script apart, whose items are answered by this type."""
    decode_all = msgspec.msgpack.Decoder(list[answer]).decode
    decode = msgspec.msgpack.Decoder(answer).decode

    def one(raw: msgspec.Raw) -> Any:
        try:
            return decode(raw)
        except ValueError as error:  # msgspec's, or what is no UTF-8: somebody has put that into the record
            return wire.Damaged(str(error))

    def split(reply: bytes) -> list[Any]:
        try:
            return decode_all(reply)
        except ValueError:
            return [one(raw) for raw in _raws(reply)]

    return split


_SPLIT: Final = {
    CLAIM.name: _splitting(wire.ClaimReply),
    RETRY.name: _splitting(wire.RetryReply),
    RENEW.name: _splitting(wire.RenewReply),
    FINISH.name: _splitting(wire.EndReply),
    RELEASE.name: _splitting(wire.EndReply),
    SET_STATUS.name: _splitting(wire.SetReply),
    CANCEL.name: _splitting(wire.CancelReply),
    TOUCH.name: _splitting(wire.TouchReply),
    DELETE.name: _splitting(wire.DeleteReply),
    READ.name: _splitting(wire.ReadReply),
}
"""How the reply of a script that takes items becomes their answers."""

_decode_page = msgspec.msgpack.Decoder(list[str | int]).decode
_decode_counts = msgspec.msgpack.Decoder(Totals).decode
_decode_now = msgspec.msgpack.Decoder(wire.Now).decode
_decode_cache = msgspec.msgpack.Decoder(wire.Cache).decode
_decode_branch = msgspec.msgpack.Decoder(Branch).decode
_decode_opened = msgspec.msgpack.Decoder(wire.Opened).decode

Answers: TypeAlias = Sequence[Any]
"""What the server says to each item of an operation."""


def read_record(ref: ModelRef, answer: wire.ReadReply) -> ModelRecord | DamagedRecord | None:
    """What the server says of a record."""
    if isinstance(answer, wire.Found):
        return read_stored(ref, answer.record, answer.last_used)
    return damaged(ref, answer.why) if isinstance(answer, wire.Damaged) else None


def read_branch(reply: bytes) -> Branch:
    """What is known of a branch: nothing, where the reply can't be read (it holds values as they are stored)."""
    try:
        return _decode_branch(reply)
    except ValueError:  # msgspec's, or what is no UTF-8: somebody has put that into the hash
        return Branch(0, None, None)


def _left(microseconds: int) -> float | None:
    return None if microseconds == wire.NEVER else microseconds / 1_000_000


def read_stored(ref: ModelRef, raw: bytes | msgspec.Raw, last_used: int) -> ModelRecord | DamagedRecord:
    """A stored record; 0: its last use is not known."""
    try:
        return wire.record_of(ref, wire.decode_record(raw), last_used)
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        return damaged(ref, str(error))


def _kept(make: Callable[..., Request[T]]) -> Callable[..., Request[T]]:
    """Keeps the operations that were made last: nothing of them is of one call alone."""
    kept = lru_cache(maxsize=MOST_OPS)(make)

    def get(*model: Any) -> Request[T]:
        try:
            return kept(*model)
        except TypeError:  # no name can be that: it is told what is wrong with it
            return make(*model)

    return get


def _read_cache_id(answers: Answers) -> str | None:
    (cache_id,) = answers[0]
    return None if cache_id is None else cache_id.decode()


def _keep(kept: dict[K, T], key: K, value: T, most: int) -> None:
    if len(kept) >= most:
        kept.clear()
    kept[key] = value


class RequestFactory:
    """The operations of one client.

    Args:
        namespace: which registry.
        owner: who calls, for people; ``None``: host and process.
        providers: providers beyond the four that a call without a provider looks at too.
    """

    def __init__(self, namespace: str, owner: str | None, providers: Iterable[str]) -> None:
        self.keys = Keyspace(checks.namespace(namespace))
        self._owner = None if owner is None else checks.owner(owner)
        self.providers = checks.providers(providers, BATCH)
        self.ids = ClaimIds()
        self._heads: dict[tuple[Any, ...], CommandTemplate] = {}
        # Owner, lease and the like may be anything: only some are kept.
        self._claim_heads: dict[tuple[Any, ...], CommandTemplate] = {}
        self._claiming: dict[tuple[Any, ...], ClaimTemplate] = {}
        # Looked up by no key at all: these are the calls of which there are many.
        self._touch_head = self._head("touch", TOUCH, self.keys.shared)
        self._status_head = self._head("get_status", None, near=True)
        self._read_head = self._head("get_model_record", READ, tuple(self.keys.indexes.values()))
        self._stored_head = self._head("get_model_record", None, near=True)
        # Without a script: a server that refuses to write says it too.
        self._cache_head = CommandTemplate("cache", None, verb="HMGET")
        # As they are called: (name, provider, revision, subset).
        self.touch_model = _kept(self._touch_of)
        self.get_status = _kept(self._status_of)
        self.get_record = _kept(self._record_of)
        self._set_to = _kept(self._setting)  # without a message

    def _head(
        self,
        name: str,
        script: Script | None,
        keys: Sequence[str] = (),
        *argv: str | int,
        resend: bool = True,
        near: bool = False,
    ) -> CommandTemplate:
        """The one head of its kind. It is kept: ``argv`` must be of a few values."""
        of = (name, script and script.sha, argv, resend)
        head = self._heads.get(of)
        if head is None:
            split = list if script is None else _SPLIT.get(script.name, list)
            head = self._heads[of] = CommandTemplate(
                name, script, keys, argv, resend=resend, near=near, split=split
            )
        return head

    def _writing(self, name: str, script: Script, *argv: str | int, resend: bool = True) -> CommandTemplate:
        return self._head(name, script, self.keys.shared, self.keys.channel, *argv, resend=resend)

    def head_of_claims(
        self,
        script: Script,
        owner: str | None,
        lease: Lease,
        max_attempts: int | None,
        cooldown: float | None = None,
    ) -> tuple[CommandTemplate, str, float | None]:
        """The head of such claims, the owner, and the lease in seconds."""
        who = (self._owner or default_owner()) if owner is None else checks.owner(owner)
        length, seconds = checks.lease(lease)
        most = 0 if max_attempts is None else checks.whole("max_attempts", max_attempts, least=1)
        cools = 0 if cooldown is None else checks.microseconds("cooldown", cooldown)
        asked = script.name, who, length, most, cools
        head = self._claim_heads.get(asked)
        if head is None:
            argv: tuple[str | int, ...] = (self.keys.channel, who, length, most)
            if script is CLAIM:
                argv += (cools,)
            split = _SPLIT[script.name]
            head = CommandTemplate(
                script.name, script, self.keys.shared, argv, resend=length != 0, split=split
            )
            _keep(self._claim_heads, asked, head, MOST_HEADS)
        return head, who, seconds

    @property
    def owner(self) -> str:
        """Who calls. Not kept: a process that forks is another owner."""
        return default_owner() if self._owner is None else self._owner

    # Which models

    def targets(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> list[ModelKey]:
        """The one model, or the same name under every known provider."""
        providers = self.providers if provider is None else (provider,)
        return [checks.target(name, each, revision, subset) for each in providers]

    def _records(self, targets: Sequence[ModelKey]) -> tuple[str, ...]:
        if len(targets) == 1:  # the commonest call by far
            return (self.keys.record(targets[0].entry),)
        return tuple([self.keys.record(target.entry) for target in targets])

    # The connection

    def open(self) -> Request[wire.Opened]:
        """Is the server fit, and the one that wrote last?"""
        return self._about_server(OPEN)

    def check(self) -> Request[wire.Opened]:
        """Is the server fit? That can be told without a write."""
        return self._about_server(CHECK)

    def _about_server(self, script: Script) -> Request[wire.Opened]:
        keys = (*self.keys.shared, self.keys.record("x"), self.keys.holds("x"), self.keys.branches)
        head = self._head("connect", script, keys, self.keys.channel, SCHEMA)
        return PlainRequest(head, lambda answers: _decode_opened(answers[0]))

    # Claims

    def claiming(
        self,
        provider: ModelProvider | str,
        revision: str | None,
        subset: str | None,
        lease: Lease,
        owner: str | None,
        max_attempts: int | None,
        cooldown: float | None = None,
    ) -> ClaimTemplate:
        """What claims the downloads of models that differ in their names alone."""
        # The owner of now: a process that forks is another. The types too: what is equal to a good value may be
        # a bad one.
        who = (self._owner or default_owner()) if owner is None else owner
        asked = (
            provider,
            revision,
            subset,
            lease,
            type(lease),
            who,
            max_attempts,
            type(max_attempts),
            cooldown,
        )
        try:
            known = self._claiming.get(asked)
        except TypeError:
            known = None  # no argument can be that: it is told what is wrong with it
        if known is None:
            target = checks.target("x", provider, revision, subset)
            head = self.head_of_claims(CLAIM, owner, lease, max_attempts, cooldown)
            known = ClaimTemplate(self, target, *head)
            _keep(self._claiming, asked, known, MOST_OPS)
        return known

    def claims(
        self, targets: Sequence[ModelKey], *, lease: Lease, owner: str | None, max_attempts: int | None
    ) -> Request[list[ClaimResult | DamagedRecord]]:
        """The right to download, for each of the models."""
        head, who, seconds = self.head_of_claims(CLAIM, owner, lease, max_attempts)
        ids = [self.ids.new() for _ in targets]
        argv: list[str | int] = []
        for each in ids:
            argv += (each, 0)

        def decode(answers: Answers) -> list[ClaimResult | DamagedRecord]:
            results: list[ClaimResult | DamagedRecord] = []
            for target, each, answer in zip(targets, ids, answers, strict=True):
                try:
                    results.append(_claim_result(target.name, target, answer, each, who, seconds))
                except DamagedRecord as error:
                    results.append(error)
            return results

        def undo(results: Iterable[ClaimResult | DamagedRecord]) -> list[Request[str]]:
            return [self.release(result.claim) for result in results if isinstance(result, Claimed)]

        return PlainRequest(head, decode, self._records(targets), argv, len(targets), undo=undo)

    def give_back(self, result: ClaimResult) -> list[Request[str]]:
        """What gives back what nobody waits for any more."""
        return [self.release(result.claim)] if isinstance(result, Claimed) else []

    def retry(
        self,
        target: ModelKey,
        *,
        lease: Lease,
        claim_id: str | None,
        owner: str | None,
        max_attempts: int | None,
    ) -> Request[Claim | Rejection]:
        """The right to download again what ended in an error."""
        head, who, seconds = self.head_of_claims(RETRY, owner, lease, max_attempts)
        each = self.ids.new() if claim_id is None else checks.claim_id(claim_id)

        def decode(answers: Answers) -> Claim | Rejection:
            answer = answers[0]
            if isinstance(answer, wire.Damaged):
                raise damaged(target.ref, answer.why)
            if isinstance(answer, wire.RetryRefused):
                return Rejection(
                    _why_not_retried(answer, max_attempts or 0), retry_left=answer.retry_left / 1_000_000
                )
            return _claim_of(target.name, target, answer, each, who, seconds)

        def undo(result: Claim | Rejection) -> list[Request[str]]:
            return [self.release(result)] if isinstance(result, Claim) else []

        return PlainRequest(
            head,
            decode,
            self._records([target]),
            (each,),
            1,
            undo=undo if claim_id is None else None,
        )

    def renew(
        self,
        claims: Sequence[Claim],
        *,
        lease: Lease,
        updates: Sequence[ProgressUpdate] | None = None,
    ) -> Request[list[Claim | Rejection | DamagedRecord]]:
        """The owners of these claims live, and have said this; ``lease`` may be `Default.ITS_OWN`."""
        targets = [checks.claimed_model(claim) for claim in claims]
        lengths = [checks.lease(claim.lease if lease is Default.ITS_OWN else lease) for claim in claims]
        argv: list[str | int] = []
        words = updates or [ProgressUpdate()] * len(claims)
        for claim, (length, _), (message, done, total, order) in zip(claims, lengths, words, strict=True):
            argv += (
                claim.claim_id,
                claim.token,
                length,
                int(not isinstance(message, Default)),
                "" if isinstance(message, Default) else checks.text("message", message),
                "" if done is None else checks.whole("bytes_done", done),
                "" if total is None else checks.whole("bytes_total", total),
                order or next_order(),
            )

        def decode(answers: Answers) -> list[Claim | Rejection | DamagedRecord]:
            return [
                _renewal_result(claim, target, seconds, answer)
                for claim, target, (_, seconds), answer in zip(claims, targets, lengths, answers, strict=True)
            ]

        resend = all(length != 0 for length, _ in lengths)
        head = self._writing("renew", RENEW, resend=resend)
        return PlainRequest(head, decode, self._records(targets), argv, len(targets))

    def finish(self, claim: Claim, ending: Ending) -> Request[str]:
        """How the download ended; the reply is empty if this claim could say so, else why not."""
        target = checks.claimed_model(claim)
        argv = (
            claim.claim_id,
            claim.token,
            ending.status.value,
            ending.message or "",
            ending.size_bytes or 0,
            ending.location or "",
            ending.resolved_revision or "",
            _microseconds(ending.retry_in),
            int(ending.permanent),
            ending.max_attempts or 0,
            _microseconds(ending.cooldown),
        )
        return self._end("finish", FINISH, target, argv)

    def release(self, claim: Claim) -> Request[str]:
        """The claim is given back; the reply is empty if it could be, else why not."""
        target = checks.claimed_model(claim)
        return self._end("release", RELEASE, target, (claim.claim_id, claim.token))

    def _end(self, name: str, script: Script, target: ModelKey, argv: Sequence[str | int]) -> Request[str]:
        def decode(answers: Answers) -> str:
            answer = answers[0]
            if isinstance(answer, wire.Damaged):
                raise damaged(target.ref, answer.why)
            return _lost(answer) if isinstance(answer, wire.Lost) else ""

        return PlainRequest(self._writing(name, script), decode, self._records([target]), argv, 1)

    # What anybody may do

    def set_status(self, target: ModelKey, change: StatusChange) -> Request[StatusSet]:
        """Set a status from outside of a claim."""
        # The owner is read for each call because a process that forks is another. The status goes as its word,
        # because a member of an enum takes longer to hash.
        if change.is_plain:
            return self._set_to(target, change.status.value, self.owner)
        return self._setting(
            target,
            change.status.value,
            self.owner,
            change.message or "",
            _microseconds(change.retry_in),
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
                raise _evicting(target.ref, "set_status")
            return answer

        head = self._writing("set_status", SET_STATUS, owner, resend=False)
        argv = (status, message, retry_in, permanent, size_bytes, location)
        return PlainRequest(head, decode, self._records([target]), argv, 1)

    def cancel(self, target: ModelKey, cancellation: Cancellation) -> Request[Cancelled | None]:
        """End a download from outside of its claim; the reply names the claim, or is None where there was none."""
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
        argv = (token, text, _microseconds(cancellation.retry_in), int(cancellation.permanent))
        return PlainRequest(head, decode, self._records([target]), argv, 1)

    def _touch_of(self, *model: Any) -> Request[bool]:
        """A model is in use, whoever provides it; the reply says whether it is known."""
        return self._question(self._touch_head, _is_known, self.targets(*model), shared=True)

    def touch(self, targets: Sequence[ModelKey]) -> Request[list[bool | DamagedRecord]]:
        """These are in use; the reply says which are known."""
        decode = partial(_are_known, [target.ref for target in targets])
        return PlainRequest(self._touch_head, decode, self._records(targets), (), len(targets))

    def delete(self, targets: Sequence[ModelKey], *, expected_token: int | None, force: bool) -> Request[int]:
        """The registry forgets these; the reply counts what is gone."""
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
                    raise _evicting(target.ref, "delete_model")
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

    # Reads

    def _question(
        self,
        head: CommandTemplate,
        decode: Callable[[Sequence[ModelRef], Answers], T],
        targets: Sequence[ModelKey],
        *,
        shared: bool = False,
    ) -> Request[T]:
        """What is asked of these models: callers that ask the same may share one request.

        They share an answer as well, decoded once. So the key is all that the answer is made from: the head, the keys,
        and the decoder, a function of a module that is told nothing else. Two operations that decode differently
        can't have one key.
        """
        keys, refs = self._records(targets), [target.ref for target in targets]
        return PlainRequest(
            head, partial(decode, refs), keys, (), len(targets), (decode, head, *keys), shared
        )

    def _status_of(self, *model: Any) -> Request[ModelStatus | None]:
        """The status of a model; where any provider will do, DOWNLOADED if any is, else the first there is."""
        return self._question(self._status_head, _read_status, self.targets(*model), shared=True)

    def _record_of(self, *model: Any) -> Request[ModelRecord | None]:
        """The record of a model; where any provider will do, one that is DOWNLOADED, else the first there is."""
        return self._question(self._read_head, _read_preferred, self.targets(*model), shared=True)

    def read(self, targets: Sequence[ModelKey]) -> Request[list[ModelRecord | DamagedRecord | None]]:
        """The records of these models."""
        return self._question(self._read_head, _read_records, targets)

    def look_up(self, targets: Sequence[ModelKey]) -> Request[list[wire.ReadReply]]:
        """The records of these models as they are stored, each with its last use."""
        return self._question(self._read_head, _as_answered, targets)

    def stored(self, targets: Sequence[ModelKey]) -> Request[list[Any]]:
        """What the keys of these models hold; it may be kept."""
        return self._question(self._stored_head, _as_answered, targets)

    def page(self, status: ModelStatus | None, from_score: int, limit: int) -> Request[list[tuple[str, int]]]:
        """The next entries by last use, and their scores."""
        indexes = self.keys.indexes
        keys = list(indexes.values()) if status is None else [indexes[status]]

        def decode(answers: Answers) -> list[tuple[str, int]]:
            flat = _decode_page(answers[0])
            return [(str(entry), int(score)) for entry, score in zip(flat[::2], flat[1::2], strict=True)]

        return PlainRequest(self._head("get_models_by_last_used", PAGE), decode, keys, (from_score, limit))

    def listed(self, entries: Sequence[tuple[str, int]]) -> Request[list[ModelRecord | DamagedRecord | None]]:
        """The records of index entries."""

        def decode(values: Answers) -> list[ModelRecord | DamagedRecord | None]:
            return [
                None if value is None else read_stored(parse_entry(entry), value, score)
                for (entry, score), value in zip(entries, values, strict=True)
            ]

        keys = [self.keys.record(entry) for entry, _ in entries]
        return PlainRequest(self._head("get_models_by_last_used", None), decode, keys, (), len(entries))

    def counts(self) -> Request[StatusCounts]:
        """How many records there are by status."""

        def decode(answers: Answers) -> StatusCounts:
            downloading, downloaded, error, _ = _decode_counts(answers[0]).records
            return StatusCounts(downloading, downloaded, error)

        return self._counted(decode)

    def stock(self) -> Request[Totals]:
        """How many records there are by status, those that are being evicted too, and their bytes."""
        return self._counted(lambda answers: _decode_counts(answers[0]))

    def _counted(self, decode: Callable[[Answers], T]) -> Request[T]:
        return PlainRequest(self._head("get_status_counts", COUNTS, self.keys.shared), decode)

    # The registry itself

    def now(self) -> Request[datetime]:
        """What lease time it is."""

        def decode(answers: Answers) -> datetime:
            return time_of(_decode_now(answers[0]).time)

        return PlainRequest(self._head("now", NOW, (self.keys.meta,)), decode)

    def cache(self, proposed: str | None = None) -> Request[str | None]:
        """Which cache the namespace stands for; where that is not known, ``proposed`` from now on."""
        if proposed is None:
            return PlainRequest(self._cache_head, _read_cache_id, (self.keys.meta,), ("cache_id",))
        argv = (checks.text("cache_id", proposed, checks.WORD_BYTES),)
        head = self._head("cache", CACHE, (self.keys.meta,))
        return PlainRequest(head, lambda answers: _decode_cache(answers[0]).cache_id or None, (), argv)

    # What hubs said

    def branch(self, target: ModelKey) -> Request[Branch]:
        """What is known of a repository and one of its branches.

        Args:
            target: the repository as it is spelled; its ``revision`` is the branch, or ``None``.
        """
        argv = self._branch_fields(target)
        head = self._head("branch", BRANCH, (self.keys.meta, self.keys.branches))
        return PlainRequest(head, lambda answers: read_branch(answers[0]), (), argv)

    def set_branch(self, target: ModelKey, commit: str, name: str, asked: int) -> Request[None]:
        """Remember what a hub said of a branch.

        Args:
            target: as in `branch`.
            commit: where the branch leads to.
            name: how the hub calls the repository.
            asked: the lease time before the hub was asked (`Branch.time`).
        """
        branch, spelling = self._branch_fields(target)
        head = self._head("set_branch", SET_BRANCH, (self.keys.meta, self.keys.branches))
        return PlainRequest(head, lambda _answers: None, (), (branch, commit, spelling, name, asked))

    def _branch_fields(self, target: ModelKey) -> tuple[str, str]:
        name, provider, revision, subset = target.ref
        branch = "" if revision is None else entry_of(name, str(provider), revision, subset)
        return branch, entry_of(name, str(provider), None, None)


class ClaimTemplate:
    """Claims the downloads of models that differ in their names alone.

    Args:
        ops: the operations of the client.
        like: a model that the others are like.
        head: what all these claims share.
        owner: who claims.
        lease: seconds; ``None``: for ever.

    Attributes:
        begins: the key of a model's record, but for the name.
        give_back: what gives back what nobody waits for any more.
    """

    __slots__ = ("_new_id", "begins", "give_back", "head", "lease", "like", "owner")

    def __init__(
        self, ops: RequestFactory, like: ModelKey, head: CommandTemplate, owner: str, lease: float | None
    ) -> None:
        self._new_id = ops.ids.new
        self.give_back = ops.give_back
        self.like = like
        self.begins = ops.keys.record(like.entry.removesuffix(like.name))
        self.head = head
        self.owner = owner
        self.lease = lease

    def claim(
        self, name: str, claim_id: str | None = None, expected_bytes: int | None = None
    ) -> Request[ClaimResult]:
        """The right to download a model; raises `DamagedRecord`."""
        checks.model_name(name)
        if claim_id is None is expected_bytes:  # nearly always
            return _ClaimRequest(self.head, self, name, self._new_id())
        each = self._new_id() if claim_id is None else checks.claim_id(claim_id)
        expected = 0 if expected_bytes is None else checks.whole("expected_bytes", expected_bytes)
        return _ClaimRequest(self.head, self, name, each, expected or "0", claim_id is not None)


class _ClaimRequest(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The claim of one model. Of such operations there are the most: nothing is made before it is needed.

    It is not the collector's: nothing that it leads to can lead back to it.
    """

    items: ClassVar[int] = 1
    shared: ClassVar[bool] = True

    head: CommandTemplate
    claiming: ClaimTemplate
    name: str
    claim_id: str
    expected_bytes: str | int = "0"  # what nearly all say, as it travels
    named: bool = False  # by its caller

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.claiming.begins + self.name,)

    @property
    def argv(self) -> tuple[str | int, ...]:
        return self.claim_id, self.expected_bytes

    @property
    def same(self) -> Hashable:
        # Whoever names a claim himself may ask for it again by that name: such a one stays as it is.
        if self.named:
            return None
        if self.expected_bytes == "0":
            return self.claiming, self.name
        return self.claiming, self.name, self.expected_bytes

    @property
    def undo(self) -> Callable[[ClaimResult], Iterable[Request[Any]]] | None:
        return None if self.named else self.claiming.give_back

    def add_to(self, keys: list[str], argv: list[str | int]) -> None:
        keys.append(self.claiming.begins + self.name)
        argv += (self.claim_id, self.expected_bytes)

    def packed(self) -> bytes:
        # As `CommandTemplate.filled`, in half the time: by hiredis this was a good part of a claim alone.
        begins, between = self.head.around(1, 2)
        key, each = (self.claiming.begins + self.name).encode(), self.claim_id.encode()
        expected = str(self.expected_bytes).encode()
        return b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            begins, len(key), key, between, len(each), each, len(expected), expected,
        )  # fmt: skip

    def decode(self, answers: Answers) -> ClaimResult:
        of, answer = self.claiming, answers[0]
        if isinstance(answer, wire.ClaimGiven):
            return Claimed(_claim_of(self.name, of.like, answer, self.claim_id, of.owner, of.lease))
        return _claim_result(self.name, of.like, answer, self.claim_id, of.owner, of.lease)

    @staticmethod
    def for_others(result: ClaimResult) -> ClaimResult | None:
        """What the others are told of a claim that one of them has got; nothing if nobody has."""
        if not isinstance(result, Claimed):
            return None
        claim = result.claim
        return AlreadyExists(ModelStatus.DOWNLOADING, claim.lease_expires_at, claim.lease)


def _claim_result(
    name: str,
    like: ModelKey,
    answer: wire.ClaimReply,
    claim_id: str,
    owner: str,
    lease: float | None,
) -> ClaimResult:
    if isinstance(answer, (wire.ClaimGiven, wire.ClaimAgain)):
        return Claimed(_claim_of(name, like, answer, claim_id, owner, lease))
    if isinstance(answer, wire.Damaged):
        raise damaged(like.ref._replace(name=name), answer.why)
    status = ModelStatus(answer.status)
    if status is ModelStatus.DOWNLOADING or status is ModelStatus.EVICTING:
        return AlreadyExists(status, time_or_none(answer.lease_end), _left(answer.lease_left))
    return AlreadyExists(status)


def _claim_of(
    name: str,
    like: ModelKey,
    answer: wire.ClaimGiven | wire.ClaimAgain,
    claim_id: str,
    owner: str,
    lease: float | None,
) -> Claim:
    # By position, and no more than there is: this is made once for every claim that is won.
    claim = Claim(
        name,
        like.provider,
        like.revision,
        like.subset,
        claim_id,
        owner,
        answer.token,
        lease,
        time_of(answer.lease_end) if answer.lease_end else None,
        answer.attempts,
    )
    if not answer.previous_owner:
        return claim
    return msgspec.structs.replace(
        claim,
        taken_over=True,
        previous_owner=answer.previous_owner,
        previous_bytes_done=answer.previous_bytes_done,
    )


def _microseconds(seconds: float | None) -> int:
    """A length of time that was checked, as it travels; 0: none."""
    return 0 if seconds is None else round(seconds * 1_000_000)


def _is_known(refs: Sequence[ModelRef], answers: Answers) -> bool:
    known = False
    for answer in answers:
        if isinstance(answer, wire.Known):
            known = True
        elif isinstance(answer, wire.Damaged):
            return any(first_error(_are_known(refs, answers)))
    return known


def _are_known(refs: Sequence[ModelRef], answers: Answers) -> list[bool | DamagedRecord]:
    return [
        damaged(ref, answer.why) if isinstance(answer, wire.Damaged) else isinstance(answer, wire.Known)
        for ref, answer in zip(refs, answers, strict=True)
    ]


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


def _evicting(ref: ModelRef, call: str) -> EvictionInProgress:
    return EvictionInProgress(
        f"the files of {ref.name!r} ({ref.provider}) are being removed: no {call} now",
        model_name=ref.name,
        provider=str(ref.provider),
    )


def _why_not_retried(answer: wire.RetryRefused, max_attempts: int) -> str:
    if not answer.status:
        return "there is no record"
    if answer.status != ModelStatus.ERROR:
        return f"it is {answer.status}"
    if answer.permanent:
        return "the error is permanent"
    if answer.retry_left:
        return f"the back-off lasts {answer.retry_left / 1_000_000:.3f} s more"
    if max_attempts and answer.attempts >= max_attempts:
        return f"{answer.attempts} attempts were made"
    return "this claim has ended before"


def _renewal_result(
    claim: Claim, target: ModelKey, lease: float | None, answer: wire.RenewReply
) -> Claim | Rejection | DamagedRecord:
    if isinstance(answer, wire.Renewed):
        return msgspec.structs.replace(claim, lease=lease, lease_expires_at=time_or_none(answer.lease_end))
    if isinstance(answer, wire.Damaged):
        return damaged(target.ref, answer.why)
    if isinstance(answer, wire.Ended):
        return Rejection("it has ended" if answer.how != wire.HOW_RELEASED else "it was released")
    return Rejection(_lost(answer), lost=True)


def _lost(answer: wire.Lost) -> str:
    why = f": {answer.message}" if answer.message else ""
    return f"it was lost; the model is {answer.status or 'unknown'} now{why}"
