"""`pyregistry ping`: whether the registry answers, and takes writes, for probes."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pyregistry import Registry
from pyregistry.cli.exit_codes import Exit
from tests.support.cli import spawn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeServer
    from tests.support.cli import Run

SECONDS = 60.0


def test_it_answers(run: Run, registry: Registry) -> None:
    """`ping` says whether the server answers, and with --write whether it takes writes."""
    registry.set_status("m", "S3", "DOWNLOADED")
    for options, writes in ([], None), (["--write"], True):
        answered = run("ping", *options)
        assert (answered.code, answered.err) == (Exit.DONE, "")
        assert "answers" in answered.out
        assert ("takes writes" in answered.out) is (writes is True)
        assert registry.namespace in answered.out
        told = run("ping", *options, "--json").json
        assert (told["writes"], told["namespace"]) == (writes, registry.namespace)
        assert told["milliseconds"] > 0


def state(client: redis.Redis) -> dict[Any, Any]:
    """Every key of the server's database, and what is in it."""
    return {key: client.dump(key) for key in client.keys("*")}


def test_it_changes_nothing(run: Run, make_server: MakeServer) -> None:
    """`ping` changes no key and publishes no event."""
    server = make_server()
    with redis.Redis.from_url(server.url) as client:
        assert run("ping", "--url", server.url, "--namespace", "n").code == Exit.DONE
        assert client.keys("*") == [], "nor does it make a namespace"
        with Registry.from_url(server.url, "n") as registry:
            registry.set_status("m", "S3", "DOWNLOADED")
            registry.try_claim_for_download("n", "HuggingFace", lease=60)
            before = state(client)
            with client.pubsub() as listener:
                listener.ssubscribe("pyregistry:{n}:events")
                assert listener.get_sharded_message(timeout=SECONDS)["type"] == "ssubscribe"
                assert run("ping", "--url", server.url, "--namespace", "n").code == Exit.DONE
                assert run("ping", "--write", "--url", server.url, "--namespace", "n").code == Exit.DONE
                assert state(client) == before
                registry.set_status("last", "S3", "ERROR")
                first = listener.get_sharded_message(timeout=SECONDS)
                assert b"last" in first["data"], "no event came before this one"


def test_a_write_is_refused_where_a_claim_is(run: Run, make_server: MakeServer) -> None:
    """`ping --write` fails where a claim would be refused."""
    server = make_server()
    port = server.url.rpartition(":")[2]

    def code(*options: str, user: str = "") -> int:
        ended = run("ping", "--url", f"redis://{user}127.0.0.1:{port}", "--namespace", "n", *options)
        assert ended.out == "" or ended.code == Exit.DONE
        return ended.code

    with redis.Redis.from_url(server.url) as client:
        client.execute_command(
            "ACL", "SETUSER", "reads", "on", ">pw", "%R~pyregistry:{n}:*", "&pyregistry:{n}:*", "+@all"
        )
        assert (code(user="reads:pw@"), code("--write", user="reads:pw@")) == (Exit.DONE, Exit.SERVER_REFUSED)
        client.execute_command("ACL", "SETUSER", "other", "on", ">pw", "~pyregistry:{o}:*", "+@all")
        assert code(user="other:pw@") == Exit.SERVER_REFUSED, "the rights are those of this namespace"
        assert code(user="nobody:pw@") == Exit.SERVER_REFUSED
        client.config_set("min-replicas-to-write", "1")
        assert (code(), code("--write")) == (Exit.DONE, Exit.UNAVAILABLE)
        client.config_set("min-replicas-to-write", "0")
        client.config_set("maxmemory", "1")
        assert (code(), code("--write")) == (Exit.DONE, Exit.SERVER_REFUSED)
        client.config_set("maxmemory", "0")
        client.replicaof("127.0.0.1", "1")
        assert code("--write") == Exit.UNAVAILABLE
        client.replicaof("NO", "ONE")
        assert code("--write") == Exit.DONE


def test_nobody_answers(run: Run) -> None:
    """`ping` of an unreachable server exits with UNAVAILABLE."""
    gone = run("ping", "--url", "redis://127.0.0.1:1", "--json")
    assert gone.code == Exit.UNAVAILABLE
    assert "redis://127.0.0.1:1" in json.loads(gone.err)["message"]


@pytest.fixture
def dripping() -> Iterator[int]:
    """The port of a server that sends a byte now and then, for ever."""
    ends = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(b"$1000000\r\n")
            while not ends.wait(0.1):
                connection.sendall(b"x")

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=drip, args=(connection,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=serve)]
        threads[0].start()
        yield listener.getsockname()[1]
        ends.set()
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(SECONDS)


@pytest.mark.parametrize("options", [[], ["--write"]])
def test_it_ends_in_time_whatever_the_server_does(dripping: int, options: list[str]) -> None:
    """`ping` ends within its timeout on a server that replies byte by byte."""
    # As a process, which is killed, and the test fails, if it takes as long as the server goes on.
    late = spawn("ping", "--url", f"redis://127.0.0.1:{dripping}", "--timeout", 1, *options)
    assert late.code == Exit.UNAVAILABLE
    assert late.err.startswith(f"pyregistry: ping: redis://127.0.0.1:{dripping}: no answer within 1 s")
