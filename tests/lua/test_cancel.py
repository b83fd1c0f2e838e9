"""cancel: each row of its table, and which row wins."""

from __future__ import annotations

import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.records import StoredRecord
from pyregistry.backend.values import Cancelled
from pyregistry.models import EventKind
from tests.lua.harness import HOUR, MINUTE, Lab, item


@pytest.mark.parametrize("lease", [0, MINUTE])
@pytest.mark.parametrize("permanent", [0, 1])
def test_a_download(lab: Lab, lease: int, permanent: int) -> None:
    """A cancel makes a live download an ERROR with its message, and ends its lease."""
    token = lab.downloading("m", "a", owner="host:7", lease=lease, expected_bytes=10)
    created = lab.record("m").created_at
    done = lab.one("cancel", "m", message="cancelled by two:2", retry_in=MINUTE, permanent=permanent)
    assert done == Cancelled("host:7", token)
    now = lab.number("time")
    assert lab.record("m") == StoredRecord(
        status="ERROR",
        created_at=created,
        token=token,
        owner="host:7",
        attempts=1,
        lease_end=now,
        message="cancelled by two:2",
        retry_at=0 if permanent else now + MINUTE,
        permanent=permanent,
        max_attempts=1,
        ended_id="a",
        ended_how=4,
    )
    assert lab.events[0].kind is EventKind.CANCELLED


def test_the_owner_learns_of_it(lab: Lab) -> None:
    """The owner of a cancelled claim gets Lost from renew, finish and release."""
    end = {"claim_id": "a", "token": lab.downloading("m", "a")}
    lab.one("cancel", "m", message="cancelled by two:2: too large", permanent=1)
    lost = wire.Lost("ERROR", "cancelled by two:2: too large")
    assert lab.one("renew", "m", **end, bytes_done=5) == lost
    for status in ("DOWNLOADED", "ERROR"):
        assert lab.one("finish", "m", **end, status=status) == wire.Lost("ERROR")
    assert lab.one("release", "m", **end) == wire.Lost("ERROR")


def test_nobody_begins_it_again_before_its_time(lab: Lab) -> None:
    """A cancelled model is retried after its back-off, or never if permanent."""
    lab.downloading("m", "a")
    lab.one("cancel", "m", retry_in=HOUR)
    assert lab.one("retry", "m", claim_id="b", max_attempts=9).retry_left > 0
    assert lab.claim("m", "b") == wire.Exists("ERROR", 0, 0)
    lab.pass_time(HOUR)
    assert lab.one("retry", "m", claim_id="b", max_attempts=1).attempts == 1
    lab.one("cancel", "m", permanent=1)
    lab.pass_time(9 * HOUR)
    assert lab.one("retry", "m", claim_id="c").permanent == 1


def test_begun_again_at_once(lab: Lab) -> None:
    """A cancel without a back-off allows a retry at once."""
    lab.downloading("m", "a")
    lab.one("cancel", "m", retry_in=0)
    assert isinstance(lab.one("retry", "m", claim_id="b", max_attempts=1), wire.ClaimGiven)


@pytest.mark.parametrize("how", ["claim", "retry"])
def test_a_late_copy_of_the_claim_gets_nothing(lab: Lab, how: str) -> None:
    """A repeated request of a cancelled claim gets nothing."""
    if how == "retry":
        lab.finished("m", "0", status="ERROR")
    assert isinstance(lab.one(how, "m", claim_id="a"), wire.ClaimGiven)
    lab.one("cancel", "m")
    assert isinstance(lab.one(how, "m", claim_id="a"), (wire.Exists, wire.RetryRefused))
    lab.one("retry", "m", claim_id="b")
    assert isinstance(lab.one(how, "m", claim_id="a"), (wire.Exists, wire.RetryRefused))


def test_by_token(lab: Lab) -> None:
    """A cancel by token ends the claim of that token alone, and is idempotent."""
    first = lab.downloading("m", "a")
    assert lab.one("cancel", "m", token=first + 1) == wire.OtherToken(first)
    assert lab.one("cancel", "m", token=first) == Cancelled("host:1", first)
    assert lab.one("cancel", "m", token=first) == wire.Again()
    assert lab.one("cancel", "m") == wire.SetRefused("ERROR")
    second = lab.one("retry", "m", claim_id="b").token
    assert lab.one("cancel", "m", token=first) == wire.OtherToken(second)


def test_without_an_owner(lab: Lab) -> None:
    """One that was released, lost, or set by hand."""
    token = lab.downloading("m", "a")
    lab.one("release", "m", claim_id="a", token=token)
    assert lab.one("cancel", "m") == Cancelled("", token)
    assert (lab.record("m").attempts, lab.record("m").max_attempts) == (1, 1)
    lab.set("m", "DOWNLOADING")
    assert lab.one("cancel", "m").owner == ""
    lab.downloading("n", "a")
    lab.pass_time(HOUR)
    assert lab.one("cancel", "n").owner == "host:1"


def test_what_is_no_download(lab: Lab) -> None:
    """A cancel of a model that is not DOWNLOADING is refused."""
    assert lab.one("cancel", "m") == wire.SetRefused("")
    assert lab.one("cancel", "m", token=5) == wire.SetRefused("")
    lab.finished("m", "a")
    assert lab.one("cancel", "m") == wire.SetRefused("DOWNLOADED")
    lab.evict("m")
    assert lab.one("cancel", "m") == wire.SetRefused("EVICTING")


def test_two_of_one_model(lab: Lab) -> None:
    """The second cancel of one claim in a batch is a repetition."""
    token = lab.downloading("m", "a")
    first, second = lab.call("cancel", item("m"), item("m", token=token))
    assert (first, second) == (Cancelled("host:1", token), wire.Again())
