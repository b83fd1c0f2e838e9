"""A fleet under faults: processes that die or stand still, servers that restart, lines that break."""

from __future__ import annotations

import asyncio
import itertools
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pyregistry import (
    AsyncRegistry,
    Claimed,
    FolderStore,
    ModelRecord,
    ModelStatus,
    OutcomeUnknown,
    OwnedClaim,
    Registry,
    RegistryUnavailable,
)
from pyregistry._coordination import waiters
from pyregistry._core.clock import now
from pyregistry._redis.protocol.keys import Keyspace
from tests.support.downloads import claimed, listens
from tests.support.faults.proxy import SECONDS, Proxy, until
from tests.support.faults.truncate import Cutter
from tests.support.internals import keepalive_of, ops_of, subscriber_of, waits
from tests.support.replica import MODEL, Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import MakeServer
    from tests.support.clients import Connect

BOTH = pytest.mark.parametrize("kind", [{}, {"asyncio": True}], ids=["sync", "asyncio"])
LEASE = 2.0


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    root = tmp_path / "cache"
    root.mkdir()
    return FolderStore(root)


@pytest.fixture
def start(server_url: str, namespace: str, store: FolderStore) -> Iterator[Callable[..., Replica]]:
    """Starts replicas; they are ended after the test."""
    with ExitStack() as stack:

        def start(name: str, url: str = server_url, **options: Any) -> Replica:
            options = {"lease": LEASE, "store": str(store.root), **options}
            return stack.enter_context(Replica(url, namespace, name, **options))

        yield start


def content(store: FolderStore, record: ModelRecord | None) -> str:
    assert record is not None
    return (store.path(record) / "weights").read_text()


# Owners that die


@BOTH
def test_an_owner_that_is_killed_is_replaced(
    start: Callable[..., Replica], other: Registry, store: FolderStore, kind: dict[str, Any]
) -> None:
    """A waiter takes over the download of a killed owner."""
    first = start("first", **kind)
    _, token, _ = first.hear("begins")
    second = start("second", **kind)
    until(lambda: listens(other), "the second waits")
    first.process.kill()
    _, later, previous = second.hear("begins")
    assert later > token
    assert previous == "first"
    second.go_on()
    assert second.hear("has")[1:] == [later, "second"]
    assert content(store, other.get_model_record(*MODEL)) == "second"


def test_an_owner_that_is_killed_before_it_begins(
    start: Callable[..., Replica], server_url: str, namespace: str, other: Registry
) -> None:
    """A claim whose owner is killed before its reply is taken over."""
    with Proxy(server_url) as proxy:
        (paused,) = proxy.pause("claim")
        first = start("first", url=proxy.url)
        paused.wait()
        first.process.kill()
        first.process.wait()
        paused.let_go()  # its claim is given, and nobody is there
        until(lambda: other.get_model_record(*MODEL), "the claim is given")
    second = start("second")
    second.hear("begins")
    second.go_on()
    second.hear("has")
    assert not first.has_said("begins")


def test_an_owner_that_is_killed_after_its_download(
    start: Callable[..., Replica], server_url: str, other: Registry, store: FolderStore
) -> None:
    """A late finish of a killed owner does not end the download that took over."""
    with Proxy(server_url) as proxy:
        (paused,) = proxy.pause("finish")
        first = start("first", url=proxy.url)
        first.hear("begins")
        first.go_on()
        paused.wait()
        first.process.kill()
        second = start("second")
        second.hear("begins")
        # Its end arrives now, when another owns the download.
        paused.let_go()
        second.go_on()
        _, token, owner = second.hear("has")
        assert owner == "second"
    record = other.get_model_record(*MODEL)
    assert record is not None
    assert (record.status, record.token) == (ModelStatus.DOWNLOADED, token)
    assert content(store, record) == "second"


@BOTH
def test_an_owner_that_stands_still_beyond_its_lease(
    start: Callable[..., Replica], other: Registry, store: FolderStore, kind: dict[str, Any]
) -> None:
    """An owner stopped beyond its lease loses its claim and returns the later download."""
    first = start("first", touch=False, **kind)
    _, token, _ = first.hear("begins")
    first.process.send_signal(signal.SIGSTOP)
    second = start("second", **kind)
    _, later, _ = second.hear("begins")
    second.go_on()
    second.hear("has")
    stands = other.get_model_record(*MODEL)
    first.process.send_signal(signal.SIGCONT)
    assert first.hear("lost")[1] == token
    assert first.hear("has")[1:] == [later, "second"]
    assert other.get_model_record(*MODEL) == stands
    assert content(store, stands) == "second"
    assert not first.has_said("ends")


