"""A client that ends gives its claims back at once: `shutdown`, and `release_on_signal` in real processes.

All leases are longer than any test may take: what another client gets here, it gets because it was given back.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pyregistry import (
    AlreadyExists,
    AsyncRegistry,
    Claim,
    Claimed,
    ClaimLost,
    FolderStore,
    InvalidArgument,
    ModelStatus,
    OwnedClaim,
    Registry,
    RegistryClosed,
    release_on_signal,
)
from pyregistry._client import Client
from tests.support.clients import AsyncFacade
from tests.support.faults.proxy import SECONDS, Proxy, until
from tests.support.hub import Hub
from tests.support.internals import keepalive_of, waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyregistry.store import Published
    from tests.support.clients import Connect

pytestmark = pytest.mark.server("embedded")  # not about the server
MODEL: Final = ("org/model", "S3")
LEASE = 600.0
ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    (tmp_path / "models").mkdir()
    return FolderStore(tmp_path / "models")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def goes_on(other: Registry, name: str = MODEL[0]) -> Claim:
    """What the next owner gets: a claim, at once, and the attempt before is not counted."""
    result = other.try_claim_for_download(name, MODEL[1], lease=LEASE)
    assert isinstance(result, Claimed), result
    assert result.claim.attempts == 1
    assert result.claim.taken_over
    return result.claim


def staged(store: FolderStore) -> list[Path]:
    """What is in the staging folders."""
    return [path for path in (store.root / ".pyregistry" / "staging").rglob("*") if path.is_file()]


class Downloading:
    """A download that goes on until its claim is lost, or the test lets it go."""

    def __init__(self) -> None:
        self.claims: list[OwnedClaim] = []
        self.go = threading.Event()

    def __call__(self, claim: OwnedClaim, folder: Path | None = None) -> None:
        if folder is not None:
            (folder / "weights").write_text("w")
        self.claims.append(claim)
        until(lambda: self.go.is_set() or claim.lost.is_set(), "it is told")


# `shutdown`


def test_a_download_is_told_and_its_claim_is_given_back(
    connect_any: Connect, other: Registry, pool: ThreadPoolExecutor, store: FolderStore
) -> None:
    """shutdown ends a download, releases its claim, and removes its staging."""
    registry, downloading = connect_any(), Downloading()
    wanted = pool.submit(registry.ensure, MODEL[0], MODEL[1], downloading, store=store, lease=LEASE)
    until(lambda: downloading.claims, "it downloads")
    registry.shutdown()
    assert goes_on(other).token > downloading.claims[0].token
    with pytest.raises(RegistryClosed):
        wanted.result(SECONDS)
    assert downloading.claims[0].lost.why == "the client was shut down"
    assert len(downloading.claims) == 1
    assert staged(store) == []
    with pytest.raises(RegistryClosed):
        registry.get_status(*MODEL)
    registry.shutdown()


def test_waiters_end(connect_any: Connect, other: Registry, pool: ThreadPoolExecutor) -> None:
    """shutdown ends the waiters of a client and does not affect the owner."""
    registry, downloading = connect_any(), Downloading()
    claimed = other.try_claim_for_download(*MODEL, lease=LEASE)
    assert isinstance(claimed, Claimed)
    wanted = [pool.submit(registry.ensure, MODEL[0], MODEL[1], downloading) for _ in range(3)]
    until(lambda: waits(registry, "S3:org/model"), "they wait")
    registry.shutdown()
    for each in wanted:
        with pytest.raises(RegistryClosed):
            each.result(SECONDS)
    assert other.refresh_download_claim(claimed.claim) is not None
    assert downloading.claims == []


def test_claims_that_are_kept_are_given_back_and_the_callers_own_are_not(
    connect_any: Connect, other: Registry
) -> None:
    """shutdown releases kept claims, and leaves claims with a lease of the caller."""
    registry = connect_any()
    names = [f"m{at}" for at in range(100)]
    assert all(
        isinstance(each, Claimed) for each in registry.try_claim_many([(name, "S3") for name in names])
    )
    assert isinstance(registry.try_claim_for_download("mine", "S3", lease=LEASE), Claimed)
    registry.shutdown()
    for name in names:
        goes_on(other, name)
    assert other.try_claim_for_download("mine", "S3").status is ModelStatus.DOWNLOADING  # type: ignore[union-attr]  # it exists


def test_a_block_is_given_back(
    server_url: str, namespace: str, other: Registry, pool: ThreadPoolExecutor
) -> None:
    """shutdown releases the claim of a block, which raises ClaimLost."""
    registry = Registry.from_url(server_url, namespace)
    entered = threading.Event()

    def hold() -> None:
        with registry.download(*MODEL, lease=LEASE) as got:
            assert isinstance(got, OwnedClaim)
            entered.set()
            assert got.lost.wait(SECONDS)

    held = pool.submit(hold)
    assert entered.wait(SECONDS)
    registry.shutdown()
    with pytest.raises(ClaimLost, match="the client was shut down"):
        held.result(SECONDS)
    goes_on(other)


async def test_an_async_block_is_given_back(server_url: str, namespace: str, other: Registry) -> None:
    """shutdown releases the claim of an asynchronous block, which raises ClaimLost."""
    registry = AsyncRegistry.from_url(server_url, namespace)
    entered = asyncio.Event()

    async def hold() -> None:
        async with registry.download(*MODEL, lease=LEASE):
            entered.set()
            await asyncio.sleep(LEASE)

    task = asyncio.create_task(hold())
    await entered.wait()
    await registry.shutdown()
    goes_on(other)
    with pytest.raises(ClaimLost, match="the client was shut down"):
        await task


class SlowStore(FolderStore):
    """One that publishes when the test says so."""

    publishes, may = threading.Event(), threading.Event()

    def publish(self, claim: Claim, still_ours: Callable[[], bool]) -> Published:
        self.publishes.set()
        assert self.may.wait(SECONDS)
        return super().publish(claim, still_ours)


def test_what_is_downloaded_is_published(
    connect_any: Connect, other: Registry, pool: ThreadPoolExecutor, store: FolderStore
) -> None:
    """shutdown waits within its timeout for a download that is being published."""
    slow, registry, downloading = SlowStore(store.root), connect_any(), Downloading()
    slow.publishes, slow.may = threading.Event(), threading.Event()
    downloading.go.set()
    wanted = pool.submit(registry.ensure, MODEL[0], MODEL[1], downloading, store=slow, lease=LEASE)
    assert slow.publishes.wait(SECONDS)
    ends = pool.submit(registry.shutdown, timeout=SECONDS)
    until(lambda: keepalive_of(core_of(registry))._why, "it shuts down")
    slow.may.set()
    ends.result(SECONDS)
    record = other.get_model_record(*MODEL)
    assert record is not None
    assert record.status is ModelStatus.DOWNLOADED
    assert store.contains(record)
    wanted.exception(SECONDS)  # the client may be closed by now


def core_of(registry: Registry) -> Client:
    facade: Any = registry
    return facade._registry if isinstance(facade, AsyncFacade) else registry


def test_what_is_not_published_in_time_is_given_back(
    connect_any: Connect, other: Registry, pool: ThreadPoolExecutor, store: FolderStore
) -> None:
    """shutdown releases a claim whose download is not published within the timeout."""
    slow, registry, downloading = SlowStore(store.root), connect_any(), Downloading()
    slow.publishes, slow.may = threading.Event(), threading.Event()
    downloading.go.set()
    wanted = pool.submit(registry.ensure, MODEL[0], MODEL[1], downloading, store=slow, lease=LEASE)
    assert slow.publishes.wait(SECONDS)
    registry.shutdown(timeout=0.0)
    goes_on(other)
    slow.may.set()
    with pytest.raises(RegistryClosed):
        wanted.result(SECONDS)


@pytest.mark.parametrize("by_hand", [False, True], ids=["ensure", "by hand"])
def test_a_claim_that_is_won_meanwhile_is_given_back(
    connect_any: Connect, proxy: Proxy, other: Registry, pool: ThreadPoolExecutor, by_hand: bool
) -> None:
    """A claim won during a shutdown is released."""
    registry, downloading = connect_any(url=proxy.url), Downloading()
    (held,) = proxy.pause("claim", reply=True)
    if by_hand:
        wanted: Any = pool.submit(registry.try_claim_for_download, *MODEL)
    else:
        wanted = pool.submit(registry.ensure, MODEL[0], MODEL[1], downloading, lease=LEASE)
    held.wait()
    core = core_of(registry)
    keepalive_of(core).shut_down(0.0)
    held.let_go()
    if by_hand:
        assert isinstance(wanted.result(SECONDS), Claimed)
    else:
        with pytest.raises(RegistryClosed):
            wanted.result(SECONDS)
    until(lambda: released(other), "it is given back")
    goes_on(other)
    assert downloading.claims == []


def released(other: Registry) -> bool:
    result = other.try_claim_for_download(*MODEL, lease=LEASE)
    if isinstance(result, AlreadyExists):
        return False
    return other.release_download_claim(result.claim)


def test_a_server_that_is_away_is_told_of(
    connect_any: Connect, make_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """shutdown logs the claims that it can not release."""
    server = make_server()
    registry = connect_any(url=server.url)
    assert isinstance(registry.try_claim_for_download(*MODEL), Claimed)
    server.kill()
    registry.shutdown()
    assert "could not be given back, and ends with its lease" in caplog.text


def test_the_time_is_checked(connect_any: Connect) -> None:
    """shutdown refuses a negative timeout."""
    with pytest.raises(InvalidArgument, match="timeout"):
        connect_any().shutdown(timeout=-1)


# `release_on_signal`, in this process


def test_the_client_stays_open_and_claims_no_more(connect_any: Connect, other: Registry) -> None:
    """After a signal claims are released, reads work, and new claims raise."""
    registry, came, number = connect_any(), list[int](), signal.SIGUSR1
    other.set_status("there", "S3", ModelStatus.DOWNLOADED)
    assert isinstance(registry.try_claim_for_download(*MODEL), Claimed)
    before = signal.signal(number, lambda number, _frame: came.append(number))
    try:
        with release_on_signal(core_of(registry), signals=[number]):
            for _ in range(2):
                signal.raise_signal(number)
            assert came == [number, number]  # the handler that was there is called
            until(lambda: released(other), "the claim is given back")
            # A server goes on to answer its last requests.
            assert registry.is_downloaded("there", "S3")
            assert registry.touch_model("there", "S3")
            assert registry.ensure("there", "S3", print).status is ModelStatus.DOWNLOADED
            with pytest.raises(RegistryClosed):
                registry.ensure("new", "S3", print)
            with pytest.raises(RegistryClosed):
                registry.try_claim_for_download("new", "S3")
            with pytest.raises(RegistryClosed):
                registry.try_claim_many([("new", "S3")])
            assert other.get_status("new") is None
        assert signal.getsignal(number) is not signal.SIG_DFL
        signal.raise_signal(number)
        assert came == [number] * 3
    finally:
        signal.signal(number, before)


def test_handlers_of_others_stay(registry: Registry) -> None:
    """release_on_signal keeps ignored signals ignored, and restores no handler over a later one."""
    number = signal.SIGUSR1
    before = signal.signal(number, signal.SIG_IGN)
    try:
        release_on_signal(registry, signals=[number])
        assert signal.getsignal(number) is signal.SIG_IGN
        signal.signal(number, signal.SIG_DFL)
        handlers = release_on_signal(registry, signals=[number])
        signal.signal(number, signal.default_int_handler)  # set by another library, later
        handlers.restore()
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_in_another_thread_it_does_nothing(registry: Registry, pool: ThreadPoolExecutor) -> None:
    """release_on_signal outside of the main thread sets no handler."""
    before = signal.getsignal(signal.SIGTERM)
    pool.submit(release_on_signal, registry).result(SECONDS)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [({"registry": "redis://"}, "registry"), ({"signals": [0]}, "signals"), ({"timeout": -1}, "timeout")],
    ids=str,
)
def test_what_is_wrong_is_told(registry: Registry, arguments: Any, argument: str) -> None:
    """release_on_signal with invalid arguments raises and sets no handler."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InvalidArgument, match=argument):
        release_on_signal(**{"registry": registry, **arguments})
    assert signal.getsignal(signal.SIGTERM) is before


