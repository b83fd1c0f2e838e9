"""Batches: how many items, the same model twice, won and lost items mixed."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.scripts import load
from pyregistry.backend.values import StatusSet, Totals
from pyregistry.models import EventKind
from tests.lua.harness import HOUR, MINUTE, Lab, contract_of, item

BATCHED = ("claim", "retry", "renew", "finish", "release", "set_status", "touch", "delete", "read", "page")
CHANGING = ("claim", "retry", "renew", "finish", "release", "set_status", "touch", "delete")


WANTED = {
    "claim": wire.ClaimGiven,
    "retry": wire.ClaimGiven,
    "renew": wire.Renewed,
    "finish": wire.Done,
    "release": wire.Done,
    "set_status": StatusSet,
    "touch": wire.Known,
    "delete": wire.Deleted,
}


@pytest.mark.parametrize("name", CHANGING)
def test_64(lab: Lab, name: str) -> None:
    """Each script accepts 64 items and replies to each."""
    replies = lab.call(name, *lab.busy(name, 64))
    assert [type(reply) for reply in replies] == [WANTED[name]] * 64
    assert len(lab.events) == (0 if name == "touch" else 64)


@pytest.mark.parametrize("size", [2, 15, 16, 17, 63])
def test_the_sizes_where_an_array_changes_its_form(lab: Lab, size: int) -> None:
    """The reply and the event's message are put together by hand."""
    given = lab.call("claim", *lab.busy("claim", size))
    assert [type(reply) for reply in given] == [wire.ClaimGiven] * size
    assert len(lab.events) == size


@pytest.mark.parametrize("count", [0, 65, 128])
@pytest.mark.parametrize("name", BATCHED)
def test_too_few_and_too_many(lab: Lab, name: str, count: int) -> None:
    """A script refuses no items and more than 64."""
    items = (lab.busy(name, 64) * 2)[:count]
    with pytest.raises(redis.ResponseError, match=rf"pyregistry: {name}\.v1 takes 1 to 64 items"):
        lab.call(name, *items)


@pytest.mark.parametrize("name", [*BATCHED, "open", "counts"])
def test_counts_of_keys_and_arguments(lab: Lab, name: str) -> None:
    """One key or argument too many or too few; keys without arguments; nothing at all."""
    script = load(name, 1)
    contract = contract_of(script)
    items = tuple(lab.busy(name, 2)) if contract.item_keys else ()
    keys, args = lab.command(script, items, {})
    wrong: list[tuple[list[str], list[Any]]] = [([], args), ([], []), (keys, [*args, "0"])]
    if args:
        wrong += [(keys, args[:-1]), (keys, [])]
    if contract.item_args or not contract.item_keys:  # else a key less or more is an item less or more
        wrong += [(keys[:-1], args), ([*keys, keys[-1]], args)]
    before = lab.state()
    for some_keys, some_args in wrong:
        with pytest.raises(redis.ResponseError, match=rf"pyregistry: {name}\.v1 takes"):
            lab.send(script, some_keys, some_args)
    assert lab.state() == before


def test_won_and_lost_claims(lab: Lab) -> None:
    """A batch of claims gets for each model the reply that a single claim gets."""
    lab.finished("done", "0")
    lab.finished("failed", "0", status="ERROR")
    lab.downloading("abandoned", "0")
    lab.pass_time(HOUR)
    lab.downloading("abandoned", "00")
    lab.downloading("over", "0", owner="first:1")
    lab.pass_time(HOUR)
    running = lab.downloading("running", "0")
    mine = lab.downloading("mine", "b")
    names = ["done", "new", "failed", "over", "running", "abandoned", "mine", "newer"]
    replies = lab.call("claim", *(item(name, claim_id="b", max_attempts=2) for name in names))
    answers = dict(zip(names, replies, strict=True))
    given = {name: reply for name, reply in answers.items() if isinstance(reply, wire.ClaimGiven)}
    assert list(given) == ["new", "over", "newer"]
    # Each that gets a token has one of its own, in the order of the batch, and so has the end of the
    # attempts between them.
    tokens = [reply.token for reply in given.values()]
    assert tokens == [tokens[0], tokens[0] + 1, tokens[0] + 3]
    assert given["over"].previous_owner == "first:1"
    assert answers["done"] == wire.Exists("DOWNLOADED", 0, 0)
    assert answers["failed"] == wire.Exists("ERROR", 0, 0)
    assert answers["abandoned"] == wire.Exists("ERROR", 0, 0)
    assert answers["running"].lease_left > 0
    assert answers["mine"].token == mine
    assert lab.record("running").token == running
    assert [event.kind for event in lab.events] == [
        EventKind.CLAIMED, EventKind.TAKEN_OVER, EventKind.ABANDONED, EventKind.CLAIMED,
    ]  # fmt: skip


