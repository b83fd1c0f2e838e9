"""What the figures must show, as ratios of one run: the project's aims, and whether they are kept."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import claims, hotpath, operations, rust, scripts, seed
from benchmarks.measure import Figure

OURS, UVLOOP = "pyregistry", "pyregistry on uvloop"
RUST_04, RUST_07 = "modelexpress-server 0.4.0", "modelexpress-server 0.7.0"
POOL, LIMIT = "redis-py pool", "redis-benchmark (-P 16, batches of 64)"
REDIS, VALKEY, ANY = "Redis 7.", "Valkey 9.", ""


@dataclass(frozen=True)
class Row:
    """Names one row of one table; where `at` is empty, the first that fits."""

    table: str
    what: str
    who: str
    at: tuple[tuple[str, int], ...] = ()

    def find(self, figures: Sequence[Figure], server: str) -> Figure | None:
        """The row, if it was measured."""
        for figure in figures:
            if (
                (figure.table, figure.server, figure.what, figure.who)
                == (self.table, server, self.what, self.who)
                and figure.measures
                and all(figure.at.get(name) == value for name, value in self.at)
            ):
                return figure
        return None


@dataclass(frozen=True)
class Aim:
    """One row against another; or, without the other, one value.

    Attributes:
        text: for people.
        measure: which measure of both.
        ours: the row above the line.
        other: the row below it.
        limit: what the ratio is held against.
        least: whether the limit is the least that is allowed, or the most.
        server: how the names of the servers begin for which it is an aim.
    """

    text: str
    measure: str
    ours: Row
    other: Row | None
    limit: float
    least: bool = True
    server: str = ANY

    def value(self, figures: Sequence[Figure], server: str) -> float | None:
        """The median of the ratios of the rounds, each of which went side by side."""
        ours = self.ours.find(figures, server)
        above = ours.measures.get(self.measure, []) if ours else []
        if self.other is None:
            return statistics.median(above) if above else None
        other = self.other.find(figures, server)
        below = other.measures.get(self.measure, []) if other else []
        if not above or not below:
            return None
        return statistics.median(mine / theirs for mine, theirs in zip(above, below, strict=False))

    def is_kept(self, value: float) -> bool:
        """Whether it is."""
        return value >= self.limit if self.least else value <= self.limit


def _rate(text: str, table: str, what: str, other: str, limit: float, *, server: str = ANY) -> list[Aim]:
    """By 500 tasks; the aim is that of asyncio's own event loop, and of uvloop."""
    at = (("tasks", 500),)
    return [
        Aim(
            f"{text}{loop}",
            "per_second",
            Row(table, what, ours, at),
            Row(table, what, other, at),
            limit,
            server=server,
        )
        for ours, loop in ((OURS, ""), (UVLOOP, " (on uvloop)"))
    ]


def _cost(text: str, batch: str, other: str, limit: float) -> Aim:
    ours, theirs = (Row(scripts.TABLE, "claim_fresh", who) for who in (batch, other))
    return Aim(text, "script_us", ours, theirs, limit, least=False, server=REDIS)


def _latency(what: str, table: str) -> Aim:
    at = (("tasks", 1),)
    ours, pool = Row(table, what, OURS, at), Row(table, what, POOL, at)
    return Aim(
        f"{what}, 1 task: latency against redis-py's asyncio client", "p50_us", ours, pool, 1.0, least=False
    )


def _all() -> list[Aim]:
    fresh, contended = (claims.FRESH, "claim_fresh"), (claims.CONTENDED, "claim_contended")
    head = Row(seed.GROWTH, "lru_head", OURS, (("records", 1_000_000),))
    blocking = [
        Aim(
            f"{what}, blocking client, 1 thread: calls/s against redis-py's evalsha",
            "per_second",
            Row(operations.BLOCKING, what, "pyregistry, blocking"),
            Row(operations.BLOCKING, what, "redis-py evalsha, blocking"),
            2.0,
        )
        for what in ("claim_fresh", "touch_model", "set_status", "get_model_record")
    ]
    return [
        *_rate("Fresh claims, 500 tasks: against 0.4.0", *fresh, RUST_04, 1.0, server=REDIS),
        *_rate("Fresh claims, 500 tasks: against 0.7.0", *fresh, RUST_07, 1.3, server=REDIS),
        *_rate("Fresh claims, 500 tasks: against 0.7.0", *fresh, RUST_07, 1.15, server=VALKEY),
        *_rate("Fresh claims, 500 tasks: against the limit, in batches of 64", *fresh, LIMIT, 0.8),
        *_rate("Fresh claims, 500 tasks: against the redis-py pool", *fresh, POOL, 3.0),
        *_rate("Fresh claims, 500 tasks: against valkey-glide", *fresh, "valkey-glide", 2.0),
        *_rate("Contended claims, 500 tasks: against 0.4.0", *contended, RUST_04, 1.25),
        *_rate("Contended claims, 500 tasks: against 0.7.0", *contended, RUST_07, 2.0),
        *_rate("Contended claims, 500 tasks: against the redis-py pool", *contended, POOL, 8.0),
        *_rate("Touches of one model, 500 tasks: against 0.4.0", rust.TABLE, "touch_model", RUST_04, 1.0),
        *_rate("Status of one model, 500 tasks: against 0.4.0", rust.TABLE, "get_status", RUST_04, 1.0),
        _cost("Server time of a claim in batches of 64: against 0.4.0", scripts.BATCHED, RUST_04, 1.3),
        _cost("Server time of a claim alone: against 0.4.0", scripts.ALONE, RUST_04, 3.2),
        _cost("Server time of a claim in batches of 64: against 0.7.0", scripts.BATCHED, RUST_07, 0.8),
        _latency("claim_fresh", claims.FRESH),
        _latency("touch_model", operations.ASYNC),
        _latency("get_status", operations.ASYNC),
        *blocking,
        Aim(
            "Hot path, 500 tasks: requests/s",
            "per_second",
            Row(hotpath.TABLE, "hot_path", hotpath.NEAR, (("tasks", 500),)),
            None,
            500_000,
        ),
        Aim(
            "Hot path, 500 tasks: commands per request",
            "commands_per_call",
            Row(hotpath.TABLE, "hot_path", hotpath.NEAR, (("tasks", 500),)),
            None,
            0.01,
            least=False,
        ),
        Aim(
            "LRU head of 10, 1,000,000 records: times faster than SCAN",
            "per_second",
            head,
            Row(seed.GROWTH, "lru_head", seed.THEIRS, (("records", 1_000_000),)),
            10_000,
        ),
        Aim(
            "LRU head of 10: 1,000,000 records against 1,000",
            "p50_us",
            head,
            Row(seed.GROWTH, "lru_head", OURS, (("records", 1_000),)),
            2.0,
            least=False,
        ),
    ]


AIMS = _all()
