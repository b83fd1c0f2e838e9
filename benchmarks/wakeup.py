"""How soon does a waiter in another process learn that a download is over, and what does waiting cost?

``python -m benchmarks.wakeup`` starts a server of its own and compares, in one run and in turn, the medians of

- a bare redis-py round: from PUBLISH being called to the message in another process;
- ours: from ``finish_download_claim`` being called to ``ensure`` returning in another process, for both clients;
- the same flow, polling every 500 ms;
- 1,000 waiting tasks in 4 processes: until the last one is awake.

Then it counts the commands that the server sees while 1,000 tasks wait for 10 seconds. It exits with 1 if a limit is
broken: 3 bare rounds, a hundredth of the polling, 50 bare rounds for the last of 1,000, and 100 commands.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import redis

from pyregistry import AsyncRegistry, Claimed, ModelStatus, Registry
from pyregistry.embedded import EmbeddedServer
from tests.support.internals import subscriber_of

NAMESPACE = "wakeup"
PROCESSES, TASKS = 4, 250
TIMES_BARE, TIMES_POLL, TIMES_BARE_MANY, COMMANDS = 3.0, 100.0, 50.0, 100

_spawn = multiprocessing.get_context("spawn")


def now() -> float:
    """Seconds on a clock that all processes of a machine share."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


# What waits, in processes of their own. Each says "waits", and then when it was awake.


def bare(url: str, line: Connection, _model: str) -> None:
    """redis-py alone."""
    with redis.Redis.from_url(url) as client, client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("bare")
        listener.get_message(timeout=10)
        line.send("waits")
        while (message := listener.get_message(timeout=30)) is None:
            pass
        awake = now()
        assert message["data"] == b"done"
        line.send(awake)


def blocking(url: str, line: Connection, model: str) -> None:
    """`Registry.ensure`."""
    with Registry.from_url(url, NAMESPACE) as registry:
        line.send("waits")
        registry.ensure(model, "S3", print)
        line.send(now())


def tasks(url: str, line: Connection, model: str) -> None:
    """`AsyncRegistry.ensure`, one task."""
    asyncio.run(_tasks(url, line, model, 1))


def many_tasks(url: str, line: Connection, model: str) -> None:
    """`AsyncRegistry.ensure`, many tasks: when the last one was awake."""
    asyncio.run(_tasks(url, line, model, TASKS))


async def _tasks(url: str, line: Connection, model: str, count: int) -> None:
    async with AsyncRegistry.from_url(url, NAMESPACE) as registry:
        wanted = [asyncio.create_task(registry.ensure(model, "S3", print)) for _ in range(count)]
        while not subscriber_of(registry).is_up:  # noqa: ASYNC110 - it has no event for others
            await asyncio.sleep(0.01)
        line.send("waits")
        await asyncio.gather(*wanted)
        line.send(now())


def polling(url: str, line: Connection, model: str) -> None:
    """The same, looking every 500 ms."""
    with Registry.from_url(url, NAMESPACE) as registry:
        line.send("waits")
        time.sleep(random.uniform(0.0, 0.5))  # it began at any time
        while isinstance(registry.try_claim_for_download(model, "S3", lease=60.0), Claimed) or (
            registry.get_status(model, "S3") is not ModelStatus.DOWNLOADED
        ):
            time.sleep(0.5)
        line.send(now())


# The one that they wait for


class Round:
    """Lets processes wait, ends what they wait for, and measures until the last one is awake."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._owner = Registry.from_url(url, NAMESPACE)
        self._raw = redis.Redis.from_url(url)
        self._number = 0

    def close(self) -> None:
        self._owner.close()
        self._raw.close()

    def of(self, waiter: Callable[[str, Connection, str], None], processes: int = 1) -> float:
        """Seconds from the end being called to the last waiter being awake."""
        self._number += 1
        model = f"model-{self._number}"
        result = self._owner.try_claim_for_download(model, "S3", lease=600.0)
        assert isinstance(result, Claimed)
        started = []
        for _ in range(processes):
            here, there = _spawn.Pipe()
            process = _spawn.Process(target=waiter, args=(self._url, there, model))
            process.start()
            started.append((process, here))
        for _, line in started:
            assert line.recv() == "waits"
        time.sleep(0.2)  # those that only say that they begin to wait have begun by then
        began = now()
        if waiter is bare:
            self._raw.publish("bare", "done")
        else:
            self._owner.finish_download_claim(result.claim, ModelStatus.DOWNLOADED)
        ended = max(line.recv() for _, line in started)
        for process, _ in started:
            process.join()
        return float(ended - began)


def commands_while_waiting(url: str, seconds: float) -> int:
    """How many commands come from 1,000 tasks that wait so long."""
    counted = [0]

    async def main() -> None:
        raw: Any = redis.Redis.from_url(url)

        def calls() -> int:
            stats = raw.info("commandstats")
            own = ("cmdstat_info", "cmdstat_client|setinfo", "cmdstat_hello")
            scripts = ("zadd", "zrem", "hset", "hmget", "time", "get", "mset", "del", "spublish", "zscore")
            inside = tuple(f"cmdstat_{name}" for name in scripts)
            return sum(int(stat["calls"]) for name, stat in stats.items() if name not in (*own, *inside))

        async with AsyncRegistry.from_url(url, NAMESPACE) as registry:
            await registry.set_status("never", "S3", ModelStatus.DOWNLOADING)
            before = calls()
            wanted = [asyncio.create_task(registry.ensure("never", "S3", print)) for _ in range(1000)]
            await asyncio.sleep(seconds)
            counted[0] = calls() - before
            for each in wanted:
                each.cancel()
            await asyncio.gather(*wanted, return_exceptions=True)
        raw.close()

    asyncio.run(main())
    return counted[0]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--binary", type=Path, help="the server's program; default: the embedded server's")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    waiters = {"bare": bare, "ensure, blocking": blocking, "ensure, asyncio": tasks, "polling": polling}
    seconds: dict[str, list[float]] = {name: [] for name in (*waiters, "last of 1,000")}
    with EmbeddedServer(binary=options.binary, port=0) as server:
        rounds = Round(server.url)
        for _ in range(options.rounds):
            for name, waiter in waiters.items():
                seconds[name].append(rounds.of(waiter))
            seconds["last of 1,000"].append(rounds.of(many_tasks, PROCESSES))
        rounds.close()
        commands = commands_while_waiting(server.url, 10.0)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    base = medians["bare"]
    kept = {
        "ensure, blocking": medians["ensure, blocking"] <= TIMES_BARE * base
        and medians["ensure, blocking"] * TIMES_POLL <= medians["polling"],
        "ensure, asyncio": medians["ensure, asyncio"] <= TIMES_BARE * base
        and medians["ensure, asyncio"] * TIMES_POLL <= medians["polling"],
        "last of 1,000": medians["last of 1,000"] <= TIMES_BARE_MANY * base,
    }
    for name, median in medians.items():
        verdict = "" if name not in kept else "kept" if kept[name] else "BROKEN"
        print(f"{name:20} {median * 1000:10.3f} ms {median / base:8.2f} bare rounds   {verdict}")
    print(
        f"commands of 1,000 tasks that wait for 10 s: {commands}   {'kept' if commands < COMMANDS else 'BROKEN'}"
    )
    if options.json:
        options.json.write_text(
            json.dumps({"seconds": seconds, "medians": medians, "commands": commands}, indent=1)
        )
    return 0 if all(kept.values()) and commands < COMMANDS else 1


if __name__ == "__main__":
    sys.exit(main())
