"""Ours beside the ModelExpress way: the LRU head and the counts as records grow, waking up, and waiting."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import redis

from benchmarks import scale
from benchmarks.baseline import POLL_SECONDS, Baseline
from benchmarks.measure import Figure, commands_sent, cpu_seconds, progress
from benchmarks.options import Options
from benchmarks.servers import Server, serve
from benchmarks.setup import PROVIDER
from pyregistry import AlreadyExists, AsyncRegistry, Claim, Claimed, ModelStatus, Registry

Calls: TypeAlias = "Mapping[str, Callable[[], object]]"
Waiter: TypeAlias = "Callable[[AsyncRegistry, str], Awaitable[None]]"

GROWTH = "The LRU head of 10, and counts, as records grow"
WAITING = "Waiting for a download"
OURS, THEIRS, POLLING = "pyregistry", "SCAN, pipelines, sort", "claims again every 500 ms"
WAITED_SECONDS = 5.0


def run(server: Server, options: Options) -> list[Figure]:
    """Growth, then waiting."""
    return growth(server, options) + waiting(server, options)


def growth(server: Server, options: Options) -> list[Figure]:
    """What listing and counting take as the registry grows."""
    return _theirs(server, options) + _ours(server, options)


def _theirs(server: Server, options: Options) -> list[Figure]:
    """On a server that holds nothing else: a SCAN must not walk over what is not its own."""
    figures: list[Figure] = []
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        baseline, done = Baseline(client), 0
        for size in options.sizes:
            baseline.fill(range(done, size))
            done = size
            assert baseline.counts() == (0, size, 0), "the fill went wrong"
            calls: Calls = {"lru_head": partial(baseline.lru_head, 10), "counts": baseline.counts}
            # A round of a million takes a minute, and is ten thousand times from its aim.
            rounds = options.least if size <= 10_000 else 1
            figures += _in_turn(_turns(server, THEIRS, size, calls), rounds)
            progress(GROWTH, server, THEIRS, f"{size:,} records")
        client.flushall()
    return figures


def _ours(server: Server, options: Options) -> list[Figure]:
    """Each size on a server of its own, so that the sizes can take turns: a minute later, a machine is not the same."""
    turns: list[_Turn] = []
    with ExitStack() as stack:
        for size in options.sizes:
            own = stack.enter_context(serve(server.binary))
            client = stack.enter_context(redis.Redis.from_url(own.url))
            registry = stack.enter_context(Registry.from_url(own.url, "scale"))
            scale.fill(client, registry, range(size), scale.finish)
            assert registry.get_status_counts() == (0, size, 0), "the fill went wrong"
            calls: Calls = {
                "lru_head": partial(registry.get_models_by_last_used, limit=10),
                "counts": registry.get_status_counts,
            }
            turns += _turns(own, OURS, size, calls, times=200)
        figures = _in_turn(turns, options.rounds.most)
        progress(GROWTH, server, OURS, f"{', '.join(f'{size:,}' for size in options.sizes)} records")
    return figures


@dataclass(frozen=True)
class _Turn:
    """A call that is made so often in each round."""

    server: Server
    row: Figure
    call: Callable[[], object]
    times: int

    def take(self) -> None:
        """Make the calls, and note what they took."""
        cpu, server_cpu = time.process_time(), cpu_seconds(self.server.pid)
        taken = []
        for _ in range(self.times):
            begun = time.perf_counter()
            self.call()
            taken.append(time.perf_counter() - begun)
        self.row.add(
            p50_us=statistics.median(taken) * 1e6,
            per_second=self.times / sum(taken),
            client_us=(time.process_time() - cpu) / self.times * 1e6,
            server_us=(cpu_seconds(self.server.pid) - server_cpu) / self.times * 1e6,
        )


def _turns(server: Server, who: str, size: int, calls: Calls, times: int = 1) -> list[_Turn]:
    return [
        _Turn(server, Figure(GROWTH, server.name, what, who, {"records": size}), call, times)
        for what, call in calls.items()
    ]


def _in_turn(turns: Sequence[_Turn], rounds: int) -> list[Figure]:
    for turn in turns:
        turn.call()
    for _ in range(rounds):
        for turn in turns:
            turn.take()
    return [turn.row for turn in turns]


# Waiting


def waiting(server: Server, options: Options) -> list[Figure]:
    """How long until a waiter is awake, and what many of them send meanwhile."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        waiters: dict[str, Waiter] = {POLLING: _poll}
        rows = []
        if hasattr(AsyncRegistry, "ensure"):
            waiters[OURS] = _ensure
        else:
            rows += [
                Figure(WAITING, server.name, what, OURS, note="not there: this version does not wait")
                for what in ("wake_up", "waiting_1000_tasks")
            ]
        found = {who: Figure(WAITING, server.name, "wake_up", who) for who in waiters}
        for number in range(options.least):
            for who, waiter in waiters.items():
                model = f"wake-{number} {who}"
                found[who].add(p50_us=asyncio.run(_wake_up(server.url, waiter, model)) * 1e6)
        rows += found.values()
        for who, waiter in waiters.items():
            row = Figure(WAITING, server.name, "waiting_1000_tasks", who)
            for number in range(min(options.least, 3)):
                model = f"wait-{number} {who}"
                sent = asyncio.run(_while_waiting(server.url, client, waiter, model))
                row.add(commands_per_second=sent / WAITED_SECONDS)
            rows.append(row)
            progress(WAITING, server, who)
    return rows


