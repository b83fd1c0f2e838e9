"""Servers that lack a command, or speak RESP2 only, and nodes of a cluster: what is wrong is named."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis
from redis.crc import key_slot

from pyregistry import (
    AccessDenied,
    Claimed,
    ModelStatus,
    NotNow,
    Registry,
    ServerRefused,
    ServerTooOld,
    doctor,
)
from pyregistry.embedded.binary import find_binary
from tests.support import servers
from tests.support.faults.proxy import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.conftest import MakeServer
    from tests.support.clients import Connect

    Serve = Callable[..., AbstractContextManager[str]]

MODEL: Final = ("model", "S3")
BRIEF = 0.6  # seconds for which a call goes out again while it is refused


@pytest.fixture
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Serve:
    """Starts a server without some commands. (What starts the others needs HELLO and INFO.) Gives its URL."""
    kind = str(request.config.getoption("--server"))
    binary = None if kind == "container" else servers.binary(kind)

    @contextmanager
    def start(*without: str) -> Iterator[str]:
        port = servers.free_port()
        command = [str(binary or find_binary()), "--port", str(port), "--dir", str(tmp_path), "--save", ""]
        for name in without:
            command += ["--rename-command", name, ""]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        url = f"redis://127.0.0.1:{port}"

        def answers() -> bool:
            with suppress(redis.ConnectionError), redis.Redis.from_url(url, protocol=2) as raw:
                return bool(raw.ping())
            return False

        try:
            until(answers, "the server answers")
            yield url
        finally:
            process.terminate()
            process.wait()

    return start


def uses(registry: Registry, other: Registry) -> None:
    """What there is to a registry, with a waiter that is told by an event."""
    claimed = other.try_claim_for_download(*MODEL)
    assert isinstance(claimed, Claimed)
    assert registry.get_status(*MODEL) is ModelStatus.DOWNLOADING
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(registry.ensure, MODEL[0], MODEL[1], print, timeout=60.0)
        assert other.refresh_download_claim(claimed.claim, bytes_done=1)
        assert other.finish_download_claim(claimed.claim, ModelStatus.DOWNLOADED)
        assert waits.result().token == claimed.claim.token
    assert registry.get_status_counts() == (0, 1, 0)
    assert isinstance(registry.try_claim_for_download("another", "S3"), Claimed)


def test_without_hello_it_is_resp2(connect_any: Connect, serve: Serve) -> None:
    """A server without HELLO is used over RESP2."""
    with serve("HELLO") as url:
        registry, other = connect_any(url=url), connect_any(url=url)
        uses(registry, other)
        with redis.Redis.from_url(url, protocol=2) as raw:
            assert {each.get("resp", "2") for each in raw.client_list()} == {"2"}
        assert connect_any(url=url + "?protocol=2", namespace="more").get_status(*MODEL) is None


@pytest.mark.parametrize("connect_any", ["sync", "asyncio"], indirect=True)
def test_a_near_cache_needs_hello(connect_any: Connect, serve: Serve) -> None:
    """A near cache on a server without HELLO raises ServerRefused."""
    options: Any = {"near_cache": True}
    with serve("HELLO") as url, pytest.raises(ServerRefused, match="needs the command HELLO"):
        connect_any(url=url, **options)


def test_resp2_that_is_asked_for(connect_any: Connect, make_server: MakeServer) -> None:
    """protocol=2 is used on every connection."""
    url = make_server().url
    options: Any = {"protocol": 2}
    registry, other = connect_any(url=url, **options), connect_any(url=url, **options)
    uses(registry, other)
    with redis.Redis.from_url(url) as raw:
        mine = raw.client_id()
        assert {each["resp"] for each in raw.client_list() if each["id"] != str(mine)} <= {"2"}


@pytest.mark.parametrize("name", ["INFO", "TIME", "HMGET", "EVALSHA", "SCRIPT"])
def test_a_command_that_is_not_there_is_named(connect_any: Connect, serve: Serve, name: str) -> None:
    """A server without a required command raises ServerRefused with the command's name."""
    with serve(name) as url:
        for _ in range(2):
            with pytest.raises(ServerRefused, match=f"needs the command {name}, .*renamed") as caught:
                connect_any(url=url)
            assert not isinstance(caught.value, ServerTooOld)


@pytest.mark.parametrize("right", ["info", "time", "evalsha", "script|load", "hmget"])
def test_a_right_that_is_missing_is_named(connect_any: Connect, make_server: MakeServer, right: str) -> None:
    """A user without a required right gets AccessDenied with the right's name."""
    server = make_server()
    with redis.Redis.from_url(server.url) as raw:
        command: Any = raw.execute_command
        command("ACL", "SETUSER", "fleet", "on", ">word", "~*", "&*", "+@all", f"-{right}")
        with pytest.raises(AccessDenied, match=f"(?i){right.replace('|', '.')}"):
            connect_any(url=server.url, username="fleet", password="word")