# Processes that a signal ends

PROGRAM = """
import asyncio, sys, threading, time
from pyregistry import AsyncRegistry, FolderStore, Registry, RegistryError, release_on_signal

url, namespace, root, kind = sys.argv[1:]
store = FolderStore(root)

def plain(claim, folder):
    (folder / "weights").write_text("w")
    print(claim.token, flush=True)
    while not claim.lost.is_set():
        time.sleep(0.01)

def deaf(claim, folder):
    (folder / "weights").write_text("w")
    print(claim.token, flush=True)
    time.sleep(600)

async def on_loop(claim, folder):
    (folder / "weights").write_text("w")
    print(claim.token, flush=True)
    await asyncio.sleep(600)

async def main(download):
    async with AsyncRegistry.from_url(url, namespace) as registry:
        if kind != "in the loop by hand":
            release_on_signal(registry)
            await registry.ensure("org/model", "S3", download, store=store, lease=600)
        else:
            claimed = await registry.try_claim_for_download("org/model", "S3")
            with release_on_signal(registry):
                print(claimed.claim.token, flush=True)
                await asyncio.sleep(600)

if kind in ("main thread", "by hand"):
    with Registry.from_url(url, namespace) as registry, release_on_signal(registry):
        if kind == "main thread":
            registry.ensure("org/model", "S3", deaf, store=store, lease=600)
        else:
            claimed = registry.try_claim_for_download("org/model", "S3")
            print(claimed.claim.token, flush=True)
            time.sleep(600)
elif kind == "another thread":
    with Registry.from_url(url, namespace) as registry, release_on_signal(registry):
        def work():
            try:
                registry.ensure("org/model", "S3", plain, store=store, lease=600)
            except RegistryError:
                pass
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
else:
    asyncio.run(main(plain if kind.endswith("in a thread") else on_loop))
"""
KINDS = [
    "main thread",
    "another thread",
    "by hand",
    "in the loop",
    "in the loop, in a thread",
    "in the loop by hand",
]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_a_signal_ends(
    server_url: str, namespace: str, other: Registry, store: FolderStore, kind: str, number: signal.Signals
) -> None:
    """A process ended by a signal releases its claim and leaves no staging."""
    with started([sys.executable, "-c", PROGRAM, server_url, namespace, str(store.root), kind]) as process:
        assert process.stdout is not None
        token = int(process.stdout.readline())
        process.send_signal(number)
        _, errors = process.communicate(timeout=SECONDS)
    if number is signal.SIGTERM:
        assert process.returncode == 128 + number, errors
    else:
        assert "KeyboardInterrupt" in errors
    assert goes_on(other).token > token
    assert staged(store) == []


