"""All scripts against a small model of the state table, in any order, late, twice, and in batches.

`Model` is written from the design's table and rules, not from the Lua. A walk draws what happens: calls of
one to four items, requests that are sent again at once or after more has happened, leases that end, steps of
the server's clock, evictions, holds, restarts. After each call the replies, the records, their last use and
the events must be those of the model, and all that the harness checks must be true. A walk that fails is
shown whole, and its seed gives it again.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from pyregistry import _wire as wire
from pyregistry._scripts import load
from pyregistry._wire import StoredRecord
from pyregistry.models import EventKind
from tests.lua.harness import HOUR, MINUTE, Item, Lab, State, item, span

replace = msgspec.structs.replace

NO_CLAIM: dict[str, Any] = {
    "claim_id": "", "lease_end": 0, "bytes_done": 0, "bytes_total": 0, "previous_owner": "",
    "previous_bytes_done": 0, "began": 0, "retry_at": 0, "permanent": 0,
}  # fmt: skip
ENDS = {"DOWNLOADED": 1, "ERROR": 2, "released": 3}

Outcome = tuple[Any, EventKind | None]


class Model:
    """What a namespace must hold. Each script's method is its table: the first row that fits wins."""

    def __init__(self) -> None:
        self.records: dict[str, StoredRecord] = {}
        self.used: dict[str, int] = {}
        self.holds: dict[str, list[int]] = {}
        self.clock = 0
        self.now = 0

    def tick(self) -> int:
        self.clock = max(self.now, self.clock + 1)
        return self.clock

    def live(self, record: StoredRecord) -> bool:
        return record.lease_end == 0 or record.lease_end > self.now

    def left(self, record: StoredRecord) -> int:
        return wire.NEVER if record.lease_end == 0 else max(record.lease_end - self.now, 0)

    def until(self, lease: int) -> int:
        return self.now + lease if lease else 0

    def later(self, record: StoredRecord, lease: int) -> int:
        if record.lease_end == 0 or lease == 0:
            return 0
        return max(record.lease_end, self.now + lease)

    def give(self, it: Item, record: StoredRecord, began: int, **changes: Any) -> wire.ClaimGiven:
        token = self.tick()
        record = replace(
            record,
            status="DOWNLOADING", token=token, claim_id=it["claim_id"], owner=it["owner"],
            lease_end=self.until(it["lease"]), message="", began=began, bytes_done=0, retry_at=0,
            size_bytes=0, location="", resolved_revision="", **changes,
        )  # fmt: skip
        self.records[it.model], self.used[it.model] = record, token
        return wire.ClaimGiven(
            token, record.lease_end, self.left(record), record.attempts,
            record.previous_owner, record.previous_bytes_done,
        )  # fmt: skip

    def again(self, it: Item, record: StoredRecord) -> wire.ClaimAgain:
        record = replace(record, lease_end=self.later(record, it["lease"]))
        self.records[it.model] = record
        return wire.ClaimAgain(
            record.token, record.lease_end, self.left(record), record.attempts,
            record.previous_owner, record.previous_bytes_done,
        )  # fmt: skip

    def exists(self, record: StoredRecord) -> Outcome:
        leased = record.status in ("DOWNLOADING", "EVICTING")
        end, left = (record.lease_end, self.left(record)) if leased else (0, 0)
        return wire.Exists(record.status, end, left), None

    def take_over(self, it: Item, record: StoredRecord, attempts: int) -> Outcome:
        given = self.give(
            it, record, 1,
            attempts=attempts,
            previous_owner=record.owner,
            previous_bytes_done=record.bytes_done,
            bytes_total=it["expected_bytes"] or record.bytes_total,
        )  # fmt: skip
        return given, EventKind.TAKEN_OVER

    def claim(self, it: Item) -> Outcome:
        record = self.records.get(it.model)
        if record is None:
            new = StoredRecord(created_at=self.now, attempts=1, bytes_total=it["expected_bytes"])
            return self.give(it, new, 1), EventKind.CLAIMED
        if record.ended_id == it["claim_id"]:
            return self.exists(record)
        if record.status == "DOWNLOADING":
            if record.claim_id == it["claim_id"]:
                return self.again(it, record), None
            if self.live(record):
                return self.exists(record)
            if 0 < it["max_attempts"] <= record.attempts:
                lost = f"Owner lost at attempt {record.attempts}: {record.owner}"
                gone = {**NO_CLAIM, "status": "ERROR", "message": lost, "permanent": 1}
                self.records[it.model] = replace(record, **gone)
                self.used[it.model] = self.tick()
                return wire.Exists("ERROR", 0, 0), EventKind.ABANDONED
            return self.take_over(it, record, record.attempts + 1)
        if record.status == "EVICTING" and not self.live(record):
            return self.take_over(it, record, 1)
        return self.exists(record)

    def retry(self, it: Item) -> Outcome:
        record = self.records.get(it.model)
        if record is None:
            return wire.RetryRefused("", 0, 0, 0), None
        left = max(record.retry_at - self.now, 0)
        refused = wire.RetryRefused(record.status, record.attempts, record.permanent, left)
        if record.ended_id == it["claim_id"]:
            return refused, None
        if record.status == "DOWNLOADING" and record.claim_id == it["claim_id"]:
            return self.again(it, record), None
        enough = 0 < it["max_attempts"] <= record.attempts
        if record.status == "ERROR" and not record.permanent and not left and not enough:
            return self.give(it, record, 2, attempts=record.attempts + 1), EventKind.RETRIED
        return refused, None

    def mine(self, it: Item) -> StoredRecord | None:
        record = self.records.get(it.model)
        if record is None or record.status != "DOWNLOADING":
            return None
        return record if (record.claim_id, record.token) == (it["claim_id"], it["token"]) else None

    def ended(self, it: Item) -> int:
        record = self.records.get(it.model)
        return record.ended_how if record is not None and record.ended_id == it["claim_id"] else 0

    def lost(self, it: Item) -> Outcome:
        record = self.records.get(it.model)
        return wire.Lost("" if record is None else record.status), None

    def renew(self, it: Item) -> Outcome:
        record = self.mine(it)
        if record is not None:
            told = it["says"] or it["bytes_done"] != "" or it["bytes_total"] != ""
            changes: dict[str, Any] = {"lease_end": self.later(record, it["lease"])}
            changes |= {name: it[name] for name in ("bytes_done", "bytes_total") if it[name] != ""}
            changes |= {"message": it["message"], "began": 0} if it["says"] else {}
            record = self.records[it.model] = replace(record, **changes)
            kind = EventKind.RENEWED if told else None
            return wire.Renewed(record.lease_end, self.left(record)), kind
        if self.ended(it):
            return wire.Ended(self.ended(it)), None
        return self.lost(it)

    def finish(self, it: Item) -> Outcome:
        record, how = self.mine(it), ENDS[it["status"]]
        if record is not None:
            changes = {"status": it["status"], "message": it["message"]}
            changes |= {"ended_id": it["claim_id"], "ended_how": how}
            if how == 1:
                changes |= {name: it[name] for name in ("size_bytes", "location", "resolved_revision")}
                changes["lease_end"] = self.now
            else:
                changes |= {"retry_at": self.until(it["retry_in"]), "permanent": it["permanent"]}
            self.records[it.model] = replace(record, **{**NO_CLAIM, **changes})
            self.used[it.model] = self.tick()
            return wire.Done(), EventKind.DOWNLOADED if how == 1 else EventKind.FAILED
        return (wire.Again(), None) if self.ended(it) == how else self.lost(it)

    def release(self, it: Item) -> Outcome:
        record, how = self.mine(it), ENDS["released"]
        if record is not None:
            self.records[it.model] = replace(
                record, claim_id="", lease_end=self.now, attempts=max(record.attempts - 1, 0),
                ended_id=it["claim_id"], ended_how=how,
            )  # fmt: skip
            return wire.Done(), EventKind.RELEASED
        return (wire.Again(), None) if self.ended(it) == how else self.lost(it)

    def set_status(self, it: Item) -> Outcome:
        record = self.records.get(it.model)
        evicting = record is not None and record.status == "EVICTING" and self.live(record)
        if evicting or it["status"] == "EVICTING":
            return wire.SetRefused("" if record is None else record.status), None
        tick = self.used[it.model] = self.tick()
        if record is not None and record.status == it["status"] == "DOWNLOADING":
            self.records[it.model] = replace(record, message=it["message"], began=0)
            return wire.StatusSet("", "", 0), EventKind.SET
        ended = wire.StatusSet("", "", 0)
        if record is None:
            record = StoredRecord(created_at=self.now)
        elif record.status == "DOWNLOADING" and record.claim_id and self.live(record):
            ended = wire.StatusSet(record.owner, record.claim_id, record.token)
        changes = {
            "status": it["status"],
            "message": it["message"],
            "token": tick,
            "owner": "",
            "attempts": 0,
            "lease_end": self.now if it["status"] == "DOWNLOADED" else 0,
        }
        self.records[it.model] = replace(record, **{**NO_CLAIM, **changes})
        return ended, EventKind.SET

    def touch(self, it: Item) -> Outcome:
        record = self.records.get(it.model)
        if record is None:
            return wire.Unknown(), None
        if record.status != "EVICTING":
            self.used[it.model] = self.tick()
        return wire.Known(), None

    def delete(self, it: Item) -> Outcome:
        record = self.records.get(it.model)
        if record is None:
            return wire.Absent(), None
        if it["token"] not in ("", record.token):
            return wire.OtherToken(record.token), None
        if not it["force"]:
            if record.status == "EVICTING" and self.live(record):
                return wire.Evicting(self.left(record)), None
            held = sum(end > self.now for end in self.holds.get(it.model, ()))
            if held:
                return wire.Held(held), None
        del self.records[it.model], self.used[it.model]
        self.holds.pop(it.model, None)
        return wire.Deleted(), EventKind.DELETED


