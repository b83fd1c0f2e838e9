"""Waiting and background tasks with threads. `_runtime.aio` is the twin for an event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from pyregistry._core import validation as checks
from pyregistry._core.clock import LOOK_FOR_SIGNALS
from pyregistry.errors import InvalidArgument, RegistryUnavailable

T = TypeVar("T")

Lock = threading.Lock


def call_from_thread(backend: Any, verb: Callable[[Any], Any], _seconds: float) -> Any:
    """Call a verb from a thread of the library and return its answer.

    Args:
        backend: The backend; ``None`` if its client no longer exists.
        verb: Called with the backend, with `patience` 0.

    Raises:
        RegistryUnavailable: The client no longer exists.
        Exception: Any error that the verb raises.
    """
    if backend is None:
        raise RegistryUnavailable("the client is gone")
    return verb(backend.within(0.0))


class Wakeup:
    """Event with one waiter. Any thread may set it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.set = self._event.set
        self.clear = self._event.clear
        self.is_set = self._event.is_set

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the event is set, and return whether it is.

        Args:
            seconds: Timeout in seconds. Defaults to ``None``: no timeout.
        """
        if seconds is not None:
            return self._event.wait(max(seconds, 0.0))
        while not self._event.wait(LOOK_FOR_SIGNALS):
            pass
        return True


def waker(poke: Wakeup) -> Callable[[], object]:
    """Return a thread-safe function that sets the wakeup."""
    return poke.set


class BackgroundTask:
    """Background thread that runs until it is stopped.

    Attributes:
        stopping: Set when the thread should end.
        interrupt: Ends the blocking call of the thread; ``None`` if there is none.
    """

    def __init__(self, run: Callable[[BackgroundTask], None], name: str) -> None:
        self.stopping = Wakeup()
        self.interrupt: Callable[[], None] | None = None
        self._thread = threading.Thread(target=run, args=(self,), name=f"pyregistry-{name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Request the end of the thread: set `stopping` and interrupt its blocking call."""
        self.stopping.set()
        interrupt = self.interrupt
        if interrupt is not None:
            interrupt()

    def ended(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def is_here(self) -> bool:
        """Return True: a thread belongs to no event loop."""
        return True


def check_function(argument: str, function: object, arguments: int) -> None:
    """Check a function of the user. It must be plain, because the blocking client has no event loop.

    Raises:
        InvalidArgument: The function does not accept this many positional arguments, or it is async.
    """
    checks.function(argument, function, arguments)
    if checks.is_async(function):
        raise InvalidArgument(argument, "must be a plain function: async ones are for an AsyncRegistry")


def ask(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of the user."""
    return function(*args)


def run_to_completion(call: Callable[..., T], *args: Any) -> T:
    """Call a function in the caller's thread. Twin of `_runtime.aio.run_to_completion`."""
    return call(*args)
