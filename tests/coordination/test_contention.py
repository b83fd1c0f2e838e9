"""Many at once: processes, threads and tasks that want the same; tasks that are cancelled."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pyregistry import AlreadyExists, AsyncRegistry, Claim, Claimed, ModelStatus, Registry
from tests.support.faults.proxy import SECONDS, Held, Proxy, until

if TYPE_CHECKING:
    from tests.support.clients import Connect

CONNECTIONS = 32  # of one client


# Processes


def _compete(url: str, namespace: str, how: str, tokens: Any, start: Any) -> None:
    """Tries fifty times to get one model; tells with which tokens it won."""
    with Registry.from_url(url, namespace) as registry:
        start.wait(SECONDS)
        won = []
        for _ in range(50):
            if how == "claim":
                result = registry.try_claim_for_download("model", "S3", lease=60.0)
                won += [result.claim.token] if isinstance(result, Claimed) else []
            else:
                claim = registry.try_reset_error_for_retry("model", "S3", lease=60.0)
                won += [claim.token] if claim else []
        tokens.put(won)


@pytest.mark.parametrize("how", ["claim", "retry"])
def test_eight_processes_want_one_model(server_url: str, namespace: str, how: str) -> None:
    """Of eight processes that claim or retry one model, one wins."""
    with Registry.from_url(server_url, namespace) as registry:
        if how == "retry":
            registry.set_status("model", "S3", ModelStatus.ERROR)
        context = multiprocessing.get_context("spawn")
        tokens, start = context.SimpleQueue(), context.Barrier(8)
        processes = [
            context.Process(target=_compete, args=(server_url, namespace, how, tokens, start))
            for _ in range(8)
        ]
        for process in processes:
            process.start()
        won = [token for _ in processes for token in tokens.get()]
        for process in processes:
            process.join(SECONDS)
            assert process.exitcode == 0
        record = registry.get_model_record("model", "S3")
    assert record is not None
    assert won == [record.token]
    assert record.status is ModelStatus.DOWNLOADING


# Threads and tasks


def test_many_threads_on_one_client(connect_any: Connect) -> None:
    """Threads that share a client get their own replies, and each model has one winner."""
    registry = connect_any()
    ready = threading.Barrier(48)

    def work(at: int) -> list[Claim]:
        ready.wait(SECONDS)
        won = []
        for of in range(10):
            # Everybody wants these ten, and has ten of its own.
            result = registry.try_claim_for_download(f"shared {of}", "S3", lease=60.0)
            won += [result.claim] if isinstance(result, Claimed) else []
            registry.set_status(f"own {at}", "S3", ModelStatus.DOWNLOADED, f"{at} {of}")
            record = registry.get_model_record(f"own {at}", "S3")
            assert record is not None
            assert record.message == f"{at} {of}", "somebody else's answer"
        return won

    with ThreadPoolExecutor(48) as pool:
        won = [claim for claims in pool.map(work, range(48)) for claim in claims]
    assert sorted(claim.model_name for claim in won) == [f"shared {of}" for of in range(10)]
    assert len({claim.token for claim in won}) == 10
    assert registry.get_status_counts() == (10, 48, 0)


async def test_five_hundred_tasks_want_one_model(server_url: str, namespace: str) -> None:
    """Of 500 tasks that claim or retry one model, one wins."""
    async with AsyncRegistry.from_url(server_url, namespace) as registry:
        results = await asyncio.gather(
            *(registry.try_claim_for_download("model", "S3", lease=60.0) for _ in range(500))
        )
        (winner,) = [result for result in results if isinstance(result, Claimed)]
        assert all(
            result.status is ModelStatus.DOWNLOADING
            for result in results
            if isinstance(result, AlreadyExists)
        )
        assert await registry.finish_download_claim(winner.claim, ModelStatus.ERROR)
        retries = await asyncio.gather(
            *(registry.try_reset_error_for_retry("model", "S3", lease=60.0) for _ in range(500))
        )
        assert len([claim for claim in retries if claim]) == 1


# Cancellation


@pytest.mark.parametrize("transport", ["multiplexed", "redis-py"])
@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_tasks_take_nobody_elses_answer(
    server_url: str, namespace: str, seed: int, transport: str
) -> None:
    """Cancelled tasks leave other tasks their own replies and leak no connection."""
    chance = random.Random(seed)
    async with AsyncRegistry.from_url(
        server_url, namespace, client_name=namespace, transport=transport
    ) as registry:
        models = [f"m{at}" for at in range(200)]
        await asyncio.gather(*(registry.set_status(name, "S3", "ERROR", name) for name in models))

        async def use(name: str) -> str:
            await registry.touch_model(name, "S3")
            claim = await registry.try_reset_error_for_retry(name, "S3", lease=60.0, claim_id=name)
            assert claim is not None
            assert await registry.refresh_download_claim(claim, message=name) is not None
            record = await registry.get_model_record(name, "S3")
            assert record is not None
            assert record.token == claim.token
            return str(record.message)

        tasks = {name: asyncio.create_task(use(name)) for name in models}
        doomed = chance.sample(models, 80)
        for name in doomed:
            # At any point of its way: the loop turns a few times in between.
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            tasks[name].cancel()
        await asyncio.wait(tasks.values())
        cancelled = {name for name, task in tasks.items() if task.cancelled()}
        assert cancelled
        assert cancelled <= set(doomed)
        for name in set(models) - cancelled:
            assert tasks[name].result() == name
        # The client works, for all models, and has no more connections than it may.
        messages = [record.message for record in await registry.get_models_by_last_used() if record.message]
        assert set(messages) <= set(models) | {"Retrying download..."}
        with redis.Redis.from_url(server_url) as server:
            ours = [each for each in server.client_list() if each["name"] == namespace]
            assert 1 <= len(ours) <= (CONNECTIONS if transport == "redis-py" else 1)


async def arrived(paused: list[Held]) -> None:
    """All these requests are at the proxy."""
    for held in paused:
        await asyncio.to_thread(held.wait)


async def cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel them, and see that they are."""
    pending = tasks
    while pending:
        # More than once: before Python 3.12 asyncio.wait_for, with which redis-py sends, can swallow it.
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
    assert all(task.cancelled() for task in tasks)


