"""The asyncio backend behind the blocking interface."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from pyregistry.backend.common import BackendEvent
from pyregistry.backend.conformance.steps import LIMIT_S
from pyregistry.backend.protocol_async import AsyncBackend, AsyncEventSource
from pyregistry.backend.protocol_sync import Backend
from pyregistry.errors import (
    RegistryClosed,
)

__all__ = ["blocking"]

T = TypeVar("T")


@contextmanager
def blocking(make: Callable[[str], AsyncBackend]) -> Iterator[Callable[[str], Backend]]:
    """Show asyncio backends as blocking ones. They run on an event loop in a thread of its own.

    Args:
        make: makes a new client, as `Subject.make` does. It is called on the event loop.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="conformance", daemon=True)
    thread.start()
    run = _OnLoop(loop)
    try:
        yield lambda owner: cast("Backend", _Blocking(run(make, owner), run))
    finally:
        left = run(_end_tasks)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT_S)
        loop.close()
    assert not left, f"tasks are left on the event loop: {left}"


async def _end_tasks() -> list[str]:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    # A connection that was just closed may need a turn or two.
    _, pending = await asyncio.wait(tasks, timeout=1.0) if tasks else (set(), set())
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
    return [repr(task) for task in pending]


class _OnLoop:
    """Calls functions on an event loop, plain or async, and waits for their results."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def __call__(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        async def call() -> Any:
            result = function(*args, **options)
            return await result if inspect.isawaitable(result) else result

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(LIMIT_S)


class _Blocking:
    """An `AsyncBackend` with the interface of a `Backend`."""

    def __init__(self, backend: AsyncBackend, run: _OnLoop) -> None:
        self._backend = backend
        self._run = run

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._backend, name)
        if name in ("ids", "for_keepalive") or not callable(attribute):
            return attribute

        def call(*args: Any, **options: Any) -> Any:
            result = self._run(attribute, *args, **options)
            return self._iterate(result) if isinstance(result, AsyncIterator) else result

        return call

    def _iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        end: Any = object()
        while (item := self._run(anext, items, end)) is not end:
            yield item

    def within(self, seconds: float) -> _Blocking:
        return _Blocking(self._backend.within(seconds), self._run)

    def events(self) -> _BlockingSource:
        return _BlockingSource(self._run(self._backend.events), self._run)


class _BlockingSource:
    """An `AsyncEventSource` with the interface of an `EventSource`."""

    def __init__(self, source: AsyncEventSource, run: _OnLoop) -> None:
        self._source = source
        self._run = run
        self._receiving: asyncio.Task[Any] | None = None
        self._interrupted = False

    def open(self) -> None:
        self._run(self._source.open)

    def receive(self) -> Sequence[BackendEvent] | str:
        return cast("Sequence[BackendEvent] | str", self._run(self._receive))

    async def _receive(self) -> Sequence[BackendEvent] | str:
        if self._interrupted:
            raise RegistryClosed("the subscription was interrupted")
        self._receiving = task = asyncio.ensure_future(self._source.receive())
        await asyncio.wait({task})
        if task.cancelled():
            raise RegistryClosed("the subscription was interrupted")
        return task.result()

    def interrupt(self) -> None:
        """What an event loop has for it: the task that receives is cancelled."""
        self._interrupted = True
        self._run(self._cancel)

    def _cancel(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()

    def close(self) -> None:
        self._run(self._source.close)
