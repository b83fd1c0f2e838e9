"""All scripts against a small model of the state table, in any order, late, twice, and in batches.

A walk draws what happens: calls of
one to four items, requests that are sent again at once or after more has happened, leases that end, steps of
the server's clock, evictions, holds, restarts. After each call the replies, the records, their last use and
the events must be those of the model, and all that the harness checks must be true. A walk that fails is
shown whole, and its seed gives it again.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.records import StoredRecord
from pyregistry._redis.protocol.scripts import load
from pyregistry.backend.values import Cancelled, StatusSet
from pyregistry.models import EventKind
from tests.lua.harness import HOUR, MINUTE, Item, Lab, State, contract_of, item, span
from tests.lua.model import Model

MODELS = "abc"
# So long, as the steps are, that none ends while a call is on its way.
LEASES = (0, HOUR, HOUR, HOUR, 3 * HOUR)
STEPS = 1500


class Walk:
    """A namespace and its model, side by side."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab = lab
        self.model = Model()
        self.random = random.Random(seed)
        self.sent: list[tuple[str, list[Item]]] = []
        self.claims: list[tuple[str, str, int]] = []  # model, claim id, token, as they were given
        self.ended: set[tuple[str, int]] = set()
        self.seen: Counter[str] = Counter()

    # What happens

    def step(self) -> None:
        what = self.random.choices(
            [
                self.send,
                self.send_late,
                self.send_again_at_once,
                self.pass_time,
                self.evict,
                self.hold,
                self.restart,
            ],
            [50, 15, 10, 12, 6, 4, 3],
        )[0]
        what()

    def send(self) -> None:
        names = ["claim", "retry", "renew", "finish", "release", "set_status", "touch", "delete", "cancel"]
        (name,) = self.random.choices(names, [32, 14, 12, 14, 6, 8, 6, 9, 6])
        items = [self.draw(name) for _ in range(self.random.choice([1, 1, 1, 2, 4]))]
        args = contract_of(load(name, 1)).args
        shared = {arg.name: items[0][arg.name] for arg in args if arg.name in items[0].args}
        items = [item(each.model, **{**each.args, **shared}) for each in items]
        self.sent.append((name, items))
        self.run(name, items)

    def send_late(self) -> None:
        """A copy that was on its way while more happened."""
        if self.sent:
            self.run(*self.random.choice(self.sent[-40:]))

    def send_again_at_once(self) -> None:
        """The reply was lost: the caller learns the same, and the effect is there once."""
        if not self.sent or len(self.sent[-1][1]) > 1 or self.sent[-1][0] in ("set_status", "touch"):
            return
        name, items = self.sent[-1]
        if name == "cancel" and not items[0]["token"]:
            return
        (first,), token = self.run(name, items), self.model.clock
        (second,) = self.run(name, items)
        assert self.model.clock == token
        if isinstance(first, (wire.ClaimGiven, wire.ClaimAgain)):
            assert isinstance(second, wire.ClaimAgain)
            assert second.token == first.token
        elif isinstance(first, wire.Done):
            assert second == wire.Again()
        elif isinstance(first, wire.Deleted):
            assert second == wire.Absent()
        else:
            assert type(second) is (wire.Again if isinstance(first, Cancelled) else type(first))

    def pass_time(self) -> None:
        half_hours = self.random.choice([1, 2, 2, 7, -3])
        self.show(f"{half_hours} half hours pass")
        self.lab.pass_time(half_hours * HOUR // 2)

    def evict(self) -> None:
        model, lease = self.random.choice(MODELS), self.random.choice(LEASES)
        if model in self.model.records and self.model.records[model].status == "DOWNLOADED":
            self.show(f"eviction of {model} for {lease}")
            record = self.lab.evict(model, lease=lease)
            self.model.records[model], self.model.used[model] = record, record.token
            self.model.clock = record.token

    def hold(self) -> None:
        model, hours = self.random.choice(MODELS), self.random.choice([1, 3])
        if model in self.model.records:
            self.show(f"hold of {model} for {hours} hours")
            holders = self.model.holds.setdefault(model, [])
            holder = f"holder-{len(holders)}"
            self.lab.hold(model, holder, hours * 3600)
            holders.append(int(self.lab.redis.zscore(self.lab.holds_key(model), holder)))

    def restart(self) -> None:
        self.show("restart")
        self.lab.redis.hset(self.lab.keys.meta, "server", "another")
        self.lab.open()
        clock = self.lab.number("clock")
        assert clock >= self.model.clock + MINUTE or self.model.clock == 0
        self.model.clock = clock

    # What is asked for

    def draw(self, name: str) -> Item:
        choice, model = self.random.choice, self.random.choice(MODELS)
        fresh = f"id-{len(self.sent)}-{self.random.randrange(1000)}"
        if name in ("claim", "retry"):
            known = [claim_id for _, claim_id, _ in self.claims[-6:]]
            return item(
                model,
                claim_id=choice([fresh, fresh, *known[-3:]]),
                owner=choice(["one:1", "two:2"]),
                lease=choice(LEASES),
                max_attempts=choice([0, 0, 1, 1, 2]),
                cooldown=choice([0, HOUR]),
                expected_bytes=choice([0, 100, 250]),
            )
        if name in ("touch", "set_status"):
            status = choice(["DOWNLOADING", "DOWNLOADED", "ERROR", "EVICTING"])
            return item(
                model,
                status=status,
                message=choice(["", "by hand"]),
                retry_in=choice([0, HOUR]),
                permanent=choice([0, 0, 1]),
                size_bytes=choice([0, 70]),
                location=choice(["", "here"]),
            )
        model, claim_id, token = self.some_claim(model)
        if name == "delete":
            return item(model, token=choice(["", token]), force=choice([0, 0, 1]))
        if name == "cancel":
            return item(
                model,
                token=choice(["", token]),
                message="cancelled by two:2",
                retry_in=choice([0, HOUR]),
                permanent=choice([0, 0, 0, 1]),
            )
        return item(
            model,
            claim_id=claim_id,
            token=token,
            lease=choice(LEASES),
            says=choice([0, 1]),
            message=choice(["", "it is so"]),
            bytes_done=choice(["", 0, 50]),
            bytes_total=choice(["", 0, 300]),
            order=choice([0, len(self.sent), max(len(self.sent) - 9, 1)]),
            status=choice(["DOWNLOADED", "ERROR", "ERROR"]),
            size_bytes=choice([0, 120]),
            location=choice(["", "there"]),
            resolved_revision=choice(["", "abc"]),
            retry_in=choice([0, 0, HOUR]),
            permanent=choice([0, 0, 0, 1]),
            max_attempts=choice([0, 1, 2, 2]),
            cooldown=choice([0, HOUR, 3 * HOUR]),
        )

    def some_claim(self, model: str) -> tuple[str, str, int]:
        """Mostly the one that holds the model now; sometimes one of before, or none that was ever given."""
        record = self.model.records.get(model)
        chance = self.random.random()
        if record is not None and chance < 0.6:
            return model, record.claim_id or "nobody", record.token
        if self.claims and chance < 0.9:
            return self.random.choice(self.claims[-12:])
        return model, self.random.choice(["nobody", "id"]), self.model.clock

    # What must be so

    def run(self, name: str, items: list[Item]) -> Any:
        lab, model = self.lab, self.model
        self.show(f"{name} {items}")
        before, first = lab.state(), lab.moment()
        replies = lab.call(name, *items)
        after, last = lab.state(), lab.moment()
        self.show(f"  {replies}")
        model.now = self.lease_time(before, after, replies, items, *span(first, last))
        outcomes = [getattr(model, name)(each) for each in items]
        assert replies == [reply for reply, _ in outcomes]
        assert [event.kind for event in lab.events] == [kind for _, kind in outcomes if kind is not None]
        found = {entry: after.record(entry) for entry in after.entries()}
        assert found == {item(each).entry: record for each, record in model.records.items()}
        for each, score in model.used.items():
            assert list(after.sets_of(item(each).entry).values()) == [score]
        assert after.number("clock") == model.clock
        self.promises(items, replies)
        self.seen.update(f"{name}: {type(reply).__name__}" for reply in replies)
        self.seen.update(str(event.kind) for event in lab.events)
        return replies

    def lease_time(
        self, before: State, after: State, replies: Any, items: list[Item], earliest: int, latest: int
    ) -> int:
        """When the script ran: as it stored it, or by what it said is left, or about so."""
        skew, time = before.number("skew"), before.number("time")
        least, most = max(earliest + skew, time), max(latest + skew, time)
        now = least
        if after.number("time") != time or any(
            event.kind is not EventKind.RENEWED for event in self.lab.events
        ):
            now = after.number("time")
        else:
            for each, reply in zip(items, replies, strict=True):
                record = self.model.records.get(each.model, StoredRecord())
                if getattr(reply, "lease_left", 0) > 0:
                    now = getattr(reply, "lease_end", record.lease_end) - reply.lease_left
                if getattr(reply, "retry_left", 0) > 0:
                    now = record.retry_at - reply.retry_left
        assert least <= now <= most
        return now

    def promises(self, items: list[Item], replies: Any) -> None:
        """What the table is for, said without it."""
        for each, reply in zip(items, replies, strict=True):
            if isinstance(reply, wire.ClaimGiven):
                assert all(reply.token > token for _, _, token in self.claims)
                self.claims.append((each.model, each["claim_id"], reply.token))
            if isinstance(reply, wire.Done):
                # An end is done once, and by the last who got the claim.
                last = [token for model, _, token in self.claims if model == each.model][-1]
                assert each["token"] == last
                assert (each.model, last) not in self.ended
                self.ended.add((each.model, last))

    def show(self, what: str) -> None:
        print(what)  # shown by pytest if it fails


REPLIES = {
    "claim": (wire.ClaimGiven, wire.ClaimAgain, wire.Exists),
    "retry": (wire.ClaimGiven, wire.ClaimAgain, wire.RetryRefused),
    "renew": (wire.Renewed, wire.Ended, wire.Lost),
    "finish": (wire.Done, wire.Again, wire.Lost),
    "release": (wire.Done, wire.Again, wire.Lost),
    "set_status": (StatusSet, wire.SetRefused),
    "touch": (wire.Known, wire.Unknown),
    "cancel": (Cancelled, wire.Again, wire.OtherToken, wire.SetRefused),
    "delete": (wire.Deleted, wire.Absent, wire.OtherToken, wire.Evicting, wire.Held),
}


@pytest.mark.parametrize("seed", range(4))
def test_the_scripts_do_what_the_table_says(lab: Lab, seed: int) -> None:
    """The scripts and the Python model reply the same on random walks that reach every reply."""
    walk = Walk(lab, seed)
    for _ in range(STEPS):
        walk.step()
    # It has been everywhere, or it would say little.
    wanted = {f"{name}: {reply.__name__}" for name, replies in REPLIES.items() for reply in replies}
    assert wanted | set(EventKind) <= walk.seen.keys()
