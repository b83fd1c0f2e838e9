"""A service under Redis Sentinel: real servers, of which the primary dies; clients that find the next one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel

from pyregistry import (
    AccessDenied,
    AsyncRegistry,
    Claim,
    Claimed,
    InvalidArgument,
    ModelStatus,
    OutcomeUnknown,
    Registry,
    RegistryUnavailable,
    ServerRefused,
)
from pyregistry._coordination import keepalive
from pyregistry._core.clock import now
from pyregistry._redis.protocol.keys import Keyspace
from tests.support import servers
from tests.support.clients import AsyncFacade, loop_in_thread
from tests.support.faults.proxy import until
from tests.support.internals import keepalive_of
from tests.support.servers import free_port, self_signed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyregistry import ModelRecord
    from pyregistry.embedded import EmbeddedServer
    from tests.conftest import MakeServer

SERVICE = "models"
SECRET = "s3cr3t-passw0rd"
# Of the sentinel: a failover takes a second or two. A server that a busy machine holds up is not down, so that
# there is no other failover than the one that a test wants.
SETTINGS = f"""
sentinel down-after-milliseconds {SERVICE} 60000
sentinel failover-timeout {SERVICE} 2000
"""
FAILOVER = 60.0  # seconds to wait for what Sentinel does, at most

debian = pytest.mark.server("debian")  # the embedded one is no sentinel


@contextmanager
def sentinel_of(
    primary: int, folder: Path, port: int, more: str = "", quorum: int = 1
) -> Iterator[subprocess.Popen[bytes]]:
    """A sentinel; so many of them make a quorum."""
    folder.mkdir()
    file = folder / "sentinel.conf"  # it writes there what it learns
    file.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n{more}\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary} {quorum}\n{SETTINGS}"
    )
    binary = servers.binary("debian")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(binary), str(file), "--sentinel"], stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def port_of(server: EmbeddedServer) -> int:
    return urlsplit(server.url).port or 0


class Service:
    """A primary, its replica, and the sentinels that watch them."""

    def __init__(self, make_server: MakeServer, folder: Path, stack: ExitStack, sentinels: int = 1) -> None:
        # Without this, one that is stopped waits for its replicas.
        self.primary = make_server(shutdown_timeout="0")
        at = f"127.0.0.1 {port_of(self.primary)}"
        self.replica = make_server(shutdown_timeout="0", replicaof=at)
        self.ports = [free_port() for _ in range(sentinels)]
        self.sentinels = [
            stack.enter_context(
                sentinel_of(
                    port_of(self.primary), folder / f"sentinel-{port}", port, quorum=sentinels // 2 + 1
                )
            )
            for port in self.ports
        ]
        self.port = self.ports[-1]
        self._sentinel = stack.enter_context(redis.Redis(port=self.port))
        until(self._watches, "the sentinel knows the replica", FAILOVER)

    @property
    def url(self) -> str:
        where = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://{where}/{SERVICE}"

    def _watches(self) -> bool:
        try:
            replicas: Any = self._sentinel.sentinel_slaves(SERVICE)
            others: Any = self._sentinel.sentinel_sentinels(SERVICE)
        except redis.ConnectionError:
            return False  # it does not listen yet
        links = [each["master-link-status"] for each in replicas if not each["is_sdown"]]
        return links == ["ok"] and len(others) == len(self.ports) - 1

    def promoted(self) -> None:
        """The primary is down: wait until the replica is the primary, and the sentinel says so."""
        self._is_down_after(500)

        def is_primary() -> bool:
            state: Any = self._sentinel.sentinel_masters()
            return bool(state[SERVICE]["port"] == port_of(self.replica) and state[SERVICE]["is_master"])

        until(is_primary, "the replica is promoted", FAILOVER)
        self._is_down_after(60_000)

    def _is_down_after(self, milliseconds: int) -> None:
        for port, process in zip(self.ports, self.sentinels, strict=True):
            if process.poll() is None:
                with redis.Redis(port=port) as sentinel:
                    sentinel.sentinel_set(SERVICE, "down-after-milliseconds", milliseconds)

    def replicated(self) -> None:
        """What the primary has, the replica has too."""
        with redis.Redis.from_url(self.primary.url) as raw:
            # Of this connection's own writes WAIT speaks; those before them came through the same stream.
            raw.set("the last write", "")
            until(lambda: raw.wait(1, 100) == 1, "the replica has it")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def service(make_server: MakeServer, tmp_path: Path, stack: ExitStack) -> Service:
    return Service(make_server, tmp_path, stack)


class Kinds:
    """Makes clients of each kind; the asyncio ones behind the interface of `Registry`."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._loop = stack.enter_context(loop_in_thread())

    def make(self, kind: str, url: str, namespace: str, **options: Any) -> Registry:
        """With a URL, or on a user's own client that is made of the URL's one sentinel."""
        if kind == "sync":
            return self._stack.enter_context(Registry.from_url(url, namespace, **options))
        if kind in ("asyncio", "redis-py"):
            transport = "redis-py" if kind == "redis-py" else "multiplexed"
            return self._behind(AsyncRegistry.from_url(url, namespace, transport=transport, **options))
        where = [("127.0.0.1", urlsplit(url).port or 0)]
        if kind == "own client":
            sentinel: Any = self._stack.enter_context(redis.Sentinel(where, **options))  # type: ignore[no-untyped-call]  # redis-py
            client: redis.Redis = self._stack.enter_context(sentinel.master_for(SERVICE))
            return self._stack.enter_context(Registry(client, namespace))
        sentinels: Any = redis.asyncio.sentinel.Sentinel(where, **options)  # type: ignore[no-untyped-call]  # redis-py
        theirs = sentinels.master_for(SERVICE)
        self._stack.callback(self._close, sentinels, theirs)
        return self._behind(AsyncRegistry(theirs, namespace))

    def _behind(self, registry: AsyncRegistry) -> Registry:
        return cast("Registry", self._stack.enter_context(cast("Any", AsyncFacade(registry, self._loop))))

    def _close(self, *closed: Any) -> None:
        for each in closed:
            asyncio.run_coroutine_threadsafe(each.aclose(), self._loop).result()


