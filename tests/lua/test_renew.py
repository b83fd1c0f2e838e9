"""renew: each row of its table, and which row wins."""

from __future__ import annotations

import msgspec
import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry.models import EventKind
from tests.lua.harness import HOUR, MINUTE, SECOND, Lab


def test_longer(lab: Lab) -> None:
    """A renewal extends the lease and changes nothing else."""
    token = lab.downloading("m", "a", lease=MINUTE)
    was = lab.record("m")
    lab.pass_time(30 * SECOND)
    renewed = lab.one("renew", "m", claim_id="a", token=token, lease=MINUTE)
    now = lab.number("time")
    assert renewed == wire.Renewed(now + MINUTE, MINUTE)
    assert lab.record("m") == msgspec.structs.replace(was, lease_end=now + MINUTE)
    assert lab.events == []


def test_never_shorter(lab: Lab) -> None:
    """A renewal never shortens the lease."""
    given = lab.claim("m", "a", lease=HOUR)
    renewed = lab.one("renew", "m", claim_id="a", token=given.token, lease=1)
    assert renewed.lease_end == given.lease_end


def test_after_the_lease(lab: Lab) -> None:
    """A renewal after the end of the lease succeeds if no claim took over."""
    token = lab.downloading("m", "a", lease=MINUTE)
    lab.pass_time(HOUR)
    assert lab.one("renew", "m", claim_id="a", token=token, lease=MINUTE).lease_left == MINUTE
    assert isinstance(lab.claim("m", "b"), wire.Exists)


@pytest.mark.parametrize(("first", "then"), [(0, MINUTE), (MINUTE, 0), (0, 0)])
def test_never_ending(lab: Lab, first: int, then: int) -> None:
    """A claim never ends once it, or a renewal of it, had no lease."""
    token = lab.downloading("m", "a", lease=first)
    assert lab.one("renew", "m", claim_id="a", token=token, lease=then) == wire.Renewed(0, wire.NEVER)


def test_progress(lab: Lab) -> None:
    """A renewal stores the progress it is given and keeps the rest."""
    token = lab.downloading("m", "a", expected_bytes=10)
    renew = {"claim_id": "a", "token": token}

    def shown() -> tuple[str, int, int, int]:
        record = lab.record("m")
        return record.message, record.began, record.bytes_done, record.bytes_total

    assert shown() == ("", 1, 0, 10)
    lab.one("renew", "m", **renew, says=0, message="is not said")
    assert shown() == ("", 1, 0, 10)
    assert lab.events == []
    lab.one("renew", "m", **renew, bytes_done=4)
    assert shown() == ("", 1, 4, 10)
    assert lab.events[0].kind is EventKind.RENEWED
    lab.one("renew", "m", **renew, bytes_total=20)
    assert shown() == ("", 1, 4, 20)
    lab.one("renew", "m", **renew, says=1, message="half of it")
    assert shown() == ("half of it", 0, 4, 20)
    lab.one("renew", "m", **renew, bytes_done=0, bytes_total=0)
    assert shown() == ("half of it", 0, 0, 0)
    lab.one("renew", "m", **renew, says=1, message="")
    assert shown() == ("", 0, 0, 0)


@pytest.mark.parametrize(("how", "number"), [("DOWNLOADED", 1), ("ERROR", 2), ("released", 3)])
def test_ended_by_yourself(lab: Lab, how: str, number: int) -> None:
    """A renewal after the claim's own end says how it ended."""
    token = lab.downloading("m", "a")
    renew = {"claim_id": "a", "token": token, "bytes_done": 5}
    if how == "released":
        lab.one("release", "m", claim_id="a", token=token)
    else:
        lab.one("finish", "m", claim_id="a", token=token, status=how)
    assert lab.one("renew", "m", **renew) == wire.Ended(number)
    if how == "ERROR":
        lab.one("retry", "m", claim_id="b")
    elif how == "released":
        lab.claim("m", "b")
    else:
        lab.set("m", "DOWNLOADING")
    assert lab.one("renew", "m", **renew) == wire.Ended(number)


def test_lost(lab: Lab) -> None:
    """A renewal of a claim that the record does not have fails with the record's status."""
    token = lab.downloading("m", "a")
    renew = {"claim_id": "a", "token": token, "bytes_done": 5}
    assert lab.one("renew", "m", claim_id="b", token=token) == wire.Lost("DOWNLOADING")
    assert lab.one("renew", "m", claim_id="a", token=token + 1) == wire.Lost("DOWNLOADING")
    lab.pass_time(HOUR)
    lab.downloading("m", "b")
    assert lab.one("renew", "m", **renew) == wire.Lost("DOWNLOADING")
    lab.set("m", "ERROR")
    assert lab.one("renew", "m", **renew) == wire.Lost("ERROR")
    lab.set("m", "DOWNLOADED")
    assert lab.one("renew", "m", **renew) == wire.Lost("DOWNLOADED")
    evicting = lab.evict("m")
    assert lab.one("renew", "m", claim_id=evicting.claim_id, token=evicting.token) == wire.Lost("EVICTING")
    lab.one("delete", "m", force=1)
    assert lab.one("renew", "m", **renew) == wire.Lost("")


def test_lost_to_a_limit_of_attempts(lab: Lab) -> None:
    """A renewal after the model was given up fails with its message."""
    token = lab.downloading("m", "a")
    lab.pass_time(HOUR)
    lab.claim("m", "b", max_attempts=1)
    lost = wire.Lost("ERROR", "Owner lost at attempt 1: host:1")
    assert lab.one("renew", "m", claim_id="a", token=token) == lost


def test_a_late_copy_changes_only_the_lease(lab: Lab) -> None:
    """A renewal with an older order changes the lease alone."""
    token = lab.downloading("m", "a", lease=MINUTE)
    renew = {"claim_id": "a", "token": token}
    half = {**renew, "says": 1, "message": "half of it", "bytes_done": 50, "order": 7}
    lab.one("renew", "m", **half)
    lab.one("renew", "m", **renew, says=1, message="nearly", bytes_done=90, bytes_total=100, order=8)
    was = lab.record("m")
    assert isinstance(lab.one("renew", "m", **half, bytes_total=60), wire.Renewed)
    assert lab.events == []
    assert msgspec.structs.replace(lab.record("m"), lease_end=0) == msgspec.structs.replace(was, lease_end=0)
    assert lab.one("renew", "m", **half, lease=HOUR).lease_end == lab.number("time") + HOUR
    # Without an order it is as if it were the newest.
    lab.one("renew", "m", **renew, bytes_done=40)
    assert (lab.record("m").bytes_done, lab.record("m").renewal) == (40, 8)


def test_the_order_is_that_of_one_claim(lab: Lab) -> None:
    """A new claim starts with a new order of renewals."""
    token = lab.downloading("m", "a", lease=MINUTE)
    lab.one("renew", "m", claim_id="a", token=token, bytes_done=50, order=9)
    lab.pass_time(HOUR)
    token = lab.downloading("m", "b")
    assert lab.record("m").renewal == 0
    lab.one("renew", "m", claim_id="b", token=token, bytes_done=1, order=1)
    assert lab.record("m").bytes_done == 1


def test_a_message_that_somebody_set_does_not_end_the_claim(lab: Lab) -> None:
    """A message by set_status does not end the claim, and a renewal keeps it."""
    token = lab.downloading("m", "a")
    lab.set("m", "DOWNLOADING", "a word")
    assert isinstance(lab.one("renew", "m", claim_id="a", token=token), wire.Renewed)
    assert lab.record("m").message == "a word"