MODELS = "abc"
# So long, as the steps are, that none ends while a call is on its way.
LEASES = (0, HOUR, HOUR, HOUR, 3 * HOUR)
STEPS = 1200


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
        names = ["claim", "retry", "renew", "finish", "release", "set_status", "touch", "delete"]
        (name,) = self.random.choices(names, [32, 14, 12, 14, 6, 8, 6, 9])
        items = [self.draw(name) for _ in range(self.random.choice([1, 1, 1, 2, 4]))]
        shared = {arg.name: items[0][arg.name] for arg in load(name, 1).args if arg.name in items[0].args}
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
            assert type(second) is type(first)

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
                max_attempts=choice([0, 0, 1, 2, 3]),
                expected_bytes=choice([0, 100, 250]),
            )
        if name in ("touch", "set_status"):
            status = choice(["DOWNLOADING", "DOWNLOADED", "ERROR", "EVICTING"])
            return item(model, status=status, message=choice(["", "by hand"]))
        model, claim_id, token = self.some_claim(model)
        if name == "delete":
            return item(model, token=choice(["", token]), force=choice([0, 0, 1]))
        return item(
            model,
            claim_id=claim_id,
            token=token,
            lease=choice(LEASES),
            says=choice([0, 1]),
            message=choice(["", "it is so"]),
            bytes_done=choice(["", 0, 50]),
            bytes_total=choice(["", 0, 300]),
            status=choice(["DOWNLOADED", "ERROR", "ERROR"]),
            size_bytes=choice([0, 120]),
            location=choice(["", "there"]),
            resolved_revision=choice(["", "abc"]),
            retry_in=choice([0, 0, HOUR]),
            permanent=choice([0, 0, 0, 1]),
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
    "set_status": (wire.StatusSet, wire.SetRefused),
    "touch": (wire.Known, wire.Unknown),
    "delete": (wire.Deleted, wire.Absent, wire.OtherToken, wire.Evicting, wire.Held),
}


@pytest.mark.parametrize("seed", range(4))
def test_the_scripts_do_what_the_table_says(lab: Lab, seed: int) -> None:
    walk = Walk(lab, seed)
    for _ in range(STEPS):
        walk.step()
    # It has been everywhere, or it would say little.
    wanted = {f"{name}: {reply.__name__}" for name, replies in REPLIES.items() for reply in replies}
    assert wanted | set(EventKind) <= walk.seen.keys()
