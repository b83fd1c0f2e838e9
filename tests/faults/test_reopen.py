"""Scripts that are flushed, servers that restart: `open` runs before the next write, and clients go on."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio

from pyregistry import (
    AsyncRegistry,
    Claimed,
    ConfigurationError,
    InvalidArgument,
    ModelStatus,
    NotNow,
    Registry,
)
from pyregistry._redis.protocol.keys import Keyspace
from tests.support.faults.proxy import SECONDS, Proxy, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeServer
    from tests.support.clients import Connect

RESTART_JUMP = 60_000_000  # microseconds


@pytest.fixture
def flushed(make_server: MakeServer) -> Iterator[redis.Redis]:
    """A server of the test's own, whose scripts may be flushed without disturbing others."""
    with redis.Redis.from_url(make_server(busy_reply_threshold="1").url) as server:
        yield server


def url_of(server: redis.Redis) -> str:
    return f"redis://127.0.0.1:{server.connection_pool.connection_kwargs['port']}"


def meta(server: redis.Redis, namespace: str) -> tuple[int, str]:
    """The clock, and the server that wrote last."""
    stored: Any = server.hmget(Keyspace(namespace).meta, "clock", "server")
    clock, run_id = stored
    return int(clock), run_id.decode()


def run_id_of(server: redis.Redis) -> str:
    return str(server.info("server")["run_id"])


# Flushed scripts


def test_flushed_between_calls(connect_any: Connect, flushed: redis.Redis) -> None:
    """Calls succeed after each script flush, also those that are never sent twice."""
    registry = connect_any(url=url_of(flushed))
    for at in range(3):
        flushed.script_flush()
        assert isinstance(registry.try_claim_for_download(f"m{at}", "S3", lease=30.0), Claimed)
        flushed.script_flush()
        # What is not sent again once it may have run goes out again after NOSCRIPT: it has not run.
        registry.set_status(f"m{at}", "S3", ModelStatus.DOWNLOADED)
    flushed.script_flush()
    assert [record.model_name for record in registry.get_models_by_last_used()] == ["m0", "m1", "m2"]


def test_flushed_scripts_are_opened_before_they_are_loaded(
    connect_any: Connect, flushed: redis.Redis
) -> None:
    """After a script flush `open` runs before the other scripts are loaded."""
    with Proxy(url_of(flushed)) as proxy:
        registry = connect_any(url=proxy.url)
        flushed.script_flush()
        start = len(proxy.log)
        registry.touch_model("model", "S3")
        names = [name for _, name in proxy.log[start:]]
    # Refused; `open` loaded and run; the others loaded; then the call once more.
    assert names[:3] == ["touch", "SCRIPT", "open"]
    assert set(names[3:-1]) == {"SCRIPT"}
    assert names[-1] == "touch"


def test_flushed_while_many_call(connect_any: Connect, flushed: redis.Redis) -> None:
    """Concurrent calls succeed through several script flushes."""
    registry = connect_any(url=url_of(flushed))
    # A call goes out four times, each time with the scripts loaded anew: three flushes can't make it fail,
    # whenever they come.
    flush_after = {30, 60, 90}
    finished = 0
    lock = threading.Lock()

    def work(at: int) -> int:
        nonlocal finished
        name = f"m{at}"
        claimed = registry.try_claim_for_download(name, "S3", lease=30.0)
        assert isinstance(claimed, Claimed)
        assert registry.refresh_download_claim(claimed.claim, bytes_done=at) is not None
        assert registry.finish_download_claim(claimed.claim, ModelStatus.DOWNLOADED, size_bytes=at + 1)
        with lock:
            finished += 1
            if finished in flush_after:
                flushed.script_flush()
        record = registry.get_model_record(name, "S3")
        assert record is not None
        assert record.token == claimed.claim.token
        return record.size_bytes or 0

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(150))) == list(range(1, 151))
    assert registry.get_status_counts() == (0, 150, 0)


