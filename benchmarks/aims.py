"""What the figures must show, as ratios of one run: the project's aims, and whether they are kept."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import blocking, claims, contenders, hotpath, imports, operations, rust, scripts, seed
from benchmarks.measure import Figure

OURS, UVLOOP = "pyregistry", "pyregistry on uvloop"
RUST_04, RUST_07 = "modelexpress-server 0.4.0", "modelexpress-server 0.7.0"
POOL, LIMIT = "redis-py pool", "redis-benchmark (-P 16, batches of 64)"
CLOSE = 1.25  # times an aim, or an aim times a ratio: the rounds of a run differ by that
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
        above = _values(self.ours.find(figures, server), self.measure)
        if self.other is None:
            return statistics.median(above.values()) if above else None
        below = _values(self.other.find(figures, server), self.measure)
        ratios = [above[number] / below[number] for number in above.keys() & below.keys()]
        return statistics.median(ratios) if ratios else None

    def is_kept(self, value: float) -> bool:
        """Whether it is."""
        return value >= self.limit if self.least else value <= self.limit

    def is_close(self, value: float) -> bool:
        """Whether more rounds may change that."""
        return 1 / CLOSE < value / self.limit < CLOSE


def _values(figure: Figure | None, measure: str) -> dict[int, float]:
    """What was measured, by the round."""
    values = figure.measures.get(measure, []) if figure else []
    rounds = figure.rounds if figure and figure.rounds else range(len(values))
    return dict(zip(rounds, values, strict=True))


def undecided(figures: Sequence[Figure]) -> bool:
    """Whether one of these is too close to an aim for the rounds that it has had."""
    servers = {figure.server for figure in figures}
    values = [
        (aim, aim.value(figures, server))
        for server in servers
        for aim in AIMS
        if aim.other is not None and server.startswith(aim.server)
    ]
    return any(value is not None and aim.is_close(value) for aim, value in values)


def _rate(
    text: str,
    table: str,
    what: str,
    other: str,
    limit: float,
    *,
    tasks: int = 500,
    server: str = ANY,
) -> list[Aim]:
    """Calls/s; the aim is that of asyncio's own event loop, and of uvloop."""
    at = (("tasks", tasks),)
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


def _floor(ours: str, floor: str) -> Aim:
    at = (("tasks", 1),)
    text = f"claim_fresh, 1 task: latency against a bare protocol{floor.removeprefix(contenders.FLOOR)}"
    table, what = claims.FRESH, "claim_fresh"
    return Aim(text, "p50_us", Row(table, what, ours, at), Row(table, what, floor, at), 1.2, least=False)


def _latency(what: str, table: str) -> Aim:
    at = (("tasks", 1),)
    ours, pool = Row(table, what, OURS, at), Row(table, what, POOL, at)
    return Aim(
        f"{what}, 1 task: latency against redis-py's asyncio client", "p50_us", ours, pool, 1.0, least=False
    )


def _all() -> list[Aim]:
    fresh, contended = (claims.FRESH, "claim_fresh"), (claims.CONTENDED, "claim_contended")
    head = Row(seed.GROWTH, "lru_head", OURS, (("records", 1_000_000),))
    blocked = [
        Aim(
            f"{what}, blocking client: calls/s against a bare socket with our objects",
            "per_second",
            Row(blocking.TABLE, what, blocking.OURS),
            Row(blocking.TABLE, what, blocking.OBJECTS),
            0.9,
        )
        for what in blocking.ASKS
    ]
    return [
        *_rate("Fresh claims, 16 tasks: against 0.4.0", *fresh, RUST_04, 0.95, tasks=16),
        *_rate("Fresh claims, 50 tasks: against 0.4.0", *fresh, RUST_04, 1.05, tasks=50),
        *_rate("Fresh claims, 100 tasks: against 0.4.0", *fresh, RUST_04, 1.2, tasks=100),
        *_rate("Fresh claims, 500 tasks: against 0.4.0", *fresh, RUST_04, 1.15),
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
        _floor(OURS, contenders.FLOOR),
        _floor(UVLOOP, f"{contenders.FLOOR}, on uvloop"),
        _latency("claim_fresh", claims.FRESH),
        _latency("touch_model", operations.ASYNC),
        _latency("get_status", operations.ASYNC),
        *blocked,
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
        Aim(
            "Import of both clients: against redis.asyncio and msgspec",
            "import_ms",
            Row(imports.TABLE, imports.WHAT, imports.CLIENTS),
            Row(imports.TABLE, imports.WHAT, imports.NEEDED),
            1.6,
            least=False,
        ),
    ]


AIMS = _all()
