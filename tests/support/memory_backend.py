"""A second backend, in the memory of one process: it proves that the contract holds without Redis.

It runs on the reference model of the state table (`tests.lua.model`). It is a tool of the tests, not a product.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from pyregistry._core import validation as checks
from pyregistry._core.claim_ids import ClaimIds, default_owner
from pyregistry._core.clock import time_of, time_or_none
from pyregistry._core.model_key import ModelKey, entry_of
from pyregistry._core.values import (
    STATUSES,
    ClaimResult,
    Default,
    ProgressUpdate,
    Rejection,
    chunks,
    first_error,
    known_of,
    next_order,
    preferred_record,
)
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.events import StoredEvent
from pyregistry.backend.protocol import AnswerCache
from pyregistry.backend.values import (
    Branch,
    Cancellation,
    Cancelled,
    Connected,
    Ending,
    HubAnswer,
    StatusChange,
    StatusSet,
    Totals,
)
from pyregistry.errors import (
    DamagedRecord,
    ModelHeld,
    RegistryClosed,
    RegistryError,
    RegistryUnavailable,
)
from pyregistry.models import (
    AlreadyExists,
    Claim,
    Claimed,
    ModelProvider,
    ModelRecord,
    ModelStatus,
    StatusCounts,
)
from tests.lua.model import replace
from tests.support.memory_store import (
    _LEASED,
    BATCH,
    PATIENCE_S,
    SILENCE_S,
    ClaimTerms,
    CloseState,
    Connection,
    MemoryStore,
    damaged,
    evicting,
)

T = TypeVar("T")


class MemoryBackend:
    """The blocking backend of a `MemoryStore`. Its verbs are described at `Backend`."""

    max_batch = BATCH
    display_name = "memory"
    server_version = "memory 1"
    cache: AnswerCache | None = None

    def __init__(
        self,
        store: MemoryStore,
        owner: str | None = None,
        providers: Iterable[str] = (),
        *,
        connection: Connection | None = None,
    ) -> None:
        self.store = store
        self.namespace = store.namespace
        self.patience = PATIENCE_S
        self.ids = ClaimIds()
        self.connection = connection or Connection()
        self._close_state = CloseState()
        self._owner = None if owner is None else checks.owner(owner)
        self._providers = checks.providers(providers, BATCH)
        self.for_keepalive = partial(_for_keepalive, store, self._owner, self.connection)

    @property
    def owner(self) -> str:
        return default_owner() if self._owner is None else self._owner

    def connect(self) -> Connected:
        self.check()
        return Connected(self.server_version)

    def close(self) -> None:
        self._close_state.is_closed = True
        for interrupt in list(self._close_state.ends):
            interrupt()

    def check(self) -> None:
        """Raise what every verb raises where it can't be carried out."""
        if self._close_state.is_closed:
            raise RegistryClosed("the backend is closed")
        if self.connection.is_dropped:
            raise RegistryUnavailable("the store is out of reach")

    def within(self, seconds: float) -> MemoryBackend:
        if seconds >= self.patience:
            return self
        other = copy.copy(self)
        other.patience = max(seconds, 0.0)
        return other

    def keys_of(
        self, name: str, provider: ModelProvider | str | None, revision: str | None, subset: str | None
    ) -> list[ModelKey]:
        providers = self._providers if provider is None else (provider,)
        return [checks.target(name, each, revision, subset) for each in providers]

    def _run(self, script: str, requests: Sequence[ClaimTerms]) -> list[Any]:
        self.check()
        return self.store.run(script, requests, self.owner)

    # Claims

    def claim(
        self,
        name: str,
        provider: ModelProvider | str,
        revision: str | None,
        subset: str | None,
        *,
        lease: float | Default | None,
        owner: str | None = None,
        claim_id: str | None = None,
        max_attempts: int | None = None,
        cooldown: float | None = None,
        expected_bytes: int | None = None,
    ) -> ClaimResult:
        key = checks.target(name, provider, revision, subset)
        args = self._claiming(lease, owner, claim_id, max_attempts, cooldown, expected_bytes)
        (result,) = self._claim([(key, args)], lease)
        if isinstance(result, DamagedRecord):
            raise result
        return result

    def _claiming(
        self,
        lease: float | Default | None,
        owner: str | None,
        claim_id: str | None,
        max_attempts: int | None,
        cooldown: float | None = None,
        expected_bytes: int | None = None,
    ) -> dict[str, Any]:
        return {
            "lease": checks.lease(lease)[0],
            "owner": self.owner if owner is None else checks.owner(owner),
            "claim_id": self.ids.new() if claim_id is None else checks.claim_id(claim_id),
            "max_attempts": 0
            if max_attempts is None
            else checks.whole("max_attempts", max_attempts, least=1),
            "cooldown": 0 if cooldown is None else checks.microseconds("cooldown", cooldown),
            "expected_bytes": 0 if expected_bytes is None else checks.whole("expected_bytes", expected_bytes),
        }

    def _claim(
        self, wanted: Sequence[tuple[ModelKey, dict[str, Any]]], lease: float | Default | None
    ) -> list[ClaimResult | DamagedRecord]:
        results: list[ClaimResult | DamagedRecord] = []
        replies = self._run("claim", [ClaimTerms(key.entry, args) for key, args in wanted])
        for (key, args), reply in zip(wanted, replies, strict=True):
            if isinstance(reply, wire.Damaged):
                results.append(damaged(key.ref))
            elif isinstance(reply, wire.Exists):
                status = ModelStatus(reply.status)
                left = None if reply.lease_left == wire.NEVER else reply.lease_left / 1_000_000
                end = time_or_none(reply.lease_end)
                results.append(
                    AlreadyExists(status, end, left) if status in _LEASED else AlreadyExists(status)
                )
            else:
                results.append(Claimed(_claim_of(key, args, reply, lease)))
        return results

    def claim_many(
        self,
        keys: Sequence[ModelKey],
        *,
        lease: float | Default | None,
        owner: str | None = None,
        max_attempts: int | None = None,
        tell: Callable[[Sequence[ClaimResult | DamagedRecord]], None] = lambda _results: None,
    ) -> list[ClaimResult | Exception]:
        wanted = [(key, self._claiming(lease, owner, None, max_attempts)) for key in keys]
        return self._many(lambda some: self._claim(some, lease), wanted, tell)

    def _many(
        self,
        verb: Callable[[Sequence[Any]], Sequence[T]],
        items: Sequence[Any],
        tell: Callable[[Sequence[T]], None] = lambda _results: None,
    ) -> list[T | Exception]:
        results: list[T | Exception] = []
        for some in chunks(items, BATCH):
            try:
                answers = verb(some)
            except RegistryError as error:
                results += [error] * len(some)
            else:
                tell(answers)
                results += answers
        return results

    def retry(
        self,
        key: ModelKey,
        *,
        lease: float | Default | None,
        claim_id: str | None = None,
        owner: str | None = None,
        max_attempts: int | None = None,
    ) -> Claim | Rejection:
        args = self._claiming(lease, owner, claim_id, max_attempts)
        (reply,) = self._run("retry", [ClaimTerms(key.entry, args)])
        if isinstance(reply, wire.Damaged):
            raise damaged(key.ref)
        if isinstance(reply, wire.RetryRefused):
            return Rejection(
                f"not retried: {reply.status or 'absent'}", retry_left=reply.retry_left / 1_000_000
            )
        return _claim_of(key, args, reply, lease)

    def renew(
        self,
        claims: Sequence[Claim],
        *,
        lease: float | Default | None = Default.ITS_OWN,
        updates: Sequence[ProgressUpdate] | None = None,
    ) -> list[Claim | Rejection | DamagedRecord]:
        requests = []
        leases = []
        for claim, update in zip(claims, updates or [ProgressUpdate()] * len(claims), strict=True):
            key = checks.claimed_model(claim)
            length, seconds = checks.lease(claim.lease if lease is Default.ITS_OWN else lease)
            message, done, total, order = update
            args: dict[str, Any] = {
                "claim_id": claim.claim_id,
                "token": claim.token,
                "lease": length,
                "says": int(not isinstance(message, Default)),
                "message": "" if isinstance(message, Default) else checks.text("message", message),
                "bytes_done": "" if done is None else checks.whole("bytes_done", done),
                "bytes_total": "" if total is None else checks.whole("bytes_total", total),
                "order": order or next_order(),
            }
            requests.append(ClaimTerms(key.entry, args))
            leases.append(seconds)
        return [
            _renewal(claim, seconds, reply)
            for claim, seconds, reply in zip(claims, leases, self._run("renew", requests), strict=True)
        ]

    def renew_many(
        self, claims: Sequence[Claim], *, lease: float | Default | None = Default.ITS_OWN
    ) -> list[Claim | Rejection | Exception]:
        for claim in claims:
            checks.claimed_model(claim)
            checks.lease(claim.lease if lease is Default.ITS_OWN else lease)
        return self._many(lambda some: self.renew(some, lease=lease), claims)

    def finish(self, claim: Claim, ending: Ending) -> str:
        args = {
            "status": ending.status.value,
            "message": ending.message or "",
            "size_bytes": ending.size_bytes or 0,
            "location": ending.location or "",
            "resolved_revision": ending.resolved_revision or "",
            "retry_in": _microseconds(ending.retry_in),
            "permanent": int(ending.permanent),
            "max_attempts": ending.max_attempts or 0,
            "cooldown": _microseconds(ending.cooldown),
        }
        return self._end("finish", claim, args)

    def release(self, claim: Claim) -> str:
        return self._end("release", claim, {})

    def _end(self, script: str, claim: Claim, args: dict[str, Any]) -> str:
        key = checks.claimed_model(claim)
        args |= {"claim_id": claim.claim_id, "token": claim.token}
        (reply,) = self._run(script, [ClaimTerms(key.entry, args)])
        if isinstance(reply, wire.Damaged):
            raise damaged(key.ref)
        return (
            f"it was lost; the model is {reply.status or 'unknown'}" if isinstance(reply, wire.Lost) else ""
        )

    def release_many(self, claims: Sequence[Claim]) -> list[str | Exception]:
        results: list[str | Exception] = []
        for claim in claims:
            checks.claimed_model(claim)
        for claim in claims:
            try:
                results.append(self.release(claim))
            except RegistryError as error:
                results.append(error)
        return results

    # Changes from outside of a claim

    def set_status(self, key: ModelKey, change: StatusChange) -> StatusSet:
        args = {
            "status": change.status.value,
            "message": change.message or "",
            "retry_in": _microseconds(change.retry_in),
            "permanent": int(change.permanent),
            "size_bytes": change.size_bytes or 0,
            "location": change.location or "",
        }
        (reply,) = self._run("set_status", [ClaimTerms(key.entry, args)])
        if isinstance(reply, wire.Damaged):
            raise damaged(key.ref)
        if isinstance(reply, wire.SetRefused):
            raise evicting(key.ref)
        assert isinstance(reply, StatusSet)
        return reply

    def cancel(self, key: ModelKey, cancellation: Cancellation) -> Cancelled | None:
        expected = cancellation.expected_token
        args = {
            "token": "" if expected is None else expected,
            "message": cancellation.told_by(self.owner),
            "retry_in": _microseconds(cancellation.retry_in),
            "permanent": int(cancellation.permanent),
        }
        (reply,) = self._run("cancel", [ClaimTerms(key.entry, args)])
        if isinstance(reply, wire.Damaged):
            raise damaged(key.ref)
        if isinstance(reply, wire.Again):
            return Cancelled("", expected or 0)
        return reply if isinstance(reply, Cancelled) else None

    def touch(self, keys: Sequence[ModelKey]) -> list[bool | DamagedRecord]:
        replies = self._run("touch", [ClaimTerms(key.entry, {}) for key in keys])
        return [
            damaged(key.ref) if isinstance(reply, wire.Damaged) else isinstance(reply, wire.Known)
            for key, reply in zip(keys, replies, strict=True)
        ]

    def touch_many(
        self,
        keys: Sequence[ModelKey],
        tell: Callable[[Sequence[bool | DamagedRecord]], None] = lambda _results: None,
    ) -> list[bool | Exception]:
        return self._many(self.touch, keys, tell)

    def touch_model(
        self, name: str, provider: ModelProvider | str | None, revision: str | None, subset: str | None
    ) -> bool:
        known = self.touch(self.keys_of(name, provider, revision, subset))
        return first_error([known_of(known)])[0]

    def delete(self, keys: Sequence[ModelKey], *, expected_token: int | None, force: bool) -> int:
        token = "" if expected_token is None else checks.whole("expected_token", expected_token)
        args = {"token": token, "force": int(bool(force))}
        deleted = 0
        replies = self._run("delete", [ClaimTerms(key.entry, args) for key in keys])
        for key, reply in zip(keys, replies, strict=True):
            if isinstance(reply, wire.Damaged):
                raise damaged(key.ref)
            if isinstance(reply, wire.Evicting):
                raise evicting(key.ref)
            if isinstance(reply, wire.Held):
                raise ModelHeld("it is held", model_name=key.name, provider=str(key.provider))
            deleted += isinstance(reply, wire.Deleted)
        return deleted

    # Reads

    def read(self, keys: Sequence[ModelKey]) -> list[ModelRecord | DamagedRecord | None]:
        self.check()
        with self.store.lock:
            return [self.store.read(key.entry) for key in keys]

    def read_many(self, keys: Sequence[ModelKey]) -> list[ModelRecord | Exception | None]:
        return self._many(self.read, keys)

    def get_status(
        self, name: str, provider: ModelProvider | str | None, revision: str | None, subset: str | None
    ) -> ModelStatus | None:
        record = self.get_record(name, provider, revision, subset)
        return None if record is None else record.status

    def get_record(
        self, name: str, provider: ModelProvider | str | None, revision: str | None, subset: str | None
    ) -> ModelRecord | None:
        return preferred_record(self.read(self.keys_of(name, provider, revision, subset)))

    def scan(
        self, batch_size: int, status: ModelStatus | None
    ) -> Iterator[ModelRecord | DamagedRecord | None]:
        last = 0
        while True:
            self.check()
            with self.store.lock:
                model = self.store.model
                page = sorted(
                    (used, entry)
                    for entry, used in model.used.items()
                    if used > last and status in (None, model.records[entry].status)
                )[:batch_size]
                records = [self.store.read(entry) for _, entry in page]
            yield from records
            if len(page) < batch_size:
                return
            last = page[-1][0]

    def counts(self) -> StatusCounts:
        return StatusCounts(*self.totals().records[:3])

    def totals(self) -> Totals:
        self.check()
        with self.store.lock:
            found = list(self.store.model.records.values())
        by_status = [[record for record in found if record.status == status] for status in STATUSES]
        downloading, downloaded, error, evicting = by_status
        return Totals(
            (len(downloading), len(downloaded), len(error), len(evicting)),
            (_bytes_of(downloading), _bytes_of(downloaded), _bytes_of(error), _bytes_of(evicting)),
        )

    # The registry itself

    def lease_time(self) -> datetime:
        self.check()
        with self.store.lock:
            return time_of(self.store.advance())

    def cache_id(self, proposed: str | None = None) -> str | None:
        text = checks.text("cache_id", proposed, checks.WORD_BYTES)
        self.check()
        with self.store.lock:
            self.store.cache_id = self.store.cache_id or text
            return self.store.cache_id or None

    def branch(self, key: ModelKey) -> Branch:
        self.check()
        branch, spelling = _hub_fields(key)
        with self.store.lock:
            known = self.store.hub_answers
            return Branch(self.store.advance(), known.get(branch), known.get(spelling))

    def set_branch(self, key: ModelKey, commit: str, name: str, asked: int) -> None:
        self.check()
        branch, spelling = _hub_fields(key)
        with self.store.lock:
            asked = min(asked, self.store.advance())
            for field, value in ((branch, commit), (spelling, name)):
                known = self.store.hub_answers.get(field)
                if field and (known is None or known.at < asked):
                    self.store.hub_answers[field] = HubAnswer(value, asked)

    def listeners(self) -> int | None:
        self.check()
        with self.store.lock:
            return len(self.store.subscribers)

    def events(self) -> MemoryEventSource:
        return MemoryEventSource(self)

    def on_end(self, interrupt: Callable[[], None]) -> Callable[[], None]:
        """Have this called when the backend is closed or its connection dropped; returns what ends that."""
        places = (self._close_state.ends, self.connection.ends)
        for place in places:
            place.add(interrupt)

        def forget() -> None:
            for place in places:
                place.discard(interrupt)

        return forget


