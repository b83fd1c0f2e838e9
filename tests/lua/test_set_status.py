"""set_status: each row of its table, and which row wins."""

from __future__ import annotations

import msgspec
import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.records import StoredRecord
from pyregistry.backend.values import StatusSet
from pyregistry.models import EventKind
from tests.lua.harness import HOUR, MINUTE, Lab, item

STATUSES = ["DOWNLOADING", "DOWNLOADED", "ERROR"]
NOBODY = StatusSet("", "", 0)


@pytest.mark.parametrize("status", STATUSES)
def test_absent(lab: Lab, status: str) -> None:
    """set_status of an absent model creates its record and publishes one event."""
    assert lab.set("m", status, "by hand", by="somebody:7") == NOBODY
    now = lab.number("time")
    end = 0 if status == "DOWNLOADING" else now
    assert lab.record("m") == StoredRecord(
        status=status, created_at=now, token=now, lease_end=end, message="by hand"
    )
    assert (lab.events[0].kind, lab.events[0].by) == (EventKind.SET, "somebody:7")


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("was", ["DOWNLOADED", "ERROR"])
def test_anything(lab: Lab, was: str, status: str) -> None:
    """set_status replaces a finished status with a later token, and clears back-off and attempts."""
    lab.downloading("m", "0")
    lab.pass_time(HOUR)
    token = lab.finished(
        "m", "a", status=was, size_bytes=8, location="x", resolved_revision="r", retry_in=HOUR, permanent=1
    )
    old = lab.record("m")
    assert lab.set("m", status, "word") == NOBODY
    record = lab.record("m")
    assert record == StoredRecord(
        status=status,
        created_at=old.created_at,
        token=lab.number("clock"),
        lease_end=0 if status == "DOWNLOADING" else lab.number("time"),
        message="word",
        size_bytes=old.size_bytes,
        location=old.location,
        resolved_revision=old.resolved_revision,
        ended_id="a",
        ended_how=1 if was == "DOWNLOADED" else 2,
    )
    assert record.token > token


@pytest.mark.parametrize("status", ["DOWNLOADED", "ERROR"])
def test_a_live_claim_ends(lab: Lab, status: str) -> None:
    """set_status ends a live claim and says whose it was."""
    token = lab.downloading("m", "a", owner="first:1", expected_bytes=70)
    lab.one("renew", "m", claim_id="a", token=token, bytes_done=5)
    assert lab.set("m", status) == StatusSet("first:1", "a", token)
    record = lab.record("m")
    assert record == StoredRecord(
        status=status,
        created_at=record.created_at,
        token=record.token,
        lease_end=0 if status == "DOWNLOADING" else lab.number("time"),
    )
    assert lab.one("finish", "m", claim_id="a", token=token) == wire.Lost(status)


def test_a_claim_without_lease_is_a_live_one(lab: Lab) -> None:
    """set_status ends a claim without a lease."""
    token = lab.downloading("m", "a", owner="first:1", lease=0)
    assert lab.set("m", "ERROR") == StatusSet("first:1", "a", token)


def test_no_live_claim_ends(lab: Lab) -> None:
    """set_status says that no claim ended where none was live."""
    lab.downloading("m", "a")
    lab.pass_time(HOUR)
    assert lab.set("m", "ERROR") == NOBODY
    token = lab.downloading("n", "a")
    lab.one("release", "n", claim_id="a", token=token)
    assert lab.set("n", "ERROR") == NOBODY
    lab.set("o", "DOWNLOADING")
    assert lab.set("o", "DOWNLOADED") == NOBODY


@pytest.mark.parametrize("lease", [0, MINUTE])
def test_downloading_stays_downloading(lab: Lab, lease: int) -> None:
    """set_status with DOWNLOADING changes the message of a live claim alone."""
    lab.downloading("m", "0")
    lab.pass_time(HOUR)
    token = lab.downloading("m", "a", lease=lease, expected_bytes=10)
    lab.one("renew", "m", claim_id="a", token=token, lease=lease, bytes_done=5)
    was = lab.record("m")
    assert lab.set("m", "DOWNLOADING", "a word") == NOBODY
    assert lab.record("m") == msgspec.structs.replace(was, message="a word", began=0)
    assert lab.set("m", "DOWNLOADING") == NOBODY
    assert lab.record("m") == msgspec.structs.replace(was, message="", began=0)
    assert lab.score("m") > was.token


