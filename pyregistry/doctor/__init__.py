"""Looks at a server and a namespace, and says what is wrong with them. Writes nothing.

The server: is it fit, does it keep what it is told, is its clock right? The namespace: is every record whole,
in the one set of its status, and counted? Those are read in pages (SCAN, ZSCAN), so a server with a million
records is never blocked, and goes on changing: what looks wrong is looked at again before it is told.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from pyregistry._core.model_key import parse_entry
from pyregistry._core.values import STATUSES
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry._redis.protocol.operations import Ops
from pyregistry._redis.protocol.request import Head, PlainOp
from pyregistry._redis.transport.endpoint import DEFAULT_TIMEOUT, source_of
from pyregistry._redis.transport.pooled_sync import Transport
from pyregistry.errors import AccessDenied, NotNow, SchemaTooNew, ServerRefused, ServerTooOld
from pyregistry.models import ModelRef, ModelStatus, Provider

__all__ = ["Finding", "Level", "examine"]

EXAMPLES = 10
"""How many models a finding names at most."""

_STEP_SECONDS = 0.1  # by less a clock is set back on any day
_CLOCK_SECONDS = 60.0  # what `open` makes the ticks jump ahead of a lost second: clocks may differ by that
_FULL = 0.9
_PAGE = 500
_LOOKS = 5  # how often a record that changes under our eyes is looked at

_SETTINGS = ("appendonly", "appendfsync", "maxmemory-policy", "min-replicas-to-write", "save")
_LAST_WRITES = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
_UNREAD = "could not be read: CONFIG is forbidden here"
_ASK = "ask whoever runs the server, or look at its console"


class Level(str, Enum):
    """How bad it is. WARNING and ERROR ask for something to be done."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    def __str__(self) -> str:
        return self.value


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        level: how bad it is.
        check: what was looked at, in a word.
        message: what was found.
        advice: what to do; empty where nothing is to be done.
        models: whom it is about; the first ten, where there are more.
    """

    level: Level
    check: str
    message: str
    advice: str = ""
    models: tuple[ModelRef, ...] = ()

    @property
    def is_wrong(self) -> bool:
        """Whether something should be done."""
        return self.level in (Level.WARNING, Level.ERROR)


def examine(
    url: str, namespace: str = "default", *, timeout: float = DEFAULT_TIMEOUT, records: bool = True
) -> list[Finding]:
    """Look at a server and a namespace, on a connection of its own.

    Args:
        url: as for ``Registry.from_url``.
        namespace: which registry there.
        timeout: seconds that a connection attempt or an answer may take.
        records: whether to read all records too. That goes over all keys of the server's database, in pages.

    Returns:
        What was found, in the order in which it was looked at. A server that refuses to be used is a
        finding, and the only one.

    Raises:
        RegistryUnavailable: nobody answers.
        ConfigurationError: the URL makes no sense.
        InvalidArgument: the namespace or the timeout is out of its range.
    """
    ops = Ops(namespace, None, ())
    source = source_of(url, timeout, {})
    transport = Transport(source, ops)
    try:
        opened = transport.connect()
        server = _Server(transport)
        where = f"{opened.version} at {source.shown}, namespace {namespace}, schema {opened.schema}"
        findings = [Finding(Level.OK, "server", where), *_waiting(opened.lacking)]
        if opened.due:
            findings.append(Finding(Level.ERROR, "writes", f"refused: {transport.refusal}", _NOT_NOW))
        findings += judge(_facts(server, ops.keys))
        if records:
            findings += _Census(server, ops.keys).findings()
    except (ServerRefused, NotNow) as error:
        return [_refused(error)]
    finally:
        transport.close()
    return findings


_NOT_NOW = "it passes by itself, or its word says what to mend; docs/operation.md has them"


def _waiting(lacking: str) -> Iterator[Finding]:
    if lacking:
        yield Finding(
            Level.WARNING,
            "rights",
            f"this user may not {lacking}: ensure, download and watch are refused",
            "give the user +ssubscribe and +sunsubscribe, and the channel",
        )


def _refused(error: ServerRefused | NotNow) -> Finding:
    if isinstance(error, NotNow):
        return Finding(Level.ERROR, "server", str(error), _NOT_NOW)
    if isinstance(error, AccessDenied):
        advice = "give the user that right, or the right password"
        return Finding(Level.ERROR, "rights", str(error), advice)
    if isinstance(error, ServerTooOld):
        return Finding(Level.ERROR, "server", str(error), "upgrade the server")
    if isinstance(error, SchemaTooNew):
        return Finding(Level.ERROR, "schema", str(error), "upgrade pyregistry here")
    return Finding(Level.ERROR, "server", str(error), "see what the server says")


class _Server:
    """Plain reading commands, whose arguments are text, bytes or numbers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def ask(self, verb: str, *words: Any) -> Any:
        """The raw reply: bytes, numbers, lists."""
        return self._transport.call(
            PlainOp(Head("doctor", None, verb=verb), lambda replies: replies[0], argv=words)
        )

    def config(self) -> dict[str, str] | None:
        """The settings that matter; None where CONFIG is forbidden."""
        try:
            reply = self.ask("CONFIG GET", *_SETTINGS)
        except ServerRefused:
            return None
        # A list under RESP2, a map under RESP3.
        pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
        return {name.decode(): value.decode(errors="replace") for name, value in pairs}

    def info(self) -> dict[str, str]:
        """What INFO says; empty where it is forbidden."""
        try:
            lines = self.ask("INFO", "memory", "persistence", "replication").decode().splitlines()
        except ServerRefused:
            return {}
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def time(self) -> int:
        """The server's clock, in microseconds."""
        seconds, microseconds = self.ask("TIME")
        return int(seconds) * 1_000_000 + int(microseconds)