KINDS = ["sync", "asyncio", "redis-py", "own client", "own asyncio client"]


@pytest.fixture
def kinds(stack: ExitStack) -> Kinds:
    return Kinds(stack)


def renew_now(registry: Registry) -> None:
    """Have the keeper renew at once what is due in some seconds."""
    with keepalive._keeper.lock:
        for kept in keepalive_of(registry).claims.values():
            kept.due = now()
        keepalive._keeper.wake_by(now())


def is_renewed(registry: Registry, watcher: Registry, claim: Claim) -> None:
    """Wait until its keeper has renewed a claim."""

    def record() -> ModelRecord:
        found = watcher.get_model_record(claim.model_name, claim.provider)
        assert found is not None
        assert found.token == claim.token
        return found

    before = record().lease_expires_at
    renew_now(registry)
    until(lambda: record().lease_expires_at != before, "it is renewed", FAILOVER)


class Caller:
    """Somebody who claims and releases, and goes on after typed errors, until he is to stop."""

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry = registry
        self._name = name
        self._stopped = threading.Event()
        self.begun = 0
        self.tokens: list[int] = []
        self.errors: list[Exception] = []

    def run(self) -> None:
        while not self._stopped.wait(0.01):
            self.begun += 1
            # Each time another model: whether the one before is free again may not be known.
            try:
                result = self._registry.try_claim_for_download(f"{self._name}.{self.begun}", "S3", lease=30.0)
                assert isinstance(result, Claimed)
                self._registry.release_download_claim(result.claim)
            except (RegistryUnavailable, OutcomeUnknown) as error:
                self.errors.append(error)
            else:
                self.tokens.append(result.claim.token)

    def stop(self) -> None:
        self._stopped.set()


@debian
@pytest.mark.parametrize("kind", KINDS)
def test_a_failover(kinds: Kinds, service: Service, stack: ExitStack, namespace: str, kind: str) -> None:
    """Claims, waiters and reads go on over the promoted primary."""
    registry, waiting = (kinds.make(kind, service.url, namespace) for _ in range(2))
    kept = registry.try_claim_for_download("kept", "S3")
    assert isinstance(kept, Claimed)

    def download(_claim: object) -> None:
        raise AssertionError("there is somebody who downloads it")

    over = threading.Event()

    def wait() -> ModelRecord | None:
        while not over.is_set():
            try:
                return waiting.ensure("kept", "S3", download, timeout=FAILOVER)
            except (RegistryUnavailable, OutcomeUnknown):
                pass  # it lasts; a user would ask again too
        return None

    def listens(server: EmbeddedServer) -> bool:
        with redis.Redis.from_url(server.url) as raw:
            found: Any = raw.execute_command("PUBSUB", "SHARDNUMSUB", Keyspace(namespace).channel)
        return bool(found[1])

    callers = [Caller(registry, f"m{at}") for at in range(10)]
    threads = stack.enter_context(ThreadPoolExecutor(len(callers) + 1))
    for end in (over.set, waiting.close, *(caller.stop for caller in callers)):
        stack.callback(end)
    waits = threads.submit(wait)
    until(lambda: listens(service.primary), "it waits")
    service.replicated()

    assert service.primary.pid is not None
    os.kill(service.primary.pid, signal.SIGSTOP)
    running = [threads.submit(caller.run) for caller in callers]
    until(lambda: all(caller.begun for caller in callers), "all have asked")
    service.primary.kill()
    service.promoted()
    until(lambda: all(caller.tokens for caller in callers), "calls go on", FAILOVER)
    for caller in callers:
        caller.stop()
    for each in running:
        each.result()

    for caller in callers:
        assert min(caller.tokens) > kept.claim.token
        assert caller.tokens == sorted(set(caller.tokens))
    with redis.Redis.from_url(service.replica.url) as raw:
        assert raw.info("errorstats")["errorstat_NOSCRIPT"]["count"], "a promoted replica has no scripts"
    with Registry.from_url(service.replica.url, namespace) as watcher:
        is_renewed(registry, watcher, kept.claim)
    until(lambda: listens(service.replica), "it waits again", FAILOVER)
    assert registry.finish_download_claim(kept.claim, ModelStatus.DOWNLOADED)
    record = waits.result(FAILOVER)
    assert record is not None
    assert (record.status, record.token) == (ModelStatus.DOWNLOADED, kept.claim.token)