def _for_keepalive(
    store: MemoryStore, owner: str | None, connection: Connection, _timeout: float
) -> MemoryBackend:
    return MemoryBackend(store, owner, connection=connection)


def _claim_of(
    key: ModelKey,
    args: dict[str, Any],
    reply: wire.ClaimGiven | wire.ClaimAgain,
    lease: float | Default | None,
) -> Claim:
    taken_over = bool(reply.previous_owner)
    return Claim(
        key.name, key.provider, key.revision, key.subset, args["claim_id"], args["owner"],
        reply.token, checks.lease(lease)[1], time_or_none(reply.lease_end), reply.attempts,
        taken_over, reply.previous_owner or None, reply.previous_bytes_done if taken_over else None,
    )  # fmt: skip


def _renewal(claim: Claim, lease: float | None, reply: Any) -> Claim | Rejection | DamagedRecord:
    if isinstance(reply, wire.Damaged):
        return damaged(claim.ref)
    if isinstance(reply, wire.Renewed):
        return replace(claim, lease=lease, lease_expires_at=time_or_none(reply.lease_end))
    if isinstance(reply, wire.Ended):
        return Rejection("it has ended")
    return Rejection(f"it was lost; the model is {reply.status or 'unknown'} {reply.message}", lost=True)


def _microseconds(seconds: float | None) -> int:
    return 0 if seconds is None else round(seconds * 1_000_000)