async def test_cancelled_tasks_give_their_turn_back(proxy: Proxy, namespace: str) -> None:
    """Cancelled tasks return their connections to the pool."""
    async with AsyncRegistry.from_url(
        proxy.url, namespace, timeout=SECONDS, transport="redis-py"
    ) as registry:
        for _ in range(3):
            # All connections wait for an answer, and more tasks for a connection; then all are cancelled.
            paused = proxy.pause("touch", times=CONNECTIONS)
            tasks = {asyncio.create_task(registry.touch_model(f"m{at}", "S3")) for at in range(40)}
            await arrived(paused)
            await cancel(tasks)
            for held in paused:
                held.let_go()
        # As many at once as before.
        paused = proxy.pause("touch", times=CONNECTIONS)
        calls = asyncio.gather(*(registry.touch_model(f"m{at}", "S3") for at in range(40)))
        await arrived(paused)
        for held in paused:
            held.let_go()
        assert await calls == [False] * 40


async def test_a_turn_that_went_to_a_cancelled_task_goes_to_the_next(proxy: Proxy, namespace: str) -> None:
    """A connection handed to a cancelled task goes to the next waiter."""
    async with AsyncRegistry.from_url(
        proxy.url, namespace, timeout=2 * SECONDS, transport="redis-py"
    ) as registry:
        paused = proxy.pause("touch", times=CONNECTIONS)

        async def touch_and_cancel() -> None:
            await registry.touch_model("first", "S3")
            # In this very moment the first of those who wait is told that it is its turn.
            waiting[0].cancel()

        first = asyncio.create_task(touch_and_cancel())
        others = [asyncio.create_task(registry.touch_model(f"m{at}", "S3")) for at in range(CONNECTIONS - 1)]
        await arrived(paused)
        waiting = [asyncio.create_task(registry.get_status("model")) for _ in range(2)]
        await asyncio.sleep(0)
        (held,) = [held for held in paused if b"first" in held.raw]
        held.let_go()
        await first
        # One connection is free, and all others are still busy.
        assert await asyncio.wait_for(waiting[1], SECONDS / 2) is None
        assert waiting[0].cancelled()
        for held in paused:
            held.let_go()
        await asyncio.gather(*others)


def keepers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pyregistry-keeper"]


async def test_a_cancelled_claim_is_not_kept_alive(proxy: Proxy, namespace: str) -> None:
    """A claim whose task is cancelled is not renewed."""
    async with AsyncRegistry.from_url(proxy.url, namespace) as registry:
        (paused,) = proxy.pause("claim")
        task = asyncio.create_task(registry.try_claim_for_download("model", "S3"))
        await asyncio.to_thread(paused.wait)
        await cancel({task})
        paused.let_go()
        # The server runs it all the same. Nobody keeps it alive, so that it ends with its lease.
        record = None
        while record is None:
            record = await registry.get_model_record("model", "S3")
        assert record.lease_expires_at is not None
        # Another test's thread may still be there, but it would not end if it had this claim to renew.
        await asyncio.to_thread(until, lambda: not keepers(), "no claim is kept alive")