def test_what_a_stopped_owner_publishes_harms_nobody(
    server_url: str, namespace: str, other: Registry, store: FolderStore
) -> None:
    """Files that a stale owner publishes do not replace those of a later owner."""

    # It is stopped between the proof and the rename, which no check can rule out.
    def download(claim: OwnedClaim, folder: Path) -> None:
        (folder / "weights").write_text(claim.owner)

    stale = claimed(other, lease=0.3)
    (store.staging(stale) / "weights").write_text("stale")
    with Registry.from_url(server_url, namespace, owner="later") as registry:
        # Who comes later sweeps the staging folder away, so the stale one has nothing to publish.
        record = registry.ensure(*MODEL, download, store=store)
        with pytest.raises(FileNotFoundError):
            store.publish(stale, lambda: True)
        # Even if it stages again:
        (store.staging(stale) / "weights").write_text("stale")
        assert store.publish(stale, lambda: True).location != record.location
        assert not other.finish_download_claim(stale, ModelStatus.DOWNLOADED, location="x")
        assert registry.ensure(*MODEL, download, store=store) == record
        assert content(store, record) == "later"


@pytest.mark.parametrize("busy", [False, True], ids=["asleep", "computing"])
async def test_a_blocked_event_loop_keeps_its_claim(
    server_url: str, namespace: str, other: Registry, busy: bool
) -> None:
    """A download that blocks the event loop keeps its claim."""
    lease = LEASE / 2 if busy else LEASE  # it is not alone on this machine
    begun = time.perf_counter()
    sum(range(300_000))
    # As long as that takes 30 ms, on this machine now: in such a piece no other thread runs. A renewal has to get its
    # turn about six times, each time that it comes back from the system, so three times as long would still do.
    piece = min(int(300_000 * 0.03 / (time.perf_counter() - begun)), 1_000_000)

    async def download(claim: OwnedClaim) -> None:
        ends = time.monotonic() + 3 * lease
        while time.monotonic() < ends:
            assert not isinstance(other.try_claim_for_download(*MODEL, lease=lease), Claimed)
            if busy:
                count = sum(range(piece))  # holds the interpreter's lock for all it can
                assert count
            else:
                time.sleep(0.2)  # noqa: ASYNC251 - this is what must do no harm
        assert not claim.lost.is_set()

    async with AsyncRegistry.from_url(server_url, namespace) as registry:
        record = await registry.ensure(*MODEL, download, lease=lease)
        assert record.attempts == 1


# A registry that is away


@pytest.fixture
def fragile(make_server: MakeServer) -> Any:
    """A server that keeps what it was told, and may be killed."""
    return make_server(persistent=True, appendfsync="always")


def test_the_server_restarts_while_everybody_waits(
    connect_any: Connect, fragile: Any, namespace: str
) -> None:
    """Waiters of all clients go on after a restart of the server."""
    with ExitStack() as stack, ThreadPoolExecutor(20) as pool:
        owner = stack.enter_context(Registry.from_url(fragile.url, namespace, owner="owner"))
        clients = [connect_any(url=fragile.url) for _ in range(3)]
        claim = claimed(owner, lease=600.0)
        wanted = [
            pool.submit(client.ensure, MODEL[0], MODEL[1], print) for client in clients for _ in range(5)
        ]
        until(lambda: all(waits(client) for client in clients), "they wait")
        fragile.kill()
        until(lambda: not any(subscriber_of(client).is_up for client in clients), "they notice")
        fragile.start()
        assert owner.finish_download_claim(claim, ModelStatus.DOWNLOADED)
        tokens = {each.result(60).token for each in wanted}
        assert tokens == {claim.token}


