"""Time: steps of the server's clock, restarts from one snapshot, a clock that runs ahead.

The clock is stepped in two ways. By hand: `meta.skew` is changed, which is what the scripts add to the
server's clock. And for real: a Valkey whose clock is libfaketime's (Debian has a package). Where that
library is missing the second is left out, so that the tests need nothing but Python; where CI is set, as on
build servers, it must be there. It is always the embedded Valkey, as libfaketime is known not to work with
Debian's redis-server.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry.embedded import EmbeddedServer
from pyregistry.embedded.binary import find_binary
from tests.lua.harness import HOUR, MINUTE, SECOND, Item, Lab, item, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeServer

FAKETIME = sorted(
    path
    for folder in ("/usr/lib", "/usr/local/lib")
    for pattern in ("faketime/libfaketime.so.1", "*/faketime/libfaketime.so.1")
    for path in Path(folder).glob(pattern)
)
WAYS = ["by hand"] + (["libfaketime"] if FAKETIME or os.environ.get("CI") else [])
WRITING = ("claim", "retry", "renew", "finish", "release", "set_status", "touch", "delete")


class Step(Protocol):
    """Steps the server's clock, forward or back."""

    def __call__(self, microseconds: int) -> None: ...


@pytest.fixture(params=WAYS)
def stepping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Lab, Step]]:
    """A namespace on a server whose clock can be stepped."""
    if request.param == "by hand":
        lab: Lab = request.getfixturevalue("lab")
        yield lab, lab.pass_time
        return
    assert FAKETIME, "CI is set and libfaketime is missing: apt install libfaketime"
    offset = tmp_path / "offset"
    offset.write_text("+0")
    program = tmp_path / "server"
    program.write_text(
        "#!/bin/sh\n"
        f"export LD_PRELOAD='{FAKETIME[0]}' FAKETIME_TIMESTAMP_FILE='{offset}'\n"
        "export FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1\n"
        f"exec '{find_binary()}' \"$@\"\n"
    )
    program.chmod(0o700)
    with EmbeddedServer(port=0, binary=program) as server:
        lab = Lab(server.url, "test")
        passed = 0

        def step(microseconds: int) -> None:
            nonlocal passed
            passed += microseconds
            new = offset.with_suffix(".new")
            new.write_text(f"{passed / SECOND:+.6f}")
            new.replace(offset)
            deadline = time.monotonic() + 20
            while abs(lab.utc() - time.time_ns() // 1000 - passed) > SECOND:
                assert time.monotonic() < deadline, "libfaketime does not work"

        yield lab, step
        lab.close()


def lease_time(lab: Lab) -> int:
    """As the next script will see it."""
    return max(lab.utc() + lab.number("skew"), lab.number("time"))


def test_a_lease_ends_after_a_step_back(stepping: tuple[Lab, Step]) -> None:
    """After its own length and not after that of the step."""
    lab, step = stepping
    given = lab.claim("m", "a", lease=MINUTE)
    step(-5 * HOUR)
    assert 0 < lab.claim("m", "b").lease_left <= MINUTE
    step(40 * SECOND)
    # A step back undoes the time since the last write in the namespace, and no more.
    lab.set("another", "DOWNLOADED")
    assert 0 < lab.claim("m", "b").lease_left <= 20 * SECOND
    step(-3 * HOUR)
    left = lab.claim("m", "b").lease_left
    assert 0 < left <= 20 * SECOND
    step(left)
    taken = lab.claim("m", "b")
    assert isinstance(taken, wire.ClaimGiven)
    assert given.lease_end <= taken.token <= given.lease_end + 30 * SECOND


def test_tokens_and_the_order_of_use_grow_through_all_steps(stepping: tuple[Lab, Step]) -> None:
    """Tokens and last uses grow through any steps of the clock."""
    lab, step = stepping
    tokens, names = [], []
    for number, hours in enumerate([-3, 7, -2, -2, 0, 5, -100, 30, -1]):
        step(hours * HOUR)
        names.append(f"m{number}")
        tokens.append(lab.finished(names[-1], "a"))
    assert tokens == sorted(set(tokens))
    order = lab.redis.zrange(lab.index("DOWNLOADED"), 0, -1)
    assert [entry.decode() for entry in order] == [item(name).entry for name in names]


def test_a_back_off_ends_after_a_step_back(stepping: tuple[Lab, Step]) -> None:
    """A back-off lasts no longer after the clock went back."""
    lab, step = stepping
    lab.finished("m", "a", status="ERROR", retry_in=MINUTE)
    step(-5 * HOUR)
    left = lab.one("retry", "m", claim_id="b").retry_left
    assert 0 < left <= MINUTE
    step(left)
    assert isinstance(lab.one("retry", "m", claim_id="b"), wire.ClaimGiven)


def test_a_hold_ends_after_a_step_back(stepping: tuple[Lab, Step]) -> None:
    """A hold lasts no longer after the clock went back."""
    lab, step = stepping
    lab.set("m", "DOWNLOADED")
    lab.hold("m", "x", 60)
    step(-5 * HOUR)
    assert lab.one("delete", "m") == wire.Held(1)
    step(61 * SECOND)
    assert lab.one("delete", "m") == wire.Deleted()


def test_a_step_forward_ends_leases_and_the_token_tells_the_owners_apart(stepping: tuple[Lab, Step]) -> None:
    """After a step forward ended a lease, the former owner's calls fail."""
    lab, step = stepping
    first = lab.downloading("m", "a", lease=HOUR)
    step(5 * HOUR)
    second = lab.downloading("m", "b", lease=HOUR)
    assert second > first
    step(-5 * HOUR)
    assert lab.one("renew", "m", claim_id="a", token=first) == wire.Lost("DOWNLOADING")
    assert lab.one("finish", "m", claim_id="a", token=first) == wire.Lost("DOWNLOADING")
    assert 0 < lab.claim("m", "c").lease_left <= HOUR
    assert lab.one("finish", "m", claim_id="b", token=second) == wire.Done()


@pytest.mark.parametrize("name", WRITING)
def test_a_step_back_is_stored_by_whatever_may_write(stepping: tuple[Lab, Step], name: str) -> None:
    """Even if it changes nothing else, so that leases go on."""
    lab, step = stepping
    lab.finished("evicting", "a")
    lab.evict("evicting", lease=1000 * HOUR)
    lab.finished("m", "a")
    last = lab.number("time")
    step(-2 * HOUR)
    idle = {
        "claim": item("m"),
        "retry": item("m"),
        "renew": item("m", claim_id="x", token=1),
        "finish": item("m", claim_id="x", token=1),
        "release": item("m", claim_id="x", token=1),
        "set_status": item("evicting"),
        "touch": item("evicting"),
        "delete": item("m", token=1),
    }
    lab.call(name, idle[name])
    assert lab.number("time") == last
    skew = lab.number("skew")
    # The harness has seen that lease time goes on; from here on it needs no more correction.
    assert 0 <= lease_time(lab) - last < 10 * SECOND
    lab.call(name, idle[name])
    assert lab.number("skew") == skew
    assert lab.number("time") == last


def test_a_step_back_is_stored_by_open(stepping: tuple[Lab, Step]) -> None:
    """open stores by how far the clock went back."""
    lab, step = stepping
    lab.open()
    lab.finished("m", "a")
    last = lab.number("time")
    step(-2 * HOUR)
    first = lab.moment()
    lab.open()
    assert lab.number("time") == last
    earliest, latest = span(first, lab.moment())
    assert last <= latest + lab.number("skew")
    assert earliest + lab.number("skew") < last + 10 * SECOND


def test_reading_stores_nothing_after_a_step_back(stepping: tuple[Lab, Step]) -> None:
    """Reading scripts write nothing after the clock went back."""
    lab, step = stepping
    lab.finished("m", "a")
    step(-2 * HOUR)
    lab.call("read", item("m"))
    lab.call("page", Item("DOWNLOADED", {}))
    lab.call("counts")


def test_a_clock_that_runs_ahead_of_lease_time(lab: Lab) -> None:
    """Ticks go on one by one from there; leases are judged by lease time all the same."""
    lab.downloading("m", "a", lease=MINUTE)
    ahead = lab.utc() + 10 * HOUR
    lab.redis.hset(lab.keys.meta, "clock", ahead)
    given = lab.call("claim", *(item(f"n{number}") for number in range(5)))
    assert [each.token for each in given] == [ahead + number for number in range(1, 6)]
    assert all(each.lease_end < ahead for each in given)
    assert lab.claim("m", "b").lease_left > 0
    lab.pass_time(MINUTE)
    assert lab.claim("m", "b").token == ahead + 6
    assert lab.one("touch", "m") == wire.Known()
    assert lab.score("m") == ahead + 7


def test_the_last_writes_are_lost_again_and_again(lab: Lab) -> None:
    """As at failovers, each time to a server whose clock is half a minute behind."""
    lab.open()
    lab.finished("m", "a")
    lab.redis.hset(lab.keys.meta, "clock", lab.utc() + HOUR)
    seen = [lab.finished("m0", "a")]
    kept = {key: lab.redis.dump(key) for key in lab.state().values}
    for number in range(1, 6):
        seen += [lab.downloading(f"m{number}-{each}", "a") for each in range(10)]
        for key in lab.state().values:
            lab.redis.delete(key)
        for key, value in kept.items():
            lab.redis.restore(key, 0, value)
        lab.redis.hset(lab.keys.meta, "server", f"{number:040}")
        lab.open()
        # The next one follows this server: what is here now is what it knows.
        kept = {key: lab.redis.dump(key) for key in lab.state().values}
        lab.pass_time(-30 * SECOND)
    assert seen == sorted(set(seen))


def test_restarts_from_one_snapshot(make_server: MakeServer, tmp_path: Path) -> None:
    """A server is killed and restarted again and again from one snapshot: no token is given twice.

    The clock runs ahead, or `TIME` alone would make the tokens differ.
    """
    server = make_server(data_dir=tmp_path, dbfilename="dump.rdb")
    lab = Lab(server.url, "test")
    lab.open()
    lab.finished("m", "a")
    lab.redis.hset(lab.keys.meta, "clock", lab.utc() + HOUR)
    tokens = [lab.finished("m0", "a")]
    lab.redis.save()
    shutil.copy(tmp_path / "dump.rdb", tmp_path / "snapshot")
    for life in range(5):
        given = lab.call("claim", *(item(f"life-{life}-{number}") for number in range(64)))
        tokens += [each.token for each in given]
        tokens.append(lab.downloading("last", "a"))
        lab.close()
        server.kill()
        shutil.copy(tmp_path / "snapshot", tmp_path / "dump.rdb")
        server.start()
        lab = Lab(server.url, "test")
        assert set(lab.state().entries()) == {item("m").entry, item("m0").entry}
        lab.open()
    lab.close()
    assert tokens == sorted(set(tokens))
