"""read: records together with their last use."""

from __future__ import annotations

import msgspec
import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.records import StoredRecord
from tests.lua.harness import Lab, item


def test_found_and_absent(lab: Lab) -> None:
    """read returns each record with its last use, and tells absent ones."""
    lab.downloading("a", "1", expected_bytes=5)
    lab.finished("b", "2", size_bytes=6)
    lab.finished("c", "3", status="ERROR")
    lab.finished("d", "4")
    lab.evict("d")
    lab.one("touch", "b")
    models = ["d", "x", "b", "a", "c", "b"]
    replies = lab.call("read", *map(item, models))
    assert replies.pop(1) == wire.Absent()
    models.remove("x")
    for model, reply in zip(models, replies, strict=True):
        assert wire.decode_record(reply.record) == lab.record(model)
        assert reply.last_used == lab.score(model)


def test_as_it_is_stored(lab: Lab) -> None:
    """The value itself, whatever a later version has put behind the elements that this one knows."""
    lab.finished("m", "a")
    value = msgspec.msgpack.encode([*msgspec.structs.astuple(lab.record("m")), "new", [1.5, {"a": True}]])
    lab.redis.set(lab.key("m"), value)
    assert bytes(lab.one("read", "m").record) == value


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 63, 64])
def test_all_sizes_of_a_batch(lab: Lab, size: int) -> None:
    """The reply is an array that the script puts together by hand, in two forms."""
    for number in range(0, size, 2):
        lab.put(f"m{number}", StoredRecord("DOWNLOADED", created_at=1, token=number + 1))
    replies = lab.call("read", *(item(f"m{number}") for number in range(size)))
    found = [isinstance(reply, wire.Found) for reply in replies]
    assert found == [number % 2 == 0 for number in range(size)]


def test_what_the_index_has_lost(lab: Lab) -> None:
    """read returns a last use of 0 for a record without an index entry."""
    lab.finished("m", "a")
    lab.redis.zrem(lab.index("DOWNLOADED"), item("m").entry)
    lab.damaged.add(item("m").entry)
    assert lab.one("read", "m").last_used == 0


def test_the_largest_numbers(lab: Lab) -> None:
    """read returns the largest numbers exactly."""
    most = 2**53 - 1
    lab.put("m", StoredRecord("DOWNLOADED", created_at=most, token=most, size_bytes=most))
    reply = lab.one("read", "m")
    assert reply.last_used == most
    assert wire.decode_record(reply.record).token == most
