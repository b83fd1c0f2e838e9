"""Has a client give back its claims when a signal ends the process."""

from __future__ import annotations

import _thread
import asyncio
import logging
import signal
import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from pyregistry._client import Client
from pyregistry._coordination.options import SHUTDOWN_TIMEOUT
from pyregistry._core import validation as checks
from pyregistry._runtime.greenlets import GREENLETS
from pyregistry.errors import InvalidArgument

if TYPE_CHECKING:
    from types import FrameType, TracebackType

__all__ = ["SignalHandlers", "release_on_signal"]

_log = logging.getLogger("pyregistry")

ENDING = (signal.SIGTERM, signal.SIGINT)


def release_on_signal(
    registry: Client, *, signals: Iterable[int] = ENDING, timeout: float = SHUTDOWN_TIMEOUT
) -> SignalHandlers:
    """Have a client give back its claims when a signal comes, so that others go on at once.

    The first signal does what `Registry.shutdown` does, in a thread of its own, but leaves the client open: reads and
    touches go on, so that a server can answer its last requests. Then the handler that was set before is
    called, such as uvicorn's or gunicorn's. Where there was none, the first signal raises ``SystemExit(128 + number)``
    in the main thread, which unwinds the program; later ones do nothing. A signal that was ignored stays ignored.

    Call it in the main thread after the server has set its own handlers: in a lifespan, in ``post_worker_init``.
    In another thread, where Python allows no handlers, it does nothing but say so in the log (INFO).

    Args:
        registry: a `Registry` or an `AsyncRegistry`.
        signals: which signals. Defaults to SIGTERM and SIGINT.
        timeout: as in `Registry.shutdown`.

    Returns:
        A context manager, which sets the former handlers again when it is left. It need not be used as one.

    Raises:
        InvalidArgument: the registry is none, a signal is none, or the timeout is no length of time.
    """
    if not isinstance(registry, Client):
        raise InvalidArgument(
            "registry", f"must be a Registry or AsyncRegistry, not {type(registry).__name__}"
        )
    checks.microseconds("timeout", timeout, zero=True)
    numbers = []
    for number in signals:
        try:
            numbers.append(signal.Signals(number))
        except ValueError:
            raise InvalidArgument("signals", f"{number!r} is no signal") from None
    return SignalHandlers(registry, numbers, timeout)


class SignalHandlers:
    """The handlers that `release_on_signal` has set; a context manager, which takes them back."""

    def __init__(self, registry: Client, numbers: Iterable[signal.Signals], timeout: float) -> None:
        self._registry = registry
        self._timeout = timeout
        self._told = False
        self._before: dict[int, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            _log.info("signals give back no claims of %r: only the main thread can set handlers", registry)
            return
        for number in numbers:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._handle)

    def __enter__(self) -> SignalHandlers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Set the former handlers again, where no others were set meanwhile. Main thread alone. Idempotent."""
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before.clear()

    def _shut_down_elsewhere(self) -> None:
        """Not in the handler: what it interrupts may hold a lock."""
        shut_down, arguments = self._registry._session.keepalive.shut_down, (self._timeout,)
        if GREENLETS:  # the handler may run in the greenlet that runs all others, and can't wait for a start
            _thread.start_new_thread(shut_down, arguments)
        else:  # not a daemon: the end of the process waits for it
            threading.Thread(target=shut_down, args=arguments, name="pyregistry-shutdown").start()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self._told = not self._told, True
        if first:
            # Whatever closes the client before the thread below has begun gives back.
            self._registry._session.keepalive.announce()
            self._shut_down_elsewhere()
        before = self._before.get(number)
        if before is signal.default_int_handler:
            _raise(KeyboardInterrupt())
        elif callable(before):
            before(number, frame)
        elif first:
            _raise(SystemExit(128 + number))


def _raise(error: BaseException) -> None:
    """Raise it in the main thread; in a running event loop between two callbacks, so that none of them is cut."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise error from None
    loop.call_soon_threadsafe(partial(_throw, error))


def _throw(error: BaseException) -> None:
    raise error
