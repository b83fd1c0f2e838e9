"""What waits, and what runs beside the caller, with threads. `_runtime.aio` is the same for an event loop."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from redis import exceptions as redis_errors

from pyregistry._coordination.lease import Held
from pyregistry._core import validation as checks
from pyregistry._core.clock import LOOK_FOR_SIGNALS
from pyregistry._runtime.greenlets import EVENTLET
from pyregistry.errors import InvalidArgument, RegistryUnavailable

T = TypeVar("T")

Turn = threading.Lock


def call_from_thread(transport: Any, op: Any, _seconds: float) -> Any:
    """The reply of one operation, for a thread of the library; raises what the call raises."""
    if transport is None:
        raise RegistryUnavailable("the client is gone")
    return transport.call(op, 0.0)


class Poke:
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


def waker(poke: Poke) -> Callable[[], object]:
    """Sets it from whatever thread."""
    return poke.set


class Beside:
    """Something that runs beside the callers, in a thread, until it is stopped.

    The thread alone closes its connection. A descriptor that another thread closes under a read may be given to
    another socket at once, and the read then waits on that.

    Attributes:
        stopping: is set when it is to end.
    """

    def __init__(self, run: Callable[[Beside], None], name: str) -> None:
        self.stopping = Poke()
        self._connection: Any = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=run, args=(self,), name=f"pyregistry-{name}", daemon=True)
        self._thread.start()

    @property
    def connection(self) -> Any:
        """What it reads from; ``None`` before its thread closes that."""
        return self._connection

    @connection.setter
    def connection(self, connection: Any) -> None:
        with self._lock:
            self._connection = connection

    def stop(self) -> None:
        """End it: its read ends as if the server had hung up."""
        self.stopping.set()
        # With the lock held the thread can't close the connection meanwhile: the descriptor is still its own.
        with self._lock:
            connected = None if self._connection is None else self._connection._sock
            if connected is not None:
                with contextlib.suppress(OSError):  # the server has hung up already
                    _shut_down(connected)

    def ended(self) -> None:
        """Wait until it has ended."""
        self._thread.join()

    def is_here(self) -> bool:
        """Whether it runs where the caller does."""
        return True


def _shut_down(connected: Any) -> None:
    """End both directions of the socket itself: TLS would drop its state under the read of the thread."""
    if EVENTLET:  # its sockets wrap the one that can do it
        with socket.socket(fileno=os.dup(connected.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)
    else:
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def receive(connection: Any, seconds: float) -> Any:
    """The next message or reply; ``None`` if nothing comes in that time."""
    with contextlib.suppress(redis_errors.TimeoutError):
        return connection.read_response(
            disable_decoding=True, timeout=seconds, push_request=True, disconnect_on_error=False
        )
    return None


def _as_it_is(message: Any) -> Any:
    return message


def unlogged(connection: Any) -> None:
    """Keep redis-py from logging each message: an event holds a claim id, and that is a secret."""
    connection._parser.set_pubsub_push_handler(_as_it_is)


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


def work(held: Held, download: Callable[..., Any], *args: Any) -> None:
    """Run a download under its claim, in the caller's thread. It is told when the claim is lost (`Lost`).

    Raises:
        ClaimLost: the claim was lost.
        BaseException: what the download raised.
    """
    try:
        download(*args)
    except Exception as error:
        if held.lost.is_set():
            raise held.loss() from error
        raise
    if held.lost.is_set():
        raise held.loss()


def see_through(call: Callable[..., T], *args: Any) -> T:
    """Carry something out."""
    return call(*args)


class Guard:
    """A block in a thread can't be ended: it looks at ``claim.lost``."""

    def __init__(self, held: Held) -> None:
        self._held = held

    def end(self, _error: BaseException | None) -> bool:
        """The block is over; whether what ended it was this guard."""
        return self._held.lost.is_set()
