"""What the waiters of one client know, and how news reaches them. No I/O: the listener feeds it.

Whoever wants a model takes a `WaitEntry`, which all waiters for that model share: one question to the server, one
contender for the claim, one wake-up serve them all.
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
"""Seconds after which a waiter looks again though nobody told it anything: messages can be lost."""


class Wakeup(Protocol):
    """Wakes one waiter."""

    def set(self) -> None:
        """Wake it, now or as soon as it waits."""


P = TypeVar("P", bound=Wakeup)
L = TypeVar("L")


class OwnerWakeup:
    """Hears for the owner of a claim that its model is not DOWNLOADING any more; it takes a place among the pokes.

    Args:
        look: looks, in whatever thread, whether the claim is lost. It must not wait.
    """

    def __init__(self, look: Callable[[], object]) -> None:
        self.set = look


class Snapshot(NamedTuple):
    """What is known of a model.

    Attributes:
        status: its status; ``None``: there is no record.
        until: until when (`now`) nothing can be won: the end of the lease, or of the back-off.
        record: the record, where it is known.
    """

    status: ModelStatus | None
    until: float = 0.0
    record: ModelRecord | None = None

    @classmethod
    def of(cls, state: ModelState) -> Snapshot:
        """What an event that came just now tells."""
        left = state.seconds_left
        return cls(state.status, now() + left if left else 0.0, state.record)


class WaitEntry(Generic[P, L]):
    """One model that somebody waits for, or downloads.

    Attributes:
        turn: a lock: who has it asks, or contends, for all.
        view: what is known; ``None``: nothing, ask.
        version: grows with every change of the view.
        asked: how many questions have gone out.
        answered: the last one that has an answer.
        trouble: the error that was that answer.
        recheck_at: when to ask again (`now`), though nothing was heard.
        tell_at: when to log again what is waited for (`now`).
    """

    def __init__(self, turn: L, lock: threading.Lock) -> None:
        self.turn = turn
        self.view: Snapshot | None = None
        self.version = 0
        self.asked = self.answered = 0
        self.trouble: RegistryError | None = None
        self.recheck_at = math.inf
        self.tell_at = 0.0
        self.pokes: set[P | OwnerWakeup] = set()
        self._lock = lock

    def ask(self) -> tuple[int, int]:
        """A question goes out now: its number, and the version that it is about."""
        with self._lock:
            self.asked += 1
            self._recheck_later()
            return self.asked, self.version

    def answer(self, number: int, version: int, view: Snapshot | None, trouble: RegistryError | None) -> None:
        """The answer to a question. News that came meanwhile may be newer: what was heard then stays."""
        with self._lock:
            self.answered = max(self.answered, number)
            self.trouble = trouble
            if view is not None and self.version == version:
                self.change(view)

    def change(self, view: Snapshot | None) -> None:
        """This is so now; the caller has the lock. Nobody is woken by a lease that only grew longer."""
        before, self.view = self.view, view
        self.version += 1
        if view is not None:
            self._recheck_later()
        if before is None or view is None or view.status is not before.status or view.until < before.until:
            for poke in self.pokes:
                poke.set()

    def _recheck_later(self) -> None:
        self.recheck_at = now() + RECHECK * random.uniform(0.8, 1.2)


class Watcher(Generic[P]):
    """Somebody who wants to see the events.

    Attributes:
        poke: is set when there are some.
        begun: whether it has begun to listen; before that nothing can be missing.
        ended: no more will come.
    """

    def __init__(self, poke: P, wanted: Callable[[ModelRef], bool], most: int) -> None:
        self.poke = poke
        self.begun = self.ended = False
        self._wanted = wanted
        self._most = most
        self._events: deque[RegistryEvent | EventGap] = deque()

    def put(self, event: BackendEvent) -> None:
        """Queue an event, if it is wanted. A watcher that does not keep up misses some, and gets a gap."""
        if not self._wanted(event.ref):
            return
        if len(self._events) >= self._most:
            self._events.clear()
            self._events.append(EventGap("too many events at once"))
        self._events.append(event.event())
        self.poke.set()

    def gap(self, why: str) -> None:
        """Some may be missing."""
        if not self.begun:
            return
        self._events.append(EventGap(why))
        self.poke.set()

    def take(self) -> RegistryEvent | EventGap | None:
        """The next, if there is one."""
        return self._events.popleft() if self._events else None


class WaiterRegistry(Generic[P, L]):
    """The seats and watchers of one client. Safe from many threads."""

    def __init__(self, make_turn: Callable[[], L]) -> None:
        self._make_turn = make_turn
        self._seats: dict[str, WaitEntry[P, L]] = {}
        self._watchers: set[Watcher[P]] = set()
        self._lock = threading.Lock()  # held for a few lines at a time, never while anybody waits

    def sit(self, entry: str, poke: P | OwnerWakeup) -> WaitEntry[P, L]:
        """A seat for this waiter."""
        with self._lock:
            seat = self._seats.get(entry)
            if seat is None:
                seat = self._seats[entry] = WaitEntry(self._make_turn(), self._lock)
            seat.pokes.add(poke)
            return seat

    def rise(self, entry: str, poke: P | OwnerWakeup) -> None:
        """This waiter is gone."""
        with self._lock:
            seat = self._seats[entry]
            seat.pokes.discard(poke)
            if not seat.pokes:
                del self._seats[entry]

    def watch(self, watcher: Watcher[P]) -> None:
        """Feed this one too."""
        with self._lock:
            self._watchers.add(watcher)

    def unwatch(self, watcher: Watcher[P]) -> None:
        """Feed it no more."""
        with self._lock:
            self._watchers.discard(watcher)

    def feed(self, events: Sequence[BackendEvent]) -> None:
        """Take in what has happened."""
        with self._lock:
            for event in events:
                seat = self._seats.get(event.entry)
                if seat is not None:
                    seat.change(Snapshot.of(event.state()))
                for watcher in self._watchers:
                    watcher.put(event)

    def gap(self, why: str) -> None:
        """Events may have been missed: nothing that is known is known for sure."""
        with self._lock:
            for seat in self._seats.values():
                seat.change(None)
            for watcher in self._watchers:
                watcher.gap(why)

    def wake_all(self, *, ended: bool = False) -> None:
        """Let everybody look at what the listener has to say; ``ended``: it listens no more."""
        with self._lock:
            for seat in self._seats.values():
                for poke in seat.pokes:
                    poke.set()
            for watcher in self._watchers:
                watcher.ended = watcher.ended or ended
                watcher.poke.set()
