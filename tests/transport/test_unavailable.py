"""Servers that are not there, do not answer, or refuse: typed errors, no password in them, no mess after."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis
import redis.asyncio
import redis.asyncio.retry
import redis.retry
from redis.backoff import NoBackoff

from pyregistry import (
    AccessDenied,
    AsyncRegistry,
    BackendConfig,
    Claimed,
    ConfigurationError,
    ModelStatus,
    OutcomeUnknown,
    Registry,
    RegistryClosed,
    RegistryError,
    RegistryUnavailable,
    SchemaTooNew,
    ServerTooOld,
)
from tests.support.faults.proxy import Proxy, until
from tests.support.faults.stall import Valve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import MakeServer
    from tests.support.clients import Connect

SECRET = "s3cr3t-passw0rd"  # looked for in all that must not show it


@contextmanager
def no_secret(caplog: pytest.LogCaptureFixture, error: type[RegistryError]) -> Iterator[list[RegistryError]]:
    """The block fails with this error, and nothing that one could print or log shows the password."""
    caught: list[RegistryError] = []
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(error) as info:
            yield caught
        caught.append(info.value)
        logging.getLogger("user").error("it failed", exc_info=info.value)
    whole = "".join(traceback.format_exception(info.type, info.value, info.tb))
    assert info.type is error, whole
    for text in (str(info.value), repr(info.value), whole, caplog.text, repr(caplog.records)):
        assert SECRET not in text
    causes: list[BaseException] = []
    cause: BaseException | None = info.value
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    assert all(SECRET not in f"{each} {each!r} {each.args!r}" for each in causes)


def closed_port() -> int:
    """A port of 127.0.0.1 where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose connections are each answered by a thread; they end with the context."""
    server = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    clients: list[socket.socket] = []

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            answer(client)

    def accept() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return  # closed
            clients.append(client)
            thread = threading.Thread(target=serve, args=(client,), daemon=True)
            threads.append(thread)
            thread.start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield int(server.getsockname()[1])
    finally:
        for each in (server, *clients):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        server.close()
        for thread in (accepting, *threads):
            thread.join(10)
            assert not thread.is_alive()


# Nobody answers


def test_nobody_listens(connect_any: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """A closed port raises RegistryUnavailable without the password."""
    url = f"redis://user:{SECRET}@127.0.0.1:{closed_port()}/0"
    with no_secret(caplog, RegistryUnavailable) as caught:
        connect_any(url=url)
    assert "127.0.0.1" in str(caught[0])


def test_there_is_no_socket(connect_any: Connect, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """A missing unix socket raises RegistryUnavailable without the password."""
    with no_secret(caplog, RegistryUnavailable) as caught:
        connect_any(url=f"unix://:{SECRET}@{tmp_path}/no.sock")
    assert "no.sock" in str(caught[0])


@pytest.mark.parametrize("host", ["no-such-host.invalid", "h" * 70])
def test_there_is_no_such_host(connect_any: Connect, caplog: pytest.LogCaptureFixture, host: str) -> None:
    """An unknown or invalid host raises a typed error without the password."""
    # A name that can't be a name is told before anybody is asked.
    error = RegistryUnavailable if host.endswith(".invalid") else ConfigurationError
    with no_secret(caplog, error):
        connect_any(url=f"redis://:{SECRET}@{host}")


def test_it_never_answers(connect_any: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """A server that never replies raises RegistryUnavailable without the password."""

    def listen(client: socket.socket) -> None:
        while client.recv(4096):
            pass

    with listener(listen) as port, no_secret(caplog, RegistryUnavailable) as caught:
        connect_any(url=f"redis://:{SECRET}@127.0.0.1:{port}", timeout=0.1)
    assert "imeout" in str(caught[0])


def test_it_hangs_up(connect_any: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """A server that closes the connection raises RegistryUnavailable without the password."""

    def hang_up(client: socket.socket) -> None:
        client.recv(4096)

    with listener(hang_up) as port, no_secret(caplog, RegistryUnavailable):
        connect_any(url=f"redis://:{SECRET}@127.0.0.1:{port}")


def test_tls_meets_a_plain_port(
    connect_any: Connect, make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """TLS to a plain port raises RegistryUnavailable without the password."""
    port = urlsplit(make_server().url).port
    with no_secret(caplog, RegistryUnavailable):
        connect_any(url=f"rediss://:{SECRET}@127.0.0.1:{port}", timeout=0.2)


def test_it_is_no_redis_at_all(connect_any: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """A server of another protocol raises RegistryUnavailable without the password."""

    def http(client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with listener(http) as port, no_secret(caplog, RegistryUnavailable):
        connect_any(url=f"redis://:{SECRET}@127.0.0.1:{port}", timeout=1.0)


@pytest.mark.parametrize(
    "url",
    [
        f"redis:/:{SECRET}@127.0.0.1:6379",
        f"redis//:{SECRET}@127.0.0.1:6379",
        f"redis://:{SECRET}@127.0.0.1:port",
        f"redis://user:1/{SECRET}@127.0.0.1:6379",
        f"redis://user:1#{SECRET}@127.0.0.1:6379",
        f"redis://user:1?{SECRET}@127.0.0.1:6379",
        f"http://user:{SECRET}@127.0.0.1",
        f"redis://127.0.0.1?password={SECRET}&db=x",
    ],
)
def test_a_url_with_a_slip_shows_no_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A malformed URL raises an error without the password."""

    def connect() -> None:
        with Registry.from_url(url, timeout=0.1) as registry:
            raise AssertionError(f"{registry} is connected")

    with caplog.at_level(logging.DEBUG), pytest.raises((ConfigurationError, RegistryUnavailable)) as caught:
        connect()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in repr(BackendConfig.redis(url))
    assert SECRET not in caplog.text


