"""What waits, and what runs beside the caller, on an event loop. `_runtime.threads` is the same for threads.

Together they are what `_coordination.subscriber_async` and `_coordination.ensure_async` need that is more than `await`.
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
    """The answer to a verb, for a thread of the library; the event loop of the backend has to run it in time.

    Raises:
        RegistryUnavailable: it does not, or there is none; and all that the call raises.
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
    """Wakes one waiter. Of the loop's own thread alone."""

    def __init__(self) -> None:
        self._is_set = False
        self._waits: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake it, now or as soon as it waits."""
        self._is_set = True
        self._wake()

    def clear(self) -> None:
        """What was told is known."""
        self._is_set = False

    def is_set(self) -> bool:
        """Whether there is something to look at."""
        return self._is_set

    def _wake(self) -> None:
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(None)

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is set, or so long; whether it is."""
        if not self._is_set:
            loop = asyncio.get_running_loop()
            self._waits = loop.create_future()
            timer = None if seconds is None else loop.call_later(max(seconds, 0.0), self._wake)
            try:
                await self._waits
            finally:
                self._waits = None
                if timer is not None:
                    timer.cancel()
        return self._is_set


class BackgroundTask:
    """Something that runs beside the callers until it is stopped.

    Attributes:
        stopping: is set when it is to end.
        interrupt: as with threads; here its task is cancelled.
    """

    def __init__(self, run: Callable[[BackgroundTask], Coroutine[Any, Any, None]], name: str) -> None:
        self.stopping = Wakeup()
        self.interrupt: Callable[[], None] | None = None
        self._task = asyncio.get_running_loop().create_task(run(self), name=f"pyregistry-{name}")

    def stop(self) -> None:
        """End it."""
        self.stopping.set()
        self._task.cancel()

    async def ended(self) -> None:
        """Wait until it has ended."""
        await settle(self._task)

    def is_here(self) -> bool:
        """Whether it runs where the caller does."""
        return self._task.get_loop() is asyncio.get_running_loop()


def tell(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    """Have the loop call it, from whatever thread."""
    with suppress(RuntimeError):  # it is closed: nobody is left to be told
        loop.call_soon_threadsafe(function, *args)


def waker(poke: Wakeup) -> Callable[[], object]:
    """Sets it from whatever thread."""
    return functools.partial(tell, asyncio.get_running_loop(), poke.set)


def _in_thread(function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    """Run it in a thread of its own: it may take hours, and a pool has only so many."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    call = functools.partial(contextvars.copy_context().run, function, *args)

    def give(result: Any, error: BaseException | None) -> None:
        if future.done():
            return  # given up
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        try:
            outcome: tuple[Any, BaseException | None] = (call(), None)
        except StopIteration as error:
            # A future can't hold one.
            outcome = (None, RuntimeError(f"the function raised {error!r}"))
        except BaseException as error:
            outcome = (None, error)
        tell(loop, give, *outcome)

    threading.Thread(
        target=run, name=f"pyregistry-{getattr(function, '__name__', 'call')}", daemon=True
    ).start()
    return future


def check_function(argument: str, function: object, arguments: int) -> None:
    """A function of the user's: plain or async.

    Raises:
        InvalidArgument: it can't be called with so many arguments.
    """
    checks.function(argument, function, arguments)


async def ask(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of the user's, plain (in a thread) or async."""
    if checks.is_async(function):
        return await function(*args)
    result = await _in_thread(function, *args)
    return await result if inspect.isawaitable(result) else result


async def settle(task: asyncio.Future[Any]) -> None:
    """Wait for the end of something, whatever it is: it is not what the caller is told."""
    await asyncio.wait({task})
    _look_at(task)


def _look_at(task: asyncio.Future[Any]) -> None:
    """Else asyncio would complain that nobody has asked how it ended."""
    if not task.cancelled():
        task.exception()


async def outlast(task: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait for the end of something, even if the caller is cancelled meanwhile; returns the last cancellation."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    _look_at(task)
    return cancelled


async def run_to_completion(call: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Carry something out, even if the caller is cancelled meanwhile; only then the cancellation goes on."""
    task = asyncio.get_running_loop().create_task(call(*args))
    cancelled = await outlast(task)
    if cancelled is not None:
        raise cancelled
    return task.result()
