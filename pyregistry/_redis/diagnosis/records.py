"""Checks that every record is readable, in exactly the set of its status, and counted in the sums.

Records are read in pages (SCAN, ZSCAN), so that a server with a million records is never blocked. Records may change
meanwhile, so a record that looks wrong is read again before it is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from pyregistry._core.model_key import parse_entry
from pyregistry._core.values import STATUSES
from pyregistry._redis.diagnosis.server import Server, number_of
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry.backend.findings import EXAMPLES, Finding, Level
from pyregistry.errors import ServerRefused
from pyregistry.models import ModelRef, ModelStatus, Provider

_PAGE = 500
_LOOKS = 5  # maximum number of readings of a record that changes between them
_ASK = "ask whoever runs the server, or look at its console"


_WRONG_TYPE: Any = object()
_SUMS = tuple(f"bytes:{status}" for status in STATUSES)


class Flaw(NamedTuple):
    """A kind of fault of a record."""

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
    """Return the flaws of one record.

    Args:
        value: The stored value: bytes; None: no key; any other object: a key of another type.
        scores: The scores in the sets, in the order of `STATUSES`; None: not in that set.
        now: A lease time before the record was read, in microseconds.
    """
    sets = [status for status, score in zip(STATUSES, scores, strict=True) if score is not None]
    if value is None:
        return [STRAY] if sets else []
    record = _decoded(value)
    if record is None:
        return [DAMAGED]  # its status is unreadable, so its set cannot be checked
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
    # The scripts treat a negative number as damage.
    numbers = (number for number in msgspec.structs.astuple(record) if isinstance(number, int))
    return record if min(numbers) >= 0 else None


class Census:
    """Reads all records of a namespace, and collects their flaws.

    Entries are bytes, because an entry that was written by hand may not be UTF-8.
    """

    def __init__(self, server: Server, keys: Keyspace) -> None:
        self._server = server
        self._meta = keys.meta
        self._indexes = tuple(keys.indexes.values())
        self._prefix = keys.record("").encode()
        self._skew = 0
        self._seen = set[bytes]()  # SCAN may return a key twice
        self._sums = dict.fromkeys(STATUSES, 0)
        self._flawed: dict[Flaw, list[bytes]] = {flaw: [] for flaw in _FLAWS}

    def findings(self) -> list[Finding]:
        """Read all records and return the findings."""
        try:
            before = self._read_meta()
            self._skew = number_of(before[0])
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
            # One page may contain a key twice.
            entries = list(dict.fromkeys(entries))
            if not entries:
                continue
            now = self._lease_time()
            values = self._server.ask("MGET", *(self._prefix + entry for entry in entries))
            scores = zip(*self._scores(entries), strict=True)
            for entry, value, of_entry in zip(entries, values, scores, strict=True):
                found = flaws(value, of_entry, now)
                # Look again, because value and scores were not read atomically, and MGET returns None for another type.
                if value is None or not {STUCK, UNLEASED}.issuperset(found):
                    self._look_again(entry)
                else:
                    self._note(entry, value, found)

    def _read_indexes(self) -> None:
        # An entry that was not seen has no record, or a new one.
        for index in self._indexes:
            for members in self._pages("ZSCAN", index):
                for entry in members[::2]:
                    if entry not in self._seen:
                        self._look_again(entry)

    def _look_again(self, entry: bytes) -> None:
        """Check one record in a state that did not change while it was read."""
        for _ in range(_LOOKS):
            now = self._lease_time()
            value = self._value(entry)
            scores = self._scores([entry])
            # Two states of a record never have the same bytes, so an equal value means no change in between. A missing
            # record may have been created and deleted meanwhile; then its score in the index differs.
            if self._value(entry) == value and (value is not None or self._scores([entry]) == scores):
                self._note(entry, value, flaws(value, [score for (score,) in scores], now))
                return
        # A record that changes between all readings is in use, so no flaw is reported.

    def _note(self, entry: bytes, value: object, found: Sequence[Flaw]) -> None:
        if value is None and not found:
            return  # deleted during the scan
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
