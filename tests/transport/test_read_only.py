"""Where writes are refused, reads work, on new connections too; `open` runs before the first write that works."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis
import redis.asyncio

from pyregistry import (
    AsyncRegistry,
    Claimed,
    ModelStatus,
    NotNow,
    Registry,
    RegistryError,
    WaitTimedOut,
    doctor,
)
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry._redis.protocol.outcomes import ATTEMPTS
from tests.support.faults.proxy import SECONDS, Proxy, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyregistry.embedded import EmbeddedServer
    from tests.conftest import MakeServer
    from tests.support.clients import Connect

MODEL: Final = ("model", "S3")
BRIEF = 0.6  # seconds for which a call goes out again while it is refused
RESTART_JUMP = 60_000_000  # microseconds


@pytest.fixture
def server(make_server: MakeServer) -> EmbeddedServer:
    return make_server(persistent=True, appendfsync="always")


@pytest.fixture
def raw(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as raw:
        yield raw


def refuse(raw: redis.Redis, replicas: int = 1) -> None:
    raw.config_set("min-replicas-to-write", replicas)


def refused(raw: redis.Redis) -> int:
    """How often it has refused for want of replicas."""
    return int(raw.info("errorstats").get("errorstat_NOREPLICAS", {}).get("count", 0))


def opened_by(raw: redis.Redis, namespace: str) -> str:
    stored: Any = raw.hget(Keyspace(namespace).meta, "server")
    return str(stored.decode())


def token_of(registry: Registry, name: str) -> int:
    claimed = registry.try_claim_for_download(name, "S3", lease=30.0)
    assert isinstance(claimed, Claimed)
    return claimed.claim.token


def reads_all(registry: Registry) -> None:
    assert registry.get_status(*MODEL) is ModelStatus.DOWNLOADED
    record = registry.get_model_record(*MODEL)
    assert record is not None
    assert record.size_bytes is None
    assert registry.is_downloaded(*MODEL)
    assert registry.get_status_counts() == (0, 1, 0)
    assert [each.model_name for each in registry.get_models_by_last_used()] == ["model"]


@pytest.mark.parametrize("near_cache", [False, True])
def test_a_new_client_reads_and_opens_before_it_writes(
    connect_any: Connect,
    server: EmbeddedServer,
    raw: redis.Redis,
    namespace: str,
    near_cache: bool,
    request: pytest.FixtureRequest,
) -> None:
    """A new client reads while writes are refused, and runs `open` before the first write."""
    transport = request.node.callspec.params["connect_any"]
    with Registry.from_url(server.url, namespace) as other:
        other.set_status(*MODEL, ModelStatus.DOWNLOADED)
        before = token_of(other, "before")
        other.delete_model("before", "S3", force=True)
    # Restarted, no script is there, `open` is due, and writes are refused.
    server.kill()
    server.start()
    refuse(raw)
    options: Any = {"near_cache": True} if near_cache and transport != "redis-py" else {}
    with Proxy(server.url) as proxy:
        registry = connect_any(url=proxy.url, timeout=BRIEF, **options)
        assert registry.server_version
        for _ in range(2):
            reads_all(registry)
        with pytest.raises(NotNow, match="NOREPLICAS"):
            registry.try_claim_for_download("another", "S3", lease=5.0)
        with pytest.raises(NotNow, match="NOREPLICAS"):
            registry.set_status("another", "S3", ModelStatus.DOWNLOADED)
        reads_all(registry)
        # What writes has not even been loaded, and did not go out.
        assert not proxy.sent["claim"]
        assert not proxy.sent["set_status"]
        assert opened_by(raw, namespace) != raw.info("server")["run_id"]
        refuse(raw, 0)
        assert token_of(registry, "after") > before + RESTART_JUMP
        assert opened_by(raw, namespace) == raw.info("server")["run_id"]
        # Once is enough.
        opens = proxy.sent["open"]
        token_of(registry, "again")
        registry.touch_model(*MODEL)
        assert proxy.sent["open"] == opens


def test_flushed_while_writes_are_refused(
    connect_any: Connect, server: EmbeddedServer, raw: redis.Redis, namespace: str
) -> None:
    """After a script flush reads work while writes are refused, and `open` comes before the next write."""
    with Proxy(server.url) as proxy:
        registry = connect_any(url=proxy.url, timeout=BRIEF)
        registry.set_status(*MODEL, ModelStatus.DOWNLOADED)
        refuse(raw)
        raw.script_flush()
        reads_all(registry)
        with pytest.raises(NotNow, match="NOREPLICAS"):
            registry.touch_model(*MODEL)
        reads_all(registry)
        start = len(proxy.log)
        refuse(raw, 0)
        registry.touch_model(*MODEL)
        names = [name for _, name in proxy.log[start:]]
        assert names[0] == "open", "and `open` alone, before the touch"
        assert names[-1] == "touch"
        reads_all(registry)


def test_a_replica_is_read_and_becomes_the_primary(
    connect_any: Connect, server: EmbeddedServer, make_server: MakeServer, namespace: str
) -> None:
    """A client reads from a replica, and writes once the replica is promoted."""
    replica = make_server()
    with Registry.from_url(server.url, namespace) as primary:
        primary.set_status(*MODEL, ModelStatus.DOWNLOADED)
        before = token_of(primary, "before")
        primary.delete_model("before", "S3", force=True)
    with redis.Redis.from_url(replica.url) as raw:
        raw.replicaof("127.0.0.1", server.url.rpartition(":")[2].partition("/")[0])
        key = Keyspace(namespace).record("S3:model")
        until(lambda: raw.info("replication")["master_link_status"] == "up" and raw.get(key), "it follows")
        registry = connect_any(url=replica.url, timeout=BRIEF)
        reads_all(registry)
        with pytest.raises(NotNow, match="read only"):
            registry.touch_model(*MODEL)
        reads_all(registry)
        raw.replicaof("NO", "ONE")
        assert token_of(registry, "after") > before + RESTART_JUMP
        assert opened_by(raw, namespace) == raw.info("server")["run_id"]


def test_a_call_goes_out_again_until_the_refusal_has_passed(
    connect_any: Connect, server: EmbeddedServer, raw: redis.Redis
) -> None:
    """More often than the four times that are tried while nobody answers."""
    with ThreadPoolExecutor(1) as pool:
        registry = connect_any(url=server.url, timeout=60.0)
        refuse(raw)
        call = pool.submit(token_of, registry, "model")
        until(lambda: refused(raw) > 2 * ATTEMPTS, "it has been refused so often")
        assert not call.done()
        refuse(raw, 0)
        assert call.result()


@pytest.mark.parametrize("transport", ["multiplexed", "redis-py", "sync"])
async def test_ensure_ends_by_its_timeout(
    server: EmbeddedServer, raw: redis.Redis, namespace: str, transport: str
) -> None:
    """However patient the client is otherwise."""
    await asyncio.to_thread(refuse, raw)
    options: Any = {"timeout": 1000 * SECONDS}
    if transport == "sync":
        with (
            Registry.from_url(server.url, namespace, **options) as registry,
            pytest.raises(RegistryError) as caught,
        ):
            await asyncio.wait_for(
                asyncio.to_thread(registry.ensure, MODEL[0], MODEL[1], lambda claim: None, timeout=0.7),
                SECONDS,
            )
    else:
        async with AsyncRegistry.from_url(server.url, namespace, transport=transport, **options) as client:
            with pytest.raises(RegistryError) as caught:
                await asyncio.wait_for(client.ensure(*MODEL, lambda claim: None, timeout=0.7), SECONDS)
    assert isinstance(caught.value, NotNow | WaitTimedOut)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
async def test_a_users_own_client_reads_and_opens_before_it_writes(
    server: EmbeddedServer, raw: redis.Redis, namespace: str, kind: str
) -> None:
    """A user's client reads while writes are refused, and runs `open` before the first write."""
    with Registry.from_url(server.url, namespace) as other:
        other.set_status(*MODEL, ModelStatus.DOWNLOADED)
        before = token_of(other, "before")
        other.delete_model("before", "S3", force=True)
    server.kill()
    server.start()
    refuse(raw)
    if kind == "blocking":
        with redis.Redis.from_url(server.url) as mine, Registry(mine, namespace) as registry:
            reads_all(registry)
            call = asyncio.ensure_future(asyncio.to_thread(token_of, registry, "after"))
            await asyncio.to_thread(
                until, lambda: refused(raw) > 2 * ATTEMPTS, "it has been refused so often"
            )
            refuse(raw, 0)
            assert await call > before + RESTART_JUMP
    else:
        async with redis.asyncio.Redis.from_url(server.url) as own, AsyncRegistry(own, namespace) as client:
            assert await client.get_status(*MODEL) is ModelStatus.DOWNLOADED
            assert await client.get_model_record(*MODEL)
            claim = asyncio.ensure_future(client.try_claim_for_download("after", "S3", lease=30.0))
            await asyncio.to_thread(
                until, lambda: refused(raw) > 2 * ATTEMPTS, "it has been refused so often"
            )
            refuse(raw, 0)
            claimed = await claim
            assert isinstance(claimed, Claimed)
            assert claimed.claim.token > before + RESTART_JUMP
    assert opened_by(raw, namespace) == raw.info("server")["run_id"]


