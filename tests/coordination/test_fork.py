"""Clients made before a fork: the child works on connections of its own, or is told that it can't."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio

import pyregistry
from pyregistry import (
    AsyncRegistry,
    Claimed,
    ModelStatus,
    OwnedClaim,
    Registry,
    RegistryClosed,
    RegistryError,
    RegistryEvent,
)
from pyregistry._coordination import keepalive
from pyregistry._core import values
from pyregistry._redis.transport.endpoint import UrlEndpoint
from tests.support.faults.proxy import SECONDS, Proxy, until
from tests.support.internals import ops_of
from tests.support.marks import left_open

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.server("embedded", "debian"),  # not about the server; two Pythons
    # Python says so of every process with threads, and pytest's have some.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def in_child(function: Callable[[], Any]) -> Any:
    """What it returns in a forked child, which then ends at once."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                answer = True, function()
            except BaseException as error:
                answer = False, repr(error)
            os.write(writing, pickle.dumps(answer))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        if not select.select([pipe], [], [], SECONDS)[0]:
            os.kill(pid, signal.SIGKILL)
        data = pipe.read()
    os.waitpid(pid, 0)
    assert data, "the child hangs"
    worked, answer = pickle.loads(data)
    assert worked, answer
    return answer


@pytest.fixture
def watcher(server_url: str, namespace: str) -> Iterator[Registry]:
    with Registry.from_url(server_url, namespace) as watcher:
        yield watcher


def brought(proxy: Proxy, since: int) -> tuple[set[int], int]:
    """The connections that brought something since then; and now."""
    return {number for number, _ in proxy.log[since:]}, len(proxy.log)


def check_apart(proxy: Proxy, parent: Callable[[], object], child: Callable[[], object]) -> None:
    """The child uses new connections alone, and the parent goes on with those that it had."""
    parent()
    ours, start = brought(proxy, 0)
    child()
    theirs, start = brought(proxy, start)
    assert theirs
    assert not theirs & ours
    parent()
    still_ours, _ = brought(proxy, start)
    assert still_ours
    assert still_ours <= ours


def test_a_child_has_connections_of_its_own(proxy: Proxy, namespace: str, watcher: Registry) -> None:
    """A forked child opens its own connections."""
    with Registry.from_url(proxy.url, namespace) as registry:

        def claim() -> int:
            result = registry.try_claim_for_download("model", "S3", lease=30.0)
            assert isinstance(result, Claimed)
            return result.claim.token

        tokens: list[int] = []
        check_apart(
            proxy,
            parent=lambda: registry.get_status("model"),
            child=lambda: tokens.append(in_child(claim)),
        )
        record = watcher.get_model_record("model", "S3")
        assert record is not None
        assert [record.token] == tokens


async def test_a_child_of_a_running_loop_has_connections_of_its_own(
    proxy: Proxy, namespace: str, watcher: Registry
) -> None:
    """A child forked from a running event loop opens its own connections."""
    async with AsyncRegistry.from_url(proxy.url, namespace) as registry:
        await registry.get_status("model")
        ours, start = brought(proxy, 0)

        async def claim() -> int:
            # Several at once: more connections than the parent has.
            await asyncio.gather(*(registry.touch_model(f"m{at}", "S3") for at in range(3)))
            result = await registry.try_claim_for_download("model", "S3", lease=30.0)
            assert isinstance(result, Claimed)
            await registry.close()
            return result.claim.token

        token = in_child(lambda: asyncio.run(claim()))
        theirs, start = brought(proxy, start)
        assert theirs
        assert not theirs & ours
        record = await registry.get_model_record("model", "S3")
        still_ours, _ = brought(proxy, start)
        assert still_ours <= ours
        assert record is not None
        assert record.token == token


