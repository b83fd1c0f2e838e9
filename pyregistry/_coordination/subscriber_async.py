"""Subscription to the events of a namespace: one for all waiters and watchers of a client.

The subscription exists as long as it has users. It is established before the state is read. After a failure it is
established again, with a back-off. Then all known states become invalid, and the waiters read them again.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from pyregistry._coordination.waiters import WaiterRegistry, Watcher
from pyregistry._core.backoff import backoff
from pyregistry._core.clock import now
from pyregistry._runtime.aio import BackgroundTask, Lock, Wakeup
from pyregistry.backend.protocol_async import AsyncEventSource
from pyregistry.errors import RegistryClosed, RegistryError, RegistryUnavailable
from pyregistry.models import EventGap, ModelRef, RegistryEvent

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_log = logging.getLogger("pyregistry.events")

MOST = 10_000
"""Maximum number of events that a stream queues for a slow reader. The stream replaces more events by a gap."""

_LONGEST = 4  # attempt whose back-off is the maximum: about a second


class AsyncSubscriber:
    """The subscription of one client.

    Args:
        make_source: Creates a new subscription.
        name: Name of the namespace, for the log.
        patience: Seconds without a subscription after which the waiters get an error.

    Attributes:
        waiters: The waiters and watchers that receive the events.
        trouble: The error that prevents a subscription, else ``None``. An unavailable registry sets it only after
            `patience`; a refusal or `close` sets it at once.
    """

    def __init__(self, make_source: Callable[[], AsyncEventSource], name: str, patience: float) -> None:
        self._make_source = make_source
        self._name = name
        self._patience = patience
        self._closed = False
        self.reset()
        _instances.add(self)

    def reset(self) -> None:
        """Reset to the initial state: no users, no subscription, no known states."""
        self.waiters: WaiterRegistry[Wakeup, Lock] = WaiterRegistry(Lock)
        self.trouble: RegistryError | None = None
        self._up = False
        self._users = 0
        self._arrivals: set[Wakeup] = set()
        self._beside: BackgroundTask | None = None
        self._lock = threading.Lock()  # held for a few statements at a time, never across a blocking call

    @property
    def is_up(self) -> bool:
        """Whether the subscription is established."""
        return self._up

    def bind_to_running_loop(self) -> None:
        """Abandon a subscription of another event loop, because a subscription belongs to one event loop."""
        # --- asyncio only: begin
        if self._beside is not None and not self._beside.is_here():
            self.reset()
        # --- asyncio only: end

    def begin(self) -> None:
        """Add a user of the subscription, until `leave`, without waiting. Call `bind_to_running_loop` first."""
        with self._lock:
            self._users += 1
            if self._beside is None and not self._closed:
                self.trouble = None
                self._beside = BackgroundTask(self._run, "listener")

    async def join(self) -> None:
        """Add a user of the subscription, until `leave`, and wait until it is up. Call `bind_to_running_loop` first.

        Raises:
            RegistryUnavailable: The subscription can't be established within `patience`.
            ServerRefused: The user lacks the right.
            RegistryClosed: The client is closed.
        """
        arrival = Wakeup()
        with self._lock:
            self._arrivals.add(arrival)
        self.begin()
        try:
            while not self._up:
                if self.trouble is not None:
                    raise self.trouble
                await arrival.wait()
                arrival.clear()
        except BaseException:
            self.leave()
            raise
        finally:
            with self._lock:
                self._arrivals.discard(arrival)

    def leave(self) -> None:
        """Remove a user of the subscription. The subscription ends with its last user."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._stop()

    def close(self) -> None:
        """End the subscription for good. All waiters get `RegistryClosed`, and all streams end. Idempotent."""
        with self._lock:
            self._closed = True
            self.trouble = RegistryClosed("the client is closed")
            self._stop()
            self._wake_arrivals()
        self.waiters.wake_all(ended=True)

    def _stop(self) -> None:
        self._up = False
        beside, self._beside = self._beside, None
        if beside is not None:
            beside.stop()

    def _wake_arrivals(self) -> None:
        for arrival in self._arrivals:
            arrival.set()

    async def _run(self, beside: BackgroundTask) -> None:
        tries, down_since = 0, now()
        while not beside.stopping.is_set():
            try:
                await self._listen(beside)
                return
            except RegistryError as ended:
                error = ended
            with self._lock:
                if self._beside is not beside:
                    return
                if self._up:
                    _log.info("the subscription to %s has ended: %s", self._name, error)
                    tries, down_since, self._up = 0, now(), False
            tries += 1
            if not isinstance(error, RegistryUnavailable):
                self._report_trouble(beside, error)
            elif now() - down_since >= self._patience:
                self._report_trouble(beside, RegistryUnavailable(f"no subscription: {error}"))
            await beside.stopping.wait(backoff(min(tries, _LONGEST)) if tries > 1 else 0.0)

    def _report_trouble(self, beside: BackgroundTask, trouble: RegistryError) -> None:
        with self._lock:
            if self._beside is not beside or self.trouble is not None:
                return
            self.trouble = trouble
            self._wake_arrivals()
        self.waiters.wake_all()

    def _mark_up(self, beside: BackgroundTask) -> None:
        with self._lock:
            if self._beside is not beside:
                return
            self._up, self.trouble = True, None
        # The gap precedes the wake-up of the arrivals. Otherwise it would invalidate the states that they read next.
        self.waiters.gap("the subscription is new")
        with self._lock:
            self._wake_arrivals()

    async def _listen(self, beside: BackgroundTask) -> None:
        source = self._make_source()
        beside.interrupt = source.interrupt
        try:
            await source.open()
            self._mark_up(beside)
            while not beside.stopping.is_set():
                events = await source.receive()
                if isinstance(events, str):
                    _log.warning("%s", events)
                    self.waiters.gap("an event could not be read")
                elif events:
                    self.waiters.feed(events)
        finally:
            beside.interrupt = None
            await source.close()


