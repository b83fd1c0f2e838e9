"""The near cache of a `Registry`: one connection remembers, others ask."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pyregistry import DamagedRecord, ModelStatus, Registry, RegistryClosed
from pyregistry._redis.cache import tracking_sync
from pyregistry._redis.cache.client_cache import SharedClientCache
from pyregistry._redis.transport.connection_sync import CallConnection, FastConnection
from tests.support.faults.truncate import Cutter
from tests.support.internals import ops_of
from tests.support.near import HITS, asked, near_of, tracked
from tests.support.servers import free_port, self_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pyregistry.embedded import EmbeddedServer
    from tests.conftest import MakeServer


@pytest.fixture
def looks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears what it must hear, and nothing by chance."""
    for setting in ("TURN", "PING_EVERY"):
        monkeypatch.setattr(tracking_sync, setting, 1000.0)


@pytest.mark.usefixtures("looks_no_more")
@pytest.mark.parametrize(
    "heard",
    ["claim", "claims", "records", "list", "iterator", "counts", "touch", "touches", "delete", "set_status",
     "failed", "event", "ensure"],
)  # fmt: skip
def test_nothing_is_older_than_what_was_heard_elsewhere(
    blocking: Registry, other: Registry, raw: redis.Redis, heard: str
) -> None:
    """A reply on any other connection makes later cached reads at least as recent."""
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    other.set_status("there", "S3", ModelStatus.DOWNLOADED)
    assert blocking.is_downloaded("model")
    assert blocking.get_status("model", "S3") is ModelStatus.DOWNLOADED
    assert blocking.get_model_record("model", "S3") == other.get_model_record("model", "S3")
    iterator = blocking.iter_models_by_last_used()
    raw.set(ops_of(other).keys.record("S3:damaged"), b"x")

    def fails() -> None:
        with pytest.raises(DamagedRecord):
            blocking.touch_model("damaged")

    with blocking.watch() as events:
        ways: dict[str, Callable[[], object]] = {
            "claim": lambda: blocking.try_claim_for_download("model", "S3"),
            "claims": lambda: blocking.try_claim_many([("model", "S3")]),
            "records": lambda: blocking.get_model_records(["model"]),
            "list": blocking.get_models_by_last_used,
            "iterator": lambda: next(iterator),
            "counts": blocking.get_status_counts,
            "touch": lambda: blocking.touch_model("model"),
            "touches": lambda: blocking.touch_models(["model"]),
            "delete": lambda: blocking.delete_model("another"),
            "set_status": lambda: blocking.set_status("another", "S3", ModelStatus.ERROR),
            "failed": fails,
            "event": lambda: next(events),
            "ensure": lambda: blocking.ensure("there", "S3", print),
        }
        if heard != "event":
            events.close()
        assert blocking.is_downloaded("model")
        other.set_status("model", "S3", ModelStatus.ERROR)
        if heard != "event":
            assert blocking.is_downloaded("model"), "else this shows nothing"
        ways[heard]()
        assert not blocking.is_downloaded("model")
        assert blocking.get_status("model", "S3") is ModelStatus.ERROR
        assert blocking.get_model_record("model", "S3") == other.get_model_record("model", "S3")


@pytest.mark.usefixtures("looks_no_more")
def test_no_thread_sees_less_than_another_has_seen(blocking: Registry, other: Registry) -> None:
    """No thread reads a value older than one that another thread has read or written."""
    # One thread writes, and says when it has; whoever asks after that must not see less.
    begun = done = token = 0
    over = False

    def ask_whether() -> int:
        sure = 0
        while not over:
            before = done
            there = blocking.is_downloaded("model", "S3")
            if before == begun:  # nothing was written meanwhile
                assert there == bool(before % 2)
                sure += 1
        return sure

    def ask_for_it() -> int:
        last = 0
        while not over:
            least = max(token, last)
            record = blocking.get_model_record("model", "S3")
            last = 0 if record is None else record.token
            assert last >= least
        return last

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # between any two steps
    try:
        with ThreadPoolExecutor(4) as pool:
            sure = [pool.submit(ask_whether) for _ in range(2)]
            seen = [pool.submit(ask_for_it) for _ in range(2)]
            try:
                for at in range(1, 301):
                    begun = at
                    wanted = ModelStatus.DOWNLOADED if at % 2 else ModelStatus.ERROR
                    blocking.set_status("model", "S3", wanted)
                    done = at
                    assert blocking.is_downloaded("model", "S3") == (at % 2)
                    record = other.get_model_record("model", "S3")
                    assert record is not None
                    token = record.token
            finally:
                over = True
            assert all(each.result() > 0 for each in sure)
            assert all(0 < each.result() <= token for each in seen)
    finally:
        sys.setswitchinterval(interval)


def test_scripts_that_are_gone_are_asked_for_elsewhere(
    blocking: Registry, other: Registry, raw: redis.Redis
) -> None:
    """After a script flush reads succeed over the other connections, and are cached again."""
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    raw.script_flush()
    for _ in range(3):
        assert blocking.get_model_record("model", "S3") == other.get_model_record("model", "S3")
    before = asked(raw, "mget", "evalsha")
    assert blocking.get_model_record("model", "S3") is not None
    assert asked(raw, "mget", "evalsha") == before