class started:  # noqa: N801 - used as a function
    """A process that is ended in any case."""

    def __init__(self, command: list[Any], **more: str) -> None:
        self._stack = ExitStack()
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **more},
            cwd=ROOT,
            text=True,
        )

    def __enter__(self) -> subprocess.Popen[str]:
        self._stack.enter_context(self.process)
        self._stack.callback(self.process.kill)
        return self.process

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def test_the_example_server_that_is_ended_while_it_downloads(
    server_url: str, namespace: str, other: Registry, store: FolderStore
) -> None:
    """The example server, terminated during a download, releases its claim."""
    with Hub() as hub:
        hub.push("acme/large", {"model.bin": b"l" * 900_000})
        hub.sends_only = 100_000
        given = {
            "MODELS": "acme/large",
            "MODELS_ROOT": str(store.root),
            "MODEL_URL": f"{hub.url}/{{name}}/resolve/main/model.bin",
            "PYREGISTRY_URL": server_url,
            "PYREGISTRY_NAMESPACE": namespace,
        }
        command = ["-m", "uvicorn", "--app-dir", "examples", "--port", "0", "fastapi_server:app"]
        with started([sys.executable, *command], **given) as process:
            until(lambda: hub.sending, "it downloads", 60.0)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60.0)
    assert "RegistryClosed" in errors
    goes_on(other, "acme/large")
    assert staged(store) == []