class AsyncEventStream:
    """Live events of the models of a registry, as an async iterator.

    The stream starts when it is entered (``async with``), or with its first step. It ends when it is closed. An
    `EventGap` marks each loss of events in between. The iteration stops when the client is closed.
    """

    def __init__(self, listener: AsyncSubscriber, wanted: Callable[[ModelRef], bool]) -> None:
        self._listener = listener
        self._watcher = Watcher(Wakeup(), wanted, MOST)
        self._waiters: WaiterRegistry[Wakeup, Lock] | None = None

    async def __aenter__(self) -> Self:
        if self._waiters is None:
            self._listener.bind_to_running_loop()
            # Watch before the subscription is up, so that its first events are not lost.
            waiters = self._listener.waiters
            waiters.watch(self._watcher)
            try:
                await self._listener.join()
            except BaseException:
                waiters.unwatch(self._watcher)
                raise
            self._waiters = waiters
            self._watcher.begun = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the stream. Idempotent."""
        waiters, self._waiters = self._waiters, None
        self._watcher.ended = True
        if waiters is not None:
            waiters.unwatch(self._watcher)
            self._listener.leave()

    def __aiter__(self) -> AsyncIterator[RegistryEvent | EventGap]:
        return self

    async def __anext__(self) -> RegistryEvent | EventGap:
        if not self._watcher.ended:
            await self.__aenter__()
        while True:
            self._watcher.wakeup.clear()
            event = self._watcher.take()
            if event is not None:
                return event
            trouble = self._listener.trouble
            if self._watcher.ended or isinstance(trouble, RegistryClosed):
                await self.aclose()
                raise StopAsyncIteration
            if trouble is not None:
                await self.aclose()
                raise trouble
            await self._watcher.wakeup.wait()


_instances: weakref.WeakSet[AsyncSubscriber] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Reset the subscribers of a forked child. The subscription and its waiters belong to the parent."""
    for listener in list(_instances):
        listener.reset()


os.register_at_fork(after_in_child=_after_fork_in_child)
