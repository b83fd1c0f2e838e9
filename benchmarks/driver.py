"""A process that does jobs with one client: ``python -m benchmarks.driver CLIENT URL``.

A line of standard input is a job: ``<what> <tasks> <count> <models> <tag>``. It is prepared and warmed up,
then ``{}`` is said; the line ``go`` starts it, and the next line of standard output is its result, as JSON.
The Rust peers under ``peers/`` speak the same.

The models' names are made before. Ours makes its commands while it is measured, as a user's program does. For the
other clients they are made before, and their replies are not decoded: the client alone is measured, so the
comparison favours them.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, closing
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.lock import Lock

from benchmarks import setup
from benchmarks.bare import BareProtocol, packed
from pyregistry import AsyncRegistry, Claimed, ModelStatus, Registry
from pyregistry._redis.protocol.transitions import SCRIPTS

SAMPLE = 17  # one call in so many is timed: what the clock costs must not count

Call: TypeAlias = Callable[[int], Awaitable[object]]
BlockingCall: TypeAlias = Callable[[int], object]
Make: TypeAlias = "Callable[[Job], Call]"
BlockingMake: TypeAlias = "Callable[[Job], BlockingCall]"


class Job:
    """A job, and what it needs."""

    def __init__(self, url: str, line: str) -> None:
        self.url = url
        self.what, tasks, count, models, self.tag = line.split()
        self.tasks, self.count, self.models = int(tasks), int(count), int(models)

    def part(self, tag: str, count: int) -> Job:
        """The same, smaller."""
        return Job(self.url, f"{self.what} {self.tasks} {count} {self.models} {tag}")

    @property
    def warm_up(self) -> Job:
        """A tenth, on other models where a call changes its model for good."""
        changes = self.what in setup.FRESH or self.what in ("claim_contended", "claim_many")
        return self.part(f"warm-{self.tag}" if changes else self.tag, max(1, self.count // 10))

    def name(self, number: int) -> str:
        """The model of a call."""
        return setup.model_name(self.tag, number % self.models)

    def names(self) -> list[str]:
        """The models of all calls."""
        return [setup.model_name(self.tag, number) for number in range(self.models)]

    def commands(self) -> list[tuple[str, ...]]:
        """All of it as commands, everything prepared."""
        claims = setup.prepare(self.url, self.what, self.count, self.models, self.tag)
        with redis.Redis.from_url(self.url) as client:
            for script in SCRIPTS:
                client.script_load(script.text)
        made = {}
        ops = setup.operations(self.what, self.count, self.models, self.tag, claims)
        for op in ops:
            if op not in made:
                made[op] = tuple(map(str, op.head.command([op])))
        return [made[op] for op in ops]


# Ours


def ours(registry: AsyncRegistry, job: Job) -> Call:
    """A call of ours, by the names that the seed gave them."""
    claims = setup.prepare(job.url, job.what, job.count, job.models, job.tag)
    names, models, what = job.names(), job.models, job.what

    async def claim(number: int) -> bool:
        result = await registry.try_claim_for_download(
            names[number % models], setup.PROVIDER, lease=setup.LEASE
        )
        return isinstance(result, Claimed)

    async def claim_many(_number: int) -> int:
        results = await registry.try_claim_many([(name, setup.PROVIDER) for name in names], lease=setup.LEASE)
        return sum(isinstance(result, Claimed) for result in results)

    async def hot_path(number: int) -> bool:
        model = names[number % models]
        there = await registry.is_downloaded(model)
        await registry.touch_model(model)
        return there

    calls: dict[str, Call] = {
        "claim_fresh": claim,
        "claim_contended": claim,
        "claim_many": claim_many,
        "hot_path": hot_path,
        "get_status": lambda number: registry.get_status(names[number % models]),
        "get_model_record": lambda number: registry.get_model_record(names[number % models]),
        "touch_model": lambda number: registry.touch_model(names[number % models]),
        "set_status": lambda number: registry.set_status(
            names[number % models], setup.PROVIDER, "DOWNLOADED"
        ),
        "delete_model": lambda number: registry.delete_model(names[number % models]),
        "retry": lambda number: registry.try_reset_error_for_retry(
            names[number % models], setup.PROVIDER, lease=setup.LEASE
        ),
        "renew": lambda number: registry.refresh_download_claim(claims[number]),
        "finish": lambda number: registry.finish_download_claim(
            claims[number], ModelStatus.DOWNLOADED, size_bytes=14_000_000_000
        ),
        "release": lambda number: registry.release_download_claim(claims[number]),
        "lru_head": lambda number: registry.get_models_by_last_used(limit=10),
        "counts": lambda number: registry.get_status_counts(),
    }
    return calls[what]


def ours_blocking(registry: Registry, job: Job) -> BlockingCall:
    """The hot path for the blocking client; its other calls are taken apart by `benchmarks.blocking`."""
    setup.prepare(job.url, job.what, job.count, job.models, job.tag)
    names, models = job.names(), job.models

    def hot_path(number: int) -> bool:
        model = names[number % models]
        there = registry.is_downloaded(model)
        registry.touch_model(model)
        return there

    return {"hot_path": hot_path}[job.what]


# The clients on asyncio: each connects, and returns what prepares a job and says how to make a call


async def pyregistry(url: str, stack: AsyncExitStack, **options: Any) -> Make:
    registry = AsyncRegistry.from_url(url, setup.NAMESPACE, **options)
    await stack.enter_async_context(registry)
    return lambda job: ours(registry, job)


async def pyregistry_pool(url: str, stack: AsyncExitStack) -> Make:
    return await pyregistry(url, stack, transport="redis-py")


async def pyregistry_near(url: str, stack: AsyncExitStack) -> Make:
    return await pyregistry(url, stack, near_cache=True, touch_interval=1.0)


async def redis_py(url: str, stack: AsyncExitStack) -> Make:
    client = await stack.enter_async_context(redis.asyncio.Redis.from_url(url, max_connections=1000))
    send: Any = client.execute_command

    def make(job: Job) -> Call:
        words = job.commands()
        return lambda number: send(*words[number])

    return make


async def redis_py_lock(url: str, stack: AsyncExitStack) -> Make:
    client = await stack.enter_async_context(redis.asyncio.Redis.from_url(url, max_connections=1000))

    def make(job: Job) -> Call:
        return lambda number: Lock(client, job.name(number), timeout=setup.LEASE).acquire(blocking=False)

    return make


async def coredis(url: str, stack: AsyncExitStack) -> Make:
    library: Any = importlib.import_module("coredis")
    client = await stack.enter_async_context(library.Redis.from_url(url))

    def make(job: Job) -> Call:
        words = job.commands()
        if words[0][0] == "MGET":
            return lambda number: client.mget(words[number][1:])
        sha, keys = words[0][1], int(words[0][2])
        split = [(command[3 : 3 + keys], command[3 + keys :]) for command in words]
        return lambda number: client.evalsha(sha, *split[number])

    return make


async def valkey_glide(url: str, stack: AsyncExitStack) -> Make:
    glide: Any = importlib.import_module("glide")
    server = urlsplit(url)
    address = glide.NodeAddress(server.hostname, server.port)
    client = await glide.GlideClient.create(glide.GlideClientConfiguration([address], request_timeout=30_000))
    stack.push_async_callback(client.close)

    def make(job: Job) -> Call:
        words = [list(command) for command in job.commands()]
        return lambda number: client.custom_command(words[number])

    return make


async def bare_protocol(url: str, stack: AsyncExitStack) -> Make:
    bare = stack.enter_context(closing(await BareProtocol.connect(url)))

    def make(job: Job) -> Call:
        commands = packed(job.commands())
        return lambda number: bare.ask(commands[number])

    return make


# The blocking clients


def pyregistry_blocking_near(url: str, stack: ExitStack) -> BlockingMake:
    registry = Registry.from_url(url, setup.NAMESPACE, near_cache=True, touch_interval=1.0)
    stack.enter_context(registry)
    return lambda job: ours_blocking(registry, job)


def python_redis_lock(url: str, stack: ExitStack) -> BlockingMake:
    library: Any = importlib.import_module("redis_lock")
    client = stack.enter_context(redis.Redis.from_url(url))
    lease = int(setup.LEASE)
    return lambda job: (
        lambda number: library.Lock(client, job.name(number), expire=lease).acquire(blocking=False)
    )


CLIENTS: dict[str, Callable[[str, AsyncExitStack], Awaitable[Make]]] = {
    "pyregistry": pyregistry,
    "pyregistry-pool": pyregistry_pool,
    "pyregistry-near": pyregistry_near,
    "pyregistry-uvloop": pyregistry,
    "redis-py": redis_py,
    "redis-py-lock": redis_py_lock,
    "coredis": coredis,
    "valkey-glide": valkey_glide,
    "bare-protocol": bare_protocol,
    "bare-protocol-uvloop": bare_protocol,
}
BLOCKING_CLIENTS: dict[str, Callable[[str, ExitStack], BlockingMake]] = {
    "pyregistry-blocking-near": pyregistry_blocking_near,
    "python-redis-lock": python_redis_lock,
}


# The work


def is_won(answer: object) -> bool:
    """Whether a call won, whoever answers: a script's reply is bytes."""
    return b"claimed" in answer if isinstance(answer, bytes) else bool(answer)