# It was there, and is not any more


def test_it_died_between_two_calls(connect_any: Connect, make_server: MakeServer) -> None:
    """Calls to a server that died raise RegistryUnavailable, and work after its restart."""
    server = make_server(password=SECRET)
    registry = connect_any(url=server.url)
    registry.get_status("model")
    server.kill()
    for call in (
        lambda: registry.get_status("model"),
        lambda: registry.try_claim_for_download("model", "S3"),
        # The connection was seen to be closed before anything went out: it can't have run.
        lambda: registry.set_status("model", "S3", ModelStatus.DOWNLOADED),
    ):
        with pytest.raises(RegistryUnavailable) as caught:
            call()
        assert SECRET not in "".join(traceback.format_exception(caught.value))
    server.start()
    assert isinstance(registry.try_claim_for_download("model", "S3", lease=30.0), Claimed)


def test_it_dies_in_the_middle(connect_any: Connect, make_server: MakeServer) -> None:
    """A server that dies during a write raises OutcomeUnknown, and during a read RegistryUnavailable."""
    server = make_server()
    with Proxy(server.url) as proxy:
        registry = connect_any(url=proxy.url)
        proxy.lose_replies("claim", then=server.kill)
        with pytest.raises(OutcomeUnknown) as caught:
            registry.try_claim_for_download("model", "S3", lease=30.0)
        assert caught.value.operation == "claim"
        assert proxy.sent["claim"] == 1
        # A read has no outcome to be unknown.
        server.start()
        registry.get_status("model")
        proxy.lose_replies("MGET", then=server.kill)
        with pytest.raises(RegistryUnavailable):
            registry.get_status("model")


def test_it_stops_answering_and_comes_back(connect_any: Connect, make_server: MakeServer) -> None:
    """A write to a silent server raises OutcomeUnknown, and the same claim_id finds its claim later."""
    server = make_server()
    assert server.pid is not None
    registry = connect_any(url=server.url, timeout=0.2)
    registry.get_status("model")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(OutcomeUnknown):
            registry.try_claim_for_download("model", "S3", lease=30.0, claim_id="ours")
        with pytest.raises(RegistryUnavailable):
            registry.get_status("model")
    finally:
        os.kill(server.pid, signal.SIGCONT)
    result = registry.try_claim_for_download("model", "S3", lease=30.0, claim_id="ours")
    assert isinstance(result, Claimed)
    assert result.claim.attempts == 1