@left_open
def test_a_child_of_a_loop_that_has_ended(proxy: Proxy, namespace: str) -> None:
    """A child forked after an event loop has ended opens its own connections."""
    registry = AsyncRegistry.from_url(proxy.url, namespace)
    asyncio.run(registry.connect())
    ours, start = brought(proxy, 0)

    async def in_a_new_loop() -> bool:
        known = await registry.touch_model("model", "S3")
        await registry.close()
        return known

    assert in_child(lambda: asyncio.run(in_a_new_loop())) is False
    theirs, start = brought(proxy, start)
    assert not theirs & ours
    assert asyncio.run(in_a_new_loop()) is False
    gc.collect()  # here, where it is no news that they were left open


@left_open
def test_one_loop_after_the_other(proxy: Proxy, namespace: str) -> None:
    """An AsyncRegistry works on several event loops, one after the other."""
    registry = AsyncRegistry.from_url(proxy.url, namespace)
    for at in range(3):

        async def work(at: int = at) -> None:
            await asyncio.gather(*(registry.set_status(f"m{at}{of}", "S3", "ERROR") for of in range(5)))

        asyncio.run(work())

    async def end() -> int:
        counts = await registry.get_status_counts()
        await registry.close()
        return counts.error

    assert asyncio.run(end()) == 15
    gc.collect()


async def test_two_loops_at_once_are_told_apart(server_url: str, namespace: str) -> None:
    """Use on a second event loop raises RegistryClosed and closes nothing."""
    async with AsyncRegistry.from_url(server_url, namespace) as registry:

        def elsewhere() -> list[str]:
            told = []
            for call in (registry.get_status("model"), registry.close()):
                with pytest.raises(RegistryClosed) as caught:
                    asyncio.run(call)
                told.append(str(caught.value))
            return told

        for told in await asyncio.to_thread(elsewhere):
            assert "another event loop" in told
        # Nothing was closed.
        assert await registry.get_status("model") is None


async def test_closing_in_the_child_closes_nothing_of_the_parents(proxy: Proxy, namespace: str) -> None:
    """close in a forked child leaves the parent's connections open."""
    async with AsyncRegistry.from_url(proxy.url, namespace, timeout=2.0) as registry:
        await registry.get_status("model")
        start = len(proxy.log)
        in_child(lambda: asyncio.run(registry.close()))
        assert await registry.get_status("model") is None
        assert [name for _, name in proxy.log[start:]] == ["MGET"]
    with Registry.from_url(proxy.url, namespace) as blocking:
        start = len(proxy.log)
        in_child(blocking.close)
        assert blocking.get_status("model") is None
        assert [name for _, name in proxy.log[start:]] == ["MGET"]


CHILD_THAT_EXITS = """
import asyncio, os, sys, threading

from pyregistry import AsyncRegistry, Registry

kind, used, url, namespace = sys.argv[1:]

if kind == "blocking":
    registry = Registry.from_url(url, namespace, timeout=5.0)
    call = lambda: registry.get_status("model")
else:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    registry = AsyncRegistry.from_url(url, namespace, timeout=5.0)
    call = lambda: asyncio.run_coroutine_threadsafe(registry.get_status("model"), loop).result(30)
call()
pid = os.fork()
if pid == 0:
    if used == "used":
        registry.get_status("model") if kind == "blocking" else asyncio.run(registry.get_status("model"))
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
call()
print("parent done", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize("used", ["used", "unused"])
def test_a_child_that_exits_in_good_order_disturbs_nobody(
    proxy: Proxy, namespace: str, kind: str, used: str
) -> None:
    """The exit of a forked child leaves the parent's connections usable."""
    # Its interpreter takes everything down, the parent's connections included, if it may.
    command = [sys.executable, "-c", CHILD_THAT_EXITS, kind, used, proxy.url, namespace]
    where = Path(pyregistry.__file__).parent.parent
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "parent done\n", done.stderr
    parents = [number for number, name in proxy.log if name == "MGET"]
    # Before the fork, in the child if it made a call, and after that: on the connection of the first.
    assert len(parents) == (3 if used == "used" else 2)
    assert parents[0] == parents[-1]
    assert len(set(parents)) == len(parents) - 1


