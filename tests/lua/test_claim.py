"""claim: each row of its table, and which row wins."""

from __future__ import annotations

import msgspec
import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.records import StoredRecord
from pyregistry.models import EventKind
from tests.lua.harness import HOUR, MINUTE, SECOND, Lab

ERROR = {"status": "ERROR"}


def test_absent(lab: Lab) -> None:
    """A claim of an absent model creates a DOWNLOADING record."""
    given = lab.claim("m", "a", owner="host:7", lease=MINUTE, expected_bytes=900)
    now = lab.number("time")
    assert given == wire.ClaimGiven(
        token=now,
        lease_end=now + MINUTE,
        lease_left=MINUTE,
        attempts=1,
        previous_owner="",
        previous_bytes_done=0,
    )
    assert lab.record("m") == StoredRecord(
        status="DOWNLOADING",
        created_at=now,
        token=now,
        claim_id="a",
        owner="host:7",
        lease_end=now + MINUTE,
        attempts=1,
        began=1,
        bytes_total=900,
    )
    assert lab.events[0].kind is EventKind.CLAIMED


def test_absent_without_lease(lab: Lab) -> None:
    """A claim without a lease never expires."""
    given = lab.claim("m", "a", lease=0)
    assert (given.lease_end, given.lease_left) == (0, wire.NEVER)
    assert lab.claim("m", "b") == wire.Exists("DOWNLOADING", 0, wire.NEVER)
    lab.pass_time(1000 * HOUR)
    assert lab.claim("m", "b") == wire.Exists("DOWNLOADING", 0, wire.NEVER)


def test_the_same_claim_again(lab: Lab) -> None:
    """A repeated claim extends its lease and changes nothing else."""
    given = lab.claim("m", "a", lease=MINUTE, expected_bytes=5)
    was = lab.record("m")
    lab.pass_time(10 * SECOND)
    again = lab.claim("m", "a", lease=MINUTE, owner="other:1", expected_bytes=6)
    now = lab.number("time")
    assert again == wire.ClaimAgain(given.token, now + MINUTE, MINUTE, 1, "", 0)
    assert lab.record("m") == msgspec.structs.replace(was, lease_end=now + MINUTE)
    assert lab.events == []


def test_the_same_claim_again_never_shortens_its_lease(lab: Lab) -> None:
    """A repeated claim with a shorter lease keeps the longer one."""
    given = lab.claim("m", "a", lease=HOUR)
    again = lab.claim("m", "a", lease=SECOND)
    assert isinstance(again, wire.ClaimAgain)
    assert again.lease_end == given.lease_end
    assert lab.record("m").lease_end == given.lease_end


def test_the_same_claim_again_after_its_lease(lab: Lab) -> None:
    """A repeated claim after the end of its lease continues with its token."""
    token = lab.downloading("m", "a", lease=MINUTE)
    lab.pass_time(HOUR)
    again = lab.claim("m", "a", lease=MINUTE)
    assert isinstance(again, wire.ClaimAgain)
    assert again.token == token
    assert again.lease_end == lab.number("time") + MINUTE
    assert isinstance(lab.claim("m", "b"), wire.Exists)


@pytest.mark.parametrize(("first", "then"), [(0, MINUTE), (MINUTE, 0), (0, 0)])
def test_the_same_claim_again_that_never_ends(lab: Lab, first: int, then: int) -> None:
    """A repeated claim never ends once one of its requests had no lease."""
    lab.downloading("m", "a", lease=first)
    again = lab.claim("m", "a", lease=then)
    assert (again.lease_end, again.lease_left) == (0, wire.NEVER)
    assert lab.record("m").lease_end == 0


def test_a_live_claim(lab: Lab) -> None:
    """A claim of a model with a live claim gets the time left."""
    given = lab.claim("m", "a", lease=MINUTE)
    lab.pass_time(20 * SECOND)
    exists = lab.claim("m", "b", lease=HOUR, expected_bytes=77, max_attempts=1)
    assert (exists.status, exists.lease_end) == ("DOWNLOADING", given.lease_end)
    assert 0 < exists.lease_left <= 40 * SECOND


def test_a_lease_ends_at_its_end(lab: Lab) -> None:
    """By lease time, and for the one who asked before too."""
    given = lab.claim("m", "a", lease=HOUR)
    before = lab.claim("m", "b")
    lab.pass_time(before.lease_left - MINUTE)
    exists = lab.claim("m", "b")
    assert 0 < exists.lease_left <= MINUTE
    lab.pass_time(exists.lease_left)
    assert lab.claim("m", "b").token >= given.lease_end


