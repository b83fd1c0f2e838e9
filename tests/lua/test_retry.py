"""retry: each row of its table, and which row wins."""

from __future__ import annotations

import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.records import StoredRecord
from pyregistry.models import EventKind
from tests.lua.harness import HOUR, MINUTE, SECOND, Lab


def test_an_error(lab: Lab) -> None:
    """A retry makes an ERROR DOWNLOADING with a later token and one attempt more."""
    first = lab.finished("m", "a", status="ERROR", message="no space")
    created = lab.record("m").created_at
    given = lab.one("retry", "m", claim_id="b", owner="second:2", lease=MINUTE)
    now = lab.number("time")
    assert given == wire.ClaimGiven(
        token=now,
        lease_end=now + MINUTE,
        lease_left=MINUTE,
        attempts=2,
        previous_owner="",
        previous_bytes_done=0,
    )
    assert given.token > first
    assert lab.record("m") == StoredRecord(
        status="DOWNLOADING",
        created_at=created,
        token=now,
        claim_id="b",
        owner="second:2",
        lease_end=now + MINUTE,
        attempts=2,
        began=2,
        ended_id="a",
        ended_how=2,
    )
    assert lab.events[0].kind is EventKind.RETRIED


def test_without_lease(lab: Lab) -> None:
    """A retry without a lease never expires."""
    lab.finished("m", "a", status="ERROR")
    given = lab.one("retry", "m", claim_id="b", lease=0)
    assert (given.lease_end, given.lease_left) == (0, wire.NEVER)


def test_one_winner(lab: Lab) -> None:
    """The second retry of an ERROR is refused."""
    lab.finished("m", "a", status="ERROR")
    assert isinstance(lab.one("retry", "m", claim_id="b"), wire.ClaimGiven)
    assert lab.one("retry", "m", claim_id="c") == wire.RetryRefused("DOWNLOADING", 2, 0, 0)


def test_the_same_claim_again(lab: Lab) -> None:
    """A repeated retry extends its lease and changes nothing else."""
    lab.finished("m", "a", status="ERROR")
    given = lab.one("retry", "m", claim_id="b", lease=MINUTE)
    lab.pass_time(HOUR)
    again = lab.one("retry", "m", claim_id="b", lease=MINUTE, max_attempts=1)
    assert isinstance(again, wire.ClaimAgain)
    assert (again.token, again.attempts) == (given.token, 2)
    assert again.lease_end == lab.number("time") + MINUTE
    assert lab.one("retry", "m", claim_id="b", lease=SECOND).lease_end == again.lease_end
    assert lab.one("retry", "m", claim_id="b", lease=0).lease_left == wire.NEVER
    assert lab.one("retry", "m", claim_id="b", lease=MINUTE).lease_left == wire.NEVER


def test_what_a_claim_began_is_the_same_claim(lab: Lab) -> None:
    """A retry with the id of the live claim is that claim."""
    token = lab.downloading("m", "a")
    assert lab.one("retry", "m", claim_id="a").token == token


@pytest.mark.parametrize("how", ["DOWNLOADED", "ERROR", "released"])
def test_the_claim_that_ended_last(lab: Lab, how: str) -> None:
    """Not even an ERROR that everybody else may retry."""
    token = lab.downloading("m", "a")
    if how == "released":
        lab.one("release", "m", claim_id="a", token=token)
        expected = wire.RetryRefused("DOWNLOADING", 0, 0, 0)
    else:
        lab.one("finish", "m", claim_id="a", token=token, status=how)
        expected = wire.RetryRefused(how, 1, 0, 0)
    assert lab.one("retry", "m", claim_id="a") == expected


def test_the_claim_that_ended_last_comes_late(lab: Lab) -> None:
    """A repeated request of an ended retry gets nothing."""
    lab.finished("m", "a", status="ERROR")
    token = lab.one("retry", "m", claim_id="b").token
    lab.one("finish", "m", claim_id="b", token=token, status="ERROR")
    lab.one("retry", "m", claim_id="c")
    assert lab.one("retry", "m", claim_id="b").status == "DOWNLOADING"
    lab.set("m", "ERROR")
    assert lab.one("retry", "m", claim_id="b") == wire.RetryRefused("ERROR", 0, 0, 0)


def test_permanent(lab: Lab) -> None:
    """A permanent error is not retried."""
    lab.finished("m", "a", status="ERROR", permanent=1)
    assert lab.one("retry", "m", claim_id="b") == wire.RetryRefused("ERROR", 1, 1, 0)


