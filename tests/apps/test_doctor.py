"""`pyregistry.doctor`: what it finds on real servers, and what it leaves alone."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec
import pytest
import redis

from pyregistry import Claimed, ModelRef, Registry, RegistryUnavailable
from pyregistry._core.model_key import entry_of
from pyregistry._redis.diagnosis.records import Census
from pyregistry._redis.diagnosis.server import Facts, judge
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry._redis.protocol.records import StoredRecord
from pyregistry.backend.findings import EXAMPLES
from pyregistry.doctor import Finding, Level, examine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import MakeServer

from tests.support.servers import KINDS

pytestmark = pytest.mark.server(*KINDS)  # it looks at the server
PROVIDER: Final = "HuggingFace"
HEALTHY = {"server", "eviction", "persistence", "clock", "records"}


class Patient:
    """A namespace, and a client that writes to it past the scripts."""

    def __init__(self, url: str, namespace: str, client: redis.Redis, registry: Registry) -> None:
        self.url = url
        self.namespace = namespace
        self.client = client
        self.registry = registry
        self.keys = Keyspace(namespace)

    def key(self, name: str) -> str:
        return self.keys.record(entry_of(name, PROVIDER, None, None))

    def found(self, check: str = "records") -> list[Finding]:
        """What is found by one check, but for what is well."""
        findings = examine(self.url, self.namespace)
        return [each for each in findings if each.check == check and each.level is not Level.OK]


@pytest.fixture
def patient(server_url: str, namespace: str) -> Iterator[Patient]:
    with redis.Redis.from_url(server_url) as client, Registry.from_url(server_url, namespace) as registry:
        yield Patient(server_url, namespace, client, registry)


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# The server


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_healthy_server(make_server: MakeServer, protocol: int) -> None:
    """A healthy server has findings of level OK alone."""
    server = make_server(persistent=True)
    url = f"{server.url}?protocol={protocol}"
    with Registry.from_url(url, "mine") as registry:
        registry.set_status("m", PROVIDER, "DOWNLOADED")
        version = registry.server_version
    found = examine(url, "mine")
    assert {finding.check for finding in found} == HEALTHY
    assert {finding.level for finding in found} == {Level.OK}
    said = by_check(found)
    assert version is not None
    assert said["server"].message.startswith(version)
    assert "namespace mine" in said["server"].message
    assert said["records"].message.startswith("1 record:")


@pytest.mark.parametrize(("policy", "level"), [("allkeys-lru", Level.ERROR), ("volatile-ttl", Level.WARNING)])
def test_a_server_that_evicts(make_server: MakeServer, policy: str, level: Level) -> None:
    """A maxmemory-policy other than noeviction is reported by its severity."""
    said = by_check(examine(make_server(maxmemory_policy=policy).url))
    assert said["eviction"].level is level
    assert policy in said["eviction"].message
    assert "noeviction" in said["eviction"].advice


def test_a_server_that_keeps_nothing(make_server: MakeServer) -> None:
    """A server without persistence is a warning."""
    said = by_check(examine(make_server().url))
    assert said["persistence"].level is Level.WARNING
    assert "appendonly yes" in said["persistence"].advice


def test_a_server_with_snapshots_only(make_server: MakeServer) -> None:
    """A server with snapshots alone is an information."""
    said = by_check(examine(make_server(save="3600 1").url))
    assert said["persistence"].level is Level.INFO
    assert "3600 1" in said["persistence"].message


def test_a_server_that_could_not_write(make_server: MakeServer, tmp_path: Path) -> None:
    """A failed write of the server to its disk is an error."""
    server = make_server(data_dir=tmp_path)
    # Where its snapshot would go there is a folder, with something in it.
    (tmp_path / "dump.rdb" / "in the way").mkdir(parents=True)
    with redis.Redis.from_url(server.url) as client:
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    said = [each.message for each in examine(server.url) if each.level is Level.ERROR]
    assert said == ["the server's last write to its disk failed (rdb_last_bgsave_status)"]


def test_a_server_that_is_nearly_full(make_server: MakeServer) -> None:
    """A server near its maxmemory is a warning."""
    server = make_server()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.02))
    said = by_check(examine(server.url))
    assert said["memory"].level is Level.WARNING


def test_replicas_that_nobody_waits_for(make_server: MakeServer) -> None:
    """Replicas without min-replicas-to-write are a warning."""
    primary = make_server()
    port = urlsplit(primary.url).port
    make_server(replicaof=f"127.0.0.1 {port}")
    with redis.Redis.from_url(primary.url) as client:
        wait_until(lambda: client.info("replication")["connected_slaves"] == 1)
        said = by_check(examine(primary.url))
        assert said["replication"].level is Level.WARNING
        assert "min-replicas-to-write" in said["replication"].advice
        client.config_set("min-replicas-to-write", 1)
        # It refuses all writes until it has heard of the replica once more.
        wait_until(lambda: "replication" in by_check(examine(primary.url)))
    assert by_check(examine(primary.url))["replication"].level is Level.OK


def test_rights_that_are_missing(make_server: MakeServer) -> None:
    """A missing right and wrong credentials are errors, without the password."""
    server = make_server(persistent=True)
    url = server.url.replace("redis://", "redis://bob:secret-word@")
    with redis.Redis.from_url(server.url) as client:
        client.execute_command(
            "ACL", "SETUSER", "bob", "on", ">secret-word", "~*", "&*", "+@all", "-spublish"
        )
    (finding,) = examine(url)
    assert (finding.level, finding.check) == (Level.ERROR, "rights")
    assert "spublish" in finding.message.lower()
    (finding,) = examine(url.replace("secret-word", "wrong-word"))
    assert (finding.level, finding.check) == (Level.ERROR, "rights")
    assert "word" not in finding.message.replace("password", "")


def test_what_may_not_be_read_is_not_ok(make_server: MakeServer) -> None:
    """What the user may not read is an information and not OK."""
    server = make_server()
    url = server.url.replace("redis://", "redis://bob:pw@")
    with redis.Redis.from_url(server.url) as client:
        user = ("on", ">pw", "~*", "&*", "+@all", "-config", "-scan")
        client.execute_command("ACL", "SETUSER", "bob", *user)
        said = by_check(examine(url))
        assert said["eviction"].level is Level.OK, "INFO says it too"
        assert said["persistence"].level is Level.INFO
        assert said["records"].level is Level.INFO
        for check in ("persistence", "records"):
            assert "could not be read" in said[check].message
        client.execute_command("ACL", "SETUSER", "bob", "-info", "+info|server")
    said = by_check(examine(url))
    assert said["eviction"].level is Level.INFO
    assert "could not be read" in said["eviction"].message


def test_a_namespace_that_is_too_new(patient: Patient) -> None:
    """A newer schema is an error."""
    patient.client.hset(patient.keys.meta, "schema", 99)
    (finding,) = examine(patient.url, patient.namespace)
    assert (finding.level, finding.check) == (Level.ERROR, "schema")


def test_a_shared_key_of_another_type(patient: Patient) -> None:
    """A shared key of another type is an error."""
    patient.client.set(patient.keys.indexes[next(iter(patient.keys.indexes))], "x")
    (finding,) = examine(patient.url, patient.namespace)
    assert finding.level is Level.ERROR
    assert "WRONGTYPE" in finding.message


def test_nobody_there() -> None:
    """An unreachable server raises RegistryUnavailable."""
    with pytest.raises(RegistryUnavailable):
        examine("redis://127.0.0.1:1")


FACTS = Facts(
    info={"aof_enabled": "1", "maxmemory_policy": "noeviction"},
    config=None,
    last_write=0,
    skew=0,
    server_time=1000.0,
    local_time=1000.0,
)


@pytest.mark.parametrize(("gap", "level"), [(0, "ok"), (-59, "ok"), (61, "warning"), (-3600, "warning")])
def test_clocks(gap: float, level: str) -> None:
    """A difference of the clocks is reported by its size."""
    found = by_check(judge(replace(FACTS, server_time=1000.0 + gap)))["clock"]
    assert found.level == level
    assert f"{abs(gap):.1f} s {'ahead of' if gap > 0 else 'behind'}" in found.message


def test_a_clock_that_stepped_back(patient: Patient) -> None:
    """A server clock that went back is reported with the difference."""
    patient.registry.set_status("m", PROVIDER, "DOWNLOADED")
    assert patient.found("lease time") == []
    seconds, _ = patient.client.time()
    patient.client.hset(patient.keys.meta, "time", (seconds + 3600) * 1_000_000)
    (found,) = patient.found("lease time")
    assert found.level is Level.INFO
    assert 3000 < float(found.message.split()[0]) <= 3600
    patient.registry.touch_model("m")
    patient.client.hset(patient.keys.meta, "time", seconds * 1_000_000)
    (found,) = patient.found("lease time")
    assert 3000 < float(found.message.split()[0]) <= 3600, "it stays ahead"


def test_a_clock_that_was_set_right(patient: Patient) -> None:
    """By part of a millisecond, as NTP does: nobody has to know."""
    patient.client.hset(patient.keys.meta, "skew", 250)
    patient.registry.set_status("m", PROVIDER, "DOWNLOADED")
    assert patient.found("lease time") == []


# The records


def test_damaged_records(patient: Patient) -> None:
    """Damaged records are errors with their models, until a forced delete."""
    patient.registry.set_status("whole", PROVIDER, "DOWNLOADED")
    negative = msgspec.msgpack.encode(StoredRecord(status="DOWNLOADED", token=-1))
    for name, value in {"bytes": b"x", "status": b"\x91\xa4GONE", "negative": negative}.items():
        patient.client.set(patient.key(name), value)
    patient.client.rpush(patient.key("list"), "x")
    (found,) = patient.found()
    assert (found.level, found.message) == (Level.ERROR, "4 records: can't be read")
    assert {ref.name for ref in found.models} == {"bytes", "status", "negative", "list"}
    for name in ("bytes", "status", "negative", "list"):
        patient.registry.delete_model(name, force=True)
    assert patient.found() == []


def test_a_record_in_two_sets(patient: Patient) -> None:
    """A record in several indexes is an error that the advice heals."""
    patient.registry.set_status("m", PROVIDER, "DOWNLOADED")
    error = patient.keys.indexes[next(status for status in patient.keys.indexes if status == "ERROR")]
    patient.client.zadd(error, {entry_of("m", PROVIDER, None, None): 1})
    (found,) = patient.found()
    assert (found.level, found.message) == (Level.ERROR, "1 record: in several sets")
    assert found.models == (ModelRef("m", PROVIDER),)
    patient.registry.set_status("m", PROVIDER, "DOWNLOADED")
    assert patient.found() == [], "the advice"


def test_a_record_in_the_wrong_set_and_in_none(patient: Patient) -> None:
    """A record in the wrong index, or in none, is an error that the advice heals."""
    for name in ("wrong", "none"):
        patient.registry.set_status(name, PROVIDER, "DOWNLOADED")
    _, downloaded, error, _ = patient.keys.indexes.values()
    patient.client.zrem(
        downloaded, entry_of("wrong", PROVIDER, None, None), entry_of("none", PROVIDER, None, None)
    )
    patient.client.zadd(error, {entry_of("wrong", PROVIDER, None, None): 1})
    found = {finding.message: finding.models for finding in patient.found()}
    assert found == {
        "1 record: in no set, so not listed": (ModelRef("none", PROVIDER),),
        "1 record: in the set of another status": (ModelRef("wrong", PROVIDER),),
    }
    patient.registry.set_status("wrong", PROVIDER, "DOWNLOADED")
    patient.registry.touch_model("none")
    assert patient.found() == [], "the advice"


def test_entries_without_a_record(patient: Patient) -> None:
    """An index entry without a record is an error that the advice heals."""
    index = next(iter(patient.keys.indexes.values()))
    patient.client.zadd(index, {f"{PROVIDER}@v1:m": 1})
    patient.client.zadd(index, {b"\xff\xfe": 2})
    (found,) = patient.found()
    assert (found.level, found.message) == (Level.ERROR, "2 records: listed, but there is none")
    assert ModelRef("m", PROVIDER, "v1") in found.models
    patient.client.zrem(index, b"\xff\xfe")
    patient.registry.set_status("m", PROVIDER, "ERROR", revision="v1")
    patient.registry.delete_model("m", PROVIDER, revision="v1")
    assert patient.found() == [], "the advice"


def test_sums_that_are_wrong(patient: Patient) -> None:
    """A wrong sum of bytes is a warning whose advice corrects it."""
    claim = patient.registry.try_claim_for_download("m", PROVIDER, lease=60, expected_bytes=7)
    assert isinstance(claim, Claimed)
    assert patient.found("sums") == []
    patient.client.hincrby(patient.keys.meta, "bytes:DOWNLOADING", 5)
    (found,) = patient.found("sums")
    assert found.level is Level.WARNING
    assert found.message == "bytes:DOWNLOADING is 12, and the records' is 7"
    assert found.advice.endswith(f"HSET {patient.keys.meta} bytes:DOWNLOADING 7")
    patient.client.hset(patient.keys.meta, "bytes:DOWNLOADING", 7)
    assert patient.found("sums") == []


def test_downloads_that_nobody_goes_on_with(patient: Patient) -> None:
    """Downloads with an expired lease, or none, are reported."""
    patient.registry.try_claim_for_download("stuck", PROVIDER, lease=0.000001)
    patient.registry.try_claim_for_download("alive", PROVIDER, lease=3600)
    patient.registry.try_claim_for_download("for ever", PROVIDER, lease=None)
    stuck, unleased = patient.found()
    assert (stuck.level, stuck.models) == (Level.WARNING, (ModelRef("stuck", PROVIDER),))
    assert (unleased.level, unleased.models) == (Level.INFO, (ModelRef("for ever", PROVIDER),))


def test_leases_are_judged_by_lease_time(patient: Patient) -> None:
    """Leases are compared with lease time, not with the server's clock."""
    # The server's clock has stepped back by an hour: the lease that ends in half an hour holds.
    patient.registry.set_status("first", PROVIDER, "ERROR")
    seconds, _ = patient.client.time()
    patient.client.hset(patient.keys.meta, "time", (seconds + 3600) * 1_000_000)
    patient.registry.try_claim_for_download("alive", PROVIDER, lease=1800)
    patient.registry.try_claim_for_download("stuck", PROVIDER, lease=0.000001)
    (stuck,) = patient.found()
    assert stuck.models == (ModelRef("stuck", PROVIDER),)


