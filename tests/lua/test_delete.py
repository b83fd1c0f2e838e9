"""delete: each row of its table, and which row wins."""

from __future__ import annotations

import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry.models import EventKind
from tests.lua.harness import HOUR, MINUTE, Lab, item

STATUSES = ["DOWNLOADING", "DOWNLOADED", "ERROR"]


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("status", STATUSES)
def test_deleted(lab: Lab, status: str, by_token: bool) -> None:
    """A delete removes the record and its index entry, and publishes one event."""
    lab.set("m", status)
    lab.set("other", status)
    token = lab.record("m").token if by_token else ""
    assert lab.call("delete", item("m", token=token), by="somebody:7") == [wire.Deleted()]
    assert (lab.events[0].kind, lab.events[0].by) == (EventKind.DELETED, "somebody:7")
    assert lab.state().entries() == {item("other").entry}
    assert lab.one("delete", "m", token=token) == wire.Absent()


def test_a_live_claim_too(lab: Lab) -> None:
    """A delete ends a live claim."""
    token = lab.downloading("m", "a", lease=0, expected_bytes=6)
    assert lab.one("delete", "m") == wire.Deleted()
    assert lab.one("finish", "m", claim_id="a", token=token) == wire.Lost("")


@pytest.mark.parametrize("force", [0, 1])
def test_absent(lab: Lab, force: int) -> None:
    """A delete of an absent model changes nothing."""
    assert lab.one("delete", "m", force=force) == wire.Absent()
    assert lab.one("delete", "m", force=force, token=5) == wire.Absent()
    assert lab.state().values == {}


@pytest.mark.parametrize("force", [0, 1])
def test_another_token(lab: Lab, force: int) -> None:
    """Not even by force, and before all else."""
    token = lab.finished("m", "a")
    assert lab.one("delete", "m", token=token + 1, force=force) == wire.OtherToken(token)
    assert lab.one("delete", "m", token=0, force=force) == wire.OtherToken(token)
    lab.hold("m", "x", 60)
    assert lab.one("delete", "m", token=token + 1, force=force) == wire.OtherToken(token)
    evicting = lab.evict("m")
    assert lab.one("delete", "m", token=token, force=force) == wire.OtherToken(evicting.token)


def test_an_eviction_under_way(lab: Lab) -> None:
    """A live eviction refuses a delete, unless it is forced."""
    lab.finished("m", "a", size_bytes=5)
    token = lab.evict("m", lease=MINUTE).token
    refused = lab.one("delete", "m")
    assert isinstance(refused, wire.Evicting)
    assert 0 < refused.lease_left <= MINUTE
    assert isinstance(lab.one("delete", "m", token=token), wire.Evicting)
    assert lab.one("delete", "m", token=token, force=1) == wire.Deleted()


def test_an_eviction_that_never_ends(lab: Lab) -> None:
    """An eviction without a lease refuses every delete that is not forced."""
    lab.finished("m", "a")
    lab.evict("m", lease=0)
    lab.pass_time(HOUR)
    assert lab.one("delete", "m") == wire.Evicting(wire.NEVER)
    assert lab.one("delete", "m", force=1) == wire.Deleted()


def test_an_eviction_that_nobody_ended(lab: Lab) -> None:
    """An eviction whose lease is over does not refuse a delete."""
    lab.finished("m", "a")
    lab.evict("m")
    lab.pass_time(HOUR)
    assert lab.one("delete", "m") == wire.Deleted()


@pytest.mark.parametrize("status", STATUSES)
def test_held(lab: Lab, status: str) -> None:
    """Live holds refuse a delete and are counted, unless it is forced."""
    lab.set("m", status)
    token = lab.record("m").token
    lab.hold("m", "x", 60)
    lab.hold("m", "y", 3600)
    lab.hold("m", "z", -1)
    assert lab.one("delete", "m") == wire.Held(2)
    assert lab.one("delete", "m", token=token) == wire.Held(2)
    lab.pass_time(2 * MINUTE)
    assert lab.one("delete", "m") == wire.Held(1)
    assert lab.one("delete", "m", token=token, force=1) == wire.Deleted()
    assert lab.state().holders(item("m").entry) is None


def test_held_no_more(lab: Lab) -> None:
    """Expired holds do not refuse a delete and are removed."""
    lab.set("m", "DOWNLOADED")
    lab.hold("m", "x", 60)
    lab.pass_time(HOUR)
    assert lab.one("delete", "m") == wire.Deleted()
    assert lab.state().holders(item("m").entry) is None


def test_held_and_evicting(lab: Lab) -> None:
    """An eviction is reported before holds."""
    lab.finished("m", "a")
    lab.hold("m", "x", 7200)
    lab.evict("m")
    assert isinstance(lab.one("delete", "m"), wire.Evicting)
    lab.pass_time(HOUR)
    assert lab.one("delete", "m") == wire.Held(1)


def test_holders_of_another_type(lab: Lab) -> None:
    """A holds key of another type is damage that a forced delete removes."""
    lab.set("m", "DOWNLOADED")
    lab.redis.set(lab.holds_key("m"), "x")
    assert isinstance(lab.one("delete", "m"), wire.Damaged)
    assert lab.one("delete", "m", force=1) == wire.Deleted()
    assert lab.state().entries() == set()


def test_the_holders_of_another_model_do_not_matter(lab: Lab) -> None:
    """Holds of one model do not refuse a delete of another."""
    lab.set("m", "DOWNLOADED")
    lab.set("n", "DOWNLOADED")
    lab.hold("n", "x", 60)
    assert lab.one("delete", "m") == wire.Deleted()


def test_an_entry_in_several_sets_heals(lab: Lab) -> None:
    """A delete removes an entry from every index."""
    lab.set("m", "ERROR")
    for each in (*STATUSES, "EVICTING"):
        lab.redis.zadd(lab.index(each), {item("m").entry: 1})
    assert lab.one("delete", "m") == wire.Deleted()
    assert lab.state().entries() == set()


def test_what_was_deleted_begins_anew(lab: Lab) -> None:
    """A claim after a delete starts anew with a later token."""
    token = lab.finished("m", "a", size_bytes=5)
    lab.one("delete", "m")
    given = lab.claim("m", "a")
    assert isinstance(given, wire.ClaimGiven)
    assert given.attempts == 1
    assert given.token > token
    assert (lab.record("m").ended_id, lab.record("m").size_bytes) == ("", 0)
