"""touch: each row of its table."""

from __future__ import annotations

import pytest

from pyregistry import _wire as wire
from tests.lua.harness import HOUR, Lab


@pytest.mark.parametrize("status", ["DOWNLOADING", "DOWNLOADED", "ERROR"])
def test_known(lab: Lab, status: str) -> None:
    lab.set("m", status)
    first = lab.score("m")
    assert lab.one("touch", "m") == wire.Known()
    assert lab.score("m") > first
    assert lab.events == []


def test_a_claim_whose_lease_is_over(lab: Lab) -> None:
    lab.downloading("m", "a")
    lab.pass_time(HOUR)
    assert lab.one("touch", "m") == wire.Known()
    assert isinstance(lab.claim("m", "b"), wire.ClaimGiven)


@pytest.mark.parametrize("lease", [0, 1, HOUR])
def test_evicting(lab: Lab, lease: int) -> None:
    lab.finished("m", "a")
    lab.evict("m", lease=lease)
    assert lab.one("touch", "m") == wire.Known()


def test_unknown(lab: Lab) -> None:
    assert lab.one("touch", "m") == wire.Unknown()
    assert lab.state().values == {}


def test_the_order_of_use(lab: Lab) -> None:
    for model in "abcd":
        lab.set(model, "DOWNLOADED")
    lab.one("touch", "b")
    lab.one("touch", "a")
    names = lab.redis.zrange(lab.index("DOWNLOADED"), 0, -1)
    assert [name.decode()[-1] for name in names] == ["c", "d", "b", "a"]