def test_taken_over(lab: Lab) -> None:
    """A claim after the end of a lease takes over with a later token, and learns owner and progress."""
    first = lab.claim("m", "a", owner="first:1", lease=MINUTE, expected_bytes=100)
    lab.one("renew", "m", claim_id="a", token=first.token, says=1, message="well on", bytes_done=60)
    created = lab.record("m").created_at
    lab.pass_time(2 * MINUTE)
    second = lab.claim("m", "b", owner="second:2", lease=MINUTE)
    now = lab.number("time")
    assert second == wire.ClaimGiven(now, now + MINUTE, MINUTE, 2, "first:1", 60)
    assert second.token > first.token
    assert lab.record("m") == StoredRecord(
        status="DOWNLOADING",
        created_at=created,
        token=now,
        claim_id="b",
        owner="second:2",
        lease_end=now + MINUTE,
        attempts=2,
        began=1,
        bytes_total=100,
        previous_owner="first:1",
        previous_bytes_done=60,
    )
    assert lab.events[0].kind is EventKind.TAKEN_OVER


def test_taken_over_with_other_expectations(lab: Lab) -> None:
    """A takeover replaces the expected bytes."""
    lab.downloading("m", "a", expected_bytes=100)
    lab.pass_time(HOUR)
    lab.downloading("m", "b", expected_bytes=40)
    assert lab.record("m").bytes_total == 40


def test_a_request_that_took_over_again(lab: Lab) -> None:
    """Its answer tells of the one before, as the lost one did."""
    first = lab.claim("m", "a", owner="first:1")
    lab.one("renew", "m", claim_id="a", token=first.token, bytes_done=60)
    lab.pass_time(HOUR)
    second = lab.claim("m", "b")
    again = lab.claim("m", "b")
    assert isinstance(again, wire.ClaimAgain)
    assert (again.token, again.previous_owner, again.previous_bytes_done) == (second.token, "first:1", 60)


def test_the_one_before_comes_back_too_late(lab: Lab) -> None:
    """A repeated claim after a takeover gets nothing."""
    lab.downloading("m", "a")
    lab.pass_time(HOUR)
    token = lab.downloading("m", "b")
    exists = lab.claim("m", "a")
    assert isinstance(exists, wire.Exists)
    assert lab.record("m").token == token


def test_taken_over_after_a_release(lab: Lab) -> None:
    """A claim after a release takes over without an attempt counted."""
    first = lab.claim("m", "a", owner="first:1", lease=0)
    lab.one("renew", "m", claim_id="a", token=first.token, lease=0, bytes_done=30)
    assert lab.one("release", "m", claim_id="a", token=first.token) == wire.Done()
    second = lab.claim("m", "b")
    assert isinstance(second, wire.ClaimGiven)
    assert (second.attempts, second.previous_owner, second.previous_bytes_done) == (1, "first:1", 30)
    assert lab.events[0].kind is EventKind.TAKEN_OVER


def test_attempts_used_up(lab: Lab) -> None:
    """A claim beyond max_attempts makes the model a permanent ERROR."""
    lab.downloading("m", "a", expected_bytes=10)
    lab.pass_time(HOUR)
    token = lab.downloading("m", "b", owner="second:2", max_attempts=2)
    lab.pass_time(HOUR)
    assert lab.claim("m", "c", max_attempts=2) == wire.Exists("ERROR", 0, 0)
    record = lab.record("m")
    assert record == StoredRecord(
        status="ERROR",
        created_at=record.created_at,
        token=token,
        owner="second:2",
        attempts=2,
        message="Owner lost at attempt 2: second:2",
        lease_end=lab.number("time"),
        permanent=1,
        max_attempts=2,
    )
    assert lab.events[0].kind is EventKind.ABANDONED
    assert lab.claim("m", "c", max_attempts=2) == wire.Exists("ERROR", 0, 0)
    assert lab.events == []
    assert lab.claim("m", "d") == wire.Exists("ERROR", 0, 0)


def test_attempts_used_up_with_a_cool_down(lab: Lab) -> None:
    """A claim beyond max_attempts with a cool-down makes the model an ERROR that can be retried after it."""
    lab.downloading("m", "a")
    lab.pass_time(HOUR)
    assert lab.claim("m", "b", max_attempts=1, cooldown=MINUTE) == wire.Exists("ERROR", 0, 0)
    record = lab.record("m")
    assert (record.retry_at, record.permanent) == (lab.number("time") + MINUTE, 0)
    lab.pass_time(MINUTE)
    assert lab.one("retry", "m", claim_id="c", max_attempts=1).attempts == 1


def test_attempts_are_no_matter_while_the_claim_is_live_or_ones_own(lab: Lab) -> None:
    """max_attempts does not affect a live claim or a repeated one."""
    lab.downloading("m", "a")
    assert lab.claim("m", "b", max_attempts=1).status == "DOWNLOADING"
    lab.pass_time(HOUR)
    assert isinstance(lab.claim("m", "a", max_attempts=1), wire.ClaimAgain)


def test_attempts_that_were_given_back_do_not_count(lab: Lab) -> None:
    """A released attempt does not count."""
    token = lab.downloading("m", "a")
    lab.one("release", "m", claim_id="a", token=token)
    assert lab.claim("m", "b", max_attempts=1).attempts == 1


