"""now and cache: what a flow asks of the registry itself."""

from __future__ import annotations

from pyregistry._redis.protocol import records as wire
from tests.lua.harness import HOUR, Lab, span


def test_now_is_lease_time(lab: Lab) -> None:
    """now returns lease time."""
    lab.downloading("m")
    lab.pass_time(HOUR)
    first = lab.moment()
    now = lab.call("now").time
    earliest, latest = span(first, lab.moment())
    assert earliest <= now - lab.number("skew") <= latest
    assert lab.claim("n", "other").token >= now


def test_now_does_not_go_back(lab: Lab) -> None:
    """now does not go back with the server's clock."""
    lab.pass_time(HOUR)
    lab.downloading("m")
    last = lab.number("time")
    lab.pass_time(-2 * HOUR)
    assert lab.call("now") == wire.Now(last)


def test_the_first_cache_id_stays(lab: Lab) -> None:
    """cache stores the first id and returns it from then on."""
    assert lab.call("cache") == wire.Cache("")
    assert lab.call("cache", proposed="one") == wire.Cache("one")
    assert lab.call("cache", proposed="two") == wire.Cache("one")
    assert lab.call("cache") == wire.Cache("one")
    assert lab.state().meta["cache_id"] == "one"