@debian
@pytest.mark.timeout(300)  # on a busy machine a sentinel trusts its clock no more, and does nothing for 30 s
def test_two_of_three_sentinels_decide(
    kinds: Kinds, make_server: MakeServer, tmp_path: Path, stack: ExitStack, namespace: str
) -> None:
    """A failover decided by two of three sentinels is followed by every client."""
    service = Service(make_server, tmp_path, stack, sentinels=3)
    clients = [kinds.make(kind, service.url, namespace) for kind in ("sync", "asyncio", "redis-py")]
    claims = []
    for at, client in enumerate(clients):
        result = client.try_claim_for_download(f"m{at}", "S3", lease=300.0)
        assert isinstance(result, Claimed)
        claims.append(result.claim)
    service.replicated()
    # The one that the URL names first dies too.
    service.sentinels[0].kill()
    service.sentinels[0].wait()
    service.primary.kill()
    service.promoted()
    for client, claim in zip(clients, claims, strict=True):
        until(lambda: reads(client), "it has found the next", FAILOVER)  # noqa: B023 - waits here
        assert client.finish_download_claim(claim, ModelStatus.DOWNLOADED)
        assert client.get_status(claim.model_name) is ModelStatus.DOWNLOADED


@debian
@pytest.mark.slow
@pytest.mark.timeout(300)  # on a busy machine a sentinel trusts its clock no more, and does nothing for 30 s
def test_an_old_primary_that_is_back_is_not_written_to(
    kinds: Kinds, service: Service, namespace: str
) -> None:
    """A former primary that is back gets no request."""
    clients = [kinds.make(kind, service.url, namespace) for kind in KINDS]

    def write(text: str) -> None:
        for kind, client in zip(KINDS, clients, strict=True):
            client.set_status(kind, "S3", "ERROR", text)

    write("before")
    service.replicated()
    service.primary.kill()
    service.promoted()
    for client in clients:
        # What fails on a connection to the one that is dead, is known not to have run, or not known.
        until(lambda: reads(client), "it has found the next", FAILOVER)  # noqa: B023 - waits here
    write("between")
    service.primary.start()  # empty, and it takes itself for a primary
    write("meanwhile")
    with redis.Redis.from_url(service.primary.url) as raw:

        def follows() -> bool:
            try:
                state: Any = raw.info("replication")
            except redis.ConnectionError:
                return False  # the sentinel ends all connections to one that it demotes
            return bool(state["role"] == "slave" and state["master_link_status"] == "up")

        until(follows, "the sentinel makes a replica of it", 3 * FAILOVER)
        write("after")
        keys = [Keyspace(namespace).record(f"S3:{kind}") for kind in KINDS]
        until(lambda: all(b"after" in (raw.get(key) or b"") for key in keys), "it follows", FAILOVER)
        assert "cmdstat_evalsha" not in raw.info("commandstats"), "nobody but the next primary was asked"
        with pytest.raises(redis.ReadOnlyError):
            raw.set("x", "")


def reads(client: Registry) -> bool:
    try:
        client.get_status("model")
    except RegistryUnavailable:
        return False
    return True


@debian
@pytest.mark.parametrize("kind", KINDS)
def test_a_demoted_primary_says_that_it_has_not_run_it(
    kinds: Kinds, service: Service, namespace: str, kind: str
) -> None:
    """A write to a demoted primary raises RegistryUnavailable, and works once it is promoted."""
    # redis-py makes a lost connection of READONLY here; what is not sent again after that, would be in doubt.
    registry = kinds.make(kind, service.url, namespace)
    registry.set_status("model", "S3", ModelStatus.ERROR)
    with redis.Redis.from_url(service.primary.url) as raw:
        raw.replicaof("127.0.0.1", free_port())
        with pytest.raises(RegistryUnavailable, match="read only"):
            registry.set_status("model", "S3", ModelStatus.DOWNLOADED)
        raw.replicaof("NO", "ONE")
    registry.set_status("model", "S3", ModelStatus.DOWNLOADED)


