"""Fixtures of the near cache: a server of its own, and clients of either kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import redis

from pyregistry import AsyncRegistry, Registry
from tests.support.near import Awaited

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from pyregistry.embedded import EmbeddedServer
    from tests.conftest import MakeServer


@pytest.fixture
def server(make_server: MakeServer) -> EmbeddedServer:
    return make_server()


@pytest.fixture(params=["asyncio", "threads"])
def from_url(request: pytest.FixtureRequest) -> Callable[..., AsyncRegistry]:
    """Makes either client, behind the interface of the asyncio one."""
    if request.param == "asyncio":
        return AsyncRegistry.from_url

    def make(*args: Any, **options: Any) -> AsyncRegistry:
        return cast("AsyncRegistry", Awaited(Registry.from_url(*args, **options)))

    return make


@pytest.fixture
async def registry(
    server: EmbeddedServer, namespace: str, from_url: Callable[..., AsyncRegistry]
) -> AsyncIterator[AsyncRegistry]:
    """Either client."""
    async with from_url(server.url, namespace, near_cache=True) as registry:
        yield registry


@pytest.fixture
async def asyncio_registry(server: EmbeddedServer, namespace: str) -> AsyncIterator[AsyncRegistry]:
    """The asyncio client, where it differs."""
    async with AsyncRegistry.from_url(server.url, namespace, near_cache=True) as registry:
        yield registry


@pytest.fixture
def blocking(server: EmbeddedServer, namespace: str) -> Iterator[Registry]:
    """The blocking client, where it differs."""
    with Registry.from_url(server.url, namespace, near_cache=True) as blocking:
        yield blocking


@pytest.fixture
def other(server: EmbeddedServer, namespace: str) -> Iterator[Registry]:
    """Somebody else, without a near cache."""
    with Registry.from_url(server.url, namespace, owner="other") as other:
        yield other


@pytest.fixture
def raw(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as raw:
        yield raw
