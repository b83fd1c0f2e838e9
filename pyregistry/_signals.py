"""Signal handlers that release a client's claims before the process ends."""

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
    """Release a client's claims on a signal, so that other clients can claim the models at once.

    The first signal runs the claim release of `Registry.shutdown` in its own thread. The client stays open: reads
    and touches continue, so that a server can answer its last requests. Then the previous handler is called, such as
    uvicorn's or gunicorn's. Without a previous handler, the first signal raises ``SystemExit(128 + number)`` in the
    main thread, which unwinds the program; later signals do nothing. An ignored signal stays ignored.

    Call this function in the main thread after the server has set its own handlers: in a lifespan, or in
    ``post_worker_init``. In any other thread it only logs that it does nothing (INFO), because Python sets handlers
    in the main thread alone.

    Args:
        registry: A `Registry` or an `AsyncRegistry`.
        signals: Signals to handle. Defaults to SIGTERM and SIGINT.
        timeout: As in `Registry.shutdown`. Defaults to 5 s.

    Returns:
        A context manager that restores the previous handlers on exit. Its use is optional.

    Raises:
        InvalidArgument: `registry` is not a client, a signal is unknown, or the timeout is invalid.
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
    """The handlers that `release_on_signal` has set. A context manager that restores the previous ones."""

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
        """Restore the previous handlers, except where others were set meanwhile. Main thread only. Idempotent."""
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before.clear()

    def _shut_down_elsewhere(self) -> None:
        """Shut down in another thread, because the code that the handler interrupts may hold a lock."""
        shut_down, arguments = self._registry._session.keepalive.shut_down, (self._timeout,)
        if GREENLETS:  # `Thread.start` would block the hub greenlet, where the handler may run
            _thread.start_new_thread(shut_down, arguments)
        else:  # not a daemon thread, so that the process waits for it before it ends
            threading.Thread(target=shut_down, args=arguments, name="pyregistry-shutdown").start()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self._told = not self._told, True
        if first:
            # A `close` that runs before the thread below starts must release the claims too.
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
    """Raise an error in the main thread. In a running event loop, raise it between two callbacks.

    An error in the middle of a callback would interrupt that callback.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise error from None
    loop.call_soon_threadsafe(partial(_throw, error))


def _throw(error: BaseException) -> None:
    raise error
