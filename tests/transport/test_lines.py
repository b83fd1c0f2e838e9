"""The connections of a `Registry`: what breaks them, who shares them, and what goes out together on both clients."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis
from redis._parsers import _RESP3Parser

from pyregistry import Claimed, ModelStatus, OutcomeUnknown, Registry, RegistryClosed, RegistryUnavailable
from pyregistry._redis.backend_async import MOST_BATCHES
from pyregistry._redis.protocol.request import CommandTemplate, PlainRequest, Request
from pyregistry._redis.transport import connection_sync, fast_path_sync, pooled_sync
from pyregistry._redis.transport.connection_sync import (
    CallConnection,
    FastConnection,
    OwnConnection,
    OwnConnectionPool,
    connection_of,
    pool_of,
)
from pyregistry._redis.transport.endpoint import CONNECTIONS, UrlEndpoint
from pyregistry.backend.values import StatusChange
from tests.support.faults.interrupt import NUMBER, Interrupted, interruptible
from tests.support.faults.proxy import SECONDS, Proxy, until
from tests.support.internals import ops_of, transport_of
from tests.support.servers import free_port, self_signed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import FrameType

    from tests.conftest import MakeServer

LEASE = 30.0


@pytest.fixture
def registry(proxy: Proxy, namespace: str) -> Iterator[Registry]:
    """The client under test, behind the proxy."""
    with Registry.from_url(proxy.url, namespace, timeout=2 * SECONDS) as registry:
        yield registry


def claimed(registry: Registry, name: str = "model", **options: Any) -> int:
    """The token."""
    result = registry.try_claim_for_download(name, "S3", **{"lease": LEASE, **options})
    assert isinstance(result, Claimed)
    return result.claim.token


def token_of(other: Registry, name: str = "model") -> int:
    record = other.get_model_record(name, "S3")
    assert record is not None
    return record.token


# The connection breaks


def test_cut_at_every_byte_of_a_reply(registry: Registry, proxy: Proxy, other: Registry) -> None:
    """A connection cut after any byte of a reply loses no claim and makes none twice."""
    at = 0
    proxy.cut_reply("claim", at)
    while True:
        assert claimed(registry, f"m{at}") == token_of(other, f"m{at}")
        assert proxy.sent["claim"] == 2 * at + 2
        at += 1
        if at == len(proxy.reply):
            break
        proxy.cut_reply("claim", at)
    assert at > 40


def test_replies_in_pieces_of_one_byte(registry: Registry, proxy: Proxy, other: Registry) -> None:
    """Replies that arrive byte by byte are read whole."""
    for name in ("claim", "MGET", "read", "page", "counts"):
        proxy.trickle(name, times=3)
    names = [(f"m{at}", "S3") for at in range(130)]
    assert all(isinstance(result, Claimed) for result in registry.try_claim_many(names, lease=LEASE))
    assert [registry.get_status(name, "S3") for name, _ in names[:3]] == ["DOWNLOADING"] * 3
    records = registry.get_model_records(names)
    assert [record.model_name for record in records if record] == [name for name, _ in names]
    assert len(registry.get_models_by_last_used()) == 130
    assert registry.get_status_counts() == other.get_status_counts() == (130, 0, 0)


def test_a_late_reply_is_nobody_elses(proxy: Proxy, namespace: str, other: Registry) -> None:
    """A reply that arrives after its timeout is not taken for another call's."""
    other.set_status("there", "S3", ModelStatus.DOWNLOADED)
    with Registry.from_url(proxy.url, namespace, timeout=0.2) as registry:
        registry.get_status("there", "S3")
        late = proxy.pause("MGET", times=4, reply=True)
        with pytest.raises(RegistryUnavailable, match="Timeout"):
            registry.get_status("absent", "S3")
        for held in late:
            held.let_go()
        assert registry.get_status("there", "S3") is ModelStatus.DOWNLOADED
        late = proxy.pause("set_status", reply=True)
        with pytest.raises(OutcomeUnknown, match="Timeout"):
            registry.set_status("there", "S3", ModelStatus.ERROR)
        assert token_of(other, "there")
        late[0].let_go()
        assert registry.get_status("absent", "S3") is None


def test_what_the_server_does_not_read(make_server: MakeServer, namespace: str) -> None:
    """A write that the server does not read times out."""
    server = make_server()
    assert server.pid is not None
    models = [
        (f"m{at}-{'x' * 1000}", "S3") for at in range(64 * MOST_BATCHES)
    ]  # more than the buffers in between take
    with Registry.from_url(server.url, namespace, timeout=0.3) as registry:
        registry.connect()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(OutcomeUnknown, match="Timeout"):
                registry.try_claim_many(models, lease=None)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert registry.get_status("absent") is None


