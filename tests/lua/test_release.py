"""release: each row of its table, and which row wins."""

from __future__ import annotations

import msgspec

from pyregistry._redis.protocol import records as wire
from pyregistry.models import EventKind
from tests.lua.harness import HOUR, Lab


def test_released(lab: Lab) -> None:
    """A release ends the claim, gives its attempt back, and keeps the progress."""
    token = lab.downloading("m", "a", expected_bytes=10)
    lab.one("renew", "m", claim_id="a", token=token, bytes_done=4, says=1, message="so far")
    was = lab.record("m")
    assert lab.one("release", "m", claim_id="a", token=token) == wire.Done()
    assert lab.record("m") == msgspec.structs.replace(
        was, claim_id="", lease_end=lab.number("time"), attempts=0, ended_id="a", ended_how=3
    )
    assert lab.events[0].kind is EventKind.RELEASED
    assert isinstance(lab.claim("m", "b"), wire.ClaimGiven)


def test_released_after_its_lease_or_without_one(lab: Lab) -> None:
    """A release succeeds after the end of the lease and without one."""
    for model, lease in (("m", 1), ("n", 0)):
        token = lab.downloading(model, "a", lease=lease)
        lab.pass_time(HOUR)
        assert lab.one("release", model, claim_id="a", token=token) == wire.Done()
        assert lab.record(model).lease_end == lab.number("time")
        assert isinstance(lab.claim(model, "b"), wire.ClaimGiven)


def test_again(lab: Lab) -> None:
    """A repeated release succeeds and gives no further attempt back."""
    end = {"claim_id": "a", "token": lab.downloading("m", "a")}
    lab.one("release", "m", **end)
    assert lab.one("release", "m", **end) == wire.Again()
    lab.downloading("m", "b")
    assert lab.one("release", "m", **end) == wire.Again()
    lab.set("m", "DOWNLOADED")
    assert lab.one("release", "m", **end) == wire.Again()
    assert lab.record("m").attempts == 0


def test_a_claim_that_was_finished_is_not_released(lab: Lab) -> None:
    """A release after a finish fails."""
    for model, status in (("m", "DOWNLOADED"), ("n", "ERROR")):
        token = lab.finished(model, "a", status=status)
        assert lab.one("release", model, claim_id="a", token=token) == wire.Lost(status)


def test_lost(lab: Lab) -> None:
    """A release of a claim that the record does not have fails with the record's status."""
    assert lab.one("release", "m", claim_id="a", token=1) == wire.Lost("")
    token = lab.downloading("m", "a")
    assert lab.one("release", "m", claim_id="b", token=token) == wire.Lost("DOWNLOADING")
    assert lab.one("release", "m", claim_id="a", token=token - 1) == wire.Lost("DOWNLOADING")
    lab.pass_time(HOUR)
    second = lab.downloading("m", "b")
    assert lab.one("release", "m", claim_id="a", token=token) == wire.Lost("DOWNLOADING")
    lab.one("finish", "m", claim_id="b", token=second)
    evicting = lab.evict("m")
    assert lab.one("release", "m", claim_id=evicting.claim_id, token=evicting.token) == wire.Lost("EVICTING")