# The server


@dataclass(frozen=True)
class Facts:
    """What the checks of the server look at.

    Attributes:
        info: what INFO says; empty where it is forbidden.
        config: the settings; ``None`` where CONFIG is forbidden.
        last_write: the lease time of the namespace's last write, in seconds; 0: there was none.
        skew: how much the lease time of the namespace is ahead of the server's clock, in seconds.
        server_time: the server's clock, in seconds.
        local_time: this machine's at that moment.
    """

    info: Mapping[str, str]
    config: Mapping[str, str] | None
    last_write: float
    skew: float
    server_time: float
    local_time: float


def _facts(server: _Server, keys: Keyspace) -> Facts:
    # First what was written, then what time it is: a write in between is no step back.
    last_write, skew = server.ask("HMGET", keys.meta, "time", "skew")
    before = time.time()
    server_time = server.time() / 1_000_000
    local_time = (before + time.time()) / 2
    return Facts(
        info=server.info(),
        config=server.config(),
        last_write=_number(last_write) / 1_000_000,
        skew=_number(skew) / 1_000_000,
        server_time=server_time,
        local_time=local_time,
    )


def _number(field: bytes | None) -> int:
    # As the scripts read it: what somebody damaged by hand counts as nothing.
    return int(field) if field is not None and field.isdigit() else 0


def judge(facts: Facts) -> list[Finding]:
    """What is wrong with a server."""
    return [
        _eviction(facts),
        *_memory(facts),
        *_persistence(facts),
        *_replication(facts),
        _clock(facts),
        *_lease_time(facts),
    ]


def _eviction(facts: Facts) -> Finding:
    policy = (facts.config or {}).get("maxmemory-policy") or facts.info.get("maxmemory_policy")
    if policy is None:
        return Finding(Level.INFO, "eviction", f"maxmemory-policy {_UNREAD}", _ASK)
    if policy == "noeviction":
        return Finding(Level.OK, "eviction", "maxmemory-policy is noeviction")
    advice = "CONFIG SET maxmemory-policy noeviction, and the same in its configuration"
    if policy.startswith("volatile-"):
        why = "it throws away keys that expire, and those of the registry do not; but nothing else is tested"
        return Finding(Level.WARNING, "eviction", f"maxmemory-policy is {policy}: {why}", advice)
    why = "a server that is full throws away records and claims"
    return Finding(Level.ERROR, "eviction", f"maxmemory-policy is {policy}: {why}", advice)


