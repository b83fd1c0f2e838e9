"""The one connection of an `AsyncRegistry`: what breaks it, its bounds, its settings, events on it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
import redis.asyncio

from pyregistry import (
    AccessDenied,
    AlreadyExists,
    AsyncRegistry,
    Claimed,
    InvalidArgument,
    OutcomeUnknown,
    Registry,
    RegistryUnavailable,
)
from pyregistry._redis.protocol.outcomes import ATTEMPTS
from pyregistry._redis.protocol.request import CommandTemplate, PlainRequest
from pyregistry._redis.protocol.scripts import BATCH
from pyregistry._redis.transport.pipelined import COMMANDS
from tests.support.faults.proxy import SECONDS, Proxy
from tests.support.faults.stall import Valve
from tests.support.internals import transport_of
from tests.support.servers import free_port, self_signed
from tests.support.tasks import arrived, claim, comes, record_of, start, turns

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from tests.conftest import MakeServer

    Result = Claimed | AlreadyExists

# The connection breaks


async def test_cut_at_every_byte_of_a_reply(registry: AsyncRegistry, proxy: Proxy, other: Registry) -> None:
    """A connection cut after any byte of a reply loses no claim and makes none twice."""
    at = 0
    proxy.cut_reply("claim", at)
    while True:
        name, pair = f"m{at}", f"n{at}"
        result, beside = await asyncio.gather(claim(registry, name), claim(registry, pair))
        assert isinstance(result, Claimed), at
        assert isinstance(beside, Claimed), at
        for won in (result.claim, beside.claim):
            record = record_of(other, won.model_name)
            assert (record.token, record.attempts) == (won.token, 1)
        assert proxy.sent["claim"] == 2 * at + 2
        at += 1
        if at == len(proxy.reply):
            break
        proxy.cut_reply("claim", at)
    assert at > 50


async def test_replies_in_pieces_of_one_byte(registry: AsyncRegistry, proxy: Proxy) -> None:
    """Replies that arrive byte by byte are read whole."""
    for name in ("claim", "MGET", "read", "page", "counts"):
        proxy.trickle(name)
    results = await asyncio.gather(*(claim(registry, f"m{at}") for at in range(20)))
    assert all(isinstance(result, Claimed) for result in results)
    assert await asyncio.gather(*(registry.get_status(f"m{at}") for at in range(20))) == ["DOWNLOADING"] * 20
    record = await registry.get_model_record("m7", "S3")
    assert record is not None
    assert record.model_name == "m7"
    assert len(await registry.get_models_by_last_used()) == 20
    assert await registry.get_status_counts() == (20, 0, 0)


def of_all_kinds(registry: AsyncRegistry, number: int) -> list[asyncio.Task[Any]]:
    """Calls of all kinds, of which some may be sent again and others not."""
    kinds: list[Callable[[str], Coroutine[Any, Any, Any]]] = [
        lambda name: claim(registry, name),
        lambda name: claim(registry, name, lease=None),
        lambda name: registry.get_status(name, "S3"),
        lambda name: registry.touch_model(name, "S3"),
        lambda name: registry.set_status(name, "S3", "ERROR"),
        registry.delete_model,
        lambda _name: registry.get_status_counts(),
        registry.get_model_record,
    ]
    return [start(kinds[at % len(kinds)](f"m{at}")) for at in range(number)]


async def test_the_server_dies_with_a_thousand_calls_under_way(
    make_server: MakeServer, namespace: str
) -> None:
    """Every call in flight on a server that dies raises an error of its own, and none hangs."""
    server = make_server()
    assert server.pid is not None
    async with AsyncRegistry.from_url(server.url, namespace) as registry:
        os.kill(server.pid, signal.SIGSTOP)
        tasks = of_all_kinds(registry, 1000)
        await turns()
        await asyncio.to_thread(server.kill)
        done, pending = await asyncio.wait(tasks, timeout=SECONDS)
        assert not pending, "nothing hangs"
        errors = [task.exception() for task in done]
        assert {type(error) for error in errors} == {OutcomeUnknown, RegistryUnavailable}
        assert len({id(error) for error in errors}) == 1000, "each has an error of his own"
        await asyncio.to_thread(server.start)
        assert isinstance(await claim(registry), Claimed)


async def test_a_server_that_falls_silent(make_server: MakeServer, namespace: str) -> None:
    """Every call in flight on a silent server times out, and later calls work."""
    server = make_server()
    assert server.pid is not None
    async with AsyncRegistry.from_url(server.url, namespace, timeout=0.2) as registry:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            tasks = of_all_kinds(registry, 200)
            done, pending = await asyncio.wait(tasks, timeout=SECONDS)
            assert not pending, "nothing hangs"
            assert {type(task.exception()) for task in done} == {OutcomeUnknown, RegistryUnavailable}
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert isinstance(await claim(registry, "another"), Claimed)


async def test_a_connection_that_is_cut_again_and_again(registry: AsyncRegistry, proxy: Proxy) -> None:
    """Calls of many tasks succeed although their connection is cut again and again."""

    async def work(name: str) -> None:
        for _ in range(10):
            won = await claim(registry, name)
            assert isinstance(won, Claimed)
            assert await registry.touch_model(name, "S3")
            assert await registry.finish_download_claim(won.claim, "DOWNLOADED")
            assert await registry.delete_model(name, "S3", expected_token=won.claim.token) in (0, 1)

    work_done = asyncio.gather(*(work(f"m{at}") for at in range(30)))
    for script in ("touch", "finish", "claim", "delete"):
        (held,) = proxy.pause(script)
        await arrived(held)
        proxy.cut()
        held.let_go()
    await work_done


# Bounds


async def test_no_more_than_so_many_commands_are_under_way(registry: AsyncRegistry, proxy: Proxy) -> None:
    """Commands in flight are bounded, and waiting calls are sent as one batch."""
    (held,) = proxy.pause("counts")
    tasks = [start(registry.get_status_counts()) for _ in range(3 * COMMANDS)]
    await arrived(held)

    def under_way() -> int:
        return [name for _, name in proxy.log].count("counts")

    await comes(lambda: under_way() == COMMANDS, "as many as may be")
    # What waits has its turn when others are answered, and not before; what is gathered then is one call.
    waiting = [start(registry.get_status(f"m{at}", "S3")) for at in range(30)]
    await turns(20)
    assert under_way() == COMMANDS
    assert proxy.sent["MGET"] == 0
    held.let_go()
    assert await asyncio.gather(*tasks) == [(0, 0, 0)] * (3 * COMMANDS)
    assert await asyncio.gather(*waiting) == [None] * 30
    assert proxy.sent["MGET"] == 1


async def test_what_the_server_does_not_read_is_not_written(make_server: MakeServer, namespace: str) -> None:
    """The write buffer is bounded while the server does not read."""
    server = make_server()
    assert server.pid is not None
    async with AsyncRegistry.from_url(server.url, namespace, timeout=2 * SECONDS) as registry:
        os.kill(server.pid, signal.SIGSTOP)
        message = "x" * 4096
        tasks = [start(registry.set_status(f"m{at}", "S3", "ERROR", message)) for at in range(5000)]
        await turns(20)
        transport: Any = transport_of(registry)
        # Twenty megabytes were asked for; a batch of 64 is a quarter of one.
        assert transport._pipe._transport.get_write_buffer_size() < 2_000_000
        os.kill(server.pid, signal.SIGCONT)
        await asyncio.gather(*tasks)
        assert await registry.get_status_counts() == (0, 0, 5000)


async def test_a_server_that_reads_no_more(server_url: str, namespace: str) -> None:
    """Calls to a server that stops reading time out, with a bounded write buffer."""
    # Connections are opened as ever: it is what is asked on them that nobody reads.
    with Valve(server_url) as valve:
        async with AsyncRegistry.from_url(valve.url, namespace, timeout=0.3) as registry:
            transport: Any = transport_of(registry)
            valve.shut_at("set_status", times=1000)
            message = "x" * 4096
            # Forty megabytes.
            tasks = [start(registry.set_status(f"m{at}", "S3", "ERROR", message)) for at in range(10_000)]
            most = 0
            while any(not task.done() for task in tasks):
                await asyncio.wait(tasks, timeout=0.01)
                if transport._pipe is not None:
                    most = max(most, transport._pipe._transport.get_write_buffer_size())
            assert {type(task.exception()) for task in tasks} <= {OutcomeUnknown, RegistryUnavailable}
            assert 0 < most < COMMANDS * BATCH * 5000
            assert await registry.get_status_counts() == (0, 0, 0)


async def test_who_waits_behind_the_bound_gives_up_too(server_url: str, namespace: str) -> None:
    """Calls that wait for their turn on a stalled connection time out."""
    with Valve(server_url) as valve:
        async with AsyncRegistry.from_url(valve.url, namespace, timeout=0.3) as registry:
            valve.shut_at("counts", times=1000)
            tasks = [start(registry.get_status_counts()) for _ in range(10 * COMMANDS)]
            done, pending = await asyncio.wait(tasks, timeout=SECONDS)
            assert not pending, "nothing hangs"
            assert {type(task.exception()) for task in done} == {RegistryUnavailable}
            assert valve.shut == ATTEMPTS, "all have waited for each of them"


# What comes from redis-py


async def test_everything_of_redis_pys_handshake(make_server: MakeServer, namespace: str) -> None:
    """The connection uses the password, database, client name and protocol of the URL."""
    server = make_server(password="a secret")
    url = urlunsplit(urlsplit(server.url)._replace(path="/3"))
    async with AsyncRegistry.from_url(url, namespace, client_name="ours") as registry:
        assert isinstance(await claim(registry), Claimed)
        with redis.Redis.from_url(server.url) as raw:
            (ours,) = [each for each in raw.client_list() if each["name"] == "ours"]
            assert (ours["db"], ours["resp"]) == ("3", "3")


async def test_over_a_unix_socket(make_server: MakeServer, namespace: str, tmp_path: Path) -> None:
    """An AsyncRegistry connects over a unix socket."""
    path = tmp_path / "s"
    make_server(unixsocket=str(path))
    async with AsyncRegistry.from_url(f"unix://{path}", namespace) as registry:
        assert isinstance(await claim(registry), Claimed)


@pytest.mark.server("debian")  # the embedded one has no TLS
async def test_over_tls(make_server: MakeServer, namespace: str, tmp_path: Path) -> None:
    """An AsyncRegistry connects over TLS, and the loss of the server is seen."""
    key, certificate = self_signed(tmp_path)
    port = free_port()
    server = make_server(
        tls_port=str(port), tls_cert_file=str(certificate), tls_key_file=str(key), tls_auth_clients="no",
        tls_ca_cert_file=str(certificate),
    )  # fmt: skip
    url = f"rediss://127.0.0.1:{port}"
    async with AsyncRegistry.from_url(url, namespace, ssl_ca_certs=str(certificate)) as registry:
        results = await asyncio.gather(*(claim(registry, f"m{at}") for at in range(300)))
        assert all(isinstance(result, Claimed) for result in results)
        assert len(await registry.get_models_by_last_used()) == 300
        server.kill()
        with pytest.raises(RegistryUnavailable):
            await registry.get_status("m1")


async def test_what_the_server_says_of_its_own_accord_is_no_reply(
    server_url: str, namespace: str, other: Registry
) -> None:
    """Push messages between replies are not taken for replies."""
    registry = AsyncRegistry.from_url(server_url, namespace)
    transport: Any = transport_of(registry)
    pushed: list[list[Any]] = []
    async with registry:
        transport._pipe.on_push[b"invalidate"] = pushed.append
        track = CommandTemplate("track", None, verb="CLIENT TRACKING ON")
        assert await transport.call(PlainRequest(track, lambda replies: replies[0])) == b"OK"
        calls = []
        for at in range(20):
            await registry.get_status(f"m{at}", "S3")
            other.set_status(f"m{at}", "S3", "ERROR")
            calls.append(start(registry.get_status(f"m{at}", "S3")))
        assert await asyncio.gather(*calls) == ["ERROR"] * 20
    assert [push[0] for push in pushed] == [b"invalidate"] * 20


async def test_events_are_heard_on_the_connection_of_the_calls(
    server_url: str, namespace: str, other: Registry
) -> None:
    """Events arrive on the connection of the calls, whose subscription ends with the watch."""

    def ours() -> int:
        return sum(each["name"] == namespace for each in raw.client_list())

    name = "m" * 10
    with redis.Redis.from_url(server_url) as raw:
        async with AsyncRegistry.from_url(server_url, namespace, client_name=namespace) as registry:
            for _ in range(3):  # it is asked for, and given up, and asked for again
                async with registry.watch() as events:
                    calls = [start(registry.get_status(f"m{at}", "S3")) for at in range(200)]
                    await asyncio.to_thread(other.set_status, name, "S3", "ERROR")
                    assert (await anext(events)).record.model_name == name  # type: ignore[union-attr]  # no gap
                    assert await asyncio.gather(*calls) == [None] * 200
                    assert ours() == 1
                    channels = raw.execute_command("PUBSUB", "SHARDCHANNELS", f"*{{{namespace}}}*")
                    assert len(channels) == 1
                await registry.get_status(name)  # behind what ended it
                assert not raw.execute_command("PUBSUB", "SHARDCHANNELS", f"*{{{namespace}}}*")


async def test_a_subscription_that_is_refused_moves_no_answer(
    make_server: MakeServer, namespace: str
) -> None:
    """A refused subscription leaves other calls their own replies."""
    server = make_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.acl_setuser(
            "deaf", True, passwords=["+secret"], keys=["*"], channels=["*"], categories=["+@all"],
            commands=["-ssubscribe"],
        )  # fmt: skip
        url = server.url.replace("://", "://deaf:secret@")
        async with AsyncRegistry.from_url(url, namespace) as registry:
            for at in range(20):
                calls = [start(registry.get_status(f"m{n}", "S3")) for n in range(at)]
                with pytest.raises(AccessDenied):
                    await registry.watch().__aenter__()
                assert await asyncio.gather(*calls) == [None] * at
                assert await registry.get_status_counts() == (0, 0, 0)


async def test_the_names_that_are_taken_over_are_there(server_url: str) -> None:
    """redis-py has the private names that the transport uses."""
    # They are private to redis-py. What fails here would fail at every connection.
    pool = redis.asyncio.ConnectionPool.from_url(server_url, protocol=3)
    made: Any = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py
    await made.connect()
    assert made._parser._reader.has_data() is False
    assert isinstance(made._reader._buffer, bytearray)
    assert made._writer.transport.get_protocol() is not None
    assert ":" in made._host_error()
    await made.disconnect()


async def test_the_other_transport_is_a_choice(server_url: str, namespace: str) -> None:
    """transport="redis-py" works, and an unknown transport raises InvalidArgument."""
    async with AsyncRegistry.from_url(server_url, namespace, transport="redis-py") as registry:
        results = await asyncio.gather(*(claim(registry) for _ in range(5)))
        assert [type(result) for result in results].count(Claimed) == 1
    with pytest.raises(InvalidArgument, match="transport"):
        AsyncRegistry.from_url(server_url, namespace, transport="carrier pigeon")


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_a_client_that_nobody_has_any_more_hangs_up(proxy: Proxy, namespace: str) -> None:
    """A garbage-collected AsyncRegistry closes its connection."""
    registry = AsyncRegistry.from_url(proxy.url, namespace)
    await registry.get_status("model")
    assert proxy.open
    del registry
    gc.collect()
    await comes(lambda: not proxy.open, "the connection ends")


async def test_a_hundred_calls_to_nobody(namespace: str) -> None:
    """Every call to a closed port raises RegistryUnavailable."""
    port = free_port()
    registry = AsyncRegistry.from_url(f"redis://127.0.0.1:{port}", namespace)
    tasks = of_all_kinds(registry, 100)
    done, pending = await asyncio.wait(tasks, timeout=SECONDS)
    assert not pending
    assert {type(task.exception()) for task in done} == {RegistryUnavailable}, "nothing can have run"
    await registry.close()