def test_an_interrupted_answer_is_nobody_elses(
    blocking: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted read closes the tracked connection, and later reads get their own replies."""
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    assert blocking.get_status("nothing", "S3") is None
    line = tracked(blocking)._line
    assert line is not None

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(line, "reply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        blocking.get_status("model", "S3")
    assert tracked(blocking)._line is None
    assert blocking.get_status("model", "S3") is ModelStatus.DOWNLOADED
    assert blocking.get_status("nothing", "S3") is None


def test_an_error_while_the_news_is_taken_in_is_told_and_costs_no_news(
    blocking: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception during an invalidation is raised, and the invalidation is not lost."""

    # As a signal's handler may raise one, anywhere.
    class Alarm(Exception):
        pass

    def rings(_push: object) -> None:
        raise Alarm

    assert not blocking.is_downloaded("model", "S3")
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    other.get_status_counts()  # it was said before this was answered
    tracked(blocking).doubt()
    with monkeypatch.context() as patched:
        patched.setattr(near_of(blocking), "invalidate", rings)
        with pytest.raises(Alarm):
            blocking.is_downloaded("model", "S3")
    assert blocking.is_downloaded("model", "S3")


def test_an_interrupted_end_of_the_connection_is_its_end(
    blocking: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracked connection whose close is interrupted is used no more."""
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    assert not blocking.is_downloaded("nothing", "S3")

    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tracked(blocking)._line, "reply", interrupted)
        patched.setattr(tracked(blocking), "_hang_up", interrupted)
        with pytest.raises(KeyboardInterrupt):
            blocking.is_downloaded("model", "S3")
    for name in ("another", "model", "nothing"):
        assert blocking.is_downloaded(name, "S3") == (name == "model"), (
            "it is not the answer to another question"
        )


def test_it_follows_to_another_server(
    make_server: MakeServer, server: EmbeddedServer, namespace: str, raw: redis.Redis
) -> None:
    """After a move to another server nothing cached from the former one is returned."""
    # What was the primary goes on by itself, and nobody closes the connections to it.
    with Cutter(server.url) as cutter, Registry.from_url(cutter.url, namespace, near_cache=True) as blocking:
        blocking.set_status("model", "S3", ModelStatus.DOWNLOADED)
        assert blocking.is_downloaded("model", "S3")
        cutter.leads_to(make_server().url)
        for each in raw.client_list():
            if "t" not in each["flags"] and each["id"] != str(raw.client_id()):
                raw.client_kill_filter(_id=each["id"])
        blocking.touch_model("model", "S3")  # whether it has heard of that end or not
        blocking.set_status("model", "S3", ModelStatus.ERROR)
        assert not blocking.is_downloaded("model", "S3")
        assert blocking.get_status("model", "S3") is ModelStatus.ERROR
        assert [each for each in raw.client_list() if "t" in each["flags"]] == []


def test_more_news_than_one_can_be_called_for(
    server: EmbeddedServer, namespace: str, raw: redis.Redis
) -> None:
    """More invalidations than the recursion limit are read from one connection."""
    # On a connection that redis-py's methods read, of which one calls itself for each.
    with Registry.from_url(server.url, namespace, near_cache=True, health_check_interval=1000) as blocking:
        names = [f"m{at}" for at in range(2 * sys.getrecursionlimit())]
        for name in names:
            assert not blocking.is_downloaded(name, "S3")
        for name in names:
            raw.set(ops_of(blocking).keys.record(f"S3:{name}"), b"\x91\xaaDOWNLOADED")
        tracked(blocking).doubt()
        assert all(blocking.is_downloaded(name, "S3") for name in names)
        assert type(tracked(blocking)._line) is CallConnection


def test_who_closes_it_waits_for_nobody(blocking: Registry) -> None:
    """close does not wait for a thread that uses the tracked connection."""
    assert not blocking.is_downloaded("model", "S3")
    with tracked(blocking)._held(1.0) as held:  # as another thread does, which waits for the server
        assert held
        blocking.close()
        assert tracked(blocking)._line is not None
    assert tracked(blocking)._line is None
    with pytest.raises(RegistryClosed):
        blocking.is_downloaded("model", "S3")


def test_who_can_not_have_the_connection_asks_by_the_others(
    blocking: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that can not get the tracked connection reads over another one."""
    # As in a signal's handler, while what it interrupts waits there.
    monkeypatch.setattr(tracking_sync, "_PATIENCE", 0.01)
    assert not blocking.is_downloaded("model", "S3")
    with tracked(blocking)._held(1.0):
        other.set_status("model", "S3", ModelStatus.DOWNLOADED)
        tracked(blocking).doubt()
        assert blocking.is_downloaded("model", "S3")
        assert blocking.get_model_record("model", "S3") == other.get_model_record("model", "S3")
    assert blocking.is_downloaded("model", "S3")


def test_a_server_that_takes_no_writes_is_read_by_the_others(
    blocking: Registry, other: Registry, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads succeed where the server refuses the tracked connection's setup."""
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    assert not blocking.is_downloaded("another", "S3")
    raw.config_set("min-replicas-to-write", "1")
    monkeypatch.setattr(tracked(blocking), "_sound", False)
    for _ in range(3):
        assert blocking.is_downloaded("model", "S3")
        assert blocking.get_status("model", "S3") is ModelStatus.DOWNLOADED


def test_without_its_connection_it_asks_by_the_others_and_has_one_again(
    blocking: Registry, other: Registry, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a tracked connection reads are not cached, until there is one again."""
    assert not blocking.is_downloaded("model", "S3")
    (ours,) = [each for each in raw.client_list() if "t" in each["flags"]]
    assert raw.client_kill_filter(_id=ours["id"]) == 1
    tracked(blocking).doubt()
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    for _ in range(3):
        assert blocking.is_downloaded("model", "S3")
        assert blocking.get_model_record("model", "S3") == other.get_model_record("model", "S3")
    assert not near_of(blocking)._known
    assert not [each for each in raw.client_list() if "t" in each["flags"]]
    monkeypatch.setattr(tracked(blocking), "_not_before", 0.0)
    assert blocking.is_downloaded("model", "S3")
    before = asked(raw, "mget")
    assert blocking.is_downloaded("model", "S3")
    assert asked(raw, "mget") == before


@pytest.mark.usefixtures("looks_no_more")
@pytest.mark.parametrize(
    "way", ["unix", "health check", pytest.param("tls", marks=pytest.mark.server("debian"))]
)
def test_whatever_the_connection_is_like(
    make_server: MakeServer, namespace: str, tmp_path: Path, way: str
) -> None:
    """Invalidations are read over unix sockets, TLS, and redis-py's own connections."""
    port = free_port()
    settings: dict[str, Any] = {"unixsocket": str(tmp_path / "s")}
    options: dict[str, Any] = {}
    if way == "tls":
        key, certificate = self_signed(tmp_path)
        settings |= {
            "tls_port": str(port), "tls_cert_file": str(certificate), "tls_key_file": str(key),
            "tls_ca_cert_file": str(certificate), "tls_auth_clients": "no",
        }  # fmt: skip
        options = {"ssl_ca_certs": str(certificate)}
    elif way == "health check":
        options = {"health_check_interval": 1}
    server = make_server(**settings)
    urls = {"unix": f"unix://{tmp_path / 's'}", "tls": f"rediss://127.0.0.1:{port}"}
    with (
        Registry.from_url(urls.get(way, server.url), namespace, near_cache=True, **options) as blocking,
        Registry.from_url(server.url, namespace) as other,
    ):
        for at in range(50):
            # Long names: what is said of them comes in pieces.
            names = [f"{'m' * 900}{each}" for each in range(at % 7 + 1)]
            wanted = ModelStatus.DOWNLOADED if at % 2 else ModelStatus.ERROR
            for name in names:
                blocking.is_downloaded(name, "S3")
            for name in names:
                other.set_status(name, "S3", wanted)
            other.get_status_counts()  # it was said before this was answered
            near_of(blocking).epoch.until = 0.0  # longer than a turn ago
            for name in names:
                assert blocking.is_downloaded(name, "S3") == (wanted is ModelStatus.DOWNLOADED)
        line = tracked(blocking)._line
        assert line is not None
        assert type(line) is (CallConnection if way == "health check" else FastConnection)


def test_a_conclusion_is_drawn_before_what_it_rests_on_is_forgotten() -> None:
    """An answer derived from cached values is dropped when one of them is invalidated meanwhile."""
    near = SharedClientCache()
    near.learn(["a"], [b"1"])
    news = threading.Thread(target=near.invalidate, args=([b"invalidate", [b"a"]],))

    def follow(values: Sequence[Any]) -> bool:
        news.start()
        news.join(0.1)  # it ends in that time only if nothing keeps it from forgetting
        return values == [b"1"]

    near.answer("question", ["a"], follow)
    news.join()
    assert not near.answers


def test_a_forked_child_of_threads_has_a_memory_of_its_own(blocking: Registry, other: Registry) -> None:
    """A forked child starts with an empty cache, and its parent goes on to get invalidations."""
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    assert blocking.is_downloaded("model", "S3")
    reads, writes = os.pipe()
    with tracked(blocking)._hearing:  # as if another thread did: nobody lets go of it in the child
        child = os.fork()
        if child == 0:
            try:
                known = len(near_of(blocking)._known), len(near_of(blocking).answers)
                there = blocking.is_downloaded("model", "S3")
                os.write(writes, b"%d %d %d %d" % (*known, there, blocking.is_downloaded("model", "S3")))
            finally:
                os._exit(0)
    os.close(writes)
    said = os.read(reads, 100)
    os.close(reads)
    os.waitpid(child, 0)
    assert said == b"0 0 1 1"
    other.set_status("model", "S3", ModelStatus.ERROR)
    for _ in range(HITS):
        if not blocking.is_downloaded("model", "S3"):
            return
    pytest.fail("the parent hears nothing any more")
