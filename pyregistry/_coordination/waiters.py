"""State that the waiters of one client share, and dispatch of events to them. No I/O: the subscriber feeds the events.

All waiters for a model share one `WaitEntry`. One query to the server, one request for the claim, and one wake-up serve
all of them.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from pyregistry._core.clock import now
from pyregistry.backend.common import BackendEvent
from pyregistry.backend.values import ModelState
from pyregistry.errors import RegistryError
from pyregistry.models import EventGap, ModelRecord, ModelRef, ModelStatus, RegistryEvent

_log = logging.getLogger("pyregistry.events")

RECHECK = 30.0
"""Seconds without an event after which a waiter queries again, because messages can be lost."""


class Wakeable(Protocol):
    """Event with one waiter."""

    def set(self) -> None:
        """Set the event and wake the waiter. A later wait returns at once."""


P = TypeVar("P", bound=Wakeable)
L = TypeVar("L")


class OwnerWakeup:
    """Wake-up of the owner of a claim. A `WaitEntry` sets it like a `Wakeup`, when the state of the model changes.

    Args:
        look: Checks, in any thread, whether the claim is lost. It must not block.
    """

    def __init__(self, look: Callable[[], object]) -> None:
        self.set = look


class KnownState(NamedTuple):
    """The known state of a model.

    Attributes:
        status: Status of the model; ``None`` if there is no record.
        until: Time (`now`) before which no claim can succeed: the end of the lease or of the back-off. Defaults to 0.
        record: The record; ``None`` if it is unknown.
    """

    status: ModelStatus | None
    until: float = 0.0
    record: ModelRecord | None = None

    @classmethod
    def of(cls, state: ModelState) -> KnownState:
        """Create the snapshot of an event that has just arrived."""
        left = state.seconds_left
        return cls(state.status, now() + left if left else 0.0, state.record)


class WaitEntry(Generic[P, L]):
    """One model that has waiters or an owner in this client.

    Attributes:
        lock: Held by the one waiter that queries or claims on behalf of all waiters of this model.
        view: The known state; ``None`` if it is unknown and needs a query.
        version: Counter of the changes of `view`.
        asked: Number of queries sent.
        answered: Number of the last answered query.
        trouble: The error of the last answer; ``None`` if it succeeded.
        recheck_at: Time of the next query without an event (`now`).
        tell_at: Time of the next log message about the wait (`now`).
        wakeups: The wake-ups of the waiters and of the owner.
    """

    def __init__(self, lock: L, registry_lock: threading.Lock) -> None:
        self.lock = lock
        self.view: KnownState | None = None
        self.version = 0
        self.asked = self.answered = 0
        self.trouble: RegistryError | None = None
        self.recheck_at = math.inf
        self.tell_at = 0.0
        self.wakeups: set[P | OwnerWakeup] = set()
        self._lock = registry_lock

    def ask(self) -> tuple[int, int]:
        """Register a new query, and return its number and the current version."""
        with self._lock:
            self.asked += 1
            self._recheck_later()
            return self.asked, self.version

    def answer(
        self, number: int, version: int, view: KnownState | None, trouble: RegistryError | None
    ) -> None:
        """Store the answer to a query. An event during the query may be newer, so its state takes precedence.

        Args:
            number: Number of the query.
            version: Version at the time of the query.
            view: The state; ``None`` if the query did not determine it.
            trouble: The error of the query; ``None`` if it succeeded.
        """
        with self._lock:
            self.answered = max(self.answered, number)
            self.trouble = trouble
            if view is not None and self.version == version:
                self.change(view)

    def change(self, view: KnownState | None) -> None:
        """Store a new state, and wake the waiters. A longer lease of the same status wakes no waiter.

        The caller must hold the lock.
        """
        before, self.view = self.view, view
        self.version += 1
        if view is not None:
            self._recheck_later()
        if before is None or view is None or view.status is not before.status or view.until < before.until:
            for wakeup in self.wakeups:
                wakeup.set()

    def _recheck_later(self) -> None:
        self.recheck_at = now() + RECHECK * random.uniform(0.8, 1.2)


class Watcher(Generic[P]):
    """Queue of events for one stream.

    Args:
        poke: Set when there are events.
        wanted: Returns whether the stream wants the events of a model.
        most: Maximum number of queued events.

    Attributes:
        poke: Set when there are events.
        begun: Whether the stream has begun. Before that no event can be lost, so `gap` has no effect.
        ended: Whether the stream has ended.
    """

    def __init__(self, wakeup: P, wanted: Callable[[ModelRef], bool], most: int) -> None:
        self.wakeup = wakeup
        self.begun = self.ended = False
        self._wanted = wanted
        self._most = most
        self._events: deque[RegistryEvent | EventGap] = deque()

    def put(self, event: BackendEvent) -> None:
        """Queue an event if it is wanted. If the queue is full, an `EventGap` replaces the queued events."""
        if not self._wanted(event.ref):
            return
        if len(self._events) >= self._most:
            self._events.clear()
            self._events.append(EventGap("too many events at once"))
        self._events.append(event.event())
        self.wakeup.set()

    def gap(self, why: str) -> None:
        """Queue an `EventGap`, because events may be lost."""
        if not self.begun:
            return
        self._events.append(EventGap(why))
        self.wakeup.set()

    def take(self) -> RegistryEvent | EventGap | None:
        """Remove and return the next event; ``None`` if there is none."""
        return self._events.popleft() if self._events else None


class WaiterRegistry(Generic[P, L]):
    """The wait entries and watchers of one client. Thread-safe."""

    def __init__(self, make_lock: Callable[[], L]) -> None:
        self._make_lock = make_lock
        self._entries: dict[str, WaitEntry[P, L]] = {}
        self._watchers: set[Watcher[P]] = set()
        self._lock = threading.Lock()  # held for a few statements at a time, never across a blocking call

    def add(self, entry: str, wakeup: P | OwnerWakeup) -> WaitEntry[P, L]:
        """Register a waiter, and return the wait entry of its model."""
        with self._lock:
            wait_entry = self._entries.get(entry)
            if wait_entry is None:
                wait_entry = self._entries[entry] = WaitEntry(self._make_lock(), self._lock)
            wait_entry.wakeups.add(wakeup)
            return wait_entry

    def remove(self, entry: str, wakeup: P | OwnerWakeup) -> None:
        """Unregister a waiter. The wait entry ends with its last waiter."""
        with self._lock:
            wait_entry = self._entries[entry]
            wait_entry.wakeups.discard(wakeup)
            if not wait_entry.wakeups:
                del self._entries[entry]

    def watch(self, watcher: Watcher[P]) -> None:
        """Register a watcher."""
        with self._lock:
            self._watchers.add(watcher)

    def unwatch(self, watcher: Watcher[P]) -> None:
        """Unregister a watcher. Idempotent."""
        with self._lock:
            self._watchers.discard(watcher)

    def feed(self, events: Sequence[BackendEvent]) -> None:
        """Dispatch events to the wait entries and watchers."""
        with self._lock:
            for event in events:
                wait_entry = self._entries.get(event.entry)
                if wait_entry is not None:
                    wait_entry.change(KnownState.of(event.state()))
                for watcher in self._watchers:
                    watcher.put(event)

    def gap(self, why: str) -> None:
        """Invalidate all known states and queue an `EventGap` for each watcher, because events may be lost."""
        with self._lock:
            for wait_entry in self._entries.values():
                wait_entry.change(None)
            for watcher in self._watchers:
                watcher.gap(why)

    def wake_all(self, *, ended: bool = False) -> None:
        """Wake all waiters and watchers, so that they check the subscriber's error.

        Args:
            ended: Whether the subscription has ended for good. Defaults to False.
        """
        with self._lock:
            for wait_entry in self._entries.values():
                for wakeup in wait_entry.wakeups:
                    wakeup.set()
            for watcher in self._watchers:
                watcher.ended = watcher.ended or ended
                watcher.wakeup.set()