def _memory(facts: Facts) -> Iterator[Finding]:
    used, most = int(facts.info.get("used_memory", 0)), int(facts.info.get("maxmemory", 0))
    if most and used >= most * _FULL:
        yield Finding(
            Level.WARNING,
            "memory",
            f"{used * 100 // most} % of maxmemory is used; a server that is full refuses claims",
            "raise maxmemory, or remove what is not needed (rm, finish and release go on working)",
        )


def _persistence(facts: Facts) -> Iterator[Finding]:
    aof = {"1": True, "0": False}.get(facts.info.get("aof_enabled", ""))
    saves: str | None = None
    if facts.config is not None:
        aof, saves = facts.config.get("appendonly") == "yes", facts.config.get("save", "")
    if aof:
        how = (facts.config or {}).get("appendfsync", "unknown")
        yield Finding(Level.OK, "persistence", f"append-only file, appendfsync {how}")
    elif aof is None or saves is None:
        yield Finding(Level.INFO, "persistence", f"the persistence {_UNREAD}", _ASK)
    elif saves:
        yield Finding(
            Level.INFO,
            "persistence",
            f"snapshots only (save {saves}): a crash loses all that came after the last one",
            "CONFIG SET appendonly yes loses a second at most",
        )
    else:
        yield Finding(
            Level.WARNING,
            "persistence",
            "off: a restart of the server loses every record",
            "CONFIG SET appendonly yes, and the same in its configuration",
        )
    failed = [name for name in _LAST_WRITES if facts.info.get(name, "ok") != "ok"]
    if failed:
        yield Finding(
            Level.ERROR,
            "persistence",
            f"the server's last write to its disk failed ({', '.join(failed)})",
            "see the server's log, and whether its disk is full",
        )


def _replication(facts: Facts) -> Iterator[Finding]:
    replicas = int(facts.info.get("connected_slaves", 0))
    if not replicas:
        return
    least = (facts.config or {}).get("min-replicas-to-write")
    if least is None:
        yield Finding(Level.INFO, "replication", f"min-replicas-to-write {_UNREAD}", _ASK)
    elif least == "0":
        yield Finding(
            Level.WARNING,
            "replication",
            f"{replicas} connected, but min-replicas-to-write is 0: a primary that is cut off goes on "
            "giving claims, which the failover then undoes",
            "CONFIG SET min-replicas-to-write 1, and the same in its configuration",
        )
    else:
        yield Finding(Level.OK, "replication", f"{replicas} connected, min-replicas-to-write is {least}")


def _clock(facts: Facts) -> Finding:
    gap = facts.server_time - facts.local_time
    said = f"the server's clock is {abs(gap):.1f} s {'ahead of' if gap > 0 else 'behind'} this machine's"
    if abs(gap) <= _CLOCK_SECONDS:
        return Finding(Level.OK, "clock", said)
    return Finding(
        Level.WARNING,
        "clock",
        f"{said}: after a failover to a host that is so far off, tokens could be given twice",
        "keep both machines' clocks right (NTP)",
    )


def _lease_time(facts: Facts) -> Iterator[Finding]:
    ahead = max(facts.last_write - facts.server_time, facts.skew)
    if ahead >= _STEP_SECONDS:
        yield Finding(
            Level.INFO,
            "lease time",
            f"{ahead:.1f} s ahead of the server's clock, which has stepped back once; leases last their "
            "length all the same, and the times of the records are ahead as well",
            "keep the server's clock right (NTP)",
        )


# The namespace

_WRONG_TYPE: Any = object()
_SUMS = tuple(f"bytes:{status}" for status in STATUSES)


class Flaw(NamedTuple):
    """Something that can be wrong with a record."""

    level: Level
    words: str
    advice: str