@pytest.mark.parametrize("scheme", ["redis", "unix"])
def test_a_connection_that_was_closed_while_it_was_idle(
    make_server: MakeServer, namespace: str, tmp_path: Path, scheme: str
) -> None:
    """A connection closed while idle is replaced before anything is sent."""
    server = make_server(unixsocket=str(tmp_path / "s"))
    url = f"unix://{tmp_path / 's'}" if scheme == "unix" else server.url
    with Registry.from_url(url, namespace) as registry, redis.Redis.from_url(server.url) as raw:
        for status in (ModelStatus.ERROR, ModelStatus.DOWNLOADED):
            registry.get_status("model")
            assert raw.client_kill_filter(_type="normal", skipme=True) > 0
            # It is seen before anything is sent: nothing is unknown.
            registry.set_status("model", "S3", status)
            assert registry.get_status("model") is status


def test_all_that_were_idle_are_closed_by_a_restart(make_server: MakeServer, namespace: str) -> None:
    """A restart of the server replaces one idle connection and drops the others."""
    server = make_server()
    with (
        Proxy(server.url) as proxy,
        ThreadPoolExecutor(8) as pool,
        Registry.from_url(proxy.url, namespace) as registry,
    ):
        paused = proxy.pause("MGET", times=8)
        calls = [pool.submit(registry.get_status, f"m{at}", "S3") for at in range(8)]
        for held in paused:
            held.wait()
        for held in paused:
            held.let_go()
        assert [call.result() for call in calls] == [None] * 8
        assert len(proxy.open) == 8
        proxy.cut()
        registry.set_status("model", "S3", ModelStatus.ERROR)
        until(lambda: len(proxy.open) == 1, "the others are not made anew")


# Interrupted


def test_interrupted_while_a_reply_is_awaited(registry: Registry, proxy: Proxy, other: Registry) -> None:
    """A call interrupted by a signal closes its connection, and the next call gets its own reply."""
    other.set_status("there", "S3", ModelStatus.DOWNLOADED)
    registry.get_status("there", "S3")
    (held,) = proxy.pause("MGET", reply=True)
    main = threading.get_ident()

    def interrupt() -> None:
        # More than once: a signal that comes between Python's last look for one and the system call does not end
        # the call.
        held.wait()
        while not came.wait(0.01):
            signal.pthread_kill(main, NUMBER)

    with interruptible() as came, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(interrupt)
        with pytest.raises(Interrupted):
            registry.get_status("there", "S3")
        sent.result()
    held.let_go()
    assert registry.get_status("absent", "S3") is None
    assert len(proxy.connections_of("MGET")) == 2


def test_interrupted_at_every_line(registry: Registry, proxy: Proxy, other: Registry) -> None:
    """A call interrupted at any line of the transport leaves later calls their own replies."""
    # An exception in whatever line of a call: the next one gets its own answer all the same.
    other.set_status("there", "S3", ModelStatus.DOWNLOADED)
    files = {connection_sync.__file__, fast_path_sync.__file__, pooled_sync.__file__}
    left = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise Interrupted
        return trace

    before = sys.gettrace()
    for at in range(1, 200):
        left = at
        sys.settrace(trace)
        try:
            found = registry.get_status("there", "S3")
        except Interrupted:
            found = None
        finally:
            sys.settrace(before)
        if found is not None:
            break
        assert registry.get_status("absent", "S3") is None, at
        assert registry.get_status("there", "S3") is ModelStatus.DOWNLOADED, at
    assert found is ModelStatus.DOWNLOADED
    assert at > 20
    assert proxy.sent["MGET"] > 2 * at


# Who shares them


def test_many_threads_share_a_client(registry: Registry, proxy: Proxy) -> None:
    """Many threads share at most CONNECTIONS connections and get their own replies."""

    def work(at: int) -> None:
        for of in range(5):
            name = f"m{at}.{of}"
            token = claimed(registry, name)
            record = registry.get_model_record(name, "S3")
            assert record is not None
            assert (record.model_name, record.token) == (name, token)
            assert registry.delete_model(name, "S3", expected_token=token) == 1
            assert registry.get_status(name, "S3") is None

    with ThreadPoolExecutor(3 * CONNECTIONS) as pool:
        list(pool.map(work, range(3 * CONNECTIONS)))
    assert len(proxy.connections_of()) <= CONNECTIONS