# Clusters


def slots_of(raw: redis.Redis, first: int, last: int) -> None:
    command: Any = raw.execute_command
    command("CLUSTER", "ADDSLOTSRANGE", first, last)


def is_ok(raw: redis.Redis) -> bool:
    state: Any = raw.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]  # redis-py
    return "cluster_state:ok" in (state.decode() if isinstance(state, bytes) else str(state)) or (
        isinstance(state, dict) and state.get("cluster_state") == "ok"
    )


def test_a_cluster_without_its_slots(connect_any: Connect, make_server: MakeServer, namespace: str) -> None:
    """A cluster without slots raises NotNow, and a single node with all slots works."""
    server = make_server(cluster_enabled="yes", cluster_port=str(servers.free_port()))
    with pytest.raises(NotNow, match="this is a cluster: CLUSTERDOWN "):
        connect_any(url=server.url, timeout=BRIEF)
    (finding,) = doctor.examine(server.url, namespace, timeout=BRIEF)
    assert "this is a cluster: CLUSTERDOWN " in finding.message
    # One that has all of them is as any other server.
    with redis.Redis.from_url(server.url) as raw:
        slots_of(raw, 0, 16383)
        until(lambda: is_ok(raw), "the cluster is up")
    registry, other = connect_any(url=server.url), connect_any(url=server.url)
    uses(registry, other)


def test_the_wrong_node_of_a_cluster(connect_any: Connect, make_server: MakeServer, namespace: str) -> None:
    """The wrong node of a cluster raises ServerRefused, and doctor says so."""
    servers_ = [make_server(cluster_enabled="yes", cluster_port=str(servers.free_port())) for _ in range(2)]
    first, second = (redis.Redis.from_url(each.url) for each in servers_)
    with first, second:
        slots_of(first, 0, 8191)
        slots_of(second, 8192, 16383)
        port = int(second.connection_pool.connection_kwargs["port"])
        command: Any = first.execute_command
        command("CLUSTER", "MEET", "127.0.0.1", port, second.config_get("cluster-port")["cluster-port"])
        until(lambda: is_ok(first) and is_ok(second), "the cluster is up")
    at = key_slot(f"pyregistry:{{{namespace}}}:meta".encode()) > 8191
    right, wrong = servers_[at].url, servers_[not at].url
    assert connect_any(url=right).get_status(*MODEL) is None
    with pytest.raises(ServerRefused, match="this is a cluster: MOVED "):
        connect_any(url=wrong)
    (finding,) = doctor.examine(wrong, namespace)
    assert "this is a cluster: MOVED " in finding.message


def test_a_slot_that_moves_to_another_node(
    connect_any: Connect, make_server: MakeServer, namespace: str
) -> None:
    """While a slot moves, a key that is gone raises ServerRefused (ASK), and several keys NotNow (TRYAGAIN)."""
    servers_ = [make_server(cluster_enabled="yes", cluster_port=str(servers.free_port())) for _ in range(2)]
    first, second = (redis.Redis.from_url(each.url) for each in servers_)
    with first, second:
        slots_of(first, 0, 16383)
        port = int(second.connection_pool.connection_kwargs["port"])
        command: Any = first.execute_command
        command("CLUSTER", "MEET", "127.0.0.1", port, second.config_get("cluster-port")["cluster-port"])
        until(lambda: is_ok(first) and is_ok(second), "the cluster is up")
        registry = connect_any(url=servers_[0].url, timeout=0.3)
        registry.set_status("there", "S3", ModelStatus.DOWNLOADED)
        slot = key_slot(f"pyregistry:{{{namespace}}}:meta".encode())
        other: Any = second.execute_command("CLUSTER MYID")  # type: ignore[no-untyped-call]  # redis-py
        command("CLUSTER", "SETSLOT", slot, "MIGRATING", other)
        assert registry.get_status("there", "S3") is ModelStatus.DOWNLOADED
        with pytest.raises(ServerRefused, match="this is a cluster: ASK "):
            registry.get_status("moved", "S3")
        with pytest.raises(NotNow, match="this is a cluster: TRYAGAIN "):
            registry.try_claim_for_download("moved", "S3", lease=5.0)
        command("CLUSTER", "SETSLOT", slot, "STABLE")
        assert registry.get_status("moved", "S3") is None
