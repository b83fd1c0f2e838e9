"""Waiting and background tasks on an event loop. `_runtime.threads` is the twin for threads.

The twins provide everything beyond `await` that `_coordination.subscriber_async` and `_coordination.ensure_async` need.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from pyregistry._core import validation as checks
from pyregistry.errors import RegistryUnavailable

T = TypeVar("T")

Lock = asyncio.Lock


def call_from_thread(backend: Any, verb: Callable[[Any], Any], seconds: float) -> Any:
    """Call a verb from a thread of the library and return its answer. The event loop of the backend runs the verb.

    Args:
        backend: The backend; ``None`` if its client no longer exists.
        verb: Called with the backend, with `patience` 0.
        seconds: Timeout in seconds.

    Raises:
        RegistryUnavailable: No event loop runs, this thread runs it, or the answer takes longer than `seconds`.
        Exception: Any error that the verb raises.
    """
    loop = None if backend is None else backend.loop
    if loop is None or not loop.is_running() or asyncio._get_running_loop() is loop:
        raise RegistryUnavailable("the event loop of the client does not run")

    async def call() -> Any:
        return await verb(backend.within(0.0))

    future = asyncio.run_coroutine_threadsafe(call(), loop)
    try:
        return future.result(seconds)
    except concurrent.futures.TimeoutError:
        future.cancel()
        raise RegistryUnavailable(f"the event loop of the client has not answered in {seconds:g} s") from None


class Wakeup:
    """Event with one waiter. Only the thread of the event loop may use it."""

    def __init__(self) -> None:
        self._is_set = False
        self._future: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Set the event and wake the waiter. A later `wait` returns at once."""
        self._is_set = True
        self._wake()

    def clear(self) -> None:
        """Reset the event."""
        self._is_set = False

    def is_set(self) -> bool:
        """Return whether the event is set."""
        return self._is_set

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until the event is set, and return whether it is.

        Args:
            seconds: Timeout in seconds. Defaults to ``None``: no timeout.
        """
        if not self._is_set:
            loop = asyncio.get_running_loop()
            self._future = loop.create_future()
            timer = None if seconds is None else loop.call_later(max(seconds, 0.0), self._wake)
            try:
                await self._future
            finally:
                self._future = None
                if timer is not None:
                    timer.cancel()
        return self._is_set


class BackgroundTask:
    """Background task that runs until it is stopped.

    Attributes:
        stopping: Set when the task should end.
        interrupt: Unused on an event loop, because `stop` cancels the task. See `_runtime.threads`.
    """

    def __init__(self, run: Callable[[BackgroundTask], Coroutine[Any, Any, None]], name: str) -> None:
        self.stopping = Wakeup()
        self.interrupt: Callable[[], None] | None = None
        self._task = asyncio.get_running_loop().create_task(run(self), name=f"pyregistry-{name}")

    def stop(self) -> None:
        """Request the end of the task: set `stopping` and cancel the task."""
        self.stopping.set()
        self._task.cancel()

    async def ended(self) -> None:
        """Wait until the task has ended."""
        await settle(self._task)

    def is_here(self) -> bool:
        """Return whether the task runs on the caller's event loop."""
        return self._task.get_loop() is asyncio.get_running_loop()


def tell(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    """Schedule a call on the event loop. Thread-safe."""
    with suppress(RuntimeError):  # the loop is closed, so it has no waiter
        loop.call_soon_threadsafe(function, *args)


def waker(poke: Wakeup) -> Callable[[], object]:
    """Return a thread-safe function that sets the wakeup on the running event loop."""
    return functools.partial(tell, asyncio.get_running_loop(), poke.set)


def _in_thread(function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    """Run a function in a dedicated thread, because a download may take hours and a pool has a limited size."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    call = functools.partial(contextvars.copy_context().run, function, *args)

    def give(result: Any, error: BaseException | None) -> None:
        if future.done():
            return  # the caller has cancelled the future
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        try:
            outcome: tuple[Any, BaseException | None] = (call(), None)
        except StopIteration as error:
            # A future can't hold a StopIteration.
            outcome = (None, RuntimeError(f"the function raised {error!r}"))
        except BaseException as error:
            outcome = (None, error)
        tell(loop, give, *outcome)

    threading.Thread(
        target=run, name=f"pyregistry-{getattr(function, '__name__', 'call')}", daemon=True
    ).start()
    return future


def check_function(argument: str, function: object, arguments: int) -> None:
    """Check a function of the user. It may be plain or async.

    Raises:
        InvalidArgument: The function does not accept this many positional arguments.
    """
    checks.function(argument, function, arguments)


async def ask(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of the user. A plain function runs in a thread; an async one runs on the event loop."""
    if checks.is_async(function):
        return await function(*args)
    result = await _in_thread(function, *args)
    return await result if inspect.isawaitable(result) else result


async def settle(task: asyncio.Future[Any]) -> None:
    """Wait until a task has ended. Ignore its result and its error."""
    await asyncio.wait({task})
    _consume_exception(task)


def _consume_exception(task: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a task, because asyncio logs an exception that is never retrieved."""
    if not task.cancelled():
        task.exception()


async def outlast(task: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until a task has ended, even if the caller is cancelled meanwhile.

    Returns:
        The last cancellation of the caller; ``None`` if there was none.
    """
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    _consume_exception(task)
    return cancelled


async def run_to_completion(call: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Run a coroutine function to completion, even if the caller is cancelled meanwhile.

    Raises:
        CancelledError: The caller was cancelled. It is raised after the call has ended.
    """
    task = asyncio.get_running_loop().create_task(call(*args))
    cancelled = await outlast(task)
    if cancelled is not None:
        raise cancelled
    return task.result()