# What is said of the sentinels


@debian
@pytest.mark.parametrize("kind", ["sync", "asyncio", "redis-py"])
def test_sentinels_that_are_down_are_passed_over(
    kinds: Kinds, service: Service, namespace: str, kind: str
) -> None:
    """A sentinel that is down is skipped, and an unknown service raises a typed error."""
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{service.port}/{SERVICE}/3"
    registry = kinds.make(kind, url, namespace, client_name="ours")
    registry.set_status("model", "S3", ModelStatus.ERROR)
    with redis.Redis.from_url(service.primary.url) as raw:
        (ours,) = [each for each in raw.client_list() if each["name"] == "ours"]
        assert ours["db"] == "3"
    with pytest.raises(RegistryUnavailable, match="no sentinel knows a primary of 'another'"):
        kinds.make(kind, url.replace(SERVICE, "another"), namespace)
    with pytest.raises(RegistryUnavailable, match=r"no sentinel knows .* up; Error 111"):
        kinds.make(kind, f"redis+sentinel://127.0.0.1:{free_port()}/{SERVICE}", namespace)
    with pytest.raises(ServerRefused, match="SENTINEL"):
        kinds.make(kind, f"redis+sentinel://127.0.0.1:{port_of(service.primary)}/{SERVICE}", namespace)


@debian
@pytest.mark.parametrize("kind", KINDS)
def test_everything_of_redis_pys_handshake(
    kinds: Kinds, make_server: MakeServer, namespace: str, tmp_path: Path, stack: ExitStack, kind: str
) -> None:
    """Connections to sentinels and servers use TLS, passwords and database of the URL."""
    key, certificate = self_signed(tmp_path)
    files = {
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(certificate),
    }
    tls = {"tls-auth-clients": "no", "tls-replication": "yes", **files}
    port, sentinel_port = free_port(), free_port()
    config: dict[str, Any] = {"tls-port": str(port), **tls}
    server = make_server(password=SECRET, **config)
    lines = [f"{name} {value}" for name, value in tls.items()]
    more = "\n".join([f"tls-port {sentinel_port}", "requirepass theirs", *lines])
    stack.enter_context(sentinel_of(port, tmp_path / "sentinel", 0, more))
    trusts: dict[str, Any] = {"ssl_ca_certs": str(certificate)}
    raw = stack.enter_context(redis.Redis(port=sentinel_port, password="theirs", ssl=True, **trusts))
    until(lambda: answers(raw), "the sentinel listens")
    raw.execute_command("SENTINEL", "SET", SERVICE, "auth-pass", SECRET)
    until(lambda: is_up(raw), "it knows the primary", FAILOVER)

    url = f"rediss+sentinel://:{SECRET}@127.0.0.1:{sentinel_port}/{SERVICE}"
    own = kind.startswith("own")
    theirs = {"password": "theirs", **({"ssl": True, **trusts} if own else {})}
    ours = {"password": SECRET, "ssl": True} if own else {}
    registry = kinds.make(kind, url, namespace, sentinel_kwargs=theirs, **trusts, **ours)
    result = registry.try_claim_for_download("model", "S3")
    assert isinstance(result, Claimed)
    with Registry.from_url(server.url, namespace) as watcher:
        is_renewed(registry, watcher, result.claim)
    assert SECRET not in repr(registry)
    if not own:
        another = kinds.make(kind, f"{url}?sentinel_password=theirs", namespace, **trusts)
        assert another.get_status("model") is ModelStatus.DOWNLOADING
        with pytest.raises(AccessDenied, match="invalid username-password") as error:
            kinds.make(kind, f"{url}?sentinel_password={SECRET}", namespace, **trusts)
        assert SECRET not in str(error.value)


def answers(raw: redis.Redis) -> bool:
    try:
        return bool(raw.ping())
    except redis.ConnectionError:
        return False


def is_up(sentinel: redis.Redis) -> bool:
    state: Any = sentinel.sentinel_masters()
    return not state[SERVICE]["is_sdown"]


@debian
async def test_a_client_of_replicas_is_refused(service: Service) -> None:
    """A client of Sentinel's replicas raises InvalidArgument."""
    where = [("127.0.0.1", service.port)]
    with (
        redis.Sentinel(where) as sentinel,  # type: ignore[no-untyped-call]  # redis-py
        sentinel.slave_for(SERVICE) as client,
        pytest.raises(InvalidArgument, match="master_for"),
    ):
        Registry(client)
    async with redis.asyncio.sentinel.Sentinel(where) as sentinels, sentinels.slave_for(SERVICE) as theirs:  # type: ignore[no-untyped-call]  # redis-py
        with pytest.raises(InvalidArgument, match="master_for"):
            AsyncRegistry(theirs)
