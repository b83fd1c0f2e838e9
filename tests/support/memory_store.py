"""The state that the backends in memory share: records by the model of the state table, events, the clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pyregistry._core import validation as checks
from pyregistry._core.model_key import ModelKey, parse_entry
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.events import StoredEvent
from pyregistry.backend.values import (
    HubAnswer,
)
from pyregistry.errors import (
    DamagedRecord,
    EvictionInProgress,
)
from pyregistry.models import (
    EventKind,
    ModelRecord,
    ModelRef,
    ModelStatus,
)
from tests.lua.model import Model, replace

PATIENCE_S = 5.0
"""`Backend.patience`: nothing here refuses a request for now."""

SILENCE_S = 5.0
"""Seconds without an event after which `receive` returns none."""

BATCH = 64
PAGE = 500

_NO_USE = (EventKind.RENEWED, EventKind.RELEASED, EventKind.DELETED)
_BY_OTHERS = (EventKind.SET, EventKind.CANCELLED, EventKind.DELETED)
_LEASED = (ModelStatus.DOWNLOADING, ModelStatus.EVICTING)


class ClaimTerms(NamedTuple):
    """One item of a request: see `tests.lua.model.Item`."""

    model: str
    args: dict[str, Any]

    def __getitem__(self, name: Any) -> Any:
        return self.args[name]


class MemoryStore:
    """The state of one namespace, which any number of backends of any threads and event loops share.

    Attributes:
        lock: guards all of the state. It is never held while a caller waits.
        model: the records.
        subscribers: each is called with the events of a request, in order, under `lock`.
    """

    def __init__(self, namespace: str = "default") -> None:
        self.namespace = checks.namespace(namespace)
        self.lock = threading.Lock()
        self.model = Model()
        self.damaged: set[str] = set()
        self.cache_id = ""
        self.hub_answers: dict[str, HubAnswer] = {}
        self.subscribers: list[Callable[[Sequence[StoredEvent]], None]] = []
        self._skew = 0

    def advance(self) -> int:
        """Set lease time, which never falls, to now, and return it. The caller holds `lock`."""
        self.model.now = max(self.model.now, time.time_ns() // 1000 + self._skew)
        return self.model.now

    def run(self, script: str, requests: Sequence[ClaimTerms], by: str = "") -> list[Any]:
        """Apply one request to each of the models, in order, and publish what happened."""
        replies, events = [], []
        with self.lock:
            now = self.advance()
            for request in requests:
                before = self.model.records.get(request.model, wire.StoredRecord())
                reply, kind = self._judge(script, request)
                replies.append(reply)
                if kind is not None:
                    # Of a deleted record the event tells what it was, unless that can't be read.
                    record = self.model.records.get(request.model, before)
                    if kind is EventKind.DELETED and request.model in self.damaged:
                        self.damaged.discard(request.model)
                        record = wire.StoredRecord()
                    used = 0 if kind in _NO_USE else self.model.used[request.model]
                    caller = by if kind in _BY_OTHERS else ""
                    events.append(StoredEvent(kind, request.model, now, caller, used, record))
            if events:
                for deliver in self.subscribers:
                    deliver(events)
        return replies

    def _judge(self, script: str, request: ClaimTerms) -> Any:
        if request.model not in self.damaged:
            return getattr(self.model, script)(request)
        if script == "delete" and request["force"] and request["token"] == "":
            self.model.forget(request.model)
            return wire.Deleted(), EventKind.DELETED
        return wire.Damaged("it is damaged"), None

    def read(self, entry: str) -> ModelRecord | DamagedRecord | None:
        """A record. The caller holds `lock`."""
        if entry in self.damaged:
            return damaged(parse_entry(entry))
        stored = self.model.records.get(entry)
        return None if stored is None else wire.record_of(parse_entry(entry), stored, self.model.used[entry])

    # What no verb of the contract does yet, for tests

    def evict(self, key: ModelKey, seconds: float) -> None:
        """Make a record EVICTING, for so long."""
        with self.lock:
            record = self.model.records[key.entry]
            end = self.advance() + round(seconds * 1_000_000)
            token = self.model.used[key.entry] = self.model.tick()
            self.model.records[key.entry] = replace(
                record, status="EVICTING", claim_id="eviction", owner="evictor", token=token, lease_end=end
            )

    def hold(self, key: ModelKey, seconds: float) -> None:
        """Hold the files of a model, for so long."""
        with self.lock:
            end = self.advance() + round(seconds * 1_000_000)
            self.model.holds.setdefault(key.entry, []).append(end)

    def damage(self, key: ModelKey) -> None:
        """Make a record unreadable."""
        with self.lock:
            self.damaged.add(key.entry)

    def pass_time(self, seconds: float) -> None:
        """Move lease time ahead."""
        with self.lock:
            self._skew += round(seconds * 1_000_000)


def damaged(ref: ModelRef) -> DamagedRecord:
    return DamagedRecord(
        f"the record of {ref.name!r} can't be read", model_name=ref.name, provider=str(ref.provider)
    )


def evicting(ref: ModelRef) -> EvictionInProgress:
    return EvictionInProgress(
        f"the files of {ref.name!r} are being removed", model_name=ref.name, provider=str(ref.provider)
    )


class Connection:
    """Connects a client, and its keepalive, to the store.

    Attributes:
        is_dropped: whether every call now raises `RegistryUnavailable`, as if the process were gone.
    """

    def __init__(self) -> None:
        self.is_dropped = False
        self.ends: set[Callable[[], None]] = set()  # the `interrupt`s of the open subscriptions

    def drop(self) -> None:
        """Take the client away from the store: nothing that it does from now on counts."""
        self.is_dropped = True
        for interrupt in list(self.ends):
            interrupt()


class CloseState:
    """Whether a backend is closed; shared by the copies that `within` makes."""

    def __init__(self) -> None:
        self.is_closed = False
        self.ends: set[Callable[[], None]] = set()