@BOTH
def test_the_server_restarts_under_processes_that_wait(
    start: Callable[..., Replica], fragile: Any, store: FolderStore, namespace: str, kind: dict[str, Any]
) -> None:
    """Waiting processes go on after a restart of the server, without another download."""
    first = start("first", fragile.url, **kind, lease=30.0)
    _, token, _ = first.hear("begins")
    others = [start(f"other {at}", fragile.url, **kind, lease=30.0) for at in range(3)]
    with redis.Redis.from_url(fragile.url) as raw:
        channel = Keyspace(namespace).channel
        until(lambda: dict(raw.pubsub_shardnumsub(channel))[channel.encode()] >= 3, "they wait")
    fragile.kill()
    fragile.start()
    first.go_on()
    for replica in (first, *others):
        assert replica.hear("has")[1:] == [token, "first"]
    assert not any(replica.has_said("begins") for replica in others)


def test_what_happens_while_the_line_is_down_is_asked_for(
    connect_any: Connect, fragile: Any, namespace: str
) -> None:
    """A waiter learns after a reconnect what happened meanwhile."""
    with (
        Cutter(fragile.url) as cutter,
        ThreadPoolExecutor(4) as pool,
        Registry.from_url(fragile.url, namespace, owner="owner") as owner,
    ):
        client = connect_any(url=cutter.url)
        claim = claimed(owner, lease=600.0)
        wanted = pool.submit(client.ensure, MODEL[0], MODEL[1], print)
        until(lambda: waits(client), "it waits")
        cutter.refuses = True
        cutter.cut()
        until(lambda: not subscriber_of(client).is_up, "it notices")
        owner.finish_download_claim(claim, ModelStatus.DOWNLOADED)
        cutter.refuses = False
        assert wanted.result(60).token == claim.token


def test_who_waits_is_told_when_it_takes_too_long(connect_any: Connect, make_server: MakeServer) -> None:
    """Waiters raise when the server is away for longer than the timeout."""
    server = make_server()
    with ThreadPoolExecutor(4) as pool:
        client = connect_any(url=server.url, timeout=0.5)
        client.set_status(*MODEL, ModelStatus.DOWNLOADING)
        wanted = [pool.submit(client.ensure, MODEL[0], MODEL[1], print) for _ in range(3)]
        until(lambda: waits(client), "they wait")
        server.kill()
        for each in wanted:
            with pytest.raises((RegistryUnavailable, OutcomeUnknown)):
                each.result(60)


def test_what_is_on_disk_may_count(
    connect_any: Connect, make_server: MakeServer, store: FolderStore, caplog: pytest.LogCaptureFixture
) -> None:
    """on_unavailable="verify" returns a verified model from disk while the server is away."""
    server = make_server()

    def download(claim: OwnedClaim, folder: Path) -> None:
        (folder / "weights").write_text("here")

    client = connect_any(url=server.url, timeout=0.5)
    record = client.ensure(*MODEL, download, store=store)
    server.kill()
    with pytest.raises(RegistryUnavailable):
        client.ensure(*MODEL, download, store=store)
    with caplog.at_level("WARNING", "pyregistry"):
        found = client.ensure(*MODEL, download, store=store, on_unavailable="verify")
    assert "is taken as it is on disk" in caplog.text
    assert (found.status, found.location, found.size_bytes) == (
        ModelStatus.DOWNLOADED,
        record.location,
        4,
    )
    assert store.path(found) == store.path(record)
    with pytest.raises(RegistryUnavailable):
        client.ensure("another", "S3", download, store=store, on_unavailable="verify")
    asked: list[ModelRecord] = []

    def verify(seen: ModelRecord) -> bool:
        asked.append(seen)
        return True

    found = client.ensure("another", "S3", print, verify=verify, on_unavailable="verify")
    assert asked == [found]
    with pytest.raises(RegistryUnavailable):
        client.ensure("another", "S3", print, verify=lambda _: False, on_unavailable="verify")


def test_who_waits_goes_on_when_the_registry_is_back(
    connect_any: Connect, fragile: Any, namespace: str
) -> None:
    """A waiter that does not find the files goes on when the server is back."""
    with (
        ThreadPoolExecutor(4) as pool,
        Registry.from_url(fragile.url, namespace, timeout=0.5, owner="owner") as owner,
    ):
        client = connect_any(url=fragile.url, timeout=0.5)
        claim = claimed(owner, lease=600.0)
        wanted = pool.submit(
            client.ensure,
            MODEL[0],
            MODEL[1],
            print,
            verify=lambda record: record.token > 0,
            on_unavailable="verify",
        )
        until(lambda: waits(client), "it waits")
        fragile.kill()
        until(lambda: subscriber_of(client).trouble, "it is told")
        fragile.start()
        assert owner.finish_download_claim(claim, ModelStatus.DOWNLOADED)
        assert wanted.result(60).token == claim.token