def test_a_lock_that_the_parent_held_does_not_stop_the_child(
    server_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forked child does not wait for a lock that a parent's thread holds."""
    parent, starting, go = os.getpid(), threading.Event(), threading.Event()

    def slow_in_the_parent(_source: UrlEndpoint) -> str:
        if os.getpid() == parent:
            starting.set()
            assert go.wait(SECONDS)
        return server_url

    monkeypatch.setattr(UrlEndpoint, "resolve", slow_in_the_parent)
    registry = Registry.from_url(server_url, namespace)
    connecting = threading.Thread(target=registry.connect)
    connecting.start()
    assert starting.wait(SECONDS)
    assert in_child(lambda: registry.get_status("model")) is None
    go.set()
    connecting.join(SECONDS)
    registry.close()


# Claims


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> float:
    lease = 0.6
    monkeypatch.setattr(keepalive, "_LINGER", keepalive._LINGER * lease / 30.0)
    monkeypatch.setattr(values, "KEPT_LEASE", lease)
    return lease


def renewed(registry: Registry, name: str) -> bool:
    """Waits until the lease of this model has moved on."""

    def lease_end() -> object:
        record = registry.get_model_record(name, "S3")
        assert record is not None
        return record.lease_expires_at

    before = lease_end()
    return until(lambda: lease_end() != before, "it is renewed")


@pytest.mark.usefixtures("short_lease")
def test_each_process_keeps_its_own_claims(proxy: Proxy, namespace: str, watcher: Registry) -> None:
    """Parent and forked child renew their own claims, each over its own connection."""
    with Registry.from_url(proxy.url, namespace) as registry:
        ours = registry.try_claim_for_download("ours", "S3")
        assert isinstance(ours, Claimed)
        assert renewed(watcher, "ours")
        (keeper,) = proxy.connections_of("renew")
        start = len(proxy.log)

        def child() -> tuple[int, bool]:
            idle = threading.active_count()
            result = registry.try_claim_for_download("theirs", "S3")
            assert isinstance(result, Claimed)
            kept = renewed(registry, "theirs") and renewed(registry, "theirs")
            assert registry.finish_download_claim(result.claim, ModelStatus.DOWNLOADED)
            return idle, kept

        assert in_child(child) == (1, True)
        # The parent went on over its own connection, the child over another one.
        renewals = {number for number, name in proxy.log[start:] if name == "renew"}
        assert keeper in renewals
        assert len(renewals) == 2
        assert renewed(watcher, "ours")
        assert registry.finish_download_claim(ours.claim, ModelStatus.DOWNLOADED)


@pytest.mark.usefixtures("short_lease")
def test_a_child_renews_nothing_of_its_parents(server_url: str, namespace: str) -> None:
    """A forked child does not renew its parent's claims."""
    with Registry.from_url(server_url, namespace) as registry:
        result = registry.try_claim_for_download("ours", "S3")
        assert isinstance(result, Claimed)

        def child() -> bool:
            mine = registry.try_claim_for_download("theirs", "S3")
            assert isinstance(mine, Claimed)
            assert registry.release_download_claim(mine.claim)
            # The thread that kept this one ends: it has nothing else to renew.
            return until(lambda: threading.active_count() == 1, "the child's keeper ends")

        assert in_child(child)
        assert registry.release_download_claim(result.claim)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_renews_nothing_of_a_download_under_way(
    server_url: str, namespace: str, watcher: Registry, method: str
) -> None:
    """A child process started in a download renews nothing, and the parent's renewals continue."""

    def download(claim: OwnedClaim) -> None:
        context: Any = multiprocessing.get_context(method)  # typeshed: which one is not known
        answers = context.SimpleQueue()
        child = context.Process(target=_idle_threads, args=(answers,))
        child.start()
        assert answers.get() == []
        # The parent goes on, with a child beside it and without.
        assert renewed(watcher, "ours")
        child.join(SECONDS)
        assert child.exitcode == 0
        assert renewed(watcher, "ours")
        assert not claim.lost.is_set()

    with Registry.from_url(server_url, namespace) as registry:
        assert registry.ensure("ours", "S3", download, lease=1.5).attempts == 1


def _idle_threads(answers: Any) -> None:
    """What runs in a child beside its main thread."""
    answers.put([thread.name for thread in threading.enumerate() if thread is not threading.main_thread()])


@pytest.mark.parametrize("kind", ["blocking", "multiplexed", "redis-py"])
def test_a_subscription_stays_with_the_parent(
    server_url: str, namespace: str, watcher: Registry, kind: str
) -> None:
    """Parent and forked child each have their own subscription."""

    # Both wait, for a model of its own each, on the client that the parent has made.
    def claimed(name: str) -> Any:
        result = watcher.try_claim_for_download(name, "S3", lease=600.0)
        assert isinstance(result, Claimed)
        return result.claim

    def subscribed() -> int:
        channel = ops_of(watcher).keys.channel
        return int(dict(raw.pubsub_shardnumsub(channel))[channel.encode()])

    def fork(wait: Callable[[], object]) -> Any:
        """Wait in a child too; it is told when it listens."""
        with ThreadPoolExecutor(1) as pool:
            child = pool.submit(in_child, wait)
            until(lambda: subscribed() == 2, "the child listens for itself")
            assert watcher.finish_download_claim(theirs, ModelStatus.DOWNLOADED)
            return child.result(2 * SECONDS)

    ours, theirs = claimed("ours"), claimed("theirs")
    with redis.Redis.from_url(server_url) as raw, ThreadPoolExecutor(1) as pool:
        if kind == "blocking":
            with Registry.from_url(server_url, namespace) as registry:
                waiting = pool.submit(registry.ensure, "ours", "S3", print)
                until(lambda: subscribed() == 1, "the parent listens")
                assert fork(lambda: registry.ensure("theirs", "S3", print).token) == theirs.token
                assert watcher.finish_download_claim(ours, ModelStatus.DOWNLOADED)
                assert waiting.result(SECONDS).token == ours.token
            return

        async def main() -> None:
            async with AsyncRegistry.from_url(server_url, namespace, transport=kind) as registry:

                async def wait() -> int:
                    token = (await registry.ensure("theirs", "S3", print)).token
                    await registry.close()
                    return token

                waiting = asyncio.create_task(registry.ensure("ours", "S3", print))
                await asyncio.to_thread(until, lambda: subscribed() == 1, "the parent listens")
                assert await asyncio.to_thread(fork, lambda: asyncio.run(wait())) == theirs.token
                assert watcher.finish_download_claim(ours, ModelStatus.DOWNLOADED)
                assert (await asyncio.wait_for(waiting, SECONDS)).token == ours.token

        asyncio.run(main())


def test_claims_of_parent_and_child_have_names_of_their_own(server_url: str, namespace: str) -> None:
    """Parent and forked children make claim ids and owner names of their own."""
    with Registry.from_url(server_url, namespace) as registry:

        def claim(name: str) -> tuple[str, str, int]:
            result = registry.try_claim_for_download(name, "S3", lease=30.0)
            assert isinstance(result, Claimed)
            return result.claim.claim_id, result.claim.owner, os.getpid()

        claims = [claim("a"), in_child(lambda: claim("b")), in_child(lambda: claim("c")), claim("d")]
    prefixes = [claim_id.rpartition("-")[0] for claim_id, _, _ in claims]
    assert prefixes[0] == prefixes[3]
    assert len(set(prefixes)) == 3
    for _, owner, pid in claims:
        assert owner.endswith(f":{pid}")


def test_a_childs_set_status_on_a_parents_claim_is_somebody_elses(
    server_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """set_status in a forked child on its parent's claim logs a warning."""
    with Registry.from_url(server_url, namespace) as registry:
        result = registry.try_claim_for_download("model", "S3", lease=30.0)
        assert isinstance(result, Claimed)

        def child() -> list[str]:
            caplog.clear()
            registry.set_status("model", "S3", ModelStatus.ERROR)
            return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

        (warning,) = in_child(child)
        assert result.claim.owner in warning


def test_what_a_child_says_of_a_model_is_told_in_its_own_name(server_url: str, namespace: str) -> None:
    """Events caused by a forked child name the child as the owner."""
    with Registry.from_url(server_url, namespace) as registry, registry.watch() as events:

        def say() -> int:
            registry.set_status("model", "S3", ModelStatus.ERROR)
            return os.getpid()

        for pid in (say(), in_child(say), say()):  # what the parent says again is sent from memory
            event = next(events)
            assert isinstance(event, RegistryEvent)
            assert event.by is not None
            assert event.by.endswith(f":{pid}")


# multiprocessing


def _claims(registry: Registry, name: str, answers: Any) -> None:
    answers.put(isinstance(registry.try_claim_for_download(name, "S3", lease=30.0), Claimed))


def _claims_at(url: str, namespace: str, name: str, answers: Any) -> None:
    with Registry.from_url(url, namespace) as registry:
        _claims(registry, name, answers)


def test_multiprocessing_by_fork(server_url: str, namespace: str) -> None:
    """A client passed to forked processes works in each of them."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    with Registry.from_url(server_url, namespace) as registry:
        children = [context.Process(target=_claims, args=(registry, "model", answers)) for _ in range(4)]
        for child in children:
            child.start()
        won = [answers.get() for _ in children]
        for child in children:
            child.join(SECONDS)
            assert child.exitcode == 0
        assert sorted(won) == [False, False, False, True]
        assert registry.get_status("model") is ModelStatus.DOWNLOADING


def test_multiprocessing_by_spawn_takes_a_url(server_url: str, namespace: str) -> None:
    """A client can not be pickled; a spawned process makes one from the URL."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    with Registry.from_url(server_url, namespace) as registry:
        with pytest.raises(TypeError, match="make one from its URL"):
            context.Process(target=_claims, args=(registry, "model", answers)).start()
        child = context.Process(target=_claims_at, args=(server_url, namespace, "model", answers))
        child.start()
        assert answers.get() is True
        child.join(SECONDS)
        assert child.exitcode == 0
        assert registry.get_status("model") is ModelStatus.DOWNLOADING


# A user's own client


def test_a_users_client_in_a_child_has_connections_of_its_own(proxy: Proxy, namespace: str) -> None:
    """A client made from a redis.Redis opens its own connections in a forked child."""
    with redis.Redis.from_url(proxy.url) as client:
        registry = Registry(client, namespace)
        check_apart(
            proxy,
            parent=lambda: registry.get_status("model"),
            child=lambda: in_child(lambda: registry.touch_model("model", "S3")),
        )


@pytest.mark.parametrize("used", [True, False])
async def test_a_users_asyncio_client_belongs_to_its_process(
    proxy: Proxy, namespace: str, used: bool
) -> None:
    """A client made from a redis.asyncio.Redis raises RegistryClosed in a forked child."""
    async with redis.asyncio.Redis.from_url(proxy.url) as client:
        await client.ping()
        registry = AsyncRegistry(client, namespace)
        if used:
            await registry.get_status("model")
        start = len(proxy.log)

        def child() -> str:
            with pytest.raises(RegistryClosed) as caught:
                asyncio.run(registry.get_status("model"))
            asyncio.run(registry.close())
            return str(caught.value)

        assert "make a new client here" in in_child(child)
        assert proxy.log[start:] == []
        assert await registry.get_status("model") is None
        assert await client.ping()


async def test_a_users_asyncio_client_belongs_to_its_loop(server_url: str, namespace: str) -> None:
    """A client made from a redis.asyncio.Redis raises RegistryClosed on another event loop."""
    async with redis.asyncio.Redis.from_url(server_url) as client:
        registry = AsyncRegistry(client, namespace)
        await registry.get_status("model")

        def elsewhere() -> str:
            with pytest.raises(RegistryError) as caught:
                asyncio.run(registry.get_status("model"))
            assert type(caught.value) is RegistryClosed
            return str(caught.value)

        assert "another process or event loop" in await asyncio.to_thread(elsewhere)
        assert await registry.get_status("model") is None
