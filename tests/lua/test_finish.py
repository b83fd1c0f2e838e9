"""finish: each row of its table, and which row wins."""

from __future__ import annotations

import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.records import StoredRecord
from pyregistry.models import EventKind
from tests.lua.harness import HOUR, MINUTE, Lab


def test_downloaded(lab: Lab) -> None:
    """A finish as DOWNLOADED stores size, location and revision, and clears progress and back-off."""
    token = lab.downloading("m", "a", owner="host:7", expected_bytes=10)
    created = lab.record("m").created_at
    lab.one("renew", "m", claim_id="a", token=token, bytes_done=9, says=1, message="nearly")
    done = lab.one(
        "finish", "m", claim_id="a", token=token, status="DOWNLOADED", message="fine",
        size_bytes=12, location="models/1", resolved_revision="abc", retry_in=MINUTE, permanent=1,
    )  # fmt: skip
    assert done == wire.Done()
    assert lab.record("m") == StoredRecord(
        status="DOWNLOADED",
        created_at=created,
        token=token,
        owner="host:7",
        attempts=1,
        lease_end=lab.number("time"),
        message="fine",
        size_bytes=12,
        location="models/1",
        resolved_revision="abc",
        ended_id="a",
        ended_how=1,
    )
    assert lab.events[0].kind is EventKind.DOWNLOADED


def test_failed(lab: Lab) -> None:
    """A finish as ERROR stores message, back-off and permanence, and no size or location."""
    token = lab.downloading("m", "a", owner="host:7", expected_bytes=10)
    created = lab.record("m").created_at
    done = lab.one(
        "finish", "m", claim_id="a", token=token, status="ERROR", message="broken",
        size_bytes=12, location="models/1", resolved_revision="abc", retry_in=MINUTE, permanent=1,
    )  # fmt: skip
    assert done == wire.Done()
    assert lab.record("m") == StoredRecord(
        status="ERROR",
        created_at=created,
        token=token,
        owner="host:7",
        attempts=1,
        lease_end=lab.number("time"),
        message="broken",
        retry_at=lab.number("time") + MINUTE,
        permanent=1,
        ended_id="a",
        ended_how=2,
    )
    assert lab.events[0].kind is EventKind.FAILED


def test_failed_without_back_off(lab: Lab) -> None:
    """A finish as ERROR without a back-off can be retried at once."""
    lab.finished("m", "a", status="ERROR")
    record = lab.record("m")
    assert (record.retry_at, record.permanent) == (0, 0)


def test_failed_with_attempts_left(lab: Lab) -> None:
    """A failure with attempts left stores its back-off and max_attempts."""
    lab.finished("m", "a", status="ERROR", retry_in=MINUTE, max_attempts=2, cooldown=HOUR)
    record = lab.record("m")
    assert (record.retry_at, record.max_attempts) == (lab.number("time") + MINUTE, 2)


@pytest.mark.parametrize("cooldown", [0, HOUR])
def test_failed_at_the_last_attempt(lab: Lab, cooldown: int) -> None:
    """A failure at the last attempt stores its cool-down."""
    lab.finished("m", "a", status="ERROR", retry_in=MINUTE, max_attempts=1, cooldown=cooldown)
    record = lab.record("m")
    assert record.retry_at == (lab.number("time") + HOUR if cooldown else 0)
    assert (record.attempts, record.max_attempts, record.permanent) == (1, 1, 0)


def test_what_was_taken_over_is_forgotten(lab: Lab) -> None:
    """A finish clears the former owner and its progress."""
    lab.downloading("m", "a")
    lab.pass_time(HOUR)
    lab.finished("m", "b")
    record = lab.record("m")
    assert (record.previous_owner, record.previous_bytes_done, record.attempts) == ("", 0, 2)


def test_after_the_lease(lab: Lab) -> None:
    """A finish after the end of the lease succeeds if no claim took over."""
    token = lab.downloading("m", "a")
    lab.pass_time(HOUR)
    assert lab.one("finish", "m", claim_id="a", token=token) == wire.Done()


def test_without_lease(lab: Lab) -> None:
    """A finish of a claim without a lease stores when it ended."""
    token = lab.downloading("m", "a", lease=0)
    assert lab.one("finish", "m", claim_id="a", token=token, status="ERROR") == wire.Done()
    assert lab.record("m").lease_end == lab.number("time")


def test_when_the_files_were_there_is_kept(lab: Lab) -> None:
    """The time of a finish is kept, and is no lease."""
    lab.finished("m", "a")
    finished = lab.number("time")
    lab.pass_time(HOUR)
    lab.one("touch", "m")
    assert lab.record("m").lease_end == finished
    # It is no lease.
    assert lab.claim("m", "b") == wire.Exists("DOWNLOADED", 0, 0)


