"""Calls the Lua scripts raw, one EVALSHA for each call, and checks after each what must always be true.

A `Lab` is one namespace on one server. Arguments are given by the names of the scripts' headers. After every
call the whole namespace is read, and compared with what it was before and with what was published:

- there is no stray key; a record is in exactly one sorted set, and that set is its status;
- counts and sums of bytes, as the script `counts` tells them, are those of the records;
- `time`, `skew` and `clock` never fall; lease time does not go back; each item that is due a tick, and no
  other, got one, in order, as its score and (where it is one) its token;
- an item that was answered with "unchanged" is as it was, byte by byte, and so is every other record;
- one message holds the events of the call, and they tell the records as they are; nothing else was published;
- a call that was refused changed nothing at all.

What a test breaks by hand it says with `damage`: that entry alone is then not looked at.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import redis

from pyregistry._core.values import STATUSES
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.events import StoredEvent, decode_events
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry._redis.protocol.records import StoredRecord
from pyregistry._redis.protocol.scripts import Script, load
from pyregistry.backend.values import Branch, Cancelled, StatusSet, Totals
from pyregistry.models import EventKind
from tools.build_lua.contract import Contract, read_contract

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

READS = ("read", "page", "counts", "now", "branch")
OF_NO_MODEL = ("open", "cache", "set_branch")
PROVIDER = "HuggingFace"

_REPLIES: dict[str, Any] = {
    "open": wire.Opened,
    "claim": list[wire.ClaimReply],
    "retry": list[wire.RetryReply],
    "renew": list[wire.RenewReply],
    "finish": list[wire.EndReply],
    "release": list[wire.EndReply],
    "set_status": list[wire.SetReply],
    "cancel": list[wire.CancelReply],
    "touch": list[wire.TouchReply],
    "delete": list[wire.DeleteReply],
    "read": list[wire.ReadReply],
    "page": list[str | int],
    "counts": Totals,
    "now": wire.Now,
    "cache": wire.Cache,
    "branch": Branch,
    "set_branch": wire.BranchSet,
}
_DECODERS = {name: msgspec.msgpack.Decoder(type_) for name, type_ in _REPLIES.items()}
_META = {"schema", "server", "cache_id", "time", "skew", "clock", *(f"bytes:{status}" for status in STATUSES)}
_NO_USE = (EventKind.RENEWED, EventKind.RELEASED, EventKind.DELETED)
_SET_KINDS = {"DOWNLOADED": EventKind.DOWNLOADED, "ERROR": EventKind.FAILED}


@cache
def contract_of(script: Script) -> Contract:
    """The contract of a script, read from the text that runs."""
    return read_contract(repr(script), script.text)[0]


@dataclass(frozen=True)
class Item:
    """One item of a batch: a model, and arguments by name; what is left out has its default."""

    model: str
    args: dict[str, Any]

    @property
    def entry(self) -> str:
        return f"{PROVIDER}:{self.model}"

    def __getitem__(self, name: str) -> Any:
        return self.args.get(name, _DEFAULTS.get(name))


_DEFAULTS: dict[str, Any] = {
    "claim_id": "id",
    "owner": "host:1",
    "by": "somebody:2",
    "lease": MINUTE,
    "max_attempts": 0,
    "cooldown": 0,
    "expected_bytes": 0,
    "token": "",
    "status": "DOWNLOADED",
    "message": "",
    "size_bytes": 0,
    "location": "",
    "resolved_revision": "",
    "retry_in": 0,
    "permanent": 0,
    "says": 0,
    "order": 0,
    "bytes_done": "",
    "bytes_total": "",
    "force": 0,
    "from": 0,
    "limit": 1000,
    "schema": 1,
    "proposed": "",
    "branch": "HuggingFace@main:m",
    "commit": "c1",
    "spelling": "HuggingFace:m",
    "canonical": "m",
    "asked": 0,
}


def item(model: str, **args: Any) -> Item:
    """A model, and what is asked for it."""
    return Item(model, args)


@dataclass(frozen=True)
class State:
    """A namespace: every key with its value, as plain data."""

    values: dict[str, Any]
    keys: Keyspace

    @property
    def meta(self) -> dict[str, str]:
        found: dict[str, str] = self.values.get(self.keys.meta, {})
        return found

    def number(self, field: str) -> int:
        return int(self.meta.get(field, "0"))

    def scores(self, status: str) -> dict[str, int]:
        found: dict[str, int] = self.values.get(self.keys.indexes[STATUSES[_WORDS.index(status)]], {})
        return found

    def sets_of(self, entry: str) -> dict[str, int]:
        """The sets that an entry is in, and its scores there."""
        return {status: self.scores(status)[entry] for status in _WORDS if entry in self.scores(status)}

    def raw(self, entry: str) -> Any:
        return self.values.get(self.keys.record(entry))

    def holders(self, entry: str) -> Any:
        return self.values.get(self.keys.holds(entry))

    def of_entry(self, entry: str) -> tuple[Any, Any, Any]:
        """All that is kept of an entry."""
        return self.raw(entry), self.sets_of(entry), self.holders(entry)

    def entries(self) -> set[str]:
        """Whatever has a record, a place in a set, or holders."""
        found = {entry for status in _WORDS for entry in self.scores(status)}
        for key in self.values:
            for mark in ("}:model:", "}:holds:"):
                if mark in key:
                    found.add(key.partition(mark)[2])
        return found

    def record(self, entry: str) -> StoredRecord | None:
        raw = self.raw(entry)
        return None if raw is None else wire.decode_record(raw)


_WORDS = tuple(status.value for status in STATUSES)


@dataclass(frozen=True)
class Moment:
    """A reading of the server's clock, and when it was asked for and told, by one that nobody sets.

    All in microseconds.
    """

    asked: int
    utc: int
    told: int


def span(first: Moment, last: Moment) -> tuple[int, int]:
    """The earliest and the latest that a script can have read that ran between two moments.

    A machine's clock may be set back meanwhile, by part of a millisecond, as NTP and hypervisors do: by no
    more than is missing from the time that has passed. The script may have read it before or after.
    """
    back = max((last.told - first.asked) - (last.utc - first.utc), 0)
    return first.utc - back, last.utc + back


def connected(url: str) -> Any:
    """A client; Any, as redis-py's types are those of both its clients."""
    return redis.Redis.from_url(url)