async def _ensure(registry: Any, model: str) -> None:
    await registry.ensure(model, PROVIDER, _never)


async def _poll(registry: AsyncRegistry, model: str) -> None:
    await asyncio.sleep(random.uniform(0.0, POLL_SECONDS))  # the download may end at any time
    while True:
        result = await registry.try_claim_for_download(model, PROVIDER, lease=600.0)
        if isinstance(result, AlreadyExists) and result.status is ModelStatus.DOWNLOADED:
            return
        await asyncio.sleep(POLL_SECONDS)


async def _never(_: object) -> None:
    raise AssertionError("somebody else downloads it")


def _other(url: str, waiter: Waiter) -> AsyncRegistry:
    """Who waits. Polling goes by redis-py's pool: ours makes one request of what all tasks ask at once."""
    transport = "redis-py" if waiter is _poll else "multiplexed"
    return AsyncRegistry.from_url(url, "waiting", transport=transport)


async def _wake_up(url: str, waiter: Waiter, model: str) -> float:
    """Seconds from the end being said to another client's waiter being awake."""
    async with (
        AsyncRegistry.from_url(url, "waiting") as owner,
        _other(url, waiter) as other,
    ):
        claim = await _claim(owner, model)
        waits = asyncio.ensure_future(waiter(other, model))
        await asyncio.sleep(1.0)
        begun = time.perf_counter()
        await owner.finish_download_claim(claim, ModelStatus.DOWNLOADED)
        await waits
        return time.perf_counter() - begun


async def _while_waiting(url: str, client: redis.Redis, waiter: Waiter, model: str) -> int:
    """How many commands 1,000 tasks of one process send while they wait."""
    async with (
        AsyncRegistry.from_url(url, "waiting") as owner,
        _other(url, waiter) as other,
    ):
        await _claim(owner, model)
        # Each of a model of its own would be another question: these share one.
        waits = [asyncio.ensure_future(waiter(other, model)) for _ in range(1000)]
        await asyncio.sleep(1.0)
        before = commands_sent(client)
        await asyncio.sleep(WAITED_SECONDS)
        sent = commands_sent(client) - before
        for each in waits:
            each.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        return sent


async def _claim(registry: AsyncRegistry, model: str) -> Claim:
    result = await registry.try_claim_for_download(model, PROVIDER, lease=600.0)
    assert isinstance(result, Claimed)
    return result.claim
