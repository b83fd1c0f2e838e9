"""counts: how many records there are, and how many bytes they stand for."""

from __future__ import annotations

from pyregistry._redis.protocol import records as wire
from pyregistry.backend.values import Totals
from tests.lua.harness import HOUR, Lab


def test_nothing(lab: Lab) -> None:
    """An empty namespace counts nothing."""
    assert lab.call("counts") == Totals((0, 0, 0, 0), (0, 0, 0, 0))


def test_every_status(lab: Lab) -> None:
    """counts returns number and bytes for every status."""
    lab.downloading("a", "1", expected_bytes=100)
    lab.downloading("b", "2")
    lab.finished("c", "3", size_bytes=20)
    lab.finished("d", "4", status="ERROR")
    lab.finished("e", "5", size_bytes=3)
    lab.evict("e")
    assert lab.call("counts") == Totals((2, 1, 1, 1), (100, 20, 0, 3))


def test_the_bytes_of_one_model_through_its_life(lab: Lab) -> None:
    """The bytes of a model follow each transition."""

    def sums() -> tuple[int, ...]:
        counts: Totals = lab.call("counts")
        return counts.bytes

    token = lab.downloading("m", "a", expected_bytes=100)
    assert sums() == (100, 0, 0, 0)
    lab.one("renew", "m", claim_id="a", token=token, bytes_done=30, bytes_total=90)
    assert sums() == (90, 0, 0, 0)
    lab.one("release", "m", claim_id="a", token=token)
    assert sums() == (90, 0, 0, 0)
    token = lab.downloading("m", "b")
    assert sums() == (90, 0, 0, 0)
    lab.pass_time(HOUR)
    token = lab.downloading("m", "c", expected_bytes=95)
    assert sums() == (95, 0, 0, 0)
    lab.one("finish", "m", claim_id="c", token=token, size_bytes=91)
    assert sums() == (0, 91, 0, 0)
    lab.one("touch", "m")
    assert sums() == (0, 91, 0, 0)
    lab.set("m", "ERROR")
    assert sums() == (0, 0, 91, 0)
    lab.one("retry", "m", claim_id="d")
    assert sums() == (0, 0, 0, 0)
    lab.set("m", "DOWNLOADED")
    assert sums() == (0, 0, 0, 0)
    lab.one("delete", "m")
    assert sums() == (0, 0, 0, 0)


def test_the_bytes_of_what_is_given_up(lab: Lab) -> None:
    """A model given up has no bytes."""
    lab.downloading("m", "a", expected_bytes=100)
    lab.pass_time(HOUR)
    lab.claim("m", "b", max_attempts=1)
    assert lab.call("counts") == Totals((0, 0, 1, 0), (0, 0, 0, 0))


def test_a_sum_that_somebody_damaged(lab: Lab) -> None:
    """It counts as nothing, and never goes below; no transition fails for it."""
    lab.finished("m", "a", size_bytes=5)
    lab.redis.hset(lab.keys.meta, "bytes:DOWNLOADED", "many")
    assert lab.one("delete", "m") == wire.Deleted()
    lab.finished("n", "a", size_bytes=5)
    lab.redis.hset(lab.keys.meta, "bytes:DOWNLOADED", "2")
    assert lab.one("delete", "n") == wire.Deleted()


def test_sums_beyond_what_one_record_can_hold_are_not_negative(lab: Lab) -> None:
    """Sums beyond the largest number of a record stay positive."""
    lab.finished("m", "a", size_bytes=2**52)
    lab.finished("n", "a", size_bytes=2**52 - 1)
    assert lab.call("counts").bytes == (0, 2**53 - 1, 0, 0)