def test_no_more_connections_than_there_may_be(registry: Registry, proxy: Proxy) -> None:
    """Calls beyond CONNECTIONS wait, and the connection used last is used next."""
    paused = proxy.pause("counts", times=CONNECTIONS)
    with ThreadPoolExecutor(CONNECTIONS + 5) as pool:
        calls = [pool.submit(registry.get_status_counts) for _ in range(CONNECTIONS + 5)]
        for held in paused:
            held.wait()
        assert len(proxy.open) == CONNECTIONS
        for held in paused:
            held.let_go()
        assert [call.result() for call in calls] == [(0, 0, 0)] * (CONNECTIONS + 5)
    assert len(proxy.open) == CONNECTIONS
    # The one that was used last is used next.
    start = len(proxy.log)
    for _ in range(5):
        registry.get_status("model", "S3")
    assert len({number for number, _ in proxy.log[start:]}) == 1


def test_one_that_waits_for_its_turn_is_told_of_the_end(registry: Registry, proxy: Proxy) -> None:
    """close makes a call that waits for a connection raise RegistryClosed."""
    paused = proxy.pause("counts", times=CONNECTIONS)
    with ThreadPoolExecutor(CONNECTIONS + 1) as pool:
        calls = [pool.submit(registry.get_status_counts) for _ in range(CONNECTIONS)]
        for held in paused:
            held.wait()
        one_more = pool.submit(registry.get_status, "model")
        registry.close()
        for held in paused:
            held.let_go()
        with pytest.raises(RegistryClosed):
            one_more.result()
        assert [call.result() for call in calls] == [(0, 0, 0)] * CONNECTIONS
    until(lambda: not proxy.open, "the connections end")


def test_a_call_alone_ends_though_its_client_is_closed(registry: Registry, proxy: Proxy) -> None:
    """A call in flight at close gets its reply."""
    registry.connect()
    (held,) = proxy.pause("MGET", reply=True)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(registry.get_status, "model", "S3")
        held.wait()
        registry.close()
        held.let_go()
        assert asked.result(SECONDS) is None
    until(lambda: not proxy.open, "the connection ends")


def test_a_call_alone_that_waits_for_its_turn_is_told_of_the_end(registry: Registry, proxy: Proxy) -> None:
    """close makes a call that waits on the fast path raise RegistryClosed."""
    registry.connect()
    lines = transport_of(registry)._lines
    assert isinstance(lines, OwnConnectionPool)
    taken = [lines.take() for _ in range(CONNECTIONS)]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(registry.get_status, "model", "S3")
        until(
            lambda: any(
                frame.f_code is OwnConnectionPool.idle.__code__ for frame in sys._current_frames().values()
            ),
            "it waits for its turn",
        )
        registry.close()
        for line in taken:
            lines.give_back(line)
        with pytest.raises(RegistryClosed):
            asked.result(SECONDS)
    assert proxy.sent["MGET"] == 0


# A user's own client


def test_every_blocking_client_takes_the_fast_path(server_url: str, namespace: str) -> None:
    """A client of a URL, with or without near cache, and one of a redis-py client take the fast path."""
    with redis.Redis.from_url(server_url) as client:
        registries = [
            Registry(client, namespace),
            Registry.from_url(server_url, namespace),
            Registry.from_url(server_url, namespace, near_cache=True),
        ]
        for registry in registries:
            with registry:
                assert isinstance(transport_of(registry), fast_path_sync.FastPathTransport)


def test_a_users_pool_is_shared(proxy: Proxy, namespace: str) -> None:
    """A client made from a user's pool uses that pool's connections and leaves them open."""
    pool = redis.BlockingConnectionPool.from_url(proxy.url, max_connections=1, timeout=SECONDS)
    with redis.Redis.from_pool(pool) as client:
        registry = Registry(client, namespace)
        for at in range(3):
            client.set(f"pyregistry-test-{namespace}", at)
            registry.set_status("model", "S3", ModelStatus.ERROR, str(at))
        client.delete(f"pyregistry-test-{namespace}")
        assert len(proxy.connections_of()) == 1
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(registry.get_status, ["model"] * 20)) == ["ERROR"] * 20
        registry.close()
    assert len(proxy.connections_of()) == 1


