"""The clients run on a backend without Redis: `ensure`, `watch`, touches, the keepalive, and the demo's replicas."""

from __future__ import annotations

import asyncio
import contextvars
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol, cast

import pytest

from pyregistry import (
    AlreadyExists,
    AsyncRegistry,
    Claim,
    Claimed,
    DownloadFailed,
    EventKind,
    FolderStore,
    ModelRecord,
    ModelStatus,
    OwnedClaim,
    Registry,
    RegistryClosed,
    RegistryEvent,
    RegistryUnavailable,
    RetryPolicy,
)
from pyregistry._core import values
from pyregistry.demo import worker
from pyregistry.demo.checks import Evidence, Killed, judge
from pyregistry.demo.file_server import FileServer, real_contents
from pyregistry.demo.ipc import File, Job, Published, Report, Touched, Verified, Won
from pyregistry.demo.scenario import _file_at, known_models
from tests.support.async_memory_backend import AsyncMemoryBackend
from tests.support.clients import AsyncFacade, loop_in_thread
from tests.support.faults.proxy import SECONDS, until
from tests.support.memory_backend import MemoryBackend
from tests.support.memory_store import MemoryStore

pytestmark = pytest.mark.server("embedded")  # needs no server

MODEL: Final = ("org/model", "HuggingFace")
LEASE = 0.4  # seconds


class Connect(Protocol):
    """Makes a client of the test's store, which is closed after the test."""

    def __call__(self, owner: str = ..., *, touch_interval: float | None = ...) -> Registry: ...


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def connect_sync(store: MemoryStore) -> Iterator[Connect]:
    with ExitStack() as stack:

        def connect(owner: str = "one", *, touch_interval: float | None = None) -> Registry:
            return stack.enter_context(Registry._on(MemoryBackend(store, owner), touch_interval))

        yield connect


@pytest.fixture
def connect_asyncio(store: MemoryStore) -> Iterator[Connect]:
    with ExitStack() as stack:
        loop = stack.enter_context(loop_in_thread())

        def connect(owner: str = "one", *, touch_interval: float | None = None) -> Registry:
            registry = AsyncRegistry._on(AsyncMemoryBackend(store, owner), touch_interval)
            return cast("Registry", stack.enter_context(AsyncFacade(registry, loop)))

        yield connect