def test_won_and_lost_ends(lab: Lab) -> None:
    """A batch of finishes gets for each model the reply that a single finish gets."""
    token = lab.downloading("mine", "a")
    again = lab.finished("again", "a")
    lab.finished("others", "x")
    replies = lab.call(
        "finish",
        item("others", claim_id="a", token=token),
        item("mine", claim_id="a", token=token, size_bytes=7),
        item("again", claim_id="a", token=again),
        item("nobody", claim_id="a", token=token),
    )
    assert replies == [wire.Lost("DOWNLOADED"), wire.Done(), wire.Again(), wire.Lost("")]


def test_known_and_unknown(lab: Lab) -> None:
    """A batch of touches replies whether each model exists."""
    lab.set("a", "DOWNLOADED")
    lab.set("b", "ERROR")
    lab.finished("c", "0")
    lab.evict("c")
    assert lab.call("touch", item("x"), item("b"), item("c"), item("a")) == [
        wire.Unknown(), wire.Known(), wire.Known(), wire.Known(),
    ]  # fmt: skip
    assert lab.score("a") == lab.score("b") + 1


def test_deleted_held_and_absent(lab: Lab) -> None:
    """A batch of deletes gets for each model the reply that a single delete gets."""
    for model in "abcd":
        lab.set(model, "DOWNLOADED")
    lab.hold("b", "x", 60)
    lab.finished("e", "0")
    lab.evict("e")
    token = lab.record("c").token
    replies = lab.call(
        "delete",
        item("a"), item("b"), item("c", token=token + 1), item("x"), item("d"), item("e"), item("b", force=1),
    )  # fmt: skip
    kinds = [type(reply) for reply in replies]
    assert kinds == [
        wire.Deleted, wire.Held, wire.OtherToken, wire.Absent, wire.Deleted, wire.Evicting, wire.Deleted,
    ]  # fmt: skip
    assert lab.state().entries() == {item("c").entry, item("e").entry}


# The same model twice: each item sees what those before it decided


def test_one_model_claimed_twice(lab: Lab) -> None:
    """Claims of one model in one batch have one winner."""
    first, second, third = lab.call(
        "claim",
        item("m", claim_id="a"),
        item("m", claim_id="b"),
        item("m", claim_id="a"),
    )
    assert isinstance(first, wire.ClaimGiven)
    assert second == wire.Exists("DOWNLOADING", first.lease_end, MINUTE)
    assert isinstance(third, wire.ClaimAgain)
    assert (third.token, third.lease_left) == (first.token, MINUTE)
    assert lab.record("m").lease_end == third.lease_end


def test_one_model_taken_over_and_given_up(lab: Lab) -> None:
    """In one batch a takeover and a model given up are seen by the later items."""
    lab.downloading("n", "0")
    lab.pass_time(HOUR)
    lab.downloading("m", "a", expected_bytes=4)
    lab.downloading("n", "a")
    lab.pass_time(HOUR)
    replies = lab.call(
        "claim",
        item("m", claim_id="b", max_attempts=2, expected_bytes=6),
        item("m", claim_id="c", max_attempts=2),
        item("n", claim_id="b", max_attempts=2),
        item("n", claim_id="c", max_attempts=2),
    )
    assert isinstance(replies[0], wire.ClaimGiven)
    assert [reply.status for reply in replies[1:]] == ["DOWNLOADING", "ERROR", "ERROR"]


def test_one_model_retried_twice(lab: Lab) -> None:
    """Retries of one model in one batch have one winner."""
    lab.finished("m", "a", status="ERROR")
    first, second, third = lab.call("retry", *(item("m", claim_id=each) for each in "bcb"))
    assert isinstance(first, wire.ClaimGiven)
    assert second == wire.RetryRefused("DOWNLOADING", 2, 0, 0)
    assert isinstance(third, wire.ClaimAgain)