def test_many_records(patient: Patient) -> None:
    """A finding counts all its records and names some of them."""
    count = 1300
    claimed = patient.registry.try_claim_many(
        [ModelRef(f"m{i}", PROVIDER) for i in range(count)], lease=0.000001
    )
    assert len(claimed) == count
    (found,) = patient.found()
    assert found.message.startswith(f"{count} records: ")
    assert len(found.models) == EXAMPLES
    assert patient.found("sums") == []


def test_nothing_is_written(patient: Patient) -> None:
    """examine writes no key."""
    patient.registry.try_claim_for_download("m", PROVIDER, lease=60)
    patient.client.zadd(next(iter(patient.keys.indexes.values())), {"x:stray": 1})
    patient.client.set(patient.key("damaged"), b"x")

    def all_keys() -> dict[bytes, bytes | None]:
        pattern = f"pyregistry:{{{patient.namespace}}}:*"
        return {key: patient.client.dump(key) for key in sorted(patient.client.scan_iter(pattern))}

    before = all_keys()
    examine(patient.url, patient.namespace)
    assert all_keys() == before


def test_records_can_be_left_out(patient: Patient) -> None:
    """records=False leaves the records out."""
    patient.client.set(patient.key("damaged"), b"x")
    found = examine(patient.url, patient.namespace, records=False)
    assert "records" not in {finding.check for finding in found}


