"""Clients with a near cache, and their parts that tests look at."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import redis

from pyregistry import AsyncRegistry, Registry
from pyregistry._redis.cache.client_cache import ClientCache
from pyregistry._redis.cache.tracking_sync import TrackedTransport
from tests.support.faults.proxy import until
from tests.support.internals import transport_of

if TYPE_CHECKING:
    from collections.abc import Callable


class Awaited:
    """A `Registry` to be used like an `AsyncRegistry`: what is awaited is done already, in this very thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def __aenter__(self) -> Awaited:
        self._registry.connect()
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._registry.close()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._registry, name)
        if not callable(attribute):
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            return attribute(*args, **kwargs)

        return call


def asked(raw: redis.Redis, *commands: str) -> int:
    """How many such commands the server has seen."""
    stats: Any = raw.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{command}", {}).get("calls", 0)) for command in commands)


def near_of(registry: AsyncRegistry | Registry) -> ClientCache:
    transport: Any = transport_of(registry)
    near = transport.known
    assert isinstance(near, ClientCache)
    return near


def listens(registry: object) -> bool:
    """Whether it hears of what happens without being asked anything."""
    return isinstance(registry, AsyncRegistry)


def tracked(blocking: Registry) -> TrackedTransport:
    transport = transport_of(blocking)
    assert isinstance(transport, TrackedTransport)
    return transport


async def comes(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(until, condition, what)


HITS = 3_000_000  # more than could be asked in vain before the test is over
