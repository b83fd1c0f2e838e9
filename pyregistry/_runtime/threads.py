"""What waits, and what runs beside the caller, with threads. `_runtime.aio` is the same for an event loop."""

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
    """The answer to a verb, for a thread of the library; raises what the verb raises."""
    if backend is None:
        raise RegistryUnavailable("the client is gone")
    return verb(backend.within(0.0))


class Wakeup:
    """Wakes one waiter. Any thread may set it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.set = self._event.set
        self.clear = self._event.clear
        self.is_set = self._event.is_set

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is set, or so long; whether it is."""
        if seconds is not None:
            return self._event.wait(max(seconds, 0.0))
        while not self._event.wait(LOOK_FOR_SIGNALS):
            pass
        return True


def waker(poke: Wakeup) -> Callable[[], object]:
    """Sets it from whatever thread."""
    return poke.set


class BackgroundTask:
    """Something that runs beside the callers, in a thread, until it is stopped.

    Attributes:
        stopping: is set when it is to end.
        interrupt: ends what its thread waits for; ``None``: nothing.
    """

    def __init__(self, run: Callable[[BackgroundTask], None], name: str) -> None:
        self.stopping = Wakeup()
        self.interrupt: Callable[[], None] | None = None
        self._thread = threading.Thread(target=run, args=(self,), name=f"pyregistry-{name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self.stopping.set()
        interrupt = self.interrupt
        if interrupt is not None:
            interrupt()

    def ended(self) -> None:
        """Wait until it has ended."""
        self._thread.join()

    def is_here(self) -> bool:
        """Whether it runs where the caller does."""
        return True


def check_function(argument: str, function: object, arguments: int) -> None:
    """A function of the user's: plain, since nobody awaits here.

    Raises:
        InvalidArgument: it can't be called with so many arguments, or is async.
    """
    checks.function(argument, function, arguments)
    if checks.is_async(function):
        raise InvalidArgument(argument, "must be a plain function: async ones are for an AsyncRegistry")


def ask(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of the user's."""
    return function(*args)


def run_to_completion(call: Callable[..., T], *args: Any) -> T:
    """Carry something out."""
    return call(*args)