async def test_thousands_of_calls_that_wait_share_a_timer(
    server: EmbeddedServer, raw: redis.Redis, namespace: str
) -> None:
    """Thousands of refused calls share one timer of the event loop."""
    async with AsyncRegistry.from_url(server.url, namespace, timeout=60.0) as registry:
        await asyncio.to_thread(refuse, raw)
        loop: Any = asyncio.get_running_loop()
        timers = len(loop._scheduled)
        calls = [
            asyncio.ensure_future(registry.try_claim_for_download(f"m{at}", "S3", lease=30.0))
            for at in range(3000)
        ]
        await asyncio.to_thread(until, lambda: refused(raw) > 3000 / 64 * 3, "all were refused three times")
        assert len(loop._scheduled) <= timers + 5
        await asyncio.to_thread(refuse, raw, 0)
        claimed = await asyncio.gather(*calls)
        assert {type(result) for result in claimed} == {Claimed}


def test_the_command_line_reads(server: EmbeddedServer, raw: redis.Redis, namespace: str) -> None:
    """`pyregistry ls` works while the server refuses writes."""
    with Registry.from_url(server.url, namespace) as registry:
        registry.set_status(*MODEL, ModelStatus.DOWNLOADED)
    server.kill()
    server.start()
    refuse(raw)
    command = [sys.executable, "-m", "pyregistry", "--url", server.url, "--namespace", namespace, "ls"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "model" in listed.stdout


def test_doctor_says_that_writes_are_refused(
    server: EmbeddedServer, raw: redis.Redis, namespace: str
) -> None:
    """doctor reports a server that refuses writes as an error."""
    with Registry.from_url(server.url, namespace) as registry:
        registry.set_status(*MODEL, ModelStatus.DOWNLOADED)
    refuse(raw)
    (writes,) = [each for each in doctor.examine(server.url, namespace) if each.check == "writes"]
    assert writes.level is doctor.Level.ERROR
    assert "NOREPLICAS" in writes.message