def test_replies_of_a_loading_that_failed_are_nobody_elses(
    connect_any: Connect, flushed: redis.Redis
) -> None:
    """Replies to a failed load of scripts are not taken for other calls'."""
    # The scripts are loaded in one write. Where one reply is an error, those after it are still to come.
    with Proxy(url_of(flushed)) as proxy, ThreadPoolExecutor(2) as pool:
        registry = connect_any(url=proxy.url, timeout=2.0)  # so long it goes on trying
        registry.set_status("model", "S3", ModelStatus.DOWNLOADED)
        flushed.script_flush()
        *before, fails, after_it = proxy.pause("SCRIPT", times=5)
        for held in before:
            held.let_go()
        call = pool.submit(registry.touch_model, "model", "S3")
        fails.wait()
        endless = pool.submit(flushed.eval, "while true do end", 0)
        until(lambda: is_busy(flushed), "the server is busy")
        fails.let_go()
        with pytest.raises(NotNow, match="busy"):
            call.result()
        flushed.script_kill()
        with pytest.raises(redis.ResponseError, match="kill"):
            endless.result()
        after_it.wait()
        # The next call does not wait for them: it has another connection.
        answer = pool.submit(registry.get_status, "model")
        assert answer.result(SECONDS / 2) is ModelStatus.DOWNLOADED
        after_it.let_go()


def is_busy(server: redis.Redis) -> bool:
    try:
        server.get("anything")
    except redis.ResponseError as error:
        assert "busy" in str(error)  # noqa: PT017 - any other error is the test's
        return True
    return False


# Restarts


def test_a_restart_is_opened_before_the_next_write(connect_any: Connect, make_server: MakeServer) -> None:
    """After a restart `open` runs before the next write and moves the tokens forward."""
    server = make_server(persistent=True, appendfsync="always")
    registry = connect_any(url=server.url)
    tokens = []
    for at in range(3):
        claimed = registry.try_claim_for_download(f"m{at}", "S3", lease=30.0)
        assert isinstance(claimed, Claimed)
        tokens.append(claimed.claim.token)
        with redis.Redis.from_url(server.url) as raw:
            clock, server_id = meta(raw, registry.namespace)
            assert server_id == run_id_of(raw)
        server.kill()
        server.start()
        with redis.Redis.from_url(server.url) as raw:
            # A read is enough: whatever comes over a new connection, `open` came before it.
            assert registry.get_status(f"m{at}") is ModelStatus.DOWNLOADING
            new_clock, new_id = meta(raw, registry.namespace)
            assert new_id == run_id_of(raw) != server_id
            assert new_clock >= clock + RESTART_JUMP
    assert all(later > earlier + RESTART_JUMP for earlier, later in pairwise(tokens))


def test_a_restart_under_a_users_client_is_opened_at_the_first_script(make_server: MakeServer) -> None:
    """After a restart a user's client runs `open` before the next write."""
    # Its reconnects are out of sight, but a server that restarted has no scripts.
    server = make_server(persistent=True, appendfsync="always")
    with redis.Redis.from_url(server.url) as client:
        registry = Registry(client)
        first = registry.try_claim_for_download("a", "S3", lease=30.0)
        clock, server_id = meta(client, registry.namespace)
        server.kill()
        server.start()
        second = registry.try_claim_for_download("b", "S3", lease=30.0)
        new_clock, new_id = meta(client, registry.namespace)
        assert isinstance(first, Claimed)
        assert isinstance(second, Claimed)
        assert new_id == run_id_of(client) != server_id
        assert new_clock == second.claim.token > clock + RESTART_JUMP
        registry.close()
        assert client.ping()