def _bytes_of(records: Iterable[wire.StoredRecord]) -> int:
    return sum(record.size_bytes or record.bytes_total for record in records)


def _hub_fields(key: ModelKey) -> tuple[str, str]:
    """What a commit and what a name is remembered by; an empty text: there is no branch."""
    spelling = entry_of(key.name, str(key.provider), None, None)
    return "" if key.revision is None else f"branch {key.entry}", f"name {spelling}"


class MemoryEventSource:
    """A subscription. See `EventSource`."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self._store = backend.store
        self._events: deque[StoredEvent] = deque()
        self._ended = False
        self._news = threading.Condition()
        self._forget: Callable[[], None] = lambda: None

    def open(self) -> None:
        self._backend.check()
        self._forget = self._backend.on_end(self.interrupt)
        with self._store.lock:
            self._store.subscribers.append(self._deliver)

    def _deliver(self, events: Sequence[StoredEvent]) -> None:
        with self._news:
            self._events += events
            self._news.notify_all()

    def receive(self) -> Sequence[StoredEvent] | str:
        with self._news:
            self._news.wait_for(lambda: self._events or self._ended, SILENCE_S)
            if self._ended:
                raise RegistryUnavailable("the subscription has ended")
            events = list(self._events)
            self._events.clear()
            return events

    def interrupt(self) -> None:
        with self._news:
            self._ended = True
            self._news.notify_all()

    def close(self) -> None:
        self.interrupt()
        self._forget()
        with self._store.lock, suppress(ValueError):
            self._store.subscribers.remove(self._deliver)
