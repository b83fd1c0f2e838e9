"""Old and new replicas share one Redis during a roll-out: versions 1 and 2 of scripts on the same data.

Version 2 is made here. It knows one more element of a record, `mirror`: where a claim found its files.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.scripts import Script, load, script_of
from pyregistry.backend.values import StatusSet
from tests.lua.harness import HOUR, Lab, item
from tools.build_lua.compose import Composer
from tools.build_lua.files import LUA
from tools.build_lua.layout import Element, Layout, read_layout

STATUS_ALONE = ("touch", "read")  # these know of no other element
NAMES = ("claim", "retry", "renew", "finish", "release", "set_status", "touch", "delete", "read")

FILLED_IN = "  if record and type(record[MIRROR]) ~= 'string' then refuse('mirror is not filled in') end"


class NewerRecord(wire.StoredRecord, array_like=True, frozen=True):
    mirror: str = ""


def newer_composer() -> Composer:
    older = read_layout(LUA / "record.toml")
    return Composer(LUA, Layout((*older.elements, Element("mirror", ""))))


def endpoint_of(name: str) -> str:
    return (LUA / "src" / f"{name}.v1.lua").read_text("utf-8")


@pytest.fixture
def newer() -> dict[str, Script]:
    """Version 2 of every script, composed for a layout with one element more."""
    composer = newer_composer()
    made = {}
    for name in NAMES:
        source = endpoint_of(name)
        if name not in STATUS_ALONE:
            source = changed(source, "function judge()", f"function judge()\n{FILLED_IN}")
        if name == "claim":
            give = "return give_claim(kind, 1,"
            source = changed(source, give, f"record[MIRROR] = 'near ' .. channel\n  {give}")
            source = changed(source, "if expected_bytes == 0 then", "if false then")
        made[name] = script_of(name, 2, composer.compose(name, 2, source))
    return made


def changed(source: str, old: str, new: str) -> str:
    assert source.count(old) == 1
    return source.replace(old, new)


def mirror(lab: Lab, model: str) -> str:
    raw = lab.redis.get(lab.key(model))
    return msgspec.msgpack.decode(raw, type=NewerRecord).mirror


@pytest.mark.parametrize("name", NAMES)
def test_a_new_element_changes_no_released_text(newer: dict[str, Script], name: str) -> None:
    """A new element of the record changes no released script."""
    assert newer_composer().compose(name, 1, endpoint_of(name)) == load(name, 1).text
    assert newer[name].sha != load(name, 1).sha
    assert (f"[--[[MIRROR]] {len(NewerRecord.__struct_fields__)}]" in newer[name].text) == (
        name not in STATUS_ALONE
    )


def life(lab: Lab, scripts: list[dict[str, Script]]) -> None:
    """Every transition of one model, by the versions in turn; each sees what the other wrote."""
    turn = 0

    def run(name: str, **args: Any) -> Any:
        nonlocal turn
        version = scripts[turn % len(scripts)]
        turn += 1
        (reply,) = lab.call(name, item("m", **args), script=version.get(name))
        return reply

    first = run("claim", claim_id="a", expected_bytes=10)
    assert run("claim", claim_id="a").token == first.token
    assert run("claim", claim_id="b").status == "DOWNLOADING"
    mine = {"claim_id": "a", "token": first.token}
    assert isinstance(run("renew", **mine, bytes_done=5), wire.Renewed)
    assert run("touch") == wire.Known()
    assert run("release", **mine) == wire.Done()
    assert run("release", **mine) == wire.Again()
    second = run("claim", claim_id="b")
    assert (second.attempts, second.previous_bytes_done) == (1, 5)
    assert run("renew", **mine) == wire.Ended(3)
    mine = {"claim_id": "b", "token": second.token}
    assert run("finish", **mine, status="ERROR") == wire.Done()
    assert run("finish", **mine, status="ERROR") == wire.Again()
    third = run("retry", claim_id="c")
    assert run("retry", claim_id="c").token == third.token
    lab.pass_time(HOUR)
    fourth = run("claim", claim_id="d")
    assert fourth.attempts == 3
    mine = {"claim_id": "d", "token": fourth.token}
    assert run("finish", **mine, size_bytes=12) == wire.Done()
    assert wire.decode_record(run("read").record).size_bytes == 12
    assert isinstance(run("set_status", status="ERROR"), StatusSet)
    assert isinstance(run("set_status", status="DOWNLOADED"), StatusSet)
    lab.evict("m")
    lab.pass_time(HOUR)
    assert isinstance(run("claim", claim_id="e"), wire.ClaimGiven)
    assert run("delete") == wire.Deleted()
    assert run("delete") == wire.Absent()


@pytest.mark.parametrize("order", ["21", "12", "112", "221", "2221112"])
def test_both_versions_in_turn(lab: Lab, newer: dict[str, Script], order: str) -> None:
    """All that must always be true is, after each call, for whoever knows the record as version 1 does."""
    life(lab, [newer if version == "2" else {} for version in order])


def test_the_older_version_keeps_what_the_newer_wrote(lab: Lab, newer: dict[str, Script]) -> None:
    """Older scripts keep an element that newer ones wrote."""
    written = f"near {lab.keys.channel}"
    (given,) = lab.call("claim", item("m", claim_id="a"), script=newer["claim"])
    assert mirror(lab, "m") == written
    lab.one("renew", "m", claim_id="a", token=given.token, says=1, message="x")
    lab.one("finish", "m", claim_id="a", token=given.token, status="ERROR")
    retried = lab.one("retry", "m", claim_id="b")
    lab.one("release", "m", claim_id="b", token=retried.token)
    lab.downloading("m", "c")
    lab.set("m", "DOWNLOADED")
    lab.one("touch", "m")
    assert mirror(lab, "m") == written


def test_the_newer_version_fills_in_what_the_older_left_out(lab: Lab, newer: dict[str, Script]) -> None:
    """Newer scripts use the default of an element that older ones left out."""
    lab.finished("m", "a")
    assert mirror(lab, "m") == ""
    assert lab.call("touch", item("m"), script=newer["touch"]) == [wire.Known()]
    lab.call("set_status", item("m", status="ERROR"), script=newer["set_status"])
    assert mirror(lab, "m") == ""
    assert lab.record("m").status == "ERROR"


def test_one_batch_of_either_on_records_of_both(lab: Lab, newer: dict[str, Script]) -> None:
    """Older and newer scripts work on records of both in one batch."""
    items = [item(f"m{number}", claim_id="a") for number in range(8)]
    given = lab.call("claim", *items[:4]) + lab.call("claim", *items[4:], script=newer["claim"])
    ends = [
        item(each.model, claim_id="a", token=claim.token) for each, claim in zip(items, given, strict=True)
    ]
    assert lab.call("finish", *ends[::2], script=newer["finish"]) == [wire.Done()] * 4
    assert lab.call("finish", *ends) == [wire.Again(), wire.Done()] * 4
    assert [mirror(lab, each.model) != "" for each in items] == [False] * 4 + [True] * 4