async def test_an_owner_that_cant_prove_its_lease_is_cancelled(fragile: Any, namespace: str) -> None:
    """An owner that can not renew its lease is cancelled at its end."""
    ends: list[str] = []

    async def download(claim: OwnedClaim) -> None:
        fragile.kill()
        try:
            await asyncio.Event().wait()
        finally:
            ends.append(claim.lost.why)

    async with AsyncRegistry.from_url(fragile.url, namespace, timeout=0.5) as registry:
        with pytest.raises(RegistryUnavailable):
            await registry.ensure(*MODEL, download, lease=1.0)
    assert len(ends) == 1
    assert "proved" in ends[0]


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_an_owner_may_go_on_until_its_claim_is_proved_again(
    fragile: Any, namespace: str, store: FolderStore, kind: str
) -> None:
    """on_unproven="continue" publishes a download whose claim is proved after an outage."""

    def download(claim: OwnedClaim, folder: Path) -> None:
        (folder / "weights").write_text("hours of work")
        fragile.kill()
        until(lambda: claim.held.holds_until < now(), "the lease is over")
        assert not claim.lost.is_set()
        threading.Timer(1.0, fragile.start).start()

    options: dict[str, Any] = {"lease": 1.0, "store": store, "on_unproven": "continue"}

    async def main() -> ModelRecord:
        async with AsyncRegistry.from_url(fragile.url, namespace, timeout=0.5) as registry:
            return await registry.ensure(*MODEL, download, **options)

    if kind == "asyncio":
        record = asyncio.run(main())
    else:
        with Registry.from_url(fragile.url, namespace, timeout=0.5) as registry:
            record = registry.ensure(*MODEL, download, **options)
    assert record.attempts == 1
    assert content(store, record) == "hours of work"


def test_an_owner_that_went_on_and_was_replaced_publishes_nothing(
    connect_any: Connect, server_url: str, store: FolderStore, other: Registry
) -> None:
    """on_unproven="continue" publishes nothing if another claim took over."""

    def download(claim: OwnedClaim, folder: Path) -> None:
        (folder / "weights").write_text("of the first")
        proxy.lose_requests("renew", 10_000)
        until(lambda: claim.held.holds_until < now(), "the lease is over")
        later = other.ensure(
            *MODEL,
            lambda _, folder: (folder / "weights").write_text("of the second"),
            store=store,
            lease=30.0,
        )
        assert later.token > claim.token
        proxy.forget_orders("renew")
        assert not claim.lost.is_set() or "proved" not in claim.lost.why

    with Proxy(server_url) as proxy:
        client = connect_any(url=proxy.url)
        record = client.ensure(*MODEL, download, lease=1.0, store=store, on_unproven="continue")
    assert record.owner == "other"
    assert content(store, record) == "of the second"
    assert [path.read_text() for path in store.root.rglob("weights")] == ["of the second"]


# Lines that break


@pytest.mark.server("embedded")  # it is about the client, and takes long
def test_the_subscription_cut_at_every_point(connect_any: Connect, server_url: str, other: Registry) -> None:
    """A subscription cut after any byte delays no waiter for good."""
    # From the first byte of the answer to SSUBSCRIBE to the last of the event that ends the wait.
    with Cutter(server_url) as cutter, ThreadPoolExecutor(1) as pool:
        registry = connect_any(url=cutter.url)
        for at in itertools.count():
            cuts = cutter.cuts
            result = other.try_claim_for_download(f"model-{at}", "S3", lease=600.0)
            assert isinstance(result, Claimed)
            cutter.cut_after = at
            wanted = pool.submit(registry.ensure, f"model-{at}", "S3", print)
            until(lambda name=f"S3:model-{at}": waits(registry, name), "it waits")  # type: ignore[misc]  # name
            assert other.finish_download_claim(result.claim, ModelStatus.DOWNLOADED)
            assert wanted.result(SECONDS).token == result.claim.token
            if cutter.cuts == cuts:
                break  # it was over before so many bytes had come
        assert at > 200


