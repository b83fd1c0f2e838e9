"""What a measurement is, and how it is taken: contenders side by side, in turn, round after round.

A contender is asked twice: `prepare` does all that must not count (connecting, filling, warming up), `go` is
what counts. CPU time is read on both sides of `go`, for the client and for the server.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import redis

from benchmarks.options import Rounds
from benchmarks.servers import Server


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        what: the operation, a word of `benchmarks.driver`.
        tasks: how many ask at once.
        count: how many calls in all.
        models: how many models they go to.
        tag: part of the models' names.
    """

    what: str
    tasks: int
    count: int
    models: int
    tag: str = "m"

    def share(self, parts: int) -> Job:
        """The same with fewer calls, but no fewer than there are tasks."""
        count = max(self.count // parts, min(self.count, self.tasks))
        return replace(self, count=count, models=count if self.models == self.count else self.models)

    @property
    def line(self) -> str:
        """As drivers read it."""
        return f"{self.what} {self.tasks} {self.count} {self.models} {self.tag}"


class Absent(Exception):
    """This contender can't do this here; says why."""


class Contender(Protocol):
    """Who does a job."""

    name: str
    every: int  # it takes its turn in the first of so many rounds

    def start(self, server: Server, stack: ExitStack) -> None:
        """Get ready; what is to be ended goes onto the stack. May raise `Absent`."""

    def prepare(self, job: Job) -> None:
        """All that must not count. May raise `Absent`."""

    def go(self) -> dict[str, float]:
        """Do it: ``seconds``, ``done``, ``client_cpu``, and what else is known (``won``, ``p50``, ...)."""


@dataclass
class Figure:
    """What one contender did in all rounds: a row of a table.

    Attributes:
        table: where it belongs.
        server: who served.
        what: the operation.
        who: the contender.
        at: under which conditions (``tasks``, ``records``).
        measures: by name, one value for each round that it took part in, in their order.
        rounds: the numbers of those rounds.
        note: why there are none, or what to know about them.
    """

    table: str
    server: str
    what: str
    who: str
    at: dict[str, int] = field(default_factory=dict)
    measures: dict[str, list[float]] = field(default_factory=dict)
    rounds: list[int] = field(default_factory=list)
    note: str = ""

    def add(self, **values: float) -> None:
        """One more round."""
        for name, value in values.items():
            self.measures.setdefault(name, []).append(value)

    def median(self, measure: str) -> float | None:
        """The median of the rounds; ``None`` if it was not measured."""
        values = self.measures.get(measure)
        return statistics.median(values) if values else None


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, all its threads; not a number where the system does not tell it."""
    if sys.platform != "linux":
        return float("nan")
    # The number of a process's CPU clock, as clock_getcpuclockid(3) makes it: exact to the nanosecond.
    return time.clock_gettime(~pid << 3 | 2)


def commands_sent(client: redis.Redis) -> int:
    """How many commands clients have sent, of those that the benchmarks send and no script does."""
    names = ("evalsha", "mget", "hget", "client|caching", "ping")
    stats: dict[str, Any] = client.info("commandstats")
    return sum(int(stats[f"cmdstat_{name}"]["calls"]) for name in names if f"cmdstat_{name}" in stats)


def measure(
    table: str,
    server: Server,
    contenders: Sequence[Contender],
    jobs: Sequence[Job],
    rounds: Rounds,
    *,
    winners: int | None = None,
    all_win: bool = False,
) -> list[Figure]:
    """Every job by every contender, in turn.

    Args:
        table: where the figures belong.
        server: who serves; it is emptied before every job.
        contenders: who competes.
        jobs: what they do.
        rounds: how often; what is reported are medians. A slow contender skips some (`Contender.every`).
        winners: how many calls must win; ``None``: this is not looked at.
        all_win: whether every call must win.
    """
    figures: list[Figure] = []
    with ExitStack() as stack, redis.Redis.from_url(server.url) as client:
        absent: dict[str, str] = {}
        for contender in contenders:
            with _absence(contender.name, absent):
                contender.start(server, stack)
        for job in jobs:
            rows = {each.name: _row(table, server, job, each.name, absent) for each in contenders}
            not_here: dict[str, str] = {}
            number = 0
            while rounds.go_on(number, list(rows.values())):
                for contender in contenders:
                    row = rows[contender.name]
                    if row.note or number % contender.every:
                        continue
                    client.flushall()
                    with _absence(contender.name, not_here):
                        contender.prepare(job)
                    if contender.name in not_here:
                        row.note = not_here[contender.name]
                        continue
                    before = cpu_seconds(server.pid)
                    result = contender.go()
                    row.rounds.append(number)
                    row.add(**_per_call(result, cpu_seconds(server.pid) - before))
                    won, expected = result.get("won"), result["done"] if all_win else winners
                    if won is not None and expected is not None and won != expected:
                        raise AssertionError(f"{contender.name}: {won:.0f} calls won, not {expected:.0f}")
                number += 1
            figures += rows.values()
            progress(table, server, job.what, f"{job.tasks} tasks, {number} rounds")
    return figures


@contextmanager
def _absence(who: str, known: dict[str, str]) -> Iterator[None]:
    """Notes who is absent, and why."""
    try:
        yield
    except Absent as why:
        known[who] = str(why)


def progress(table: str, server: Server, *words: str) -> None:
    """One line for who watches."""
    print(
        f"[{time.strftime('%H:%M:%S')}] {table}, {server.name}: {', '.join(words)}",
        file=sys.stderr,
        flush=True,
    )


def number(value: float) -> str:
    """With three digits that count."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _row(table: str, server: Server, job: Job, who: str, absent: dict[str, str]) -> Figure:
    at = {"tasks": job.tasks, "models": job.models} if job.models != job.count else {"tasks": job.tasks}
    return Figure(table, server.name, job.what, who, at, note=absent.get(who, ""))


def _per_call(result: dict[str, float], server_cpu: float) -> dict[str, float]:
    done = result["done"]
    values = {
        "per_second": done / result["seconds"],
        "client_us": result["client_cpu"] / done * 1e6,
        "server_us": server_cpu / done * 1e6,
    }
    if "commands" in result:
        values["commands_per_call"] = result["commands"] / done
    values.update({f"{name}_us": result[name] * 1e6 for name in ("p50", "p99", "max") if name in result})
    return values
