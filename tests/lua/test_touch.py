"""touch: each row of its table."""

from __future__ import annotations

import pytest

from pyregistry._redis.protocol import records as wire
from tests.lua.harness import HOUR, Lab, item

pytestmark = pytest.mark.server("embedded", "debian", "stack")  # as tests/contract/test_touch.py


@pytest.mark.parametrize("status", ["DOWNLOADING", "DOWNLOADED", "ERROR"])
def test_known(lab: Lab, status: str) -> None:
    """A touch of a known model moves its last use and publishes no event."""
    lab.set("m", status)
    first = lab.score("m")
    assert lab.one("touch", "m") == wire.Known()
    assert lab.score("m") > first
    assert lab.events == []


def test_a_claim_whose_lease_is_over(lab: Lab) -> None:
    """A touch does not extend a lease."""
    lab.downloading("m", "a")
    lab.pass_time(HOUR)
    assert lab.one("touch", "m") == wire.Known()
    assert isinstance(lab.claim("m", "b"), wire.ClaimGiven)


@pytest.mark.parametrize("lease", [0, 1, HOUR])
def test_evicting(lab: Lab, lease: int) -> None:
    """A touch of an evicting model succeeds."""
    lab.finished("m", "a")
    lab.evict("m", lease=lease)
    assert lab.one("touch", "m") == wire.Known()


def test_unknown(lab: Lab) -> None:
    """A touch of an unknown model writes nothing."""
    assert lab.one("touch", "m") == wire.Unknown()
    assert lab.state().values == {}


def test_the_order_of_use(lab: Lab) -> None:
    """Touches order the models by their last use."""
    for model in "abcd":
        lab.set(model, "DOWNLOADED")
    lab.one("touch", "b")
    lab.one("touch", "a")
    names = lab.redis.zrange(lab.index("DOWNLOADED"), 0, -1)
    assert [name.decode()[-1] for name in names] == ["c", "d", "b", "a"]


@pytest.mark.parametrize("ahead", [0, HOUR])
@pytest.mark.parametrize("size", [1, 2, 3, 8, 63])
def test_all_there_are_together(lab: Lab, size: int, ahead: int) -> None:
    """By one write for each index, whatever the server's clock was set back by; the harness knows what is right."""
    kinds = [
        "DOWNLOADED",
        "ERROR",
        "unknown",
        "EVICTING",
        "DOWNLOADING",
        "DOWNLOADED",
        "the first again",
        "damaged",
    ]
    items = []
    for number in range(size):
        kind, model = kinds[number % len(kinds)], f"m{number}"
        if kind == "the first again":
            model = "m0"
        elif kind == "EVICTING":
            lab.finished(model, f"a{number}")
            lab.evict(model)
        elif kind == "damaged":
            lab.damage(model, b"x")
        elif kind != "unknown":
            lab.set(model, kind)
        items.append(item(model))
    if ahead:
        lab.redis.hincrby(lab.keys.meta, "time", ahead)
        lab.redis.hincrby(lab.keys.meta, "clock", ahead)
    replies = lab.call("touch", *items)
    wanted = {"unknown": wire.Unknown, "damaged": wire.Damaged}
    assert [type(each) for each in replies] == [
        wanted.get(kinds[number % len(kinds)], wire.Known) for number in range(size)
    ]
    assert lab.number("skew") >= ahead * 0.99


@pytest.mark.parametrize("known", ["nothing", "EVICTING"])
def test_a_step_back_is_kept_though_nothing_is_touched(lab: Lab, known: str) -> None:
    """A touch stores by how far the clock went back, also if it touches nothing."""
    lab.finished("m", "a")
    if known == "EVICTING":
        lab.evict("m")
    lab.redis.hincrby(lab.keys.meta, "time", HOUR)
    clock = lab.number("clock")
    lab.one("touch", "m" if known == "EVICTING" else "nothing")
    assert lab.number("skew") >= HOUR * 0.99
    assert lab.number("clock") == clock