def test_one_model_renewed_twice(lab: Lab) -> None:
    """Renewals of one model in one batch add up."""
    token = lab.downloading("m", "a", expected_bytes=10)
    mine = {"claim_id": "a", "token": token}
    replies = lab.call(
        "renew",
        item("m", **mine, lease=HOUR, bytes_total=30),
        item("m", claim_id="b", token=token),
        item("m", **mine, lease=MINUTE, bytes_done=8),
    )
    assert replies[2] == wire.Renewed(replies[0].lease_end, HOUR)
    assert replies[1] == wire.Lost("DOWNLOADING")
    assert (lab.record("m").bytes_done, lab.record("m").bytes_total) == (8, 30)
    assert [event.record.bytes_done for event in lab.events] == [0, 8]


def test_one_model_finished_twice(lab: Lab) -> None:
    """The first finish of one model in a batch wins."""
    mine = {"claim_id": "a", "token": lab.downloading("m", "a", expected_bytes=10)}
    replies = lab.call(
        "finish",
        item("m", **mine, status="DOWNLOADED", size_bytes=8),
        item("m", **mine, status="DOWNLOADED", size_bytes=9),
        item("m", **mine, status="ERROR"),
    )
    assert replies == [wire.Done(), wire.Again(), wire.Lost("DOWNLOADED")]
    assert lab.record("m").size_bytes == 8


def test_one_model_released_twice(lab: Lab) -> None:
    """The second release of one claim in a batch is a repetition."""
    mine = {"claim_id": "a", "token": lab.downloading("m", "a")}
    assert lab.call("release", item("m", **mine), item("m", **mine)) == [wire.Done(), wire.Again()]


def test_one_model_set_again_and_again(lab: Lab) -> None:
    """Each set_status of one model in a batch gets a later token, except DOWNLOADING upon DOWNLOADING."""
    token = lab.downloading("m", "a", owner="first:1", expected_bytes=10)
    lab.call("set_status", *(item("m", status=each) for each in ("ERROR", "DOWNLOADED", "DOWNLOADING")))
    tokens = [event.record.token for event in lab.events]
    assert tokens == [tokens[0], tokens[0] + 1, tokens[0] + 2]
    replies = lab.call("set_status", *(item("m", status="DOWNLOADING", message=each) for each in "xyz"))
    assert replies == [StatusSet("", "", 0)] * 3
    assert [event.record.token for event in lab.events] == [tokens[2]] * 3
    assert tokens[0] > token


def test_one_model_that_did_not_stay_where_it_was(lab: Lab) -> None:
    """From one set through another and back: the index holds it once, and the sums are as before."""
    lab.finished("m", "a", size_bytes=10)
    lab.call("set_status", *(item("m", status=each) for each in ("ERROR", "DOWNLOADED")))
    assert lab.call("counts") == Totals((0, 1, 0, 0), (0, 10, 0, 0))


def test_one_model_touched_twice(lab: Lab) -> None:
    """Each touch of one model in a batch advances the clock."""
    lab.set("m", "DOWNLOADED")
    before = lab.number("clock")
    assert lab.call("touch", item("m"), item("m")) == [wire.Known()] * 2
    assert lab.number("clock") > before + 1


def test_one_model_deleted_twice(lab: Lab) -> None:
    """The second delete of one model in a batch finds nothing."""
    lab.finished("m", "a", size_bytes=10)
    token = lab.record("m").token
    replies = lab.call("delete", item("m"), item("m"), item("m", token=token), item("m", force=1))
    assert replies == [wire.Deleted(), wire.Absent(), wire.Absent(), wire.Absent()]


def test_one_model_read_twice(lab: Lab) -> None:
    """Two reads of one model in a batch return the same."""
    lab.set("m", "DOWNLOADED")
    first, second = lab.call("read", item("m"), item("m"))
    assert first == second


def test_64_items_of_one_model(lab: Lab) -> None:
    """A batch of 64 items may name one model 64 times."""
    replies = lab.call("claim", *(item("m", claim_id=f"id-{number}") for number in range(64)))
    assert [type(reply) for reply in replies] == [wire.ClaimGiven] + [wire.Exists] * 63
    lab.call("set_status", *(item("m", status="ERROR", message=str(number)) for number in range(64)))
    assert lab.record("m").message == "63"
    assert len(lab.events) == 64