_HEAL = "pyregistry set-status MODEL STATUS puts it right"
DAMAGED = Flaw(Level.ERROR, "can't be read", "pyregistry rm MODEL --force removes it")
UNLISTED = Flaw(Level.ERROR, "in no set, so not listed", "pyregistry touch MODEL puts it right")
MISPLACED = Flaw(Level.ERROR, "in the set of another status", _HEAL)
REPEATED = Flaw(Level.ERROR, "in several sets", _HEAL)
STRAY = Flaw(
    Level.ERROR,
    "listed, but there is none",
    "pyregistry set-status MODEL ERROR, then pyregistry rm MODEL",
)
STUCK = Flaw(
    Level.WARNING,
    "DOWNLOADING with a lease that is over: the owner is lost",
    "the next claim takes it over; if nobody wants it, pyregistry rm MODEL",
)
RELEASED = Flaw(
    Level.INFO,
    "DOWNLOADING, and given back by its owner: it waits for another",
    "the next claim goes on with it; if nobody wants it, pyregistry rm MODEL",
)
UNLEASED = Flaw(
    Level.INFO,
    "DOWNLOADING without a lease: it never ends by itself",
    "pyregistry set-status MODEL ERROR, if nobody downloads it any more",
)
_FLAWS = (DAMAGED, UNLISTED, MISPLACED, REPEATED, STRAY, STUCK, RELEASED, UNLEASED)


def flaws(value: object, scores: Sequence[float | None], now: int) -> list[Flaw]:
    """What is wrong with one record.

    Args:
        value: what is stored: bytes; ``None`` for nothing; anything else for a key of another type.
        scores: in the sets, in the order of `STATUSES`; ``None``: not in it.
        now: a lease time, not later than the record was read (microseconds).
    """
    sets = [status for status, score in zip(STATUSES, scores, strict=True) if score is not None]
    if value is None:
        return [STRAY] if sets else []
    record = _decoded(value)
    if record is None:
        return [DAMAGED]  # and nobody knows which set it belongs to
    found = []
    if not sets:
        found.append(UNLISTED)
    elif len(sets) > 1:
        found.append(REPEATED)
    elif sets[0] != record.status:
        found.append(MISPLACED)
    if record.status == ModelStatus.DOWNLOADING:
        if record.lease_end == 0:
            found.append(UNLEASED)
        elif record.lease_end <= now:
            found.append(STUCK if record.claim_id else RELEASED)
    return found


def _decoded(value: object) -> wire.StoredRecord | None:
    if not isinstance(value, bytes):
        return None
    try:
        record = wire.decode_record(value)
        wire.record_of(ModelRef("x", Provider("x")), record, 0)
    except (msgspec.DecodeError, ValueError, OverflowError):
        return None
    # As the scripts see it: no number is below zero.
    numbers = (number for number in msgspec.structs.astuple(record) if isinstance(number, int))
    return record if min(numbers) >= 0 else None