def test_connecting_again_over_a_connection_that_went_silent(make_server: MakeServer) -> None:
    """connect over a silent connection raises RegistryUnavailable."""
    # `open` may run any number of times: that its answer is lost leaves no outcome unknown.
    with Proxy(make_server().url) as proxy, Registry.from_url(proxy.url) as registry:
        proxy.lose_replies("open", times=100)
        with pytest.raises(RegistryUnavailable):
            registry.connect()


def test_it_is_still_reading_its_data(connect_any: Connect, make_server: MakeServer, tmp_path: Path) -> None:
    """A server that loads its data is waited for within the timeout."""
    # It reads one key in 20 ms, of about a kilobyte, and looks after its clients in between.
    server = make_server(
        data_dir=tmp_path,
        rdbcompression="no",
        key_load_delay="20000",
        loading_process_events_interval_bytes="1024",
    )
    registry = connect_any(url=server.url)
    registry.set_status("model", "S3", ModelStatus.DOWNLOADED)
    with redis.Redis.from_url(server.url) as raw:
        raw.mset({f"other:{at}": "x" * 1024 for at in range(1000)})
        raw.save()
        server.kill()
        starting = threading.Thread(target=server.start)
        starting.start()
        try:
            until(lambda: loading(raw), "it reads its data")
            with pytest.raises(RegistryUnavailable, match="loading"):
                registry.get_status("model")
            # The server says that it has not run this; so it goes out again, and fails for certain.
            with pytest.raises(RegistryUnavailable, match="loading"):
                registry.set_status("model", "S3", ModelStatus.ERROR)
        finally:
            raw.config_set("key-load-delay", 0)
            starting.join(30)
    assert registry.get_status("model") is ModelStatus.DOWNLOADED


def loading(raw: redis.Redis) -> bool:
    try:
        return bool(raw.info("persistence")["loading"])
    except redis.ConnectionError:
        return False  # it does not listen yet


def test_a_line_that_is_half_open(connect_any: Connect, server_url: str) -> None:
    """A half-open connection is replaced for idempotent requests, and raises OutcomeUnknown for others."""
    # The other side is gone without a word: no end of the connection comes, only silence.
    with Valve(server_url) as valve:
        registry = connect_any(url=valve.url, timeout=1.0)
        valve.shut_at("claim", times=1)
        result = registry.try_claim_for_download("model", "S3", lease=30.0)
        assert isinstance(result, Claimed), "it is sent again, on another connection"
        valve.shut_at("set_status", times=1)
        with pytest.raises(OutcomeUnknown, match=r"(?i)timeout"):
            registry.set_status("model", "S3", ModelStatus.ERROR)
        assert registry.get_status("model") is ModelStatus.DOWNLOADING
        assert valve.shut == 2


# A replica


def test_a_replica_refuses_and_is_promoted(connect_any: Connect, make_server: MakeServer) -> None:
    """A replica refuses writes until it is promoted."""
    primary = make_server(shutdown_timeout="0")
    replica = make_server(replicaof=f"127.0.0.1 {urlsplit(primary.url).port}")
    registry = connect_any(url=replica.url, timeout=1.0)
    assert registry.get_status("model") is None
    with pytest.raises(RegistryUnavailable, match="read only replica"):
        registry.try_claim_for_download("model", "S3", lease=30.0)
    with redis.Redis.from_url(replica.url) as raw:
        raw.replicaof("NO", "ONE")
    assert isinstance(registry.try_claim_for_download("model", "S3", lease=30.0), Claimed)