class Counting(redis.Connection):
    """A connection that looks at what is sent."""

    commands = 0

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Counts."""
        Counting.commands += 1
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]  # in redis-py


@pytest.mark.parametrize(
    "options",
    [
        {"connection_class": Counting},
        {"parser_class": _RESP3Parser},
        {"health_check_interval": 1},
        {"protocol": 2},
    ],
    ids=["class", "parser", "health check", "protocol"],
)
def test_connections_with_ways_of_their_own(proxy: Proxy, namespace: str, options: dict[str, Any]) -> None:
    """Connections of a user's own class or protocol are used through their own methods."""
    parts = urlsplit(proxy.url)
    with redis.ConnectionPool(host="127.0.0.1", port=parts.port, **options) as pool:
        kind = FastConnection if "protocol" in options else CallConnection
        line = pool_of(pool, shared=True).take()
        assert type(line) is kind
        pool.release(line.connection)
        Counting.commands = 0
        registry = Registry(redis.Redis(connection_pool=pool), namespace)
        proxy.lose_replies("claim")
        claims = registry.try_claim_many([(f"m{at}", "S3") for at in range(130)], lease=LEASE)
        assert all(isinstance(result, Claimed) for result in claims)
        assert registry.get_status("m7") is ModelStatus.DOWNLOADING
        assert registry.get_status("absent") is None
        if "connection_class" in options:
            assert Counting.commands >= 3
        registry.close()


def test_what_needs_redis_pys_care_is_left_in_its_pool() -> None:
    """Health checks and credential providers keep the connections in redis-py's pool."""

    def lines(**options: Any) -> type:
        source = UrlEndpoint("redis://127.0.0.1:1", 1.0, options)
        return type(pool_of(source.sync_pool("redis://127.0.0.1:1", print), shared=False))

    assert lines() is OwnConnectionPool
    for options in (
        {"health_check_interval": 5},
        {"credential_provider": redis.UsernamePasswordCredentialProvider("a", "b")},
    ):
        assert lines(**options) is not OwnConnectionPool


# What comes from redis-py


def test_the_names_that_are_used_are_there(make_server: MakeServer, tmp_path: Path) -> None:
    """redis-py has the private names that the connections use."""
    # They are private to redis-py. What fails here would fail at every connection, or make every call slow.
    server = make_server(unixsocket=str(tmp_path / "s"))
    for url in (server.url, f"unix://{tmp_path / 's'}"):
        made: Any = redis.ConnectionPool.from_url(url).make_connection()
        made.connect()
        assert made._parser._reader.has_data() is False
        assert callable(made._parser.handle_push_response)
        assert made._sock.fileno() > 0
        assert isinstance(made._host_error(), str)
        assert type(connection_of(made)) is FastConnection
        made.disconnect()
    common = redis.connection.AbstractConnection
    for name in ("send_packed_command", "read_response"):
        assert getattr(redis.SSLConnection, name) is getattr(common, name)


def test_what_the_server_says_of_its_own_accord_is_no_reply(
    server_url: str, namespace: str, other: Registry
) -> None:
    """Push messages between replies are not taken for replies."""
    with Registry.from_url(server_url, namespace) as registry:
        transport = transport_of(registry)
        track: Request[Any] = PlainRequest(
            CommandTemplate("track", None, verb="CLIENT TRACKING ON"), lambda replies: replies[0]
        )
        (model,) = ops_of(registry).targets("model", "S3", None, None)
        status = ops_of(registry).get_status("model", "S3", None, None)
        written = ops_of(registry).set_status(model, StatusChange(ModelStatus.ERROR))
        # In between: the invalidation of what was read comes before the last reply.
        answers: Sequence[Any] = transport.call_many([track, status, written, status])
        assert (answers[0], answers[1], answers[3]) == (b"OK", None, ModelStatus.ERROR)
        for at in range(20):
            assert transport.call(track) == b"OK"
            registry.get_status(f"m{at}", "S3")
            other.set_status(f"m{at}", "S3", ModelStatus.ERROR)
            assert registry.get_status(f"m{at}", "S3") is ModelStatus.ERROR


def only_line(registry: Registry) -> OwnConnection:
    lines = transport_of(registry)._lines
    assert isinstance(lines, OwnConnectionPool)
    (line,) = lines._idle
    assert isinstance(line, OwnConnection)
    return line