@pytest.fixture(params=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Connect:
    fixture: Connect = request.getfixturevalue(f"connect_{request.param}")
    return fixture


@pytest.fixture(autouse=True)  # the clients are closed before it waits for its threads
def pool(connect_sync: Connect, connect_asyncio: Connect) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


class Downloads:
    """A download that counts its calls and waits until the test lets it go on."""

    def __init__(self, *errors: BaseException) -> None:
        self.claims: list[OwnedClaim] = []
        self.errors = list(errors)
        self.go = threading.Event()

    def __call__(self, claim: OwnedClaim, folder: Path | None = None) -> None:
        self.claims.append(claim)
        if folder is not None:
            (folder / "weights").write_bytes(b"x" * 14)
        until(lambda: self.go.is_set() or claim.lost.is_set(), "the test lets it go on")
        if self.errors:
            raise self.errors.pop(0)

    @classmethod
    def free(cls, *errors: BaseException) -> Downloads:
        """One that waits for nothing."""
        downloads = cls(*errors)
        downloads.go.set()
        return downloads


def begin(
    pool: ThreadPoolExecutor, registry: Registry, download: Downloads, name: str = MODEL[0], **options: Any
) -> Future[ModelRecord]:
    """`ensure` in another thread."""
    return pool.submit(lambda: registry.ensure(name, MODEL[1], download, **options))


def claimed(registry: Registry, name: str = MODEL[0], **options: Any) -> Claim:
    result = registry.try_claim_for_download(name, MODEL[1], **options)
    assert isinstance(result, Claimed)
    return result.claim


def record_of(registry: Registry, name: str = MODEL[0]) -> ModelRecord:
    record = registry.get_model_record(name, MODEL[1])
    assert record is not None
    return record


def lease_end(registry: Registry) -> datetime:
    end = record_of(registry).lease_expires_at
    assert end is not None
    return end


def disconnect(registry: Registry) -> None:
    """Kill a client, as far as the store can tell."""
    backend: Any = registry._backend
    backend.connection.drop()


# One download per fleet


def test_twenty_waiters_of_both_kinds_download_once(
    connect_sync: Connect, connect_asyncio: Connect, pool: ThreadPoolExecutor
) -> None:
    """Twenty waiters of blocking and asyncio clients get the record of one download."""
    downloads = Downloads()
    clients = [connect_sync("a"), connect_sync("b"), connect_asyncio("c"), connect_asyncio("d")]
    ensured = [begin(pool, clients[number % 4], downloads, touch=False) for number in range(20)]
    until(lambda: downloads.claims, "a download begins")
    assert not any(each.done() for each in ensured)
    downloads.go.set()
    records = [each.result(SECONDS) for each in ensured]
    assert len({record.token for record in records}) == 1
    assert records == [record_of(clients[0])] * 20
    assert len(downloads.claims) == 1


def test_a_claim_that_nobody_renews_is_taken_over(connect: Connect, store: MemoryStore) -> None:
    """ensure takes over a claim whose lease has ended, and gets its owner and progress."""
    lost = claimed(connect("lost"), lease=LEASE)
    connect().refresh_download_claim(lost, bytes_done=7)
    downloads = Downloads.free()
    record = connect("heir").ensure(*MODEL, downloads)
    assert record.status is ModelStatus.DOWNLOADED
    (claim,) = downloads.claims
    assert (claim.previous_owner, claim.previous_bytes_done, claim.attempts) == ("lost", 7, 2)
    assert record.token > lost.token


def test_hours_of_a_lease_pass_at_once(connect: Connect, store: MemoryStore) -> None:
    """A lease of the store in memory ends when its clock has passed it."""
    claimed(connect("lost"), lease=3600.0)
    assert isinstance(connect().try_claim_for_download(*MODEL), AlreadyExists)
    store.pass_time(3600.0)
    assert claimed(connect("heir"), lease=60.0).previous_owner == "lost"


def test_an_owner_that_lost_its_connection_is_replaced(
    connect_sync: Connect, connect_asyncio: Connect, pool: ThreadPoolExecutor
) -> None:
    """An owner without connection loses its claim, and another one downloads."""
    for name, connect in (("sync", connect_sync), ("asyncio", connect_asyncio)):
        registry = connect("lost")
        stuck, downloads = Downloads(), Downloads.free()
        first = begin(pool, registry, stuck, name, lease=LEASE)
        until(lambda stuck=stuck: stuck.claims, "the first owner downloads")  # type: ignore[misc]  # mypy infers no lambda with a default
        second = begin(pool, connect("heir"), downloads, name, lease=LEASE)
        disconnect(registry)
        assert second.result(SECONDS).owner == "heir"
        assert downloads.claims[0].previous_owner == "lost"
        # The lost owner can't prove its claim: it stops.
        until(stuck.claims[0].lost.is_set, "the lost owner learns of it")
        with pytest.raises(RegistryUnavailable):
            first.result(SECONDS)


def test_a_failed_download_is_retried(connect: Connect, pool: ThreadPoolExecutor) -> None:
    """A failed download is tried again as often as the policy allows, by one owner at a time."""
    downloads = Downloads.free(OSError("first"), OSError("second"))
    policy = RetryPolicy(attempts=3, first_delay=0.05)
    ensured = [begin(pool, connect(), downloads, retry=policy) for _ in range(4)]
    assert {each.result(SECONDS).attempts for each in ensured} == {3}
    assert [claim.attempts for claim in downloads.claims] == [1, 2, 3]


def test_a_permanent_failure_ends_all_waiters(connect: Connect, pool: ThreadPoolExecutor) -> None:
    """A permanent failure ends every waiter with DownloadFailed, after one download."""
    downloads = Downloads(PermissionError("no right"))
    policy = RetryPolicy(permanent=(PermissionError,))
    ensured = [begin(pool, connect(), downloads, retry=policy) for _ in range(4)]
    until(lambda: downloads.claims, "a download begins")
    downloads.go.set()
    for each in ensured:
        with pytest.raises(DownloadFailed, match="no right"):
            each.result(SECONDS)
    assert len(downloads.claims) == 1
    assert record_of(connect()).permanent


def test_what_ends_the_caller_releases_the_claim(connect_sync: Connect) -> None:
    """A BaseException in the download releases the claim, and the attempt is not counted."""
    with pytest.raises(KeyboardInterrupt):
        connect_sync().ensure(*MODEL, Downloads.free(KeyboardInterrupt()))
    assert record_of(connect_sync()).released
    assert connect_sync("heir").ensure(*MODEL, Downloads.free()).attempts == 1


async def test_a_cancelled_task_releases_the_claim(store: MemoryStore) -> None:
    """A cancelled owner releases its claim, and a waiter downloads at once."""
    async with AsyncRegistry._on(AsyncMemoryBackend(store)) as registry:
        begun = asyncio.Event()

        async def download(_claim: OwnedClaim) -> None:
            begun.set()
            await asyncio.sleep(SECONDS)

        async def brief(_claim: OwnedClaim) -> None: ...

        owner = asyncio.create_task(registry.ensure(*MODEL, download))
        await begun.wait()
        waiter = asyncio.create_task(registry.ensure(*MODEL, brief))
        await asyncio.sleep(0)
        owner.cancel()
        record = await asyncio.wait_for(waiter, SECONDS)
        assert record.attempts == 1
        with pytest.raises(asyncio.CancelledError):
            await owner


async def test_a_claim_whose_caller_never_saw_it_is_released(store: MemoryStore) -> None:
    """A claim is released if its caller is cancelled before it gets the answer."""
    async with AsyncRegistry._on(AsyncMemoryBackend(store)) as registry:
        task = asyncio.create_task(registry.try_claim_for_download(*MODEL, lease=60.0))
        while not store.model.records:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        record = await registry.get_model_record(*MODEL)
        assert record is not None
        assert record.released


def test_a_store_of_files(
    connect_sync: Connect, connect_asyncio: Connect, store: MemoryStore, tmp_path: Path
) -> None:
    """Clients that share a FolderStore download once, and read the same files."""
    files, downloads = FolderStore(tmp_path), Downloads.free()
    for connect in (connect_sync, connect_asyncio, connect_sync):
        record = connect().ensure(*MODEL, downloads, store=files)
        assert record.size_bytes == 14
        assert (files.path(record) / "weights").read_bytes() == b"x" * 14
    assert len(downloads.claims) == 1
    mark = files.read_mark()
    assert mark is not None
    assert mark.cache_id == store.cache_id


def test_the_block_form(connect_sync: Connect) -> None:
    """download gives an owner its claim, and a later caller the record."""
    with connect_sync().download(*MODEL) as got:
        assert isinstance(got, OwnedClaim)
        got.describe(size_bytes=3)
    with connect_sync().download(*MODEL) as got:
        assert isinstance(got, ModelRecord)
        assert got.size_bytes == 3


# Events


def life_of_a_model(registry: Registry) -> list[EventKind]:
    claim = claimed(registry, lease=60.0)
    registry.refresh_download_claim(claim, bytes_done=5)
    registry.release_download_claim(claim)
    registry.finish_download_claim(claimed(registry, lease=60.0), "ERROR", "no")
    retried = registry.try_reset_error_for_retry(*MODEL, lease=60.0)
    assert retried is not None
    registry.finish_download_claim(retried, "DOWNLOADED")
    registry.touch_model(*MODEL)
    registry.set_status(*MODEL, "ERROR")
    registry.delete_model(*MODEL)
    return [
        EventKind.CLAIMED, EventKind.RENEWED, EventKind.RELEASED, EventKind.TAKEN_OVER, EventKind.FAILED,
        EventKind.RETRIED, EventKind.DOWNLOADED, EventKind.SET, EventKind.DELETED,
    ]  # fmt: skip


def test_watch_sees_all_in_order(connect_sync: Connect) -> None:
    """watch gives each event of the model, in order, and none of another model."""
    with connect_sync().watch(*MODEL) as events:
        claimed(connect_sync("other"), "org/another", lease=60.0)
        kinds = life_of_a_model(connect_sync("other"))
        for kind in kinds:
            event = next(events)
            assert isinstance(event, RegistryEvent)
            assert (event.kind, event.record.model_name) == (kind, MODEL[0])


async def test_watch_sees_all_in_order_on_a_loop(store: MemoryStore, connect_sync: Connect) -> None:
    """watch of an asyncio client gives each event, in order."""
    async with AsyncRegistry._on(AsyncMemoryBackend(store)) as registry, registry.watch() as events:
        kinds = await asyncio.to_thread(life_of_a_model, connect_sync())
        for kind in kinds:
            event = await asyncio.wait_for(anext(events), SECONDS)
            assert isinstance(event, RegistryEvent)
            assert event.kind is kind


def test_watch_ends_with_its_client(connect_sync: Connect, pool: ThreadPoolExecutor) -> None:
    """watch ends when its client is closed."""
    registry = connect_sync()
    with registry.watch() as events:
        rest = pool.submit(lambda: list(events))
        registry.close()
        assert rest.result(SECONDS) == []


# What runs beside the callers


def test_touches_are_gathered(connect: Connect, store: MemoryStore) -> None:
    """A first touch is sent at once, and a later one at the latest when the client closes."""
    registry = connect(touch_interval=60.0)
    for name in ("a", "b", "c"):
        registry.set_status(name, MODEL[1], "DOWNLOADED")
    assert registry.touch_model("a", MODEL[1])
    until(
        lambda: [record.model_name for record in registry.get_models_by_last_used()] == ["b", "c", "a"],
        "the first touch is told at once",
    )
    registry.touch_model("b", MODEL[1])
    registry.close()
    assert max(store.model.used, key=store.model.used.__getitem__).endswith(":b")


def test_kept_claims_outlast_their_lease(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keepalive renews a claim beyond its first lease."""
    monkeypatch.setattr(values, "KEPT_LEASE", LEASE)
    registry, other = connect(), connect("other")
    claim = claimed(registry)
    assert claim.lease == LEASE
    ends = claim.lease_expires_at
    assert ends is not None
    # It goes on for as long as two leases.
    until(lambda: lease_end(other) > ends + timedelta(seconds=2 * LEASE), "it is renewed again and again")
    assert isinstance(other.try_claim_for_download(*MODEL), AlreadyExists)
    assert registry.finish_download_claim(claim, "DOWNLOADED")


def test_a_long_download_is_kept(connect: Connect, pool: ThreadPoolExecutor) -> None:
    """The keepalive renews the claim of a download, and sends its progress."""
    registry, downloads = connect(), Downloads()
    ensured = begin(pool, registry, downloads, lease=LEASE)
    until(lambda: downloads.claims, "it begins")
    first = downloads.claims[0]
    first.report(5, 10)
    until(lambda: record_of(registry).bytes_done == 5, "the progress is told")
    end = lease_end(registry)
    until(lambda: lease_end(registry) > end, "it is renewed")
    downloads.go.set()
    assert ensured.result(SECONDS).attempts == 1


def test_shutdown_gives_back(connect: Connect, pool: ThreadPoolExecutor) -> None:
    """shutdown releases the claims of a client and ends its waiters."""
    registry, other = connect(), connect("other")
    claimed(registry, "kept")
    stuck = Downloads()
    owner = begin(pool, registry, stuck)
    waits_for = claimed(other, "of another", lease=60.0)
    waiter = begin(pool, registry, Downloads.free(), "of another")
    until(lambda: stuck.claims, "it downloads")
    registry.shutdown()
    for ended in (owner, waiter):
        with pytest.raises(RegistryClosed):
            ended.result(SECONDS)
    for name in ("kept", MODEL[0]):
        assert claimed(other, name, lease=60.0).attempts == 1
    assert other.finish_download_claim(waits_for, "DOWNLOADED")
    with pytest.raises(RegistryClosed):
        registry.get_status("kept")


# The demo


class _End(BaseException):
    """A replica was killed."""


class Replica(worker.Replica):
    """A replica of the demo that is one thread of many, and can be killed."""

    killed = False

    def _open(self, path: str, token: int | None = None) -> Any:
        response = super()._open(path, token)
        read = response.read

        def read_alive(*args: Any) -> Any:
            data = read(*args)
            if self.killed:
                raise _End
            return data

        response.read = read_alive
        return response


def test_the_demos_flow_keeps_its_promises(
    connect_sync: Connect,
    connect_asyncio: Connect,
    tmp_path: Path,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four replicas, two of each kind of client, want three models; the owner of the first is killed half-way."""
    models, lease, size = known_models()[:3], 1.0, 256 * 1024
    reports: list[tuple[int, Report]] = []
    half_way: list[int] = []
    number = contextvars.ContextVar[int]("number")
    monkeypatch.setattr(worker, "report", lambda what: reports.append((number.get(), what)))
    contents = real_contents(len(models), size)
    with FileServer(
        {model.key: content for model, content in zip(models, contents, strict=True)},
        rate=size / 0.5, stalls=models[0].key, on_stall=half_way.append,
    ) as server:  # fmt: skip
        replicas: dict[int, Replica] = {}
        clients: dict[int, Registry] = {}
        for each in range(1, 5):
            client = (connect_sync if each % 2 else connect_asyncio)(f"replica {each}")
            job = Job(each, "", client.namespace, server.url, str(tmp_path), models, lease)
            clients[each], replicas[each] = client, Replica(job, client)

        def paths(folder: Path) -> list[str]:
            return sorted(str(path.relative_to(tmp_path)) for path in folder.rglob("*") if path.is_file())

        def published() -> dict[str, File]:
            found = [path for path in paths(tmp_path) if not path.startswith(".pyregistry/")]
            return {path: _file_at(tmp_path / path) for path in found}

        def early() -> list[str]:
            return [path for path, file in published().items() if file != server.manifest[Path(path).name]]

        def run(each: int) -> int:
            number.set(each)
            try:
                replicas[each].obtain_all()
            except _End:
                return -signal.SIGKILL
            return 0

        watcher = connect_sync("watcher")
        running = {each: pool.submit(run, each) for each in replicas}
        victim = until(lambda: half_way, "a download is half-way")[0]

        def stalled() -> ModelRecord | None:
            record = watcher.get_model_record(models[0].name, models[0].provider)
            return record if record is not None and record.bytes_done is not None else None

        until(stalled, "the registry knows how far it is")
        too_early = early()
        disconnect(clients[victim])
        replicas[victim].killed = True
        record = stalled()
        assert record is not None
        abandoned = [path for path in paths(tmp_path / ".pyregistry/staging") if str(record.token) in path]
        server.resume()
        exit_codes = {each: ended.result(SECONDS) for each, ended in running.items()}
        until(lambda: sum(server.completed.values()) == len(models), "the file server has counted")

        order = random.sample(range(len(models)), len(models))
        alive = [each for each in replicas if each != victim]
        for place, model in enumerate(order):
            each = alive[place % len(alive)]
            number.set(each)
            replicas[each].touch(model)
        records, counts = watcher.get_models_by_last_used(), watcher.get_status_counts()

        def by_number(counted: Counter[str]) -> dict[int, int]:
            return {place: counted[model.key] for place, model in enumerate(models)}

        seen = Evidence(
            models=models,
            files=[server.manifest[model.key] for model in models],
            lease=lease,
            killed=Killed(victim, 0, record),
            claims=[(each, what) for each, what in reports if isinstance(what, Won)],
            verified=[(each, what) for each, what in reports if isinstance(what, Verified)],
            started=by_number(server.started),
            completed=by_number(server.completed),
            early=too_early + early(),
            published=published(),
            abandoned=abandoned,
            staged=paths(tmp_path / ".pyregistry/staging"),
            touched=[what.model for _, what in reports if isinstance(what, Touched)],
            records=records,
            counts=counts,
            exit_codes=exit_codes,
        )
    assert sum(isinstance(what, Published) for _, what in reports) == len(models)
    assert [(promise.text, promise.broken) for promise in judge(seen) if promise.broken] == []