async def test_a_restart_under_a_users_asyncio_client(make_server: MakeServer) -> None:
    """After a restart a user's asyncio client runs `open` before the next write."""
    server = make_server(persistent=True, appendfsync="always")
    async with redis.asyncio.Redis.from_url(server.url) as client:
        registry = AsyncRegistry(client)
        first = await registry.try_claim_for_download("a", "S3", lease=30.0)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        second = await registry.try_claim_for_download("b", "S3", lease=30.0)
        assert isinstance(first, Claimed)
        assert isinstance(second, Claimed)
        assert second.claim.token > first.claim.token + RESTART_JUMP
        await registry.close()
        assert await client.ping()


def test_an_open_that_fails_is_tried_again(connect_any: Connect, make_server: MakeServer) -> None:
    """A connection is used for writes only after its `open` succeeded."""
    # A connection whose `open` failed must not be found open, and unopened, by the next call.
    with Proxy(make_server().url) as proxy:
        registry = connect_any(url=proxy.url)
        for lose in (proxy.lose_replies, proxy.lose_requests):
            proxy.cut()
            before = len(proxy.connections_of("open"))
            lose("open", times=2)
            registry.set_status("model", "S3", ModelStatus.DOWNLOADED)
            assert len(proxy.connections_of("open")) == before + 3
        writers = proxy.connections_of("set_status")
        assert writers <= proxy.connections_of("open")


# A user's own client


def test_a_users_client_stays_the_users(make_server: MakeServer) -> None:
    """A user's client works as before, during and after its use by a Registry."""
    with redis.Redis.from_url(make_server().url, client_name="theirs") as client:
        client.set("mine", "1")
        with Registry(client) as registry:
            registry.set_status("model", "S3", ModelStatus.DOWNLOADED)
            assert client.get("mine") == b"1"
        client_ids = {each["id"] for each in client.client_list() if each["name"] == "theirs"}
        assert client.get("mine") == b"1"
        assert {each["id"] for each in client.client_list() if each["name"] == "theirs"} == client_ids


async def test_a_users_asyncio_client_stays_the_users(make_server: MakeServer) -> None:
    """A user's asyncio client works as before, during and after its use by an AsyncRegistry."""
    async with redis.asyncio.Redis.from_url(make_server().url, client_name="theirs") as client:
        await client.set("mine", "1")
        async with AsyncRegistry(client) as registry:
            await registry.set_status("model", "S3", ModelStatus.DOWNLOADED)
            assert await client.get("mine") == b"1"
        assert await client.get("mine") == b"1"
        (theirs,) = [each for each in await client.client_list() if each["name"] == "theirs"]
        assert theirs["db"] == "0"


def test_clients_that_decode_are_refused(server_url: str) -> None:
    """decode_responses raises an error."""
    options: dict[str, Any] = {"decode_responses": True}
    with pytest.raises(InvalidArgument, match="decode_responses"):
        Registry(redis.Redis.from_url(server_url, **options))
    with pytest.raises(InvalidArgument, match="decode_responses"):
        AsyncRegistry(redis.asyncio.Redis.from_url(server_url, **options))
    with pytest.raises(InvalidArgument, match="decode_responses"):
        Registry.from_url(server_url, **options)
    with pytest.raises(ConfigurationError, match="decode_responses"):
        AsyncRegistry.from_url(f"{server_url}?decode_responses=yes")


def test_clients_of_the_wrong_kind_are_refused(server_url: str) -> None:
    """A client of the wrong kind raises InvalidArgument."""
    blocking: Any = redis.Redis.from_url(server_url)
    asynchronous: Any = redis.asyncio.Redis.from_url(server_url)
    wrong: Any
    for wrong in (blocking, blocking.connection_pool, server_url, None):
        with pytest.raises(InvalidArgument, match=r"must be a redis\.asyncio\.Redis"):
            AsyncRegistry(wrong)
    for wrong in (asynchronous, asynchronous.connection_pool, server_url, None):
        with pytest.raises(InvalidArgument, match=r"must be a redis\.Redis"):
            Registry(wrong)