def test_who_looks_in_vain_looks_no_more(registry: Registry, proxy: Proxy) -> None:
    """Spinning stops after replies that it did not catch, and is tried again later."""
    registry.connect()
    line = only_line(registry)
    with ThreadPoolExecutor(1) as pool:
        for held in proxy.pause("MGET", connection_sync._HOPE, reply=True):
            left = max(line._hope - 1, 0)
            asked = pool.submit(registry.get_status, "model", "S3")
            held.wait()
            until(lambda: line._hope == left, "it has looked")  # noqa: B023 - waits here
            held.let_go()
            assert asked.result(SECONDS) is None
    assert line._hope == 0
    for _ in range(connection_sync._TRY_AGAIN):
        assert registry.touch_model("model", "S3") is False
    assert only_line(registry) is line


def test_a_thread_that_is_not_alone_does_not_look(registry: Registry, proxy: Proxy) -> None:
    """A thread spins for a reply only if no other thread uses the client."""
    registry.connect()
    lines = transport_of(registry)._lines
    assert isinstance(lines, OwnConnectionPool)
    with ThreadPoolExecutor(2) as pool:
        held = [*proxy.pause("MGET", reply=True), *proxy.pause("touch", reply=True)]
        status, touch = (
            pool.submit(registry.get_status, "model", "S3"),
            pool.submit(registry.touch_model, "model", "S3"),
        )
        for each in held:
            each.wait()
        assert not lines._is_one_taken()
        for each in held:
            each.let_go()
        assert (status.result(SECONDS), touch.result(SECONDS)) == (None, False)
    line = lines.take()
    assert lines._is_one_taken()
    lines.give_back(line)


def test_what_is_more_than_the_socket_takes(server_url: str, namespace: str) -> None:
    """A batch larger than the socket's buffer is written whole."""
    with Registry.from_url(server_url, namespace) as registry:
        registry.connect()
        line = only_line(registry)
        line._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        message = "x" * 4000
        (model,) = ops_of(registry).targets("model", "S3", None, None)
        ops = [
            ops_of(registry).set_status(model, StatusChange(ModelStatus.ERROR, f"{message}{at}"))
            for at in range(300)
        ]
        assert not [each for each in transport_of(registry).call_many(ops) if isinstance(each, Exception)]
        assert only_line(registry) is line
        record = registry.get_model_record("model")
        assert record is not None
        assert record.message == f"{message}299"


def test_who_can_not_write_gives_up(make_server: MakeServer, namespace: str) -> None:
    """A batch that the server does not read raises OutcomeUnknown."""
    server = make_server()
    assert server.pid is not None
    with Registry.from_url(server.url, namespace, timeout=0.3) as registry:
        registry.connect()
        (model,) = ops_of(registry).targets("model", "S3", None, None)
        ops = [
            ops_of(registry).set_status(model, StatusChange(ModelStatus.ERROR, "x" * 4000))
            for _ in range(4000)
        ]
        os.kill(server.pid, signal.SIGSTOP)
        try:
            answers = transport_of(registry).call_many(ops)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert {type(each) for each in answers} == {OutcomeUnknown}
        assert "writing" in str(answers[0])
        assert registry.get_status("other") is None


@pytest.mark.server("debian")  # the embedded one has no TLS
def test_over_tls(make_server: MakeServer, namespace: str, tmp_path: Path) -> None:
    """A Registry connects over TLS, and the loss of the server is seen."""
    key, certificate = self_signed(tmp_path)
    port = free_port()
    server = make_server(
        tls_port=str(port), tls_cert_file=str(certificate), tls_key_file=str(key), tls_auth_clients="no",
        tls_ca_cert_file=str(certificate),
    )  # fmt: skip
    url = f"rediss://127.0.0.1:{port}"
    options: dict[str, Any] = {"ssl_ca_certs": str(certificate)}
    with Registry.from_url(url, namespace, **options) as registry, redis.Redis.from_url(server.url) as raw:
        names = [(f"m{at}", "S3") for at in range(1100)]
        assert all(isinstance(result, Claimed) for result in registry.try_claim_many(names, lease=LEASE))
        assert len(registry.get_models_by_last_used()) == 1100
        lines: Any = transport_of(registry)._lines
        assert [type(line) for line in lines._idle] == [FastConnection]
        (ours,) = [each for each in raw.client_list() if each["addr"] != raw.client_info()["addr"]]
        registry.get_status("m1")
        assert ours["id"] in {each["id"] for each in raw.client_list()}, "one connection does it all"
        assert raw.client_kill_filter(_type="normal", skipme=True) == 1
        registry.set_status("m1", "S3", ModelStatus.ERROR)  # the end of the connection was seen
        server.kill()
        with pytest.raises(RegistryUnavailable):
            registry.get_status("m1")