async def work(call: Call, job: Job) -> tuple[int, list[float]]:
    """All calls by so many tasks: how many won, and the latencies that were taken."""
    tasks, count = job.tasks, job.count
    if job.what == "claim_many":  # one call for all of them
        sent = time.perf_counter()
        return cast("int", await call(0)), [time.perf_counter() - sent]
    won, taken, clock = 0, [], time.perf_counter

    async def task(first: int) -> None:
        nonlocal won
        mine = 0
        for number in range(first, count, tasks):
            if number % SAMPLE:
                answer = await call(number)
            else:
                sent = clock()
                answer = await call(number)
                taken.append(clock() - sent)
            if answer is True or is_won(answer):
                mine += 1
        won += mine

    await asyncio.gather(*(task(first) for first in range(tasks)))
    return won, taken


def work_blocking(call: BlockingCall, threads: int, count: int) -> tuple[int, list[float]]:
    """The same by threads."""
    won, taken, clock = [0] * threads, list[float](), time.perf_counter

    def task(first: int) -> None:
        for number in range(first, count, threads):
            sent = clock()
            answer = call(number)
            won[first] += answer is True or is_won(answer)
            if number % SAMPLE == 0:
                taken.append(clock() - sent)

    if threads == 1:
        task(0)
    else:
        running = [threading.Thread(target=task, args=(first,)) for first in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    return sum(won), taken


class Stopwatch:
    """Wall and CPU time, from the word to go."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()  # what was prepared is not the collector's to walk
        say({})
        if sys.stdin.readline() != "go\n":
            raise SystemExit
        self._cpu, self._begun = time.process_time(), time.monotonic()

    def stop(self, count: int, won: int, taken: list[float]) -> None:
        """Says the result."""
        ended, cpu = time.monotonic(), time.process_time() - self._cpu
        taken.sort()
        say(
            {
                "seconds": ended - self._begun,
                "begun": self._begun,
                "ended": ended,
                "done": count,
                "won": won,
                "client_cpu": cpu,
                "p50": taken[len(taken) // 2],
                "p99": taken[len(taken) * 99 // 100],
                "max": taken[-1],
            }
        )


def say(what: dict[str, float]) -> None:
    """One line."""
    print(json.dumps(what), flush=True)


async def do(client: str, job: Job) -> None:
    """One job on asyncio."""
    async with AsyncExitStack() as stack:
        make = await CLIENTS[client](job.url, stack)
        await work(make(job.warm_up), job.warm_up)
        call = make(job)
        watch = Stopwatch()
        watch.stop(job.count, *await work(call, job))


def do_blocking(client: str, job: Job) -> None:
    """One job with threads."""
    with ExitStack() as stack:
        make = BLOCKING_CLIENTS[client](job.url, stack)
        work_blocking(make(job.warm_up), job.tasks, job.warm_up.count)
        call = make(job)
        watch = Stopwatch()
        watch.stop(job.count, *work_blocking(call, job.tasks, job.count))


def main() -> None:
    """Job after job."""
    client, url = sys.argv[1:]
    logging.disable(logging.WARNING)  # python-redis-lock warns of each lock that it does not get
    say({})
    for line in sys.stdin:
        job = Job(url, line)
        if client in CLIENTS:
            run: Any = importlib.import_module("uvloop").run if client.endswith("-uvloop") else asyncio.run
            run(do(client, job))
        else:
            do_blocking(client, job)


if __name__ == "__main__":
    main()