def check_failover(registry: Registry, proxy: Proxy, old_url: str, new_url: str) -> None:
    """A client that is connected to the old primary, through the proxy, finds the new one."""
    registry.get_status("model")
    port = urlsplit(new_url).port or 0
    with redis.Redis.from_url(old_url) as raw:
        raw.replicaof("127.0.0.1", port)
    # New connections lead to the new primary, as they do under Sentinel or behind a name.
    proxy.upstream = ("127.0.0.1", port)
    registry.set_status("model", "S3", ModelStatus.DOWNLOADED)
    with Registry.from_url(new_url, registry.namespace) as there:
        assert there.get_status("model") is ModelStatus.DOWNLOADED


def test_a_demoted_primary_is_left_for_the_new_one(connect_any: Connect, make_server: MakeServer) -> None:
    """A client leaves a demoted primary for the new one."""
    # Without this, one that is stopped waits for its replicas.
    old, new = make_server(shutdown_timeout="0"), make_server(shutdown_timeout="0")
    with Proxy(old.url) as proxy:
        check_failover(connect_any(url=proxy.url), proxy, old.url, new.url)


def test_a_users_client_leaves_a_demoted_primary_too(make_server: MakeServer) -> None:
    """A client made from a user's redis.Redis leaves a demoted primary."""
    old, new = make_server(shutdown_timeout="0"), make_server(shutdown_timeout="0")
    with Proxy(old.url) as proxy, redis.Redis.from_url(proxy.url) as client:
        check_failover(Registry(client), proxy, old.url, new.url)


# It refuses


@pytest.mark.parametrize("user", ["", "nobody"])
def test_wrong_credentials(
    connect_any: Connect, make_server: MakeServer, caplog: pytest.LogCaptureFixture, user: str
) -> None:
    """Wrong credentials raise AccessDenied without the password."""
    port = urlsplit(make_server(password="another").url).port
    with no_secret(caplog, AccessDenied):
        connect_any(url=f"redis://{user}:{SECRET}@127.0.0.1:{port}")


def test_no_credentials(
    connect_any: Connect, make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Missing credentials raise AccessDenied."""
    port = urlsplit(make_server(password=SECRET).url).port
    with no_secret(caplog, AccessDenied):
        connect_any(url=f"redis://127.0.0.1:{port}")


def test_credentials_that_are_options_do_not_show(
    connect_any: Connect, make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Credentials given as options appear in no error and no repr."""
    server = make_server(password="another")
    port = urlsplit(server.url).port
    with no_secret(caplog, AccessDenied):
        connect_any(url=f"redis://127.0.0.1:{port}", username="default", password=SECRET)
    registry = connect_any(url=f"redis://127.0.0.1:{port}", password="another")
    assert "another" not in repr(registry)
    assert "***@127.0.0.1" in repr(connect_any(url=server.url))


@pytest.mark.parametrize("rights", ["+@all -evalsha", "+@all -spublish", "+@all -script", "+@read"])
def test_a_user_who_lacks_rights(
    connect_any: Connect, make_server: MakeServer, caplog: pytest.LogCaptureFixture, rights: str
) -> None:
    """A user without rights gets AccessDenied without the password."""
    server = make_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "weak", "on", f">{SECRET}", "~*", "&*", *rights.split())
    with no_secret(caplog, AccessDenied):
        connect_any(url=f"redis://weak:{SECRET}@127.0.0.1:{urlsplit(server.url).port}")


def test_a_schema_that_is_too_new(connect_any: Connect, make_server: MakeServer) -> None:
    """A newer schema raises SchemaTooNew on connect and on reconnect, and is left as it is."""
    server = make_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.hset("pyregistry:{new}:meta", "schema", "99")
        with pytest.raises(SchemaTooNew) as caught:
            connect_any(url=server.url, namespace="new")
        assert (caught.value.found, caught.value.supported) == (99, 1)
        assert raw.hgetall("pyregistry:{new}:meta") == {b"schema": b"99"}
        # Somebody upgraded the namespace while this client was connected: its next connection finds out.
        registry = connect_any(url=server.url, namespace="late")
        raw.hset("pyregistry:{late}:meta", "schema", "99")
        raw.client_kill_filter(_type="normal", skipme=True)
        for _ in range(2):
            with pytest.raises(SchemaTooNew):
                registry.set_status("model", "S3", ModelStatus.DOWNLOADED)