def test_a_message_that_somebody_set_does_not_end_the_claim(lab: Lab) -> None:
    """A message by set_status does not end the claim."""
    token = lab.downloading("m", "a")
    lab.set("m", "DOWNLOADING", "a word")
    assert lab.one("finish", "m", claim_id="a", token=token) == wire.Done()


@pytest.mark.parametrize("status", ["DOWNLOADED", "ERROR"])
def test_again(lab: Lab, status: str) -> None:
    """A repeated finish succeeds, and the opposite one fails."""
    other = "ERROR" if status == "DOWNLOADED" else "DOWNLOADED"
    end = {"claim_id": "a", "token": lab.finished("m", "a", status=status)}
    assert lab.one("finish", "m", **end, status=status, message="another") == wire.Again()
    assert lab.one("finish", "m", **end, status=other) == wire.Lost(status)


def test_again_while_a_later_claim_runs(lab: Lab) -> None:
    """A repeated finish succeeds during a later claim, and fails after its end."""
    end = {"claim_id": "a", "token": lab.finished("m", "a", status="ERROR")}
    retried = lab.one("retry", "m", claim_id="b")
    assert lab.one("finish", "m", **end, status="ERROR") == wire.Again()
    assert lab.one("finish", "m", **end, status="DOWNLOADED") == wire.Lost("DOWNLOADING")
    lab.one("finish", "m", claim_id="b", token=retried.token, status="DOWNLOADED")
    # The claim that ended last is another one: this is what the table can't give.
    assert lab.one("finish", "m", **end, status="ERROR") == wire.Lost("DOWNLOADED")


def test_again_whatever_came_after(lab: Lab) -> None:
    """A repeated finish succeeds until another claim ends or the record is deleted."""
    end = {"claim_id": "a", "token": lab.finished("m", "a")}
    for status in ("ERROR", "DOWNLOADING", "DOWNLOADED"):
        lab.set("m", status)
        assert lab.one("finish", "m", **end) == wire.Again()
    lab.evict("m")
    assert lab.one("finish", "m", **end) == wire.Again()
    lab.pass_time(HOUR)
    lab.downloading("m", "b")
    assert lab.one("finish", "m", **end) == wire.Again()
    lab.one("delete", "m")
    assert lab.one("finish", "m", **end) == wire.Lost("")


def test_a_claim_that_was_released_is_not_finished(lab: Lab) -> None:
    """A finish after a release fails."""
    end = {"claim_id": "a", "token": lab.downloading("m", "a")}
    lab.one("release", "m", **end)
    for status in ("DOWNLOADED", "ERROR"):
        assert lab.one("finish", "m", **end, status=status) == wire.Lost("DOWNLOADING")


def test_lost(lab: Lab) -> None:
    """A finish of a claim that the record does not have fails with the record's status."""
    assert lab.one("finish", "m", claim_id="a", token=1) == wire.Lost("")
    token = lab.downloading("m", "a")
    assert lab.one("finish", "m", claim_id="b", token=token) == wire.Lost("DOWNLOADING")
    assert lab.one("finish", "m", claim_id="a", token=token + 1) == wire.Lost("DOWNLOADING")
    lab.pass_time(HOUR)
    lab.downloading("m", "b")
    assert lab.one("finish", "m", claim_id="a", token=token) == wire.Lost("DOWNLOADING")
    lab.set("m", "ERROR")
    assert lab.one("finish", "m", claim_id="a", token=token) == wire.Lost("ERROR")


def test_lost_to_an_eviction_or_a_limit_of_attempts(lab: Lab) -> None:
    """A finish after an eviction or a model given up fails."""
    lab.finished("m", "a")
    evicting = lab.evict("m")
    assert lab.one("finish", "m", claim_id=evicting.claim_id, token=evicting.token) == wire.Lost("EVICTING")
    token = lab.downloading("n", "a")
    lab.pass_time(HOUR)
    lab.claim("n", "b", max_attempts=1)
    assert lab.one("finish", "n", claim_id="a", token=token) == wire.Lost("ERROR")


def test_a_later_claim_of_the_same_name_is_another(lab: Lab) -> None:
    """A claim id that a caller chose twice: the token tells the two apart."""
    first = lab.finished("m", "a")
    lab.one("delete", "m")
    second = lab.downloading("m", "a")
    assert lab.one("finish", "m", claim_id="a", token=first) == wire.Lost("DOWNLOADING")
    assert lab.one("finish", "m", claim_id="a", token=second) == wire.Done()