class Lab:
    """One namespace, and its scripts."""

    def __init__(self, url: str, namespace: str) -> None:
        self.redis = connected(url)
        self.caller = self.redis  # who runs the scripts
        self.keys = Keyspace(namespace)
        self.damaged: set[str] = set()
        self.events: list[StoredEvent] = []
        self._markers = 0
        self._listener = self.redis.pubsub()
        self._listener.ssubscribe(self.keys.channel)
        assert self._listener.get_message(timeout=10)["type"] == "ssubscribe"

    def close(self) -> None:
        self._listener.close()
        self.redis.close()

    # What there is

    def state(self) -> State:
        """The whole namespace."""
        prefix = f"pyregistry:{{{self.keys.namespace}}}:"
        names = sorted(set(self.redis.scan_iter(match=f"{prefix}*", count=1000)))
        pipeline = self.redis.pipeline(transaction=False)
        for name in names:
            pipeline.type(name)
        kinds = pipeline.execute()
        for name, kind in zip(names, kinds, strict=True):
            if kind == b"string":
                pipeline.get(name)
            elif kind == b"hash":
                pipeline.hgetall(name)
            elif kind == b"zset":
                pipeline.zrange(name, 0, -1, withscores=True, score_cast_func=int)
            else:
                pipeline.dump(name)
        values = {}
        for name, kind, value in zip(names, kinds, pipeline.execute(), strict=True):
            if name.decode() == self.keys.branches and kind == b"hash":
                values[name.decode()] = {field.decode(): raw for field, raw in value.items()}
            elif kind == b"hash":
                values[name.decode()] = {field.decode(): text.decode() for field, text in value.items()}
            elif kind == b"zset":
                values[name.decode()] = {member.decode(): score for member, score in value}
            else:
                values[name.decode()] = value
        return State(values, self.keys)

    def record(self, model: str) -> StoredRecord:
        """A record that there must be."""
        return wire.decode_record(self.redis.get(self.key(model)))

    def key(self, model: str) -> str:
        return self.keys.record(item(model).entry)

    def holds_key(self, model: str) -> str:
        return self.keys.holds(item(model).entry)

    def index(self, status: str) -> str:
        return self.keys.indexes[STATUSES[_WORDS.index(status)]]

    def score(self, model: str) -> int:
        """The last use of a model."""
        (score,) = self.state().sets_of(item(model).entry).values()
        return score

    def number(self, field: str) -> int:
        """A number in `meta`; 0 where there is none."""
        return int(self.redis.hget(self.keys.meta, field) or 0)

    def utc(self) -> int:
        """The server's clock, in microseconds."""
        seconds, microseconds = self.redis.time()
        return int(seconds) * SECOND + int(microseconds)

    def moment(self) -> Moment:
        """Now, to be told from another moment by `span`."""
        asked, utc, told = time.monotonic_ns() // 1000, self.utc(), time.monotonic_ns() // 1000
        return Moment(asked, utc, told)

    # By hand

    def pass_time(self, microseconds: int) -> None:
        """Let lease time pass: the server's clock is set forward, as far as the scripts can tell."""
        self.redis.hincrby(self.keys.meta, "skew", microseconds)

    def put(self, model: str, record: StoredRecord, score: int | None = None) -> None:
        """Store a record as the scripts would: with its place in the index, its bytes and its tick."""
        entry, meta = item(model).entry, self.keys.meta
        old = self.state().record(entry)
        if old is not None:
            self.redis.zrem(self.index(old.status), entry)
            self.redis.hincrby(meta, f"bytes:{old.status}", -bytes_of(old))
        score = record.token if score is None else score
        self.redis.set(self.keys.record(entry), msgspec.msgpack.encode(record))
        self.redis.zadd(self.index(record.status), {entry: score})
        self.redis.hincrby(meta, f"bytes:{record.status}", bytes_of(record))
        self.redis.hset(meta, "clock", max(self.number("clock"), score))

    def evict(self, model: str, *, lease: int = MINUTE) -> StoredRecord:
        """Make a DOWNLOADED record EVICTING, as a future script will."""
        now = self.utc() + self.number("skew")
        record = msgspec.structs.replace(
            self.record(model),
            status="EVICTING",
            token=max(now, self.number("clock") + 1),
            claim_id="eviction-of-" + model,
            owner="evictor:9",
            lease_end=now + lease if lease else 0,
        )
        self.put(model, record)
        return record

    def hold(self, model: str, holder: str, seconds: int) -> None:
        """A holder of a model's files, for so long from now on."""
        end = self.utc() + self.number("skew") + seconds * SECOND
        self.redis.zadd(self.holds_key(model), {holder: end})

    def damage(self, model: str, value: bytes | list[str]) -> None:
        """Overwrite a record (a list: with a key of that type), from here on not judged any more."""
        self.damaged.add(item(model).entry)
        self.redis.delete(self.key(model))
        if isinstance(value, bytes):
            self.redis.set(self.key(model), value)
        else:
            self.redis.rpush(self.key(model), *value)

    # Calls

    def send(self, script: Script, keys: list[str], args: list[Any]) -> bytes:
        """EVALSHA, exactly as given."""
        self.redis.script_load(script.text)
        reply: bytes = self.caller.evalsha(script.sha, len(keys), *keys, *args)
        return reply

    def command(self, script: Script, items: tuple[Item, ...], shared: dict[str, Any]) -> tuple[Any, Any]:
        """The keys and arguments of a call, placed as the header says."""
        named = {
            "meta": self.keys.meta,
            **{f"index_{status.lower()}": self.index(status) for status in _WORDS},
            "any_record": self.keys.record("x"),
            "any_holds": self.keys.holds("x"),
            "branches": self.keys.branches,
        }
        contract = contract_of(script)
        keys = [named[name] for name in contract.keys]
        args = [self._argument(arg.name, items, shared) for arg in contract.args]
        for each in items:
            for name in contract.item_keys:
                place = {"record_key": self.keys.record, "holds_key": self.keys.holds}.get(name)
                keys.append(place(each.entry) if place else self.index(each.model))
            args += [each[arg.name] for arg in contract.item_args]
        return keys, args

    def _argument(self, name: str, items: tuple[Item, ...], shared: dict[str, Any]) -> Any:
        if name in shared:
            return shared[name]
        if name == "channel":
            return self.keys.channel
        said = {each[name] for each in items} or {_DEFAULTS[name]}
        assert len(said) == 1, f"{name} is shared by the items of a call"
        return said.pop()

    def call(self, name: str, *items: Item, script: Script | None = None, **shared: Any) -> Any:
        """Run a script; everything that must be true afterwards is. The reply, decoded."""
        script = script or load(name, 1)
        keys, args = self.command(script, items, shared)
        before, first = self.state(), self.moment()
        try:
            raw = self.send(script, keys, args)
        except redis.ResponseError:
            assert self.state().values == before.values, "a call that was refused has changed something"
            assert self._published() == [], "a call that was refused was published"
            raise
        last, after, messages = self.moment(), self.state(), self._published()
        reply = _DECODERS[name].decode(raw)
        self.events = [event for message in messages for event in decode_events(message)]
        assert len(messages) == bool(self.events), "one message for all events of a call"
        self.check(after)
        if name in READS:
            assert after.values == before.values
            assert self.events == []
        elif name not in OF_NO_MODEL:
            PendingRequest(name, items, reply, self.events, before, after, self.damaged).check(
                *span(first, last), shared.get("by", _DEFAULTS["by"])
            )
        for each, answer in zip(items, reply if name == "delete" else (), strict=False):
            if isinstance(answer, wire.Deleted):
                self.damaged.discard(each.entry)
        return reply

    def one(self, name: str, model: str, **args: Any) -> Any:
        """Run a script for one model: its answer."""
        (answer,) = self.call(name, item(model, **args))
        return answer

    def open(self, **shared: Any) -> wire.Opened:
        opened: wire.Opened = self.call("open", **shared)
        return opened

    def claim(self, model: str, claim_id: str = "id", **args: Any) -> Any:
        return self.one("claim", model, claim_id=claim_id, **args)

    def downloading(self, model: str, claim_id: str = "id", **args: Any) -> int:
        """Claim a model that must be free: the token."""
        given = self.claim(model, claim_id, **args)
        assert isinstance(given, wire.ClaimGiven)
        return given.token

    def finished(self, model: str, claim_id: str = "id", **args: Any) -> int:
        """Claim a model and end its download: the token."""
        token = self.downloading(model, claim_id)
        assert self.one("finish", model, claim_id=claim_id, token=token, **args) == wire.Done()
        return token

    def busy(self, name: str, count: int) -> list[Item]:
        """Items for a script, each of a model of its own, and what it needs to do something."""
        claims = [item(f"m{number}", claim_id=f"id-{number}") for number in range(count)]
        if name == "page":
            return [Item("DOWNLOADED", {})] * count
        if name == "claim":
            return claims
        ends = [
            item(each.model, **each.args, token=given.token, status="ERROR", bytes_done=5)
            for each, given in zip(claims, self.call("claim", *claims), strict=True)
        ]
        if name == "retry":
            self.call("finish", *ends)
            return [item(each.model, claim_id="again") for each in ends]
        return ends

    def set(self, model: str, status: str, message: str = "", **shared: Any) -> Any:
        (answer,) = self.call("set_status", item(model, status=status, message=message), **shared)
        return answer

    # What must always be true

    def check(self, state: State) -> None:
        """Records, index, counts and sums agree, and there is no stray key."""
        whole = {}
        for key, value in state.values.items():
            if key == self.keys.meta:
                assert value.keys() <= _META, f"a stray field: {value}"
            elif "}:model:" in key:
                entry = key.partition("}:model:")[2]
                if entry not in self.damaged:
                    whole[entry] = wire.decode_record(value)
            elif "}:holds:" not in key and key != self.keys.branches:
                assert key in self.keys.indexes.values(), f"a stray key: {key}"
        for entry in state.entries() - self.damaged:
            places = state.sets_of(entry)
            assert list(places) == ([whole[entry].status] if entry in whole else []), (entry, places)
        for number in ("time", "skew", "clock", *(f"bytes:{status}" for status in _WORDS)):
            assert state.meta.get(number, "0").lstrip("-").isdigit(), (number, state.meta)
        told = _DECODERS["counts"].decode(self.send(load("counts", 1), list(self.keys.shared), []))
        sums: Counter[str] = Counter()
        for record in whole.values():
            sums[record.status] += bytes_of(record)
        assert told.bytes == tuple(sums[status] for status in _WORDS)
        assert told.records == tuple(len(state.scores(status)) for status in _WORDS)

    def _published(self) -> list[bytes]:
        """What was published since the last time."""
        self._markers += 1
        marker = b"marker %d" % self._markers
        self.redis.execute_command("SPUBLISH", self.keys.channel, marker)
        messages: list[bytes] = []
        while True:
            message = self._listener.get_message(timeout=10)
            assert message is not None, "the marker has not come"
            if message["data"] == marker:
                return messages
            messages.append(message["data"])


