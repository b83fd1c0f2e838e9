"""Claims that their client keeps alive: by one thread of the process, on connections of its own."""

from __future__ import annotations

import gc
import logging
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis
import redis.asyncio

from pyregistry import (
    AsyncRegistry,
    Claim,
    Claimed,
    ConfigurationError,
    ModelStatus,
    OutcomeUnknown,
    Registry,
)
from pyregistry._coordination import keepalive
from pyregistry._core import values
from tests.support.faults.proxy import Proxy, until
from tests.support.internals import keepalive_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from tests.conftest import MakeServer
    from tests.support.clients import Connect

pytestmark = pytest.mark.server("embedded", "debian")  # not about the server; two Pythons

# Seconds, instead of 30: all that belongs to the lease is as much faster. Where somebody waits for it to end,
# a machine that is busy for a moment must not be what ends it.
LEASE = 0.6
contended = pytest.mark.parametrize("lease", [3.0], indirect=True)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pyregistry-keeper"]


@pytest.fixture(autouse=True)
def lease(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """How long a kept claim holds."""
    until(lambda: not threads(), "the keeper of the test before ends")
    lease: float = getattr(request, "param", LEASE)
    monkeypatch.setattr(keepalive, "_LINGER", keepalive._LINGER * lease / values.KEPT_LEASE)
    monkeypatch.setattr(values, "KEPT_LEASE", lease)
    yield lease
    until(lambda: not threads(), "the keeper ends")


def kept(registry: Registry, name: str = "model", **options: Any) -> Claim:
    result = registry.try_claim_for_download(name, "S3", **options)
    assert isinstance(result, Claimed)
    assert result.claim.lease == values.KEPT_LEASE
    return result.claim


def lease_end(watcher: Registry, claim: Claim) -> datetime:
    record = watcher.get_model_record(claim.model_name, claim.provider)
    assert record is not None
    assert record.token == claim.token
    assert record.lease_expires_at is not None
    return record.lease_expires_at


def wait_for_renewals(watcher: Registry, claim: Claim, times: int = 1) -> None:
    """Until the lease was moved on so often."""
    for _ in range(times):
        before = lease_end(watcher, claim)
        until(lambda: lease_end(watcher, claim) > before, f"{claim} is renewed")  # noqa: B023 - waits here


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def taken(other: Registry, lease: float) -> bool:
    """Whether somebody else gets the claim now."""
    return isinstance(other.try_claim_for_download("model", "S3", lease=lease), Claimed)


def is_over(other: Registry, claim: Claim) -> bool:
    """Whether the claim's first lease is over, by the server's clock."""
    other.set_status("clock", "S3", ModelStatus.DOWNLOADED)
    record = other.get_model_record("clock", "S3")
    assert record is not None
    assert claim.lease_expires_at is not None
    return record.last_used_at > claim.lease_expires_at


@contended
def test_a_kept_claim_outlives_its_lease(connect_any: Connect, other: Registry, lease: float) -> None:
    """A kept claim is renewed beyond its lease."""
    registry = connect_any()
    claim = kept(registry)
    while not is_over(other, claim):
        assert not taken(other, lease)
    assert not taken(other, lease)
    assert registry.finish_download_claim(claim, ModelStatus.DOWNLOADED)


@contended
async def test_a_blocked_event_loop_keeps_its_claims(
    server_url: str, namespace: str, other: Registry, lease: float
) -> None:
    """Claims are renewed while the event loop is blocked."""
    async with AsyncRegistry.from_url(server_url, namespace) as registry:
        result = await registry.try_claim_for_download("model", "S3")
        assert isinstance(result, Claimed)
        time.sleep(lease * 1.1)  # noqa: ASYNC251 - this is what must do no harm
        assert is_over(other, result.claim)
        assert not taken(other, lease)
        assert await registry.finish_download_claim(result.claim, ModelStatus.DOWNLOADED)


def test_one_thread_for_all_clients(
    connect_any: Connect, server_url: str, namespace: str, other: Registry
) -> None:
    """One thread renews the claims of all clients of a process."""
    with Registry.from_url(server_url, namespace) as one_more:
        claims = [kept(connect_any(), "a"), kept(connect_any(), "b"), kept(one_more, "c")]
        for claim in claims:
            wait_for_renewals(other, claim)
        assert len(threads()) == 1


def test_renewals_go_in_batches_on_one_connection(
    connect_any: Connect, proxy: Proxy, other: Registry
) -> None:
    """Renewals are sent in batches over one connection of their own."""
    registry = connect_any(url=proxy.url)
    results = registry.try_claim_many([(f"m{at}", "S3") for at in range(130)])
    claims = [result.claim for result in results if isinstance(result, Claimed)]
    assert len(claims) == 130
    # The first batch and the last.
    for claim in (claims[0], claims[-1]):
        wait_for_renewals(other, claim)
    # Three batches at a time, a few times at most.
    assert 3 <= proxy.sent["renew"] <= 15
    (keeper,) = proxy.connections_of("renew")
    assert keeper not in proxy.connections_of("claim")


def test_a_retry_is_kept_too(connect_any: Connect, other: Registry) -> None:
    """A claim won by a retry is renewed."""
    registry = connect_any()
    other.set_status("model", "S3", ModelStatus.ERROR)
    claim = registry.try_reset_error_for_retry("model", "S3")
    assert claim is not None
    wait_for_renewals(other, claim)


def test_one_claim_id_for_two_models(connect_any: Connect, other: Registry) -> None:
    """Claims of two models with the same claim_id are renewed independently."""
    registry = connect_any()
    claims = [kept(registry, name, claim_id="job 7") for name in ("a", "b")]
    for claim in claims:
        wait_for_renewals(other, claim)
    assert registry.finish_download_claim(claims[1], ModelStatus.DOWNLOADED)
    wait_for_renewals(other, claims[0])


# How it ends

ENDS: dict[str, Callable[[Registry, Claim], object]] = {
    "finish": lambda registry, claim: registry.finish_download_claim(claim, ModelStatus.DOWNLOADED),
    "release": lambda registry, claim: registry.release_download_claim(claim),
    "set_status": lambda registry, claim: registry.set_status("model", "S3", ModelStatus.ERROR),
    "delete": lambda registry, claim: registry.delete_model("model"),
    "delete by token": lambda registry, claim: registry.delete_model(
        "model", "S3", expected_token=claim.token
    ),
    "close": lambda registry, claim: registry.close(),
}


@pytest.mark.parametrize("end", ENDS)
def test_it_ends(connect_any: Connect, proxy: Proxy, caplog: pytest.LogCaptureFixture, end: str) -> None:
    """The renewal thread and its connection end with the last claim."""
    registry = connect_any(url=proxy.url)
    claim = kept(registry)
    until(lambda: proxy.sent["renew"], "the first renewal")
    ENDS[end](registry, claim)
    until(lambda: not threads(), "the thread ends")
    (keeper,) = proxy.connections_of("renew")
    until(lambda: keeper not in proxy.open, "its connection ends")
    assert warnings(caplog) == []


def test_a_client_that_nobody_has_any_more_keeps_nothing(server_url: str, namespace: str) -> None:
    """A garbage-collected Registry renews nothing."""
    registry = Registry.from_url(server_url, namespace)
    kept(registry)
    assert threads()
    del registry
    gc.collect()
    until(lambda: not threads(), "the thread ends")


async def test_an_asyncio_client_that_nobody_has_any_more_keeps_nothing(
    server_url: str, namespace: str
) -> None:
    """A garbage-collected AsyncRegistry renews nothing."""
    async with redis.asyncio.Redis.from_url(server_url) as client:
        registry = AsyncRegistry(client, namespace)
        assert isinstance(await registry.try_claim_for_download("model", "S3"), Claimed)
        assert threads()
        del registry
        gc.collect()
        until(lambda: not threads(), "the thread ends")


def test_what_is_told_of_a_claim_does_not_end_its_keeping(connect_any: Connect, other: Registry) -> None:
    """Messages, renewals by hand and deletes of other tokens do not end renewals."""
    registry = connect_any()
    claim = kept(registry)
    registry.set_status("model", "S3", ModelStatus.DOWNLOADING, "half of it")
    assert registry.refresh_download_claim(claim, bytes_done=5) is not None
    assert registry.delete_model("model", expected_token=1) == 0
    wait_for_renewals(other, claim)


@pytest.mark.parametrize("call", ["set_status", "delete"])
def test_an_end_that_may_not_have_been_does_not_end_the_keeping(
    connect_any: Connect, proxy: Proxy, other: Registry, call: str
) -> None:
    """A finish or release with an unknown outcome does not end renewals."""
    registry = connect_any(url=proxy.url)
    claim = kept(registry)
    proxy.lose_requests(call)
    with pytest.raises(OutcomeUnknown):
        ENDS[call](registry, claim)
    wait_for_renewals(other, claim)


def test_deleting_another_providers_record_does_not_end_the_keeping(
    connect_any: Connect, other: Registry
) -> None:
    """A delete of another provider's record does not end renewals."""
    registry = connect_any()
    claim = kept(registry)
    theirs = other.try_claim_for_download("model", "Ngc", lease=30.0)
    assert isinstance(theirs, Claimed)
    assert registry.delete_model("model", expected_token=theirs.claim.token) == 1
    wait_for_renewals(other, claim)


# What goes wrong


def test_a_lost_claim_is_logged_once_and_dropped(
    connect_any: Connect, other: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """A lost claim logs one warning without its claim id, and its renewals end."""
    registry = connect_any()
    lost, mine = kept(registry, "lost"), kept(registry, "mine")
    other.set_status("lost", "S3", ModelStatus.ERROR)
    caplog.clear()  # what the other one was told
    until(lambda: warnings(caplog), "it is told")
    wait_for_renewals(other, mine, times=2)
    (warning,) = warnings(caplog)
    assert "lost" in warning
    assert str(lost.token) in warning
    assert lost.claim_id not in caplog.text


def test_an_owner_who_ended_has_not_lost(
    connect_any: Connect, other: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """A claim ended through another client ends its renewals without a warning."""
    registry = connect_any()
    claims = [kept(registry, name) for name in ("a", "b", "c")]
    # Through another client, so that the one that keeps them does not know.
    assert other.finish_download_claim(claims[0], ModelStatus.DOWNLOADED)
    assert other.finish_download_claim(claims[1], ModelStatus.ERROR)
    assert other.release_download_claim(claims[2])
    until(lambda: not threads(), "the thread ends")
    assert warnings(caplog) == []


def test_a_server_that_is_away_for_a_while(
    connect_any: Connect, make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Renewals resume after an outage, which is logged."""
    server = make_server(persistent=True, appendfsync="always")
    registry = connect_any(url=server.url)
    claim = kept(registry)
    server.kill()
    until(lambda: warnings(caplog), "it is told")
    server.start()
    with Registry.from_url(server.url, registry.namespace) as watcher:
        wait_for_renewals(watcher, claim)
    assert all("could not be renewed" in warning for warning in warnings(caplog))
    assert registry.finish_download_claim(claim, ModelStatus.DOWNLOADED)


@contended
def test_a_server_that_is_silent_does_not_cost_the_others_their_leases(
    server_url: str,
    namespace: str,
    proxy: Proxy,
    other: Registry,
    lease: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A silent server does not delay the renewals of claims on other servers."""
    # A renewal waits for 0.3 s, twice: ten batches one after the other would take twice the lease.
    monkeypatch.setattr(keepalive, "_LEAST_TIMEOUT", 0.3)
    paused = proxy.pause("renew", times=100)
    with (
        Registry.from_url(proxy.url, namespace) as silent,
        Registry.from_url(server_url, namespace) as working,
    ):
        silent.try_claim_many([(f"m{at}", "S3") for at in range(640)])
        claim = kept(working)
        paused[0].wait()
        ends = {lease_end(other, claim)}
        while len(ends) < 4:
            assert not taken(other, lease)
            ends.add(lease_end(other, claim))
    for held in paused:
        held.let_go()


def test_closing_while_a_renewal_is_under_way(
    server_url: str, namespace: str, proxy: Proxy, other: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """close of a client during its renewal does not affect the claims of others."""
    with Registry.from_url(server_url, namespace) as going_on:
        claim = kept(going_on)
        for name in ("a", "b"):
            (paused,) = proxy.pause("renew")
            with Registry.from_url(proxy.url, namespace) as closing:
                kept(closing, name)
                paused.wait()
            paused.let_go()
        wait_for_renewals(other, claim, times=2)
        assert len(threads()) == 1
    assert warnings(caplog) == []


def test_an_unexpected_error_does_not_end_the_thread(
    server_url: str,
    namespace: str,
    other: Registry,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An unexpected error of one client is logged and does not end the renewals of others."""

    def nowhere(_timeout: float) -> Any:
        """What a broken credential provider, or the like, comes to."""
        raise LookupError("where is that?")

    with (
        Registry.from_url(server_url, namespace) as odd,
        Registry.from_url(server_url, namespace) as sound,
    ):
        kept(odd, "odd")
        monkeypatch.setattr(keepalive_of(odd), "_connect", nowhere)
        keepalive_of(odd).hang_up()
        claim = kept(sound)
        until(lambda: warnings(caplog), "it is told")
        wait_for_renewals(other, claim, times=2)
    assert all("where is that?" in warning for warning in warnings(caplog))


# A user's own client


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize("way", ["port", "socket"])
async def test_a_users_client_is_cloned(
    make_server: MakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, way: str
) -> None:
    """Renewals use a clone of the user's client, with all its settings."""
    caplog.set_level(logging.DEBUG)
    path = str(tmp_path / "s")
    server = make_server(password="open sesame", unixsocket=path)
    port = urlsplit(server.url).port
    options: dict[str, Any] = {
        "password": "open sesame",
        "username": "default",
        "db": 3,
        "client_name": "theirs",
        **({"unix_socket_path": path} if way == "socket" else {"host": "127.0.0.1", "port": port}),
    }
    client: Any = redis.Redis(**options) if kind == "blocking" else redis.asyncio.Redis(**options)
    registry: Any = Registry(client) if kind == "blocking" else AsyncRegistry(client)

    async def answer(result: Any) -> Any:
        return await result if kind == "asyncio" else result

    result = await answer(registry.try_claim_for_download("model", "S3"))
    assert isinstance(result, Claimed)
    with Registry.from_url(server.url.replace("/0", "/3")) as watcher:
        # The loop stands still meanwhile: the thread does not need it.
        wait_for_renewals(watcher, result.claim)
    with redis.Redis(**options) as raw:
        theirs = [each for each in raw.client_list() if each["name"] == "theirs" and each["db"] == "3"]
        assert len(theirs) >= 2
    assert await answer(registry.finish_download_claim(result.claim, ModelStatus.DOWNLOADED))
    await answer(registry.close())
    assert await answer(client.ping())
    await answer(client.close() if kind == "blocking" else client.aclose())
    assert "open sesame" not in caplog.text


class OwnConnection(redis.Connection):
    """Connections that nobody else knows how to make."""


class OwnAsyncConnection(redis.asyncio.Connection):
    """The same."""


async def test_a_client_that_cant_be_cloned_is_told_at_once(server_url: str, namespace: str) -> None:
    """A kept claim of an asyncio client that can not be cloned raises ConfigurationError."""
    pool = redis.asyncio.ConnectionPool.from_url(server_url, connection_class=OwnAsyncConnection)
    async with redis.asyncio.Redis.from_pool(pool) as client:
        registry = AsyncRegistry(client, namespace)
        with pytest.raises(ConfigurationError, match="lease="):
            await registry.try_claim_for_download("model", "S3")
        with pytest.raises(ConfigurationError, match="lease="):
            await registry.try_claim_many([("model", "S3")])
        with pytest.raises(ConfigurationError, match="lease="):
            await registry.try_reset_error_for_retry("model", "S3")
        assert await registry.get_status("model") is None
        assert isinstance(await registry.try_claim_for_download("model", "S3", lease=30.0), Claimed)


def test_a_blocking_client_that_cant_be_cloned_is_told_at_once(server_url: str, namespace: str) -> None:
    """A kept claim of a client that can not be cloned raises ConfigurationError."""
    pool = redis.ConnectionPool.from_url(server_url, connection_class=OwnConnection)
    with redis.Redis.from_pool(pool) as client:
        registry = Registry(client, namespace)
        with pytest.raises(ConfigurationError, match="lease="):
            registry.try_claim_for_download("model", "S3")
        assert registry.get_status("model") is None
        assert isinstance(registry.try_claim_for_download("model", "S3", lease=30.0), Claimed)
