"""A server that takes no more connections: what a client has claimed it keeps, by whatever connection it has."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis
import redis.asyncio

from pyregistry import AsyncRegistry, Claimed, ModelStatus, Registry
from pyregistry._coordination import keepalive
from pyregistry._core import values
from tests.support.clients import AsyncFacade, loop_in_thread
from tests.support.faults.proxy import until
from tests.support.internals import keepalive_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyregistry import Claim
    from pyregistry.embedded import EmbeddedServer
    from tests.conftest import MakeServer

LEASE = 2.0  # seconds, instead of 30: that a machine which is busy for a moment ends none


@pytest.fixture(autouse=True)
def lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "KEPT_LEASE", LEASE)
    monkeypatch.setattr(keepalive, "_LINGER", LEASE)  # seconds that a claim may take on a busy machine


@pytest.fixture
def server(make_server: MakeServer) -> EmbeddedServer:
    return make_server()


@pytest.fixture
def raw(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as raw:
        raw.ping()
        yield raw


@pytest.fixture(params=["blocking", "multiplexed", "redis-py", "own", "own, asyncio"])
def registry(request: pytest.FixtureRequest, server: EmbeddedServer, namespace: str) -> Iterator[Registry]:
    """A client of each kind that is connected, and has claimed nothing yet."""
    with ExitStack() as stack:
        made: Any
        if request.param == "blocking":
            made = stack.enter_context(Registry.from_url(server.url, namespace))
        elif request.param == "own":
            mine = stack.enter_context(redis.Redis.from_url(server.url))
            made = stack.enter_context(Registry(mine, namespace))
        else:
            loop = stack.enter_context(loop_in_thread())
            if request.param == "own, asyncio":
                own = redis.asyncio.Redis.from_url(server.url)
                stack.callback(lambda: asyncio.run_coroutine_threadsafe(own.aclose(), loop).result())
                client = AsyncRegistry(own, namespace)
            else:
                client = AsyncRegistry.from_url(server.url, namespace, transport=request.param)
            made = stack.enter_context(AsyncFacade(client, loop))
        made.set_status("there", "S3", ModelStatus.DOWNLOADED)
        yield made


def is_full(url: str) -> bool:
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port or 0)) as one_more:
        one_more.sendall(b"PING\r\n")
        return one_more.recv(64).startswith(b"-ERR max number of clients")


def fill(raw: redis.Redis, url: str) -> None:
    """No more connections than there are now."""
    raw.config_set("maxclients", len(raw.client_list()))
    until(lambda: is_full(url), "it takes no more")


def claim(registry: Registry) -> Claim:
    result = registry.try_claim_for_download("model", "S3")
    assert isinstance(result, Claimed)
    return result.claim


def outlives_its_lease(raw: redis.Redis, registry: Registry, claim: Claim) -> None:
    """Several leases later it is held, by its first owner, and ends well."""
    begin = server_time(raw)
    until(lambda: server_time(raw) > begin + 2.5 * LEASE, "two leases and a half are over")
    record = registry.get_model_record("model", "S3")
    assert record is not None
    assert record.lease_expires_at is not None
    assert record.lease_expires_at.timestamp() > server_time(raw)
    assert record.token == claim.token
    assert registry.finish_download_claim(claim, ModelStatus.DOWNLOADED)


def server_time(raw: redis.Redis) -> float:
    seconds, microseconds = raw.time()
    return float(seconds) + float(microseconds) / 1e6


def test_the_limit_is_reached_after_connecting(
    registry: Registry, server: EmbeddedServer, raw: redis.Redis
) -> None:
    """A connected client renews its claims on a server that takes no more connections."""
    fill(raw, server.url)
    outlives_its_lease(raw, registry, claim(registry))


def test_the_limit_is_reached_after_the_claim(
    registry: Registry, server: EmbeddedServer, raw: redis.Redis
) -> None:
    """The connection that keeps it is there before it is given."""
    held = claim(registry)
    keepers = kept_by(registry)
    assert keepers.ready
    fill(raw, server.url)
    keepers.by_client = None  # so it is that one
    outlives_its_lease(raw, registry, held)


def test_the_limit_is_reached_while_it_reconnects(
    registry: Registry, server: EmbeddedServer, raw: redis.Redis
) -> None:
    """A client whose connection is lost on a full server renews its claims over another one."""
    held = claim(registry)
    keepers = kept_by(registry)
    backend: Any = keepers._backend
    transport = backend.transport
    (line,) = transport._lines._idle
    where = "{}:{}".format(*line.connection._sock.getsockname())
    raw.config_set("maxclients", len(raw.client_list()) - 1)
    raw.client_kill(where)
    until(lambda: is_full(server.url), "its place is taken")
    outlives_its_lease(raw, registry, held)


def test_a_shorter_lease_at_the_limit(
    registry: Registry, server: EmbeddedServer, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is kept by is to be more impatient, and no connection like that can be had."""
    monkeypatch.setattr(keepalive, "_LEAST_TIMEOUT", 0.1)
    held = claim(registry)
    fill(raw, server.url)
    kept_by(registry).by_client = None
    monkeypatch.setattr(values, "KEPT_LEASE", LEASE * 0.8)
    second = registry.try_claim_for_download("another", "S3")
    assert isinstance(second, Claimed)
    outlives_its_lease(raw, registry, held)
    assert registry.finish_download_claim(second.claim, ModelStatus.DOWNLOADED)


def kept_by(registry: Any) -> keepalive.Keepalive:
    client = getattr(registry, "_registry", registry)
    kept: keepalive.Keepalive = keepalive_of(client)
    return kept
