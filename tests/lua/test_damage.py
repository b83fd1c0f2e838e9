"""Records that somebody damaged, those of an older layout, and those of a newer one."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.records import StoredRecord
from pyregistry.backend.values import StatusSet
from tests.lua.harness import HOUR, Lab, item

pack = msgspec.msgpack.encode
WHOLE: list[Any] = list(msgspec.structs.astuple(StoredRecord("DOWNLOADED", 5, 1, "host:1", token=7)))
POSITIONS = {name: at for at, name in enumerate(StoredRecord.__struct_fields__)}


def with_element(name: str, value: Any) -> bytes:
    elements = list(WHOLE)
    elements[POSITIONS[name]] = value
    return pack(elements)


DAMAGE: dict[str, bytes | list[str]] = {
    "no bytes": b"",
    "random bytes": bytes.fromhex("c1ff00dd9a8be1"),
    "text": b"x",
    "a string": pack("DOWNLOADED"),
    "a number": pack(7),
    "nil": b"\xc0",
    "true": b"\xc3",
    "an empty map": b"\x80",
    "a map": pack(dict(zip(StoredRecord.__struct_fields__, WHOLE, strict=True))),
    "a map of positions": pack(dict(enumerate(WHOLE, start=1))),
    "no elements": b"\x90",
    "no elements, long form": b"\xdc\x00\x00",
    "array32": b"\xdd\x00\x00\x00\x14" + pack(WHOLE)[3:],
    "cut off": pack(WHOLE)[:-1],
    "cut off in its head": b"\xdc",
    "cut off in a word": b"\x91\xaaDOWN",
    "a byte more": pack(WHOLE) + b"\x01",
    "a nil more": pack(WHOLE) + b"\xc0",
    "a record more": pack(WHOLE) * 2,
    "an ext": b"\xd4\x01\x00",
    "an ext within": b"\x92\xaaDOWNLOADED\xd4\x01\x00",
    "nested": b"\x91" * 5000,
    "many elements": pack([*WHOLE, *range(9000)]),
    "unknown status": with_element("status", "REMOVED"),
    "status in small letters": with_element("status", "downloaded"),
    "no status": with_element("status", ""),
    "status is a number": with_element("status", 1),
    "status is nil": with_element("status", None),
    "token is nil": with_element("token", None),
    "token is text": with_element("token", "7"),
    "token is negative": with_element("token", -1),
    "token is a fraction": with_element("token", 1.5),
    "token is nan": with_element("token", math.nan),
    "token is infinite": with_element("token", math.inf),
    "token is too large": with_element("token", 2**63),
    "token is a huge float": with_element("token", 1e300),
    "token is a boolean": with_element("token", True),
    "token is a list": with_element("token", [7]),
    "owner is a number": with_element("owner", 1),
    "owner is a map": with_element("owner", {}),
    "the last is text": with_element("previous_bytes_done", "0"),
    "a hole behind the elements": pack([*WHOLE, None, "new"]),
    "a hole at the end": pack([*WHOLE, None]),
    "a float32 that is no number": b"\x92\xaaDOWNLOADED\xca" + struct.pack(">f", math.nan),
    "a list": ["x"],
}  # fmt: skip

WITHIN = {
    *(kind for kind in DAMAGE if kind.startswith(("token ", "owner ", "the last ", "a hole "))),
    "a float32 that is no number",
}
"""Whole arrays with a status that is known: who needs no more of them finds no damage."""

CALLS: dict[str, tuple[dict[str, Any], type]] = {
    "claim": ({}, wire.Exists),
    "retry": ({}, wire.RetryRefused),
    "renew": ({"token": 7}, wire.Lost),
    "finish": ({"token": 7}, wire.Lost),
    "release": ({"token": 7}, wire.Lost),
    "set_status": ({"status": "ERROR"}, StatusSet),
    "touch": ({}, wire.Known),
    "read": ({}, wire.Found),
    "delete": ({}, wire.Deleted),
}
STATUS_ALONE = ("touch", "read")  # what is read, whoever asked for it decodes


@pytest.fixture
def between(lab: Lab) -> Lab:
    """Two whole records, one between them to be damaged."""
    for model in ("first", "middle", "last"):
        lab.finished(model, "0")
    return lab


@pytest.mark.parametrize("kind", DAMAGE)
def test_only_the_damaged_item_fails(between: Lab, kind: str) -> None:
    """The harness sees that it stays as it is, and what becomes of the others."""
    lab = between
    lab.damage("middle", DAMAGE[kind])
    for name, (args, answer) in CALLS.items():
        replies = lab.call(name, *(item(model, **args) for model in ("first", "middle", "last")))
        middle = answer if kind in WITHIN and name in STATUS_ALONE else wire.Damaged
        assert [type(reply) for reply in replies] == [answer, middle, answer], name


@pytest.mark.parametrize("kind", sorted(WITHIN - {"a hole behind the elements", "a hole at the end"}))
def test_what_is_damaged_within_is_told_by_who_decodes_it(kind: str) -> None:
    """But for what no layout has said yet."""
    value = DAMAGE[kind]
    assert isinstance(value, bytes)
    with pytest.raises(msgspec.DecodeError):
        wire.decode_record(value)


@pytest.mark.parametrize("kind", DAMAGE)
def test_delete_by_force_heals(between: Lab, kind: str) -> None:
    """A forced delete removes a damaged record and its index entries, and no other delete does."""
    lab = between
    lab.damage("middle", DAMAGE[kind])
    lab.hold("middle", "x", 60)
    assert isinstance(lab.one("delete", "middle"), wire.Damaged)
    assert isinstance(lab.one("delete", "middle", token=7), wire.Damaged)
    assert isinstance(lab.one("delete", "middle", token=7, force=1), wire.Damaged)
    replies = lab.call("delete", *(item(model, force=1) for model in ("first", "middle", "middle", "last")))
    assert replies == [wire.Deleted(), wire.Deleted(), wire.Absent(), wire.Deleted()]
    assert lab.damaged == set()
    assert lab.state().entries() == set()
    assert isinstance(lab.claim("middle", "a"), wire.ClaimGiven)


def test_all_items_damaged(lab: Lab) -> None:
    """A batch of damaged records gets an error for each."""
    for model in "ab":
        lab.damage(model, b"x")
    assert all(isinstance(each, wire.Damaged) for each in lab.call("claim", item("a"), item("b"), item("a")))


@pytest.mark.parametrize("length", range(1, len(WHOLE)))
def test_an_older_layout(lab: Lab, length: int) -> None:
    """What it left out is filled in, by every script."""
    lab.put("m", StoredRecord("DOWNLOADED", 5, 1, "host:1", token=7))
    lab.redis.set(lab.key("m"), pack(WHOLE[:length]))
    assert lab.one("touch", "m") == wire.Known()
    assert lab.claim("m", "a") == wire.Exists("DOWNLOADED", 0, 0)
    assert wire.decode_record(lab.one("read", "m").record) == StoredRecord(*WHOLE[:length])
    lab.set("m", "ERROR", "word")
    record = lab.record("m")
    assert (record.status, record.message, record.created_at) == ("ERROR", "word", 5 if length > 1 else 0)
    retried = lab.one("retry", "m", claim_id="a")
    assert lab.one("finish", "m", claim_id="a", token=retried.token, size_bytes=9) == wire.Done()
    lab.redis.set(lab.key("m"), pack(WHOLE[:length]))
    lab.redis.hset(lab.keys.meta, "bytes:DOWNLOADED", 0)
    assert lab.one("delete", "m") == wire.Deleted()


NEWER = ["new", 2**53 - 1, 0.5, True, [1, "two", []], {"a": {"b": 1}}, ""]


def newer(lab: Lab, model: str) -> list[Any]:
    elements: list[Any] = msgspec.msgpack.decode(lab.redis.get(lab.key(model)))
    return elements[len(WHOLE) :]


def make_newer(lab: Lab, model: str) -> None:
    elements: list[Any] = list(msgspec.structs.astuple(lab.record(model)))
    lab.redis.set(lab.key(model), pack([*elements, *NEWER]))


def test_a_newer_layout(lab: Lab) -> None:
    """Elements that this version does not know stay, whatever it writes."""
    token = lab.downloading("m", "a")
    make_newer(lab, "m")

    def still_there() -> bool:
        return newer(lab, "m") == NEWER

    assert isinstance(lab.claim("m", "a"), wire.ClaimAgain)
    assert still_there()
    lab.one("renew", "m", claim_id="a", token=token, says=1, message="x", bytes_done=5)
    assert still_there()
    lab.one("release", "m", claim_id="a", token=token)
    assert still_there()
    token = lab.downloading("m", "b")
    assert still_there()
    lab.one("finish", "m", claim_id="b", token=token, status="ERROR")
    assert still_there()
    lab.one("retry", "m", claim_id="c")
    assert still_there()
    lab.pass_time(HOUR)
    lab.claim("m", "d", max_attempts=1)
    assert lab.record("m").status == "ERROR"
    assert still_there()
    lab.set("m", "DOWNLOADED")
    assert still_there()
    lab.one("touch", "m")
    assert still_there()
    assert isinstance(lab.one("read", "m"), wire.Found)
    lab.evict("m")
    make_newer(lab, "m")
    lab.pass_time(HOUR)
    lab.downloading("m", "e")
    assert still_there()
    assert lab.one("delete", "m") == wire.Deleted()