def test_owners_that_were_lost(lab: Lab) -> None:
    """A model given up for lost owners is not retried."""
    lab.downloading("m", "a")
    lab.pass_time(HOUR)
    lab.claim("m", "b", max_attempts=1)
    assert lab.one("retry", "m", claim_id="b").permanent == 1


def test_back_off(lab: Lab) -> None:
    """A retry during the back-off gets the time left, and wins after it."""
    lab.finished("m", "a", status="ERROR", retry_in=MINUTE)
    assert lab.record("m").retry_at == lab.number("time") + MINUTE
    refused = lab.one("retry", "m", claim_id="b")
    assert (refused.status, refused.permanent) == ("ERROR", 0)
    assert 0 < refused.retry_left <= MINUTE
    lab.pass_time(refused.retry_left)
    assert isinstance(lab.one("retry", "m", claim_id="b"), wire.ClaimGiven)
    assert lab.record("m").retry_at == 0


def test_attempts(lab: Lab) -> None:
    """A retry beyond max_attempts is refused."""
    lab.finished("m", "a", status="ERROR")
    assert lab.one("retry", "m", claim_id="b", max_attempts=1) == wire.RetryRefused("ERROR", 1, 0, 0)
    given = lab.one("retry", "m", claim_id="b", max_attempts=2)
    lab.one("finish", "m", claim_id="b", token=given.token, status="ERROR")
    assert lab.one("retry", "m", claim_id="c", max_attempts=2) == wire.RetryRefused("ERROR", 2, 0, 0)
    assert lab.one("retry", "m", claim_id="c").attempts == 3


def test_attempts_begin_anew_after_a_cool_down(lab: Lab) -> None:
    """After the cool-down a retry starts with attempt 1."""
    lab.finished("m", "a", status="ERROR", max_attempts=1, cooldown=HOUR)
    # Whatever a caller allows: the fleet waits.
    for most in (0, 1, 5):
        refused = lab.one("retry", "m", claim_id="b", max_attempts=most)
        assert (refused.status, refused.attempts, refused.permanent) == ("ERROR", 1, 0)
        assert 0 < refused.retry_left <= HOUR
    lab.pass_time(HOUR)
    given = lab.one("retry", "m", claim_id="c", max_attempts=1)
    assert given.attempts == 1
    assert lab.one("retry", "m", claim_id="d", max_attempts=1).status == "DOWNLOADING"
    assert (lab.record("m").max_attempts, lab.record("m").retry_at) == (0, 0)


def test_used_up_without_a_cool_down(lab: Lab) -> None:
    """Without a cool-down only a larger max_attempts allows a retry."""
    lab.finished("m", "a", status="ERROR", max_attempts=1)
    assert lab.one("retry", "m", claim_id="b", max_attempts=1) == wire.RetryRefused("ERROR", 1, 0, 0)
    assert lab.one("retry", "m", claim_id="b", max_attempts=2).attempts == 2


def test_attempts_begin_anew_with_a_status_that_somebody_set(lab: Lab) -> None:
    """After set_status a retry starts with attempt 1."""
    lab.finished("m", "a", status="ERROR", permanent=1, retry_in=HOUR)
    lab.set("m", "ERROR")
    assert lab.one("retry", "m", claim_id="b", max_attempts=1).attempts == 1


def test_what_there_is_no_retry_of(lab: Lab) -> None:
    """A retry of a model that is not an ERROR is refused with its status."""
    assert lab.one("retry", "m", claim_id="b") == wire.RetryRefused("", 0, 0, 0)
    lab.finished("m", "a")
    assert lab.one("retry", "m", claim_id="b") == wire.RetryRefused("DOWNLOADED", 1, 0, 0)
    lab.evict("m")
    lab.pass_time(HOUR)
    assert lab.one("retry", "m", claim_id="b").status == "EVICTING"
    lab.downloading("n", "a")
    lab.pass_time(HOUR)
    assert lab.one("retry", "n", claim_id="b").status == "DOWNLOADING"


def test_the_size_of_before_is_forgotten(lab: Lab) -> None:
    """A retry clears size, location and revision."""
    lab.finished("m", "a", size_bytes=70, location="x", resolved_revision="r")
    lab.set("m", "ERROR")
    assert lab.record("m").size_bytes == 70
    lab.one("retry", "m", claim_id="b")
    record = lab.record("m")
    assert (record.size_bytes, record.location, record.resolved_revision) == (0, "", "")
