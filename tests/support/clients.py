"""One scenario, both clients: the asyncio client behind the interface of the sync one.

A contract test is written once, against `Registry`. Its fixture `any_registry`, or `connect_any`
for several clients in one test, runs it with a `Registry` and with an `AsyncRegistry` whose event
loop runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from pyregistry import AsyncRegistry, Registry

SECONDS = 60.0  # for any one call: nothing hangs for ever


class Connect(Protocol):
    """Connects a client, to the test's own server and namespace where no others are given."""

    def __call__(self, *, url: str = ..., namespace: str = ..., **options: Any) -> Registry: ...


class AsyncFacade:
    """An `AsyncRegistry` to be used like a `Registry`: coroutines block, async iterators iterate.

    Any thread but the loop's own may call it, several at once too.
    """

    def __init__(self, registry: AsyncRegistry, loop: asyncio.AbstractEventLoop) -> None:
        self._registry = registry
        self._loop = loop

    def __enter__(self) -> AsyncFacade:
        self._call(self._registry.__aenter__)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call(self._registry.__aexit__, kind, error, traceback)

    def __repr__(self) -> str:
        return repr(self._registry)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._registry, name)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            result = self._call(attribute, *args, **kwargs)
            return self._iterate(result) if isinstance(result, AsyncIterator) else result

        return call

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        while (item := self._call(anext, items, self)) is not self:
            yield item

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # The call itself is made on the loop too: some of what it makes may want a running one.
        async def on_loop() -> Any:
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(SECONDS)


@contextmanager
def loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread; a task that is left on it when it ends is an error."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test event loop", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        left = asyncio.run_coroutine_threadsafe(_end_tasks(), loop).result(SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)
        loop.close()
    assert not left, f"the client left tasks on the event loop: {left}"


async def _end_tasks() -> list[str]:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    left = [repr(task) for task in tasks]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
    return left