class _Census:
    """Reads all records of a namespace, and remembers what is wrong with which.

    Entries are bytes here: somebody may have written others than UTF-8 by hand.
    """

    def __init__(self, server: _Server, keys: Keyspace) -> None:
        self._server = server
        self._meta = keys.meta
        self._indexes = tuple(keys.indexes.values())
        self._prefix = keys.record("").encode()
        self._skew = 0
        self._seen = set[bytes]()  # SCAN may give one twice
        self._sums = dict.fromkeys(STATUSES, 0)
        self._flawed: dict[Flaw, list[bytes]] = {flaw: [] for flaw in _FLAWS}

    def findings(self) -> list[Finding]:
        """What is wrong with the namespace."""
        try:
            before = self._read_meta()
            self._skew = _number(before[0])
            self._read_records()
            self._read_indexes()
            after = self._read_meta()
        except ServerRefused as error:
            return [Finding(Level.INFO, "records", f"could not be read: {error}", _ASK)]
        found = [_flaw_finding(flaw, entries) for flaw, entries in self._flawed.items() if entries]
        found += self._compare_sums(before, after)
        if not any(finding.is_wrong for finding in found):
            count = len(self._seen)
            said = f"{count} {'record' if count == 1 else 'records'}: whole, and in the set of the status"
            found.insert(0, Finding(Level.OK, "records", said))
        return found

    def _read_meta(self) -> list[bytes | None]:
        found: list[bytes | None] = self._server.ask("HMGET", self._meta, "skew", "time", "clock", *_SUMS)
        return found

    def _read_records(self) -> None:
        for keys in self._pages("SCAN", match=("MATCH", self._prefix + b"*")):
            entries = [entry for key in keys if (entry := key[len(self._prefix) :]) not in self._seen]
            # A page may hold one twice.
            entries = list(dict.fromkeys(entries))
            if not entries:
                continue
            now = self._lease_time()
            values = self._server.ask("MGET", *(self._prefix + entry for entry in entries))
            scores = zip(*self._scores(entries), strict=True)
            for entry, value, of_entry in zip(entries, values, scores, strict=True):
                found = flaws(value, of_entry, now)
                # They were not read at once, and MGET takes another type for nothing.
                if value is None or not {STUCK, UNLEASED}.issuperset(found):
                    self._look_again(entry)
                else:
                    self._note(entry, value, found)

    def _read_indexes(self) -> None:
        # What has a record was seen, unless it is new.
        for index in self._indexes:
            for members in self._pages("ZSCAN", index):
                for entry in members[::2]:
                    if entry not in self._seen:
                        self._look_again(entry)

    def _look_again(self, entry: bytes) -> None:
        """Judge one record by what was there at one moment."""
        for _ in range(_LOOKS):
            now = self._lease_time()
            value = self._value(entry)
            scores = self._scores([entry])
            # No two states of a record are the same bytes: nothing has happened in between. But where there is none,
            # one may have come and gone, and its place in the index with it: of that no two are the same.
            if self._value(entry) == value and (value is not None or self._scores([entry]) == scores):
                self._note(entry, value, flaws(value, [score for (score,) in scores], now))
                return
        # One that changes all the time is in use, and nothing that is wrong lasts.

    def _note(self, entry: bytes, value: object, found: Sequence[Flaw]) -> None:
        if value is None and not found:
            return  # deleted meanwhile
        self._seen.add(entry)
        for flaw in found:
            self._flawed[flaw].append(entry)
        if record := _decoded(value):
            self._sums[ModelStatus(record.status)] += record.size_bytes or record.bytes_total

    def _compare_sums(
        self, before: Sequence[bytes | None], after: Sequence[bytes | None]
    ) -> Iterator[Finding]:
        if before != after:
            said = "the records changed while they were read, so their bytes were not compared with the sums"
            yield Finding(Level.INFO, "sums", said)
            return
        for name, counted, stored in zip(_SUMS, self._sums.values(), after[-len(_SUMS) :], strict=True):
            kept = (stored or b"0").decode(errors="replace")
            if kept != str(counted):
                yield Finding(
                    Level.WARNING,
                    "sums",
                    f"{name} is {kept}, and the records' is {counted}",
                    f"while nobody writes: HSET {self._meta} {name} {counted}",
                )

    def _pages(self, verb: str, *key: str, match: Sequence[object] = ()) -> Iterator[list[bytes]]:
        cursor = b"0"
        while True:
            cursor, page = self._server.ask(verb, *key, cursor, *match, "COUNT", _PAGE)
            yield page
            if cursor == b"0":
                return

    def _lease_time(self) -> int:
        return self._server.time() + self._skew

    def _scores(self, entries: Sequence[bytes]) -> list[list[float | None]]:
        return [self._server.ask("ZMSCORE", index, *entries) for index in self._indexes]

    def _value(self, entry: bytes) -> object:
        try:
            return self._server.ask("GET", self._prefix + entry)
        except ServerRefused as error:
            if str(error).startswith("WRONGTYPE"):
                return _WRONG_TYPE
            raise


def _flaw_finding(flaw: Flaw, entries: Sequence[bytes]) -> Finding:
    count = len(entries)
    return Finding(
        flaw.level,
        "records",
        f"{count} {'record' if count == 1 else 'records'}: {flaw.words}",
        flaw.advice,
        tuple(parse_entry(entry.decode(errors="replace")) for entry in entries[:EXAMPLES]),
    )
