"""Tasks of an event loop: start, cancel, wait."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pyregistry import AlreadyExists, AsyncRegistry, Claimed, Registry
from tests.support.faults.proxy import Held, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pyregistry.models import ModelRecord

    Result = Claimed | AlreadyExists

LEASE = 30.0


def claim(registry: AsyncRegistry, name: str = "model", **options: Any) -> Coroutine[Any, Any, Result]:
    return registry.try_claim_for_download(name, "S3", **{"lease": LEASE, **options})


def start(call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(call)


async def comes(condition: Callable[[], object], what: str) -> None:
    """`until`, while the event loop goes on."""
    await asyncio.to_thread(until, condition, what)


async def arrived(held: Held) -> None:
    await asyncio.to_thread(held.wait)


async def turns(number: int = 5) -> None:
    """Let the loop turn; nothing that is awaited comes by this alone."""
    for _ in range(number):
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


def record_of(other: Registry, name: str = "model") -> ModelRecord:
    record = other.get_model_record(name, "S3")
    assert record is not None
    return record