HELLO = b"%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n6.2.0\r\n$5\r\nproto\r\n:3\r\n"
OLD_SERVERS = {
    # What these servers answer, by the words that a request begins with; anything else is OK.
    "redis 6.2.14": {
        b"HELLO": HELLO,
        b"EVALSHA": b"-NOSCRIPT No matching script. Please use EVAL.\r\n",
        b"SCRIPT": b"-ERR Error compiling script (new function): user_script:1: unexpected '#'\r\n",
        b"INFO": b"$46\r\n# Server\r\nredis_version:6.2.14\r\nredis_mode:x\r\n\r\n",
        b"CLIENT": b"-ERR Unknown subcommand or wrong number of arguments for 'SETINFO'\r\n",
    },
    "redis 5.0.14": {
        b"HELLO": b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n",
        b"EVALSHA": b"-NOSCRIPT No matching script. Please use EVAL.\r\n",
        b"SCRIPT": b"-ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'\r\n",
        b"INFO": b"$46\r\n# Server\r\nredis_version:5.0.14\r\nredis_mode:x\r\n\r\n",
    },
}


@pytest.mark.parametrize("version", OLD_SERVERS)
def test_a_server_that_is_too_old(
    connect_any: Connect, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    """A server older than 7.0 raises ServerTooOld with its version."""
    # No such server is at hand where the tests run: this one gives the answers of theirs, over a real socket.
    answers = OLD_SERVERS[version]
    heard: list[bytes] = []

    def speak(client: socket.socket) -> None:
        with client.makefile("rb") as requests:
            while header := requests.readline():
                words = []
                for _ in range(int(header[1:])):
                    size = int(requests.readline()[1:])
                    words.append(requests.read(size + 2)[:-2])
                heard.append(words[0].upper())
                client.sendall(answers.get(heard[-1], b"+OK\r\n"))

    with listener(speak) as port:
        with no_secret(caplog, ServerTooOld) as caught:
            connect_any(url=f"redis://:{SECRET}@127.0.0.1:{port}")
        # A connection to a server that was found unfit is not used again.
        heard.clear()
        registry = Registry.from_url(f"redis://127.0.0.1:{port}")
        for _ in range(2):
            with pytest.raises(ServerTooOld):
                registry.connect()
        registry.close()
        assert heard.count(b"HELLO") == (1 if version == "redis 5.0.14" else 2)
    (error,) = caught
    assert isinstance(error, ServerTooOld)
    assert version in error.version
    assert "7.0" in str(error)


# A user's own client: how often it tries to connect is the user's own choice

NO_RETRY = redis.retry.Retry(NoBackoff(), 0)
ASYNC_NO_RETRY = redis.asyncio.retry.Retry(NoBackoff(), 0)


def test_a_users_client_whose_server_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """A user's client without a server raises RegistryUnavailable without the password."""
    port = closed_port()
    with redis.Redis(host="127.0.0.1", port=port, password=SECRET, retry=NO_RETRY) as client:
        registry = Registry(client)
        with no_secret(caplog, RegistryUnavailable):
            registry.connect()
        with no_secret(caplog, RegistryUnavailable):
            registry.set_status("model", "S3", ModelStatus.DOWNLOADED)
        assert SECRET not in repr(registry)
        registry.close()


def test_a_users_client_connects_as_often_as_its_user_wants() -> None:
    """A user's client connects as often as its own retry policy says."""
    tries = 0

    def hang_up(client: socket.socket) -> None:
        nonlocal tries
        tries += 1
        client.recv(4096)

    with listener(hang_up) as port:
        for wanted in (1, 3):
            tries = 0
            retry = redis.retry.Retry(NoBackoff(), wanted - 1)
            with pytest.raises(RegistryUnavailable):
                Registry(redis.Redis(host="127.0.0.1", port=port, retry=retry)).connect()
            assert tries == wanted


def test_a_users_client_with_wrong_credentials(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A user's client with wrong credentials raises AccessDenied without the password."""
    port = urlsplit(make_server(password="another").url).port

    async def connect() -> None:
        options: dict[str, Any] = {"port": port, "password": SECRET, "retry": ASYNC_NO_RETRY}
        async with redis.asyncio.Redis(host="127.0.0.1", **options) as client:
            await AsyncRegistry(client).connect()

    with no_secret(caplog, AccessDenied):
        asyncio.run(connect())
    with no_secret(caplog, AccessDenied):
        Registry(redis.Redis(host="127.0.0.1", port=port or 0, password=SECRET, retry=NO_RETRY)).connect()


# After the end


def test_closed_is_closed(connect_any: Connect, caplog: pytest.LogCaptureFixture, server_url: str) -> None:
    """Every call on a closed client raises RegistryClosed."""
    registry = connect_any()
    registry.close()
    registry.close()
    with pytest.raises(RegistryClosed):
        registry.get_status("model")
    with pytest.raises(RegistryClosed):
        registry.try_claim_for_download("model", "S3")
    with pytest.raises(RegistryClosed):
        registry.connect()


def test_calls_that_are_under_way_when_their_client_is_closed(
    connect_any: Connect, make_server: MakeServer
) -> None:
    """Calls in flight at close get their replies, and their connections end."""
    with Proxy(make_server().url) as proxy, ThreadPoolExecutor(2) as pool:
        registry = connect_any(url=proxy.url)
        paused = proxy.pause("claim") + proxy.pause("set_status")
        claim = pool.submit(registry.try_claim_for_download, "a", "S3", lease=30.0)
        set_status = pool.submit(registry.set_status, "b", "S3", ModelStatus.ERROR)
        for held in paused:
            held.wait_behind()
        registry.close()
        with pytest.raises(RegistryClosed):
            registry.get_status("a")
        for held in paused:
            held.let_go()
        # They get their answers, and nothing stays open.
        assert isinstance(claim.result(), Claimed)
        set_status.result()
        until(lambda: not proxy.open, "the connections end")


def test_a_reply_that_is_lost_when_the_client_is_closed(
    connect_any: Connect, make_server: MakeServer
) -> None:
    """A reply lost at close raises OutcomeUnknown, and nothing is sent again."""
    with Proxy(make_server().url) as proxy:
        registry = connect_any(url=proxy.url)
        proxy.lose_replies("claim", then=registry.close)
        with pytest.raises(OutcomeUnknown):
            registry.try_claim_for_download("model", "S3", lease=30.0)
        assert proxy.sent["claim"] == 1


async def test_closing_while_a_connection_is_being_made(make_server: MakeServer) -> None:
    """close while an AsyncRegistry connects leaves no connection open."""
    # At any point of its way. Where it comes to be all the same, there is nobody left to close it.
    with Proxy(make_server().url) as proxy:
        for turns in range(0, 120, 3):
            registry = AsyncRegistry.from_url(proxy.url)
            call = asyncio.create_task(registry.get_status("model"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await registry.close()
            with suppress(RegistryClosed):
                assert await call is None
            await asyncio.to_thread(until, lambda: not proxy.open, "the connection ends")


def test_closing_while_threads_connect(make_server: MakeServer) -> None:
    """close while threads connect leaves no connection open."""
    with Proxy(make_server().url) as proxy, ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            registry = Registry.from_url(proxy.url)
            paused = proxy.pause("open", times=4)
            calls = [pool.submit(registry.get_status, "model") for _ in range(8)]
            paused[0].wait()
            registry.close()
            for held in paused:
                held.let_go()
            for call in calls:
                with suppress(RegistryClosed):
                    assert call.result() is None
            until(lambda: not proxy.open, "the connections end")