def bytes_of(record: StoredRecord) -> int:
    """What a record counts for in the sums."""
    return record.size_bytes or record.bytes_total


@dataclass(frozen=True)
class PendingRequest:
    """One call of a writing script, to be judged by what it answered."""

    name: str
    items: tuple[Item, ...]
    replies: list[Any]
    events: list[StoredEvent]
    before: State
    after: State
    damaged: set[str]

    def check(self, earliest: int, latest: int, by: str) -> None:
        self._check_time(earliest, latest)
        told = self._told()
        self._check_ticks(told)
        self._check_events(told, by)
        self._check_unchanged(told)

    def _told(self) -> list[EventKind | None]:
        """For each item the event that its answer calls for."""
        assert len(self.replies) == len(self.items)
        left, told = list(self.events), []
        for each, reply in zip(self.items, self.replies, strict=True):
            kinds = self._kinds(each, reply)
            kind = left[0].kind if left and left[0].entry == each.entry and left[0].kind in kinds else None
            assert kind is not None or None in kinds, f"{each}, {reply}: no event of {kinds} in {left}"
            if kind is not None:
                left.pop(0)
            told.append(kind)
        assert left == [], "events that no item calls for"
        return told

    def _kinds(self, each: Item, reply: Any) -> set[EventKind | None]:
        if isinstance(reply, wire.ClaimGiven):
            return {EventKind.RETRIED} if self.name == "retry" else {EventKind.CLAIMED, EventKind.TAKEN_OVER}
        if isinstance(reply, wire.Exists) and reply.status == "ERROR" and each["max_attempts"]:
            return {EventKind.ABANDONED, None}
        if isinstance(reply, wire.Renewed):
            told = each["says"] or each["bytes_done"] != "" or each["bytes_total"] != ""
            if told and each["order"]:  # it may come late
                return {EventKind.RENEWED, None}
            return {EventKind.RENEWED if told else None}
        if isinstance(reply, wire.Done):
            return {EventKind.RELEASED if self.name == "release" else _SET_KINDS[each["status"]]}
        if isinstance(reply, StatusSet):
            return {EventKind.SET}
        if isinstance(reply, Cancelled):
            return {EventKind.CANCELLED}
        if isinstance(reply, wire.Deleted):
            return {EventKind.DELETED}
        return {None}

    def _ticks(self, each: Item, reply: Any, kind: EventKind | None) -> bool:
        if isinstance(reply, wire.Known):
            return "EVICTING" not in self.before.sets_of(each.entry)
        return kind not in (None, *_NO_USE)

    def _check_time(self, earliest: int, latest: int) -> None:
        before, after = self.before, self.after
        skew, time = before.number("skew"), before.number("time")
        least, most = max(earliest + skew, time), max(latest + skew, time)
        if after.number("time") != time or any(event.kind is not EventKind.RENEWED for event in self.events):
            assert least <= after.number("time") <= most
        assert after.number("clock") >= before.number("clock")
        if skew >= 0:
            assert after.number("skew") >= skew
        assert latest + after.number("skew") >= after.number("time"), "lease time goes back"
        # It runs on from where it was, and does not jump.
        assert earliest + after.number("skew") <= most

    def _check_ticks(self, told: list[EventKind | None]) -> None:
        tick = max(self.after.number("time"), self.before.number("clock") + 1)
        last: dict[str, int] = {}
        for each, reply, kind in zip(self.items, self.replies, told, strict=True):
            if self._ticks(each, reply, kind):
                last[each.entry] = tick
                if isinstance(reply, wire.ClaimGiven):
                    assert reply.token == tick
                tick += 1
        if last:
            assert self.after.number("clock") == tick - 1
        else:
            assert self.after.meta.get("clock") == self.before.meta.get("clock")
        for entry, score in last.items():
            assert list(self.after.sets_of(entry).values()) == [score]

    def _check_events(self, told: list[EventKind | None], by: str) -> None:
        often = Counter(each.entry for each in self.items)
        for event in self.events:
            assert event.at == self.after.number("time")
            named = event.kind in (EventKind.SET, EventKind.DELETED, EventKind.CANCELLED)
            assert event.by == (by if named else "")
        last = {event.entry: event for event in self.events}
        for entry, event in last.items():
            if event.kind is EventKind.DELETED:
                wanted = StoredRecord() if entry in self.damaged else self.before.record(entry)
            else:
                wanted = self.after.record(entry)
            assert wanted is not None
            if often[entry] > 1:  # a later item of the same model may have made the lease longer
                wanted = msgspec.structs.replace(wanted, lease_end=event.record.lease_end)
            assert event.record == wanted
            # The last use that it brings is the one in the index.
            assert event.used in (0, *self.after.sets_of(entry).values())
            assert bool(event.used) == (event.kind not in _NO_USE)

    def _check_unchanged(self, told: list[EventKind | None]) -> None:
        changed, used = set(), set()
        for each, reply, kind in zip(self.items, self.replies, told, strict=True):
            if isinstance(reply, wire.Known):
                used.add(each.entry)
            elif kind is not None or isinstance(reply, (wire.ClaimAgain, wire.Renewed)):
                changed.add(each.entry)
        for entry in (self.before.entries() | self.after.entries()) - changed:
            if entry in used:
                assert self.after.raw(entry) == self.before.raw(entry)
                assert self.after.holders(entry) == self.before.holders(entry)
            else:
                assert self.after.of_entry(entry) == self.before.of_entry(entry)
        for entry in changed:
            gone = self.after.raw(entry) is None
            assert self.after.holders(entry) == (None if gone else self.before.holders(entry))
        if not changed and not used:
            # But for `skew`, which every call stores after a step back.
            skew = {"skew": self.after.meta.get("skew")}
            assert {**self.before.meta, **skew} == {**self.after.meta, **skew}