def test_downloading_stays_downloading_after_the_lease(lab: Lab) -> None:
    """set_status with DOWNLOADING does not extend a lease that is over."""
    lab.downloading("m", "a")
    lab.pass_time(HOUR)
    was = lab.record("m")
    lab.set("m", "DOWNLOADING")
    assert lab.record("m") == msgspec.structs.replace(was, began=0)
    assert isinstance(lab.claim("m", "b"), wire.ClaimGiven)


@pytest.mark.parametrize("status", STATUSES)
def test_an_eviction_under_way(lab: Lab, status: str) -> None:
    """A live eviction refuses set_status."""
    lab.finished("m", "a")
    lab.evict("m", lease=MINUTE)
    assert lab.set("m", status) == wire.SetRefused("EVICTING")
    lab.finished("n", "a")
    lab.evict("n", lease=0)
    lab.pass_time(HOUR)
    assert lab.set("n", status) == wire.SetRefused("EVICTING")


@pytest.mark.parametrize("status", STATUSES)
def test_an_eviction_that_nobody_ended(lab: Lab, status: str) -> None:
    """set_status replaces an eviction whose lease is over."""
    lab.finished("m", "a", size_bytes=9)
    evicting = lab.evict("m")
    lab.pass_time(HOUR)
    assert lab.set("m", status) == NOBODY
    record = lab.record("m")
    assert (record.status, record.claim_id, record.owner) == (status, "", "")
    assert record.lease_end == (0 if status == "DOWNLOADING" else lab.number("time"))
    assert record.token > evicting.token


def test_to_evicting(lab: Lab) -> None:
    """set_status refuses EVICTING."""
    assert lab.set("m", "EVICTING") == wire.SetRefused("")
    lab.downloading("m", "a")
    assert lab.set("m", "EVICTING") == wire.SetRefused("DOWNLOADING")
    lab.finished("n", "a")
    assert lab.set("n", "EVICTING") == wire.SetRefused("DOWNLOADED")
    lab.evict("n")
    lab.pass_time(HOUR)
    assert lab.set("n", "EVICTING") == wire.SetRefused("EVICTING")


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("was", STATUSES)
def test_an_entry_in_several_sets_heals(lab: Lab, was: str, status: str) -> None:
    """set_status leaves an entry in the index of its status alone."""
    lab.set("m", was)
    for each in (*STATUSES, "EVICTING"):
        lab.redis.zadd(lab.index(each), {item("m").entry: 1})
    lab.set("m", status)
    assert list(lab.state().sets_of(item("m").entry)) == [status]


def test_an_entry_without_a_record_heals(lab: Lab) -> None:
    """set_status removes an index entry without a record."""
    lab.redis.zadd(lab.index("ERROR"), {item("m").entry: 1})
    lab.set("m", "DOWNLOADED")
    assert list(lab.state().sets_of(item("m").entry)) == ["DOWNLOADED"]


def test_what_is_said_of_an_error(lab: Lab) -> None:
    """set_status with ERROR stores back-off and permanence, and no files."""
    lab.one("set_status", "m", status="ERROR", retry_in=MINUTE, size_bytes=5, location="x")
    record = lab.record("m")
    assert (record.retry_at, record.permanent) == (lab.number("time") + MINUTE, 0)
    assert (record.size_bytes, record.location) == (0, "")
    assert lab.one("retry", "m", claim_id="b").retry_left > 0
    lab.one("set_status", "m", status="ERROR", permanent=1)
    assert lab.one("retry", "m", claim_id="b") == wire.RetryRefused("ERROR", 0, 1, 0)


def test_what_is_said_of_files_that_are_there(lab: Lab) -> None:
    """set_status with DOWNLOADED stores size and location, and no back-off."""
    lab.one("set_status", "m", status="DOWNLOADED", size_bytes=5, location="x", retry_in=MINUTE, permanent=1)
    record = lab.record("m")
    assert (record.size_bytes, record.location, record.retry_at, record.permanent) == (5, "x", 0, 0)
    lab.set("m", "DOWNLOADED")
    assert (lab.record("m").size_bytes, lab.record("m").location) == (5, "x")