def test_a_record_that_comes_and_goes_between_two_looks_is_not_called_broken(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there just while the index is read, and is absent whenever its value is."""
    with Registry.from_url(patient.url, patient.namespace) as registry:
        scores = Census._scores

        def meanwhile(census: Any, entries: Any) -> Any:
            registry.try_claim_for_download("m", PROVIDER, lease=60)
            found = scores(census, entries)
            registry.delete_model("m")
            return found

        monkeypatch.setattr(Census, "_scores", meanwhile)
        value = Census._value
        looked: list[object] = []

        def look(census: Any, entry: bytes) -> object:
            looked.append(value(census, entry))
            return looked[-1]

        monkeypatch.setattr(Census, "_value", look)
        # A page of SCAN names it, as it would if it had been there then.
        monkeypatch.setattr(
            Census,
            "_pages",
            lambda census, *_words, **_options: iter([[census._prefix + b"HuggingFace:m"]]),
        )
        found = examine(patient.url, patient.namespace)
    assert looked
    assert set(looked) == {None}, "each time it was looked at, it was absent"
    assert [each for each in found if each.check == "records" and each.is_wrong] == []


def test_a_registry_in_use_is_not_called_broken(patient: Patient) -> None:
    """A namespace in use has no false findings."""
    ended = threading.Event()
    rounds = [0]

    def use() -> None:
        with Registry.from_url(patient.url, patient.namespace) as registry:
            while not ended.is_set():
                rounds[0] += 1
                for i in range(20):
                    result = registry.try_claim_for_download(f"m{i}", PROVIDER, lease=60, expected_bytes=i)
                    if isinstance(result, Claimed) and i % 3:
                        registry.finish_download_claim(result.claim, "DOWNLOADED", size_bytes=2 * i)
                    registry.touch_model(f"m{i}")
                for i in range(20):
                    registry.delete_model(f"m{i}")

    users = [threading.Thread(target=use) for _ in range(2)]
    for user in users:
        user.start()
    try:
        wait_until(lambda: rounds[0] > 5)
        for _ in range(20):
            found = examine(patient.url, patient.namespace)
            assert [each for each in found if each.check == "records" and each.is_wrong] == []
            assert [each for each in found if each.check == "sums" and each.is_wrong] == []
            assert [each for each in found if each.check == "lease time"] == []
    finally:
        ended.set()
        for user in users:
            user.join(30)
    assert patient.found() == []