def test_a_message_that_is_lost(
    server_url: str, namespace: str, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost event is made up for by the periodic check."""
    # The download ends, and nobody is told: the record is put there by hand, as another namespace has it.
    monkeypatch.setattr(waiters, "RECHECK", 0.3)
    raw = redis.Redis.from_url(server_url)
    with (
        ThreadPoolExecutor(1) as pool,
        Registry.from_url(server_url, namespace) as registry,
        Registry.from_url(server_url, f"{namespace}-2") as elsewhere,
    ):
        claimed(other, lease=600.0)
        wanted = pool.submit(registry.ensure, MODEL[0], MODEL[1], print)
        until(lambda: waits(registry), "it waits")
        there = elsewhere.ensure(*MODEL, lambda _: None)
        here, entry = ops_of(other).keys, "HuggingFace:org/model"
        stored = raw.get(ops_of(elsewhere).keys.record(entry))
        assert isinstance(stored, bytes)
        raw.zrem(here.indexes[ModelStatus.DOWNLOADING], entry)
        raw.zadd(here.indexes[ModelStatus.DOWNLOADED], {entry: there.token})
        raw.set(here.record(entry), stored)
        assert wanted.result(SECONDS).token == there.token
        raw.delete(*raw.keys(f"pyregistry:{{{elsewhere.namespace}}}:*"))
    raw.close()


def test_a_model_that_was_deleted_without_a_word_is_downloaded(
    server_url: str, namespace: str, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record deleted without an event is found by the periodic check and downloaded."""
    monkeypatch.setattr(waiters, "RECHECK", 0.3)
    with ThreadPoolExecutor(2) as pool, Registry.from_url(server_url, namespace, owner="this") as registry:
        claimed(other, lease=600.0)
        wanted = pool.submit(registry.ensure, MODEL[0], MODEL[1], lambda _: None)
        until(lambda: waits(registry), "it waits")
        raw = redis.Redis.from_url(server_url)
        raw.delete(*raw.keys(f"pyregistry:{{{namespace}}}:*"))
        assert wanted.result(SECONDS).owner == "this"
        raw.close()


# Cancellation


@pytest.mark.parametrize("who", ["owner", "waiter", "owner with a store"])
async def test_cancellation_at_every_await(
    server_url: str, namespace: str, store: FolderStore, who: str
) -> None:
    """ensure cancelled at any await leaves no task, no waiter and no claim."""
    begun = 0

    async def download(claim: OwnedClaim, folder: Path | None = None) -> None:
        nonlocal begun
        begun += 1
        if folder is not None:
            (folder / "weights").write_text("x")
        for _ in range(5):
            await asyncio.sleep(0)

    theirs: Any = None
    async with (
        AsyncRegistry.from_url(server_url, namespace) as registry,
        AsyncRegistry.from_url(server_url, namespace) as other,
    ):
        done = 0
        for turns in range(0, 250, 4 if who == "waiter" else 1):
            name = f"model-{turns}"
            if who == "waiter":
                result = await other.try_claim_for_download(name, "S3", lease=600.0)
                assert isinstance(result, Claimed)
                theirs = result.claim
            task = asyncio.create_task(
                registry.ensure(name, "S3", download, store=store if "store" in who else None)
            )
            for _ in range(turns):
                if task.done():
                    break
                # Several turns: what comes from the server is not here in one.
                await asyncio.sleep(0.0005 if turns % 7 == 0 or "store" in who else 0)
            finished = task.done()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
                finished = True
            if who == "waiter":
                assert await other.release_download_claim(theirs)
            elif finished:
                done += 1
                assert await other.get_status(name) is ModelStatus.DOWNLOADED
                if done > 3:
                    break
                continue
            # The claim is free at once, or the download was just over.
            again = await other.try_claim_for_download(name, "S3", lease=600.0)
            assert isinstance(again, Claimed) or again.status is ModelStatus.DOWNLOADED
        assert who == "waiter" or begun >= done > 3
        until_idle = asyncio.all_tasks() - {asyncio.current_task()}
        if until_idle:
            await asyncio.wait(until_idle, timeout=SECONDS)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert subscriber_of(registry).waiters._entries == {}


async def test_a_cancelled_owner_in_a_thread_is_told(
    server_url: str, namespace: str, other: Registry
) -> None:
    """Cancelling ensure sets `lost` for a download in a thread and releases its claim."""
    begun, ended = threading.Event(), threading.Event()

    def download(claim: OwnedClaim) -> None:
        begun.set()
        assert claim.lost.wait(SECONDS)
        ended.set()

    async with AsyncRegistry.from_url(server_url, namespace) as registry:
        task = asyncio.create_task(registry.ensure(*MODEL, download))
        await asyncio.to_thread(begun.wait, SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        claim = claimed(other)  # it was given back at once
        assert (claim.taken_over, claim.attempts) == (True, 1)
        assert await asyncio.to_thread(ended.wait, SECONDS)


# Many


def test_when_a_lease_ends_few_of_many_contend(
    connect_any: Connect, make_server: MakeServer, namespace: str
) -> None:
    """At the end of a lease one waiter of each client contends."""
    server = make_server()
    begun: list[OwnedClaim] = []
    with ThreadPoolExecutor(90) as pool, Registry.from_url(server.url, namespace, owner="lost") as lost:
        clients = [connect_any(url=server.url) for _ in range(3)]
        claimed(lost, lease=6.0)  # seconds in which all ninety come to wait, on a busy machine too
        with redis.Redis.from_url(server.url) as raw:

            def calls() -> int:
                stats: Any = raw.info("commandstats")
                return int(stats["cmdstat_evalsha"]["calls"])

            wanted = [
                pool.submit(client.ensure, MODEL[0], MODEL[1], begun.append, touch=False)
                for client in clients
                for _ in range(30)
            ]
            until(
                lambda: all(len(keepalive_of(client)._wakes) == 30 for client in clients), "all of them wait"
            )
            before = calls()
            tokens = {each.result(60).token for each in wanted}
            assert {claim.token for claim in begun} == tokens
            assert len(tokens) == 1
            assert begun[0].previous_owner == "lost"
            # Ninety wait; one of each client contends.
            assert calls() - before < 60


async def test_a_thousand_who_wait_are_one(make_server: MakeServer, namespace: str) -> None:
    """A thousand waiters of one client cost as many commands as a few."""
    server = make_server()

    def calls() -> int:
        stats = raw.info("commandstats")
        return sum(
            stat["calls"]
            for name, stat in stats.items()
            if name.split("_", 1)[1].split("|")[0] in ("evalsha", "ssubscribe", "mget", "get")
        )

    raw: Any = redis.Redis.from_url(server.url)
    async with (
        AsyncRegistry.from_url(server.url, namespace, owner="owner") as owner,
        AsyncRegistry.from_url(server.url, namespace) as registry,
    ):
        result = await owner.try_claim_for_download(*MODEL, lease=600.0)
        assert isinstance(result, Claimed)
        before = calls()
        wanted = [asyncio.create_task(registry.ensure(*MODEL, print)) for _ in range(1000)]
        await asyncio.to_thread(until, lambda: waits(registry), "they wait")
        # They wait; that they ask nothing takes a moment to see.
        await asyncio.sleep(1.0)
        waiting = calls() - before
        assert await owner.release_download_claim(result.claim)
        records = await asyncio.gather(*wanted)
        assert len({record.token for record in records}) == 1
        # Of a thousand one claims.
        assert waiting < 20
        assert calls() - before < 40
    raw.close()


def test_a_file_system_that_shows_new_entries_late(server_url: str, namespace: str, tmp_path: Path) -> None:
    """Files that appear late on another machine are not downloaded again."""

    class Late(FolderStore):
        """As another machine sees it: what is new comes five seconds later."""

        def contains(self, record: ModelRecord) -> bool:
            return super().contains(record) and time.time() - self.path(record).stat().st_ctime > 5.0

        look_again = contains

    begun = 0

    def download(claim: OwnedClaim, folder: Path) -> None:
        nonlocal begun
        begun += 1
        (folder / "weights").write_text("x")

    with (
        ThreadPoolExecutor(4) as pool,
        Registry.from_url(server_url, namespace) as here,
        Registry.from_url(server_url, namespace) as there,
    ):
        first = here.ensure(*MODEL, download, store=FolderStore(tmp_path))
        wanted = [
            pool.submit(there.ensure, MODEL[0], MODEL[1], download, store=Late(tmp_path)) for _ in range(4)
        ]
        assert {each.result(60).token for each in wanted} == {first.token}
        assert begun == 1
