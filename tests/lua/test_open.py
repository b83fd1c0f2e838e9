"""open: is this server fit, and the one that wrote last?"""

from __future__ import annotations

from typing import Any

import pytest
import redis

from pyregistry._redis.protocol import records as wire
from tests.lua.harness import HOUR, MINUTE, SECOND, Lab, span

INDEXES = ["DOWNLOADING", "DOWNLOADED", "ERROR", "EVICTING"]


def info(lab: Lab) -> dict[str, Any]:
    found: dict[str, Any] = lab.redis.info("server")
    return found


def another_server(lab: Lab) -> None:
    """As after a failover: somebody else wrote last."""
    lab.redis.hset(lab.keys.meta, "server", "0" * 40)


def test_a_new_namespace(lab: Lab) -> None:
    """open stores schema and server of a new namespace."""
    server = info(lab)
    product = "valkey" if "valkey_version" in server else "redis"
    version = f"{product} {server[f'{product}_version']}"
    assert lab.open() == wire.Opened(server["run_id"], version, 1)
    assert lab.state().values == {lab.keys.meta: {"schema": "1", "server": server["run_id"]}}


def test_twice_changes_nothing(lab: Lab) -> None:
    """open is idempotent."""
    lab.open()
    lab.finished("m", "a")
    before = lab.state()
    assert lab.open() == lab.open()
    assert lab.state() == before


def test_a_namespace_that_was_used_before_it_was_opened(lab: Lab) -> None:
    """Nobody knows which server wrote it."""
    lab.finished("m", "a")
    clock = lab.number("clock")
    lab.open()
    assert lab.number("clock") >= clock + MINUTE


def test_another_server(lab: Lab) -> None:
    """60 s, and the lease time that has passed since the last write; lease time itself does not jump."""
    lab.open()
    token = lab.finished("m", "a")
    before = lab.state()
    another_server(lab)
    lab.pass_time(HOUR)
    first = lab.moment()
    lab.open()
    earliest, latest = span(first, lab.moment())
    after = lab.state()
    assert after.meta["server"] == info(lab)["run_id"]
    passed = after.number("clock") - before.number("clock") - MINUTE
    assert earliest + HOUR <= before.number("time") + passed <= latest + HOUR
    assert earliest + HOUR <= after.number("time") <= latest + HOUR
    assert after.number("skew") == HOUR
    assert lab.claim("n", "a").token > max(token, before.number("clock") + HOUR + MINUTE)
    assert lab.record("n").lease_end <= span(first, lab.moment())[1] + HOUR + MINUTE


def test_a_clock_that_runs_ahead(lab: Lab) -> None:
    """open on another server moves the clock ahead, so that later tokens grow."""
    lab.open()
    lab.downloading("m", "a")
    ahead = lab.utc() + 5 * HOUR
    lab.redis.hset(lab.keys.meta, "clock", ahead)
    another_server(lab)
    lab.open()
    assert lab.claim("n", "a").token > ahead + MINUTE


def test_restarts_of_an_idle_registry(lab: Lab) -> None:
    """The time in which nobody wrote counts once, not once more with each restart."""
    lab.open()
    lab.finished("m", "a")
    clock = lab.number("clock")
    lab.pass_time(1000 * HOUR)
    for _ in range(10):
        another_server(lab)
        lab.open()
    assert lab.number("clock") < clock + 1000 * HOUR + 11 * MINUTE


def test_nothing_was_ever_written(lab: Lab) -> None:
    """open on another server makes no clock in an empty namespace."""
    lab.open()
    another_server(lab)
    lab.open()
    assert lab.state().meta.keys() == {"schema", "server"}


def test_a_step_back_while_nobody_was_connected(lab: Lab) -> None:
    """open stores by how far the server's clock went back."""
    lab.open()
    first = lab.moment()
    lab.finished("m", "a")
    lab.pass_time(-HOUR)
    lab.open()
    last = lab.moment()
    set_back = span(first, last)[1] - last.utc
    assert lab.number("skew") <= set_back
    assert lab.number("skew") + 10 * SECOND > 0
    another_server(lab)
    clock, time = lab.number("clock"), lab.number("time")
    lab.pass_time(-HOUR)
    lab.open()
    assert lab.number("clock") == clock + MINUTE
    assert lab.number("time") == time


def test_a_newer_schema(lab: Lab) -> None:
    """open refuses a newer schema."""
    lab.open()
    lab.redis.hset(lab.keys.meta, "schema", 3)
    another_server(lab)
    with pytest.raises(redis.ResponseError, match=r"^SCHEMATOONEW 3\b"):
        lab.open()
    with pytest.raises(redis.ResponseError, match=r"^SCHEMATOONEW 3\b"):
        lab.open(schema=2)
    assert lab.open(schema=3).schema == 3


def test_an_older_schema_stays(lab: Lab) -> None:
    """A newer program does not shut the older ones out by looking in."""
    lab.open(schema=1)
    another_server(lab)
    assert lab.open(schema=2).schema == 1
    assert lab.state().meta["schema"] == "1"


@pytest.mark.parametrize("kind", ["string", "list", "set", "hash", "zset", "stream"])
@pytest.mark.parametrize("name", ["meta", "branches", *INDEXES])
def test_shared_keys_of_another_type(lab: Lab, name: str, kind: str) -> None:
    """open refuses shared keys of another type."""
    hashes = {"meta": lab.keys.meta, "branches": lab.keys.branches}
    key = hashes.get(name) or lab.index(name)
    if kind == ("hash" if name in hashes else "zset"):
        lab.open()
        return
    commands: dict[str, tuple[Any, ...]] = {
        "string": ("SET", key, "x"),
        "list": ("RPUSH", key, "x"),
        "set": ("SADD", key, "x"),
        "hash": ("HSET", key, "x", "1"),
        "zset": ("ZADD", key, "1", "x"),
        "stream": ("XADD", key, "*", "x", "1"),
    }
    lab.redis.execute_command(*commands[kind])
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        lab.open()