def test_attempts_count_after_a_release_too(lab: Lab) -> None:
    """Attempts before a released one count."""
    for claim_id in ("a", "b", "c"):
        token = lab.downloading("m", claim_id)
        lab.pass_time(HOUR)
    lab.one("release", "m", claim_id="c", token=token)
    assert lab.record("m").attempts == 2
    assert lab.claim("m", "d", max_attempts=2).status == "ERROR"


@pytest.mark.parametrize("how", ["DOWNLOADED", "ERROR", "released"])
def test_the_claim_that_ended_last(lab: Lab, how: str) -> None:
    """A repeated request of the claim that ended last gets nothing."""
    token = lab.downloading("m", "a")
    if how == "released":
        lab.one("release", "m", claim_id="a", token=token)
        status = "DOWNLOADING"
    else:
        lab.one("finish", "m", claim_id="a", token=token, status=how)
        status = how
    assert lab.claim("m", "a").status == status


def test_the_claim_that_ended_last_comes_late(lab: Lab) -> None:
    """A late copy gets nothing, even where anybody else would take over."""
    token = lab.downloading("m", "a")
    lab.one("release", "m", claim_id="a", token=token)
    lab.downloading("m", "b")
    assert lab.claim("m", "a").lease_left > 0
    lab.pass_time(HOUR)
    assert lab.claim("m", "a", max_attempts=1) == wire.Exists("DOWNLOADING", lab.record("m").lease_end, 0)
    assert isinstance(lab.claim("m", "c"), wire.ClaimGiven)


@pytest.mark.parametrize("status", ["DOWNLOADED", "ERROR"])
def test_it_is_over(lab: Lab, status: str) -> None:
    """A claim of a finished model returns its status."""
    lab.finished("m", "a", status=status)
    assert lab.claim("m", "b", expected_bytes=7, max_attempts=1) == wire.Exists(status, 0, 0)


def test_an_error_waits_for_a_retry_however_long(lab: Lab) -> None:
    """A claim does not begin an ERROR again."""
    lab.finished("m", "a", status="ERROR", retry_in=SECOND)
    lab.pass_time(HOUR)
    assert lab.claim("m", "b") == wire.Exists("ERROR", 0, 0)


def test_a_status_that_somebody_set(lab: Lab) -> None:
    """A DOWNLOADING that set_status wrote never expires."""
    lab.set("m", "DOWNLOADING")
    lab.pass_time(1000 * HOUR)
    assert lab.claim("m", "a", max_attempts=1) == wire.Exists("DOWNLOADING", 0, wire.NEVER)


def test_an_eviction_under_way(lab: Lab) -> None:
    """A claim of a model with a live eviction gets the time left."""
    lab.finished("m", "a", size_bytes=50)
    lab.evict("m", lease=MINUTE)
    exists = lab.claim("m", "b")
    assert exists.status == "EVICTING"
    assert 0 < exists.lease_left <= MINUTE
    lab.finished("n", "a")
    lab.evict("n", lease=0)
    lab.pass_time(1000 * HOUR)
    assert lab.claim("n", "b") == wire.Exists("EVICTING", 0, wire.NEVER)


def test_an_eviction_that_nobody_ended(lab: Lab) -> None:
    """A claim after the end of an eviction's lease takes over and starts anew."""
    for claim_id in ("a", "b", "c"):
        lab.pass_time(HOUR)
        token = lab.downloading("m", claim_id)
    lab.one("finish", "m", claim_id="c", token=token, size_bytes=50, location="x/y", resolved_revision="abc")
    evicting = lab.evict("m")
    lab.pass_time(2 * MINUTE)
    given = lab.claim("m", "d", max_attempts=1, expected_bytes=60)
    assert isinstance(given, wire.ClaimGiven)
    assert given.token > evicting.token
    assert (given.attempts, given.previous_owner) == (1, evicting.owner)
    record = lab.record("m")
    assert (record.size_bytes, record.location, record.resolved_revision) == (0, "", "")
    assert (record.created_at, record.bytes_total) == (evicting.created_at, 60)
    assert lab.events[0].kind is EventKind.TAKEN_OVER


def test_an_eviction_that_nobody_ended_is_not_for_a_late_copy(lab: Lab) -> None:
    """A repeated request of an ended claim does not take over an eviction."""
    lab.finished("m", "a")
    lab.evict("m")
    lab.pass_time(2 * MINUTE)
    assert lab.claim("m", "a").status == "EVICTING"


def test_what_a_retry_began_is_the_same_claim(lab: Lab) -> None:
    """A claim with the id of a retry is that claim."""
    lab.finished("m", "a", **ERROR)
    retried = lab.one("retry", "m", claim_id="b")
    again = lab.claim("m", "b")
    assert isinstance(again, wire.ClaimAgain)
    assert again.token == retried.token


def test_tokens_grow(lab: Lab) -> None:
    """Each claim of a namespace gets a later token."""
    tokens = []
    for number in range(5):
        tokens.append(lab.downloading("m", f"id-{number}", lease=1))
        lab.pass_time(SECOND)
    tokens.append(lab.finished("n", "a"))
    assert tokens == sorted(set(tokens))
