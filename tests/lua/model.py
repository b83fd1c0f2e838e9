"""The reference model of the state table: what a namespace must hold, in plain Python.

It is written from the table and the rules, not from the Lua. The walks (`test_model`) compare the scripts with it, the
exploration (`test_explore`) goes through all states that it can reach, and the backend in memory
(`tests.support.memory_backend`) runs on it.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.records import StoredRecord
from pyregistry.backend.values import Cancelled, StatusSet
from pyregistry.models import EventKind

replace = msgspec.structs.replace

NO_CLAIM: dict[str, Any] = {
    "claim_id": "", "lease_end": 0, "bytes_done": 0, "bytes_total": 0, "previous_owner": "",
    "previous_bytes_done": 0, "began": 0, "retry_at": 0, "permanent": 0, "max_attempts": 0, "renewal": 0,
}  # fmt: skip
ENDS = {"DOWNLOADED": 1, "ERROR": 2, "released": 3, "cancelled": 4}

Outcome = tuple[Any, EventKind | None]
"""The reply to one item, and the event that it publishes."""


class Item(Protocol):
    """One item of a request: a model, and arguments by the names of the scripts' headers, in their units."""

    @property
    def model(self) -> str:
        """The model, in any unique form."""

    def __getitem__(self, name: str) -> Any: ...


class Model:
    """What a namespace must hold. Each script's method is its table: the first row that fits wins.

    Attributes:
        records: the records by model.
        used: the last use of each model, which is a tick.
        holds: the ends of each model's holds.
        clock: the last tick.
        now: lease time, which the caller sets before each request.
    """

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
            max_attempts=0, renewal=0,
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
                gone = {**NO_CLAIM, "status": "ERROR", "message": lost, "lease_end": self.now}
                gone["max_attempts"] = it["max_attempts"]
                gone |= {"retry_at": self.until(it["cooldown"]), "permanent": int(not it["cooldown"])}
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
        anew = record.retry_at > 0 and 0 < record.max_attempts <= record.attempts
        enough = not anew and 0 < it["max_attempts"] <= record.attempts
        if record.status == "ERROR" and not record.permanent and not left and not enough:
            return self.give(it, record, 2, attempts=1 if anew else record.attempts + 1), EventKind.RETRIED
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
            late = 0 < it["order"] <= record.renewal
            told = (it["says"] or it["bytes_done"] != "" or it["bytes_total"] != "") and not late
            changes: dict[str, Any] = {"lease_end": self.later(record, it["lease"])}
            if told:
                changes |= {name: it[name] for name in ("bytes_done", "bytes_total") if it[name] != ""}
                changes |= {"message": it["message"], "began": 0} if it["says"] else {}
                changes |= {"renewal": it["order"]} if it["order"] else {}
            record = self.records[it.model] = replace(record, **changes)
            kind = EventKind.RENEWED if told else None
            return wire.Renewed(record.lease_end, self.left(record)), kind
        if self.ended(it) not in (0, ENDS["cancelled"]):
            return wire.Ended(self.ended(it)), None
        record = self.records.get(it.model)
        why = record.message if record is not None and record.status == "ERROR" else ""
        return replace(self.lost(it)[0], message=why), None

    def finish(self, it: Item) -> Outcome:
        record, how = self.mine(it), ENDS[it["status"]]
        if record is not None:
            changes = {"status": it["status"], "message": it["message"]}
            changes |= {"ended_id": it["claim_id"], "ended_how": how}
            if how == 1:
                changes |= {name: it[name] for name in ("size_bytes", "location", "resolved_revision")}
                changes["lease_end"] = self.now
            else:
                used_up = 0 < it["max_attempts"] <= record.attempts
                changes["retry_at"] = self.until(it["cooldown"] if used_up else it["retry_in"])
                changes |= {"permanent": it["permanent"], "max_attempts": it["max_attempts"]}
                changes["lease_end"] = self.now
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
            return StatusSet("", "", 0), EventKind.SET
        ended = StatusSet("", "", 0)
        if record is None:
            record = StoredRecord(created_at=self.now)
        elif record.status == "DOWNLOADING" and record.claim_id and self.live(record):
            ended = StatusSet(record.owner, record.claim_id, record.token)
        changes = {
            "status": it["status"],
            "message": it["message"],
            "token": tick,
            "owner": "",
            "attempts": 0,
            "lease_end": 0 if it["status"] == "DOWNLOADING" else self.now,
        }
        if it["status"] == "DOWNLOADED":
            changes |= {name: it[name] for name in ("size_bytes", "location") if it[name]}
        elif it["status"] == "ERROR":
            changes |= {"retry_at": self.until(it["retry_in"]), "permanent": it["permanent"]}
        self.records[it.model] = replace(record, **{**NO_CLAIM, **changes})
        return ended, EventKind.SET

    def cancel(self, it: Item) -> Outcome:
        record = self.records.get(it.model)
        if record is None:
            return wire.SetRefused(""), None
        if it["token"] not in ("", record.token):
            return wire.OtherToken(record.token), None
        if record.status == "DOWNLOADING":
            changes = {"status": "ERROR", "message": it["message"], "lease_end": self.now}
            changes["retry_at"] = 0 if it["permanent"] else self.now + it["retry_in"]
            changes["permanent"] = it["permanent"]
            changes["attempts"] = changes["max_attempts"] = max(record.attempts, 1)
            if record.claim_id:
                changes |= {"ended_id": record.claim_id, "ended_how": ENDS["cancelled"]}
            self.records[it.model] = replace(record, **{**NO_CLAIM, **changes})
            self.used[it.model] = self.tick()
            return Cancelled(record.owner if record.claim_id else "", record.token), EventKind.CANCELLED
        if it["token"] != "" and record.status == "ERROR" and record.ended_how == ENDS["cancelled"]:
            return wire.Again(), None
        return wire.SetRefused(record.status), None

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
        self.forget(it.model)
        return wire.Deleted(), EventKind.DELETED

    def forget(self, model: str) -> None:
        """Remove all that is kept of a model."""
        del self.records[model], self.used[model]
        self.holds.pop(model, None)
