"""ensure and download: one caller downloads, the others get what it brought. The same through both clients."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis

from pyregistry import (
    AlreadyExists,
    AsyncRegistry,
    CacheMismatch,
    Claimed,
    ClaimLost,
    DownloadFailed,
    EventKind,
    FolderStore,
    InvalidArgument,
    ModelRecord,
    ModelStatus,
    OutcomeUnknown,
    OwnedClaim,
    Registry,
    RegistryClosed,
    RegistryEvent,
    RegistryUnavailable,
    RetryPolicy,
    WaitTimedOut,
)
from pyregistry._coordination import store_identity_async, store_identity_sync
from pyregistry._coordination.options import VISIBILITY_TIMEOUT
from pyregistry._core import backoff
from pyregistry._core.clock import now
from pyregistry._redis.protocol.outcomes import ATTEMPTS
from pyregistry.store import CacheMark
from tests.support.clients import AsyncFacade
from tests.support.faults.proxy import SECONDS, Proxy, until
from tests.support.internals import lease_time_of, ops_of, subscriber_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import MakeServer
    from tests.support.clients import Connect

MODEL: Final = ("org/model", "HuggingFace")
MOST_BATCHES = RetryPolicy(first_delay=0.0)


class Downloads:
    """A download that counts how often it was begun, and waits for the test where it is told to."""

    def __init__(self) -> None:
        self.claims: list[OwnedClaim] = []
        self.begun = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.error: BaseException | None = None

    def __call__(self, claim: OwnedClaim, folder: Path | None = None) -> None:
        self.claims.append(claim)
        if folder is not None:
            (folder / "weights").write_bytes(b"x" * 14)
        self.begun.set()
        until(lambda: self.go.is_set() or claim.lost.is_set(), "the test lets it go")
        if self.error is not None:
            raise self.error


@pytest.fixture
def downloads() -> Downloads:
    return Downloads()


@pytest.fixture(autouse=True)  # the clients are closed before it waits for its threads, also if a test fails
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPoolExecutor]:
    monkeypatch.setattr(store_identity_async, "_MARK_PATIENCE", 0.3)
    monkeypatch.setattr(store_identity_sync, "_MARK_PATIENCE", 0.3)
    with ThreadPoolExecutor(64) as pool:
        yield pool


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    root = tmp_path / "cache"
    root.mkdir()
    return FolderStore(root)


def claimed(registry: Registry, **options: Any) -> Any:
    result = registry.try_claim_for_download(*MODEL, **{"lease": 60.0, **options})
    assert isinstance(result, Claimed)
    return result.claim


# One download


def test_it_is_downloaded_once(any_registry: Registry, downloads: Downloads) -> None:
    record = any_registry.ensure(*MODEL, downloads)
    assert record.status is ModelStatus.DOWNLOADED
    assert record == any_registry.get_model_record(*MODEL)
    assert any_registry.ensure(*MODEL, downloads) == record
    (claim,) = downloads.claims
    assert claim.token == record.token
    assert not claim.lost.is_set()


def test_all_who_want_it_get_the_same_record(
    connect_any: Connect, pool: ThreadPoolExecutor, downloads: Downloads
) -> None:
    downloads.go.clear()
    clients = [connect_any(), connect_any(), connect_any()]
    wanted = [
        pool.submit(client.ensure, MODEL[0], MODEL[1], downloads, touch=False)
        for client in clients
        for _ in range(12)
    ]
    assert downloads.begun.wait(SECONDS)
    downloads.go.set()
    records = {repr(each.result(SECONDS)) for each in wanted}
    assert len(records) == 1
    assert len(downloads.claims) == 1
    assert records == {repr(clients[0].get_model_record(*MODEL))}


def test_revisions_and_subsets_are_downloads_of_their_own(
    any_registry: Registry, downloads: Downloads
) -> None:
    every: list[dict[str, Any]] = [{}, {"revision": "main"}, {"revision": "main", "subset": "tokenizer"}]
    for options in every:
        record = any_registry.ensure(*MODEL, downloads, **options)
        assert (record.revision, record.subset) == (options.get("revision"), options.get("subset"))
    assert len(downloads.claims) == 3


def test_what_it_was_is_recorded(any_registry: Registry) -> None:
    def download(claim: OwnedClaim) -> None:
        claim.describe(size_bytes=5, location="there")
        claim.describe(resolved_revision="abc")

    record = any_registry.ensure(*MODEL, download, expected_bytes=7)
    assert (record.size_bytes, record.location, record.resolved_revision) == (5, "there", "abc")
    assert record.finished_at == record.last_used_at


def test_progress_is_seen(any_registry: Registry, other: Registry, pool: ThreadPoolExecutor) -> None:
    go = threading.Event()

    def download(claim: OwnedClaim) -> None:
        for done in range(1, 1001):
            claim.report(done, 1000, f"at {done}")
        assert go.wait(SECONDS)

    def seen() -> bool:
        record = other.get_model_record(*MODEL)
        return record is not None and (record.bytes_done, record.bytes_total, record.message) == (
            1000,
            1000,
            "at 1000",
        )

    wanted = pool.submit(any_registry.ensure, MODEL[0], MODEL[1], download)
    until(seen, "the progress is told")
    go.set()
    wanted.result(SECONDS)


def test_a_thousand_reports_are_few_renewals(connect_any: Connect, server_url: str) -> None:
    def download(claim: OwnedClaim) -> None:
        for done in range(1, 1001):
            claim.report(done, 1000)
        until(lambda: proxy.sent["renew"], "it is told")

    with Proxy(server_url) as proxy:
        connect_any(url=proxy.url).ensure(*MODEL, download)
        assert proxy.sent["renew"] <= 3


@pytest.mark.parametrize(
    "wrong",
    [(-1,), ("1",), (1, -1), (None, None, 7), (None, None, "\ud800"), (2**53,)],
    ids=repr,
)
def test_wrong_progress_is_told_at_once(any_registry: Registry, wrong: Any) -> None:
    def download(claim: OwnedClaim) -> None:
        with pytest.raises(InvalidArgument):
            claim.report(*wrong)

    assert any_registry.ensure(*MODEL, download).status is ModelStatus.DOWNLOADED


def test_a_takeover_is_told_of_the_one_before(
    any_registry: Registry, other: Registry, downloads: Downloads
) -> None:
    theirs = claimed(other)
    other.refresh_download_claim(theirs, bytes_done=4711)
    other.release_download_claim(theirs)
    any_registry.ensure(*MODEL, downloads)
    (claim,) = downloads.claims
    assert (claim.taken_over, claim.previous_owner, claim.previous_bytes_done) == (True, "other", 4711)


def test_who_waits_takes_over_when_the_lease_ends(
    any_registry: Registry, other: Registry, downloads: Downloads
) -> None:
    theirs = claimed(other, lease=0.5)  # nobody renews it
    record = any_registry.ensure(*MODEL, downloads)
    assert record.token > theirs.token
    assert not other.finish_download_claim(theirs, ModelStatus.DOWNLOADED)
    assert other.get_model_record(*MODEL) == record


def test_who_waits_goes_on_at_once_when_it_is_given_back(
    any_registry: Registry, other: Registry, downloads: Downloads, pool: ThreadPoolExecutor
) -> None:
    theirs = claimed(other, lease=3600.0)
    wanted = pool.submit(any_registry.ensure, MODEL[0], MODEL[1], downloads)
    until(lambda: listens(other), "it waits")
    assert other.release_download_claim(theirs)
    assert wanted.result(SECONDS).owner != "other"


def listens(other: Registry) -> bool:
    """Whether anybody hears what happens in the namespace."""
    return bool(other._backend.listeners())


# Errors


def test_an_error_is_recorded_and_told(any_registry: Registry, downloads: Downloads) -> None:
    downloads.error = LookupError("no https://user:secret@host/path?token=secret#x here")
    with pytest.raises(DownloadFailed, match="LookupError: no https://host/path") as caught:
        any_registry.ensure(*MODEL, downloads, retry=None)
    assert caught.value.__cause__ is downloads.error
    record = any_registry.get_model_record(*MODEL)
    assert record == caught.value.record
    assert record is not None
    assert record.status is ModelStatus.ERROR
    assert "secret" not in str(record) + str(caught.value)
    # It stays.
    with pytest.raises(DownloadFailed) as caught:
        any_registry.ensure(*MODEL, downloads, retry=None)
    assert caught.value.__cause__ is None
    assert len(downloads.claims) == 1


def test_the_fleet_tries_as_often_as_the_policy_says(
    connect_any: Connect, pool: ThreadPoolExecutor, downloads: Downloads
) -> None:
    downloads.error = LookupError("no")
    retry = RetryPolicy(attempts=4, first_delay=0.02)
    clients = [connect_any(), connect_any(), connect_any()]
    wanted = [
        pool.submit(client.ensure, MODEL[0], MODEL[1], downloads, retry=retry)
        for client in clients
        for _ in range(3)
    ]
    for each in wanted:
        with pytest.raises(DownloadFailed):
            each.result(SECONDS)
    assert sorted(claim.attempts for claim in downloads.claims) == [1, 2, 3, 4]


def test_a_retry_may_do_better(any_registry: Registry, downloads: Downloads) -> None:
    def download(claim: OwnedClaim) -> None:
        downloads.claims.append(claim)
        if claim.attempts < 3:
            raise OSError("the line is bad")

    record = any_registry.ensure(*MODEL, download, retry=RetryPolicy(first_delay=0.01))
    assert record.status is ModelStatus.DOWNLOADED
    assert [claim.attempts for claim in downloads.claims] == [1, 2, 3]


def test_a_permanent_error_is_not_tried_again(
    any_registry: Registry, other: Registry, downloads: Downloads
) -> None:
    downloads.error = PermissionError("gated")
    with pytest.raises(DownloadFailed):
        any_registry.ensure(*MODEL, downloads, retry=RetryPolicy(permanent=(PermissionError,)))
    assert len(downloads.claims) == 1
    with pytest.raises(DownloadFailed):  # for others neither
        other.ensure(*MODEL, downloads, retry=RetryPolicy(attempts=100))
    assert len(downloads.claims) == 1


def test_who_waits_is_told_of_the_error(
    any_registry: Registry, other: Registry, downloads: Downloads, pool: ThreadPoolExecutor
) -> None:
    theirs = claimed(other)
    wanted = pool.submit(any_registry.ensure, MODEL[0], MODEL[1], downloads, retry=None)
    until(lambda: listens(other), "it waits")
    other.finish_download_claim(theirs, ModelStatus.ERROR, "the disk is full")
    with pytest.raises(DownloadFailed, match="the disk is full"):
        wanted.result(SECONDS)
    assert downloads.claims == []


def test_a_model_that_loses_its_owners_is_an_error(
    any_registry: Registry, other: Registry, downloads: Downloads
) -> None:
    for _ in range(3):
        claimed(other, lease=0.001)
        until(lambda: is_over(other), "the lease ends")
    with pytest.raises(DownloadFailed, match="Owner lost"):
        any_registry.ensure(*MODEL, downloads, retry=RetryPolicy(attempts=3))
    assert downloads.claims == []


def is_over(other: Registry) -> bool:
    record = other.get_model_record(*MODEL)
    assert record is not None
    assert record.lease_expires_at is not None
    return lease_time_of(other) >= record.lease_expires_at


# Back-off, and the end of a lease


def test_each_try_comes_after_its_back_off(any_registry: Registry, other: Registry) -> None:
    begun: list[float] = []

    def download(_claim: OwnedClaim) -> None:
        begun.append(now())
        raise OSError("no")

    policy = RetryPolicy(attempts=4, first_delay=0.2, factor=2.0, max_delay=0.6, jitter=0.0)
    with other.watch(*MODEL) as events:
        with pytest.raises(DownloadFailed):
            any_registry.ensure(*MODEL, download, retry=policy)
        failed: list[timedelta] = []
        for event in events:
            assert isinstance(event, RegistryEvent)
            if event.kind is EventKind.FAILED:
                assert event.record.retry_at is not None
                failed.append(event.record.retry_at - event.at)
            if len(failed) == 4:
                break
    delays = [0.2, 0.4, 0.6]
    # After the last comes the cool-down.
    assert failed == [timedelta(seconds=delay) for delay in [*delays, 300]]
    assert all(
        later - earlier >= delay for earlier, later, delay in zip(begun, begun[1:], delays, strict=False)
    )


@pytest.mark.parametrize("form", ["ensure", "block"])
def test_who_cant_prove_its_lease_says_nothing_any_more(
    connect_any: Connect, server_url: str, other: Registry, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody has taken over, and the server would believe it; but it can't know that. Its lease ends while it
    # pauses after the first try.
    monkeypatch.setattr(backoff, "FIRST_PAUSE_S", 2.5)
    told: list[int] = []

    def download(claim: OwnedClaim) -> None:
        if claim.attempts == 1:
            lose(10_000)
        else:
            lose(0)
            told.append(proxy.log_of("finish"))

    def lose(times: int) -> None:
        for name in ("finish", "renew"):
            proxy.forget_orders(name)
            proxy.lose_requests(name, times)

    with Proxy(server_url) as proxy:
        registry = connect_any(url=proxy.url)
        if form == "ensure":
            record = registry.ensure(*MODEL, download, lease=1.5)
            assert record.attempts == 2
            assert proxy.log_of("finish") == told[0] + 1
            assert told == [ATTEMPTS], "it was tried once while the lease lasted"
            return
        facade: Any = registry
        if isinstance(facade, AsyncFacade):
            block = partial(facade._call, lose_in_a_block, facade._registry, download)
        else:
            block = partial(lose_in_a_plain_block, registry, download)
        with pytest.raises(ClaimLost):
            block()
        tried = proxy.log_of("finish")
        assert tried == ATTEMPTS
        lose(0)
        claim = claimed(other)  # its lease is over
        assert claim.attempts == 2
        assert proxy.log_of("finish") == tried


def lose_in_a_plain_block(registry: Registry, download: Callable[[OwnedClaim], None]) -> None:
    with registry.download(*MODEL, lease=1.5) as got:
        assert isinstance(got, OwnedClaim)
        download(got)


async def lose_in_a_block(registry: AsyncRegistry, download: Callable[[OwnedClaim], None]) -> None:
    async with registry.download(*MODEL, lease=1.5) as got:
        assert isinstance(got, OwnedClaim)
        download(got)


@pytest.mark.parametrize("what", ["claim", "renew"])
def test_the_owners_deadline_counts_from_the_sending(
    connect_any: Connect, server_url: str, pool: ThreadPoolExecutor, what: str
) -> None:
    # The server's lease ends later than that, however long the answer took.
    lease = 3.0
    holds: list[tuple[float, float]] = []

    def download(claim: OwnedClaim) -> None:
        given = claim.held.holds_until
        if what == "renew":
            until(lambda: claim.held.holds_until > given, "it was renewed")
        holds.append((claim.held.due, claim.held.holds_until))

    with Proxy(server_url) as proxy:
        registry = connect_any(url=proxy.url)
        (held,) = proxy.pause(what, reply=True)
        wanted = pool.submit(registry.ensure, MODEL[0], MODEL[1], download, lease=lease)
        held.wait()
        sent = now()
        until(lambda: now() > sent + 0.3, "the answer takes long")
        held.let_go()
        wanted.result(SECONDS)
    ((due, holds_until),) = holds
    assert holds_until <= sent + lease
    # It is renewed at a third.
    assert holds_until - due == pytest.approx(2 / 3 * lease)


# Waiting


def test_a_wait_that_takes_too_long(any_registry: Registry, other: Registry, downloads: Downloads) -> None:
    claimed(other)
    for timeout in (0.0, 0.3):
        with pytest.raises(WaitTimedOut) as caught:
            any_registry.ensure(*MODEL, downloads, timeout=timeout)
        assert isinstance(caught.value, TimeoutError)
    assert downloads.claims == []


def test_the_back_off_is_a_wait_too(any_registry: Registry, other: Registry, downloads: Downloads) -> None:
    other.finish_download_claim(claimed(other), ModelStatus.ERROR, retry_in=3600.0)
    with pytest.raises(WaitTimedOut):
        any_registry.ensure(*MODEL, downloads, timeout=0.2)


def test_every_wait_is_bounded(
    any_registry: Registry, connect_any: Connect, make_server: MakeServer, store: FolderStore, other: Registry
) -> None:
    # For files that may still come to be seen.
    other.ensure(*MODEL, lambda _: None)
    with pytest.raises(WaitTimedOut):
        any_registry.ensure(*MODEL, print, verify=lambda _: False, timeout=0.3)
    # In a block.
    other.set_status("another", "S3", ModelStatus.DOWNLOADING)
    with pytest.raises(WaitTimedOut):
        enter(any_registry, "another", "S3", timeout=0.3)
    # For a registry that is away.
    server = make_server()
    client = connect_any(url=server.url, timeout=0.2)
    client.set_status("another", "S3", ModelStatus.DOWNLOADING)
    with ThreadPoolExecutor(1) as pool:
        wanted = pool.submit(
            client.ensure, "another", "S3", print, store=store, on_unavailable="verify", timeout=3.0
        )
        until(lambda: subscriber_of(client).is_up or wanted.done(), "it waits")
        server.kill()
        with pytest.raises((WaitTimedOut, RegistryUnavailable, OutcomeUnknown)):
            wanted.result(SECONDS)


def enter(registry: Registry, *model: Any, **options: Any) -> None:
    """Enter a block, and leave it."""

    facade: Any = registry

    async def on_loop() -> None:
        async with facade._registry.download(*model, **options):
            pass

    if isinstance(facade, AsyncFacade):
        facade._call(on_loop)
    else:
        with registry.download(*model, **options):
            pass


def test_a_block_wants_what_ensure_wants(any_registry: Registry) -> None:
    for argument, wrong in (("lease", None), ("retry", 3), ("timeout", -1.0), ("on_unproven", "maybe")):
        with pytest.raises(InvalidArgument) as caught:
            enter(any_registry, *MODEL, **{argument: wrong})
        assert caught.value.argument == argument
    assert any_registry.get_status(*MODEL) is None


def test_what_is_no_function_is_told(connect_any: Connect, server_url: str, namespace: str) -> None:
    async def download(_claim: OwnedClaim) -> None:
        raise AssertionError("nobody awaits it")

    async def verify(_record: ModelRecord) -> bool:
        return True

    registry = connect_any()
    wrong: Any = 7
    with pytest.raises(InvalidArgument, match="download"):
        registry.ensure(*MODEL, wrong)
    with pytest.raises(InvalidArgument, match="verify"):
        registry.ensure(*MODEL, print, verify=wrong)
    with Registry.from_url(server_url, namespace) as plain:
        with pytest.raises(InvalidArgument, match="download"):
            plain.ensure(*MODEL, download)
        with pytest.raises(InvalidArgument, match="download"):
            plain.ensure(*MODEL, partial(download))
        with pytest.raises(InvalidArgument, match="verify"):
            plain.ensure(*MODEL, print, verify=verify)
        with pytest.raises(InvalidArgument, match="verify"):
            plain.download(*MODEL, verify=verify)
    assert registry.get_status(*MODEL) is None


def test_a_download_that_somebody_set_by_hand(
    any_registry: Registry, other: Registry, downloads: Downloads, pool: ThreadPoolExecutor
) -> None:
    other.set_status(*MODEL, ModelStatus.DOWNLOADING)
    wanted = pool.submit(any_registry.ensure, MODEL[0], MODEL[1], downloads, touch=False)
    until(lambda: listens(other), "it waits")
    other.set_status(*MODEL, ModelStatus.DOWNLOADED)
    assert wanted.result(SECONDS) == other.get_model_record(*MODEL)
    assert downloads.claims == []


def test_who_waits_learns_that_its_client_is_closed(
    connect_any: Connect, other: Registry, downloads: Downloads, pool: ThreadPoolExecutor
) -> None:
    registry = connect_any()
    claimed(other)
    wanted = [pool.submit(registry.ensure, MODEL[0], MODEL[1], downloads) for _ in range(3)]
    until(lambda: listens(other), "it waits")
    registry.close()
    for each in wanted:
        with pytest.raises(RegistryClosed):
            each.result(SECONDS)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"lease": None}, "lease"),
        ({"lease": 0}, "lease"),
        ({"timeout": -1}, "timeout"),
        ({"stall_timeout": 0}, "stall_timeout"),
        ({"visibility_timeout": float("nan")}, "visibility_timeout"),
        ({"retry": 3}, "retry"),
        ({"on_unavailable": "hope"}, "on_unavailable"),
        ({"on_unproven": "hope"}, "on_unproven"),
        ({"on_unavailable": "verify"}, "on_unavailable"),
        ({"expected_bytes": -1}, "expected_bytes"),
        ({"owner": ""}, "owner"),
    ],
    ids=str,
)
def test_wrong_arguments(any_registry: Registry, downloads: Downloads, options: Any, argument: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        any_registry.ensure(*MODEL, downloads, **options)
    assert caught.value.argument == argument
    with pytest.raises(InvalidArgument):
        any_registry.ensure("", "S3", downloads)
    assert any_registry.get_model_record(*MODEL) is None


def test_a_policy_is_checked() -> None:
    wrongs: list[dict[str, Any]] = [
        {"attempts": 0}, {"factor": 0.5}, {"jitter": 2}, {"first_delay": "1"}, {"permanent": (3,)},
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(InvalidArgument):
            RetryPolicy(**wrong)
    policy = RetryPolicy(first_delay=1.0, factor=3.0, max_delay=10.0, jitter=0.0)
    assert [policy.delay(attempt) for attempt in (1, 2, 3, 4, 10_000)] == [1.0, 3.0, 9.0, 10.0, 10.0]
    spread = [RetryPolicy(jitter=1.0).delay(1) for _ in range(100)]
    assert 0.0 <= min(spread) < max(spread) <= 1.0


# Owners that are lost


@pytest.mark.parametrize("error", [None, FileNotFoundError("swept")], ids=["ends well", "fails"])
def test_what_was_lost_does_not_count(
    any_registry: Registry,
    other: Registry,
    downloads: Downloads,
    pool: ThreadPoolExecutor,
    error: Exception | None,
) -> None:
    downloads.go.clear()
    downloads.error = error  # who comes later sweeps the folders of those who lost their claim
    wanted = pool.submit(any_registry.ensure, MODEL[0], MODEL[1], downloads, lease=1.0, touch=False)
    assert downloads.begun.wait(SECONDS)
    other.set_status(*MODEL, ModelStatus.DOWNLOADED, "it was here all along")
    # The next renewal tells its owner.
    assert wanted.result(SECONDS) == other.get_model_record(*MODEL)
    (claim,) = downloads.claims
    assert claim.lost.is_set()
    assert "lost" in claim.lost.why


@pytest.mark.parametrize("retry", [MOST_BATCHES, None], ids=["retried", "not retried"])
def test_a_download_that_hangs(any_registry: Registry, retry: RetryPolicy | None) -> None:
    claims: list[OwnedClaim] = []

    def download(claim: OwnedClaim) -> None:
        claims.append(claim)
        claim.report(5, 10)
        if claim.attempts == 1:
            assert claim.lost.wait(SECONDS)

    if retry is None:
        with pytest.raises(DownloadFailed, match=r"no progress for 0\.2 s"):
            any_registry.ensure(*MODEL, download, retry=retry, stall_timeout=0.2)
    else:
        assert any_registry.ensure(*MODEL, download, retry=retry, stall_timeout=0.2).attempts == 2
    assert "no progress" in claims[0].lost.why
    assert len(claims) == (1 if retry is None else 2)


def test_what_hung_publishes_nothing_though_it_ends_well(any_registry: Registry, store: FolderStore) -> None:
    def download(claim: OwnedClaim, folder: Path) -> None:
        (folder / "weights").write_text("late")
        claim.report(5, 10)
        assert claim.lost.wait(SECONDS)  # and takes no notice

    with pytest.raises(DownloadFailed, match="no progress") as caught:
        any_registry.ensure(*MODEL, download, store=store, retry=None, stall_timeout=0.2)
    assert not caught.value.record.permanent
    assert any_registry.get_status(*MODEL) is ModelStatus.ERROR
    assert not list(store.root.rglob("weights"))


def test_a_slow_download_that_advances_is_not_ended(any_registry: Registry) -> None:
    def download(claim: OwnedClaim) -> None:
        for done in range(12):
            claim.report(done)
            assert not claim.lost.wait(0.1)

    assert any_registry.ensure(*MODEL, download, stall_timeout=1.0).attempts == 1


def test_a_download_that_reports_nothing_is_not_ended(any_registry: Registry) -> None:
    def download(claim: OwnedClaim) -> None:
        assert not claim.lost.wait(0.5)

    assert any_registry.ensure(*MODEL, download, stall_timeout=0.1).attempts == 1


# The block form


def test_a_block_downloads_or_gets_the_record(server_url: str, namespace: str, other: Registry) -> None:
    with Registry.from_url(server_url, namespace) as registry:
        with registry.download(*MODEL) as got:
            assert isinstance(got, OwnedClaim)
            got.describe(size_bytes=5)
            assert isinstance(other.try_claim_for_download(*MODEL), AlreadyExists)
        with registry.download(*MODEL) as again:
            assert isinstance(again, ModelRecord)
            assert (again.size_bytes, again.token) == (5, got.token)


def test_a_block_that_fails_is_recorded(server_url: str, namespace: str) -> None:
    with Registry.from_url(server_url, namespace) as registry:
        with pytest.raises(LookupError), registry.download(*MODEL):
            raise LookupError("no")
        record = registry.get_model_record(*MODEL)
        assert record is not None
        assert (record.status, record.message) == (ModelStatus.ERROR, "LookupError: no")
        with pytest.raises(DownloadFailed), registry.download(*MODEL, retry=None):
            pass


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_a_block_that_is_left_for_good_gives_its_claim_back(
    server_url: str, namespace: str, other: Registry, end: type[BaseException]
) -> None:
    with Registry.from_url(server_url, namespace) as registry:
        with pytest.raises(end), registry.download(*MODEL):
            raise end
        claim = claimed(other)
        assert claim.taken_over
        assert claim.attempts == 1
        other.release_download_claim(claim)
        with pytest.raises(end):
            registry.ensure(*MODEL, lambda _: end_with(end))
        assert claimed(other).taken_over


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("form", ["async", "plain", "block"])
@pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning"
)  # its loop ends before the client can be closed
def test_a_loop_that_is_left_for_good_gives_its_claim_back(
    server_url: str, namespace: str, other: Registry, end: type[BaseException], form: str
) -> None:
    async def download(_claim: OwnedClaim) -> None:
        raise end

    async def main() -> None:
        async with AsyncRegistry.from_url(server_url, namespace) as registry:
            if form == "async":
                await registry.ensure(*MODEL, download)
            elif form == "plain":
                await registry.ensure(*MODEL, lambda _: end_with(end))
            else:
                async with registry.download(*MODEL):
                    raise end

    with pytest.raises(end):
        asyncio.run(main())
    claim = claimed(other)
    assert claim.taken_over
    assert claim.attempts == 1


def end_with(end: type[BaseException]) -> None:
    raise end


def test_a_block_whose_claim_is_lost(server_url: str, namespace: str, other: Registry) -> None:
    with Registry.from_url(server_url, namespace) as registry:
        with pytest.raises(ClaimLost), registry.download(*MODEL, lease=0.6) as got:  # noqa: PT012 - a block
            assert isinstance(got, OwnedClaim)
            other.delete_model(*MODEL)
            theirs = claimed(other)
            assert got.lost.wait(SECONDS)
        assert other.finish_download_claim(theirs, ModelStatus.DOWNLOADED)


async def test_an_async_block(server_url: str, namespace: str, other: Registry) -> None:
    async with AsyncRegistry.from_url(server_url, namespace) as registry:
        async with registry.download(*MODEL) as got:
            assert isinstance(got, OwnedClaim)
        async with registry.download(*MODEL) as again:
            assert isinstance(again, ModelRecord)
        # One that is lost is cancelled where it is, and says why.
        with pytest.raises(ClaimLost, match="lost"):  # noqa: PT012 - a block
            async with registry.download("another", "S3", lease=0.6):
                await asyncio.to_thread(other.delete_model, "another", "S3")
                await asyncio.Event().wait()

        # One that is cancelled by somebody else is that.
        async def block() -> None:
            async with registry.download("a third", "S3"):
                inside.set()
                await asyncio.Event().wait()

        inside = asyncio.Event()
        task = asyncio.create_task(block())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance(await registry.try_claim_for_download("a third", "S3", lease=5.0), Claimed)


@pytest.mark.parametrize("how", ["cancelled", "cancelled twice", "lost", "lost, and cancelled"])
async def test_an_async_download_has_ended_before_ensure_has(
    server_url: str, namespace: str, other: Registry, how: str
) -> None:
    """However it is cancelled while it cleans up: it closes its files first."""
    order: list[str] = []
    begun, cleaning, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def download(_claim: OwnedClaim) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await may_end.wait()
            order.append("download")

    async with AsyncRegistry.from_url(server_url, namespace) as registry:
        task = asyncio.create_task(registry.ensure(*MODEL, download, lease=0.6, retry=None))
        task.add_done_callback(lambda _: order.append("ensure"))
        await begun.wait()
        if "lost" in how:
            await asyncio.to_thread(other.set_status, *MODEL, ModelStatus.ERROR)
        else:
            task.cancel()
        await cleaning.wait()
        if how in ("cancelled twice", "lost, and cancelled"):
            task.cancel()
        # By now `ensure` would have given back its claim, on the connection of these, and ended.
        for _ in range(20):
            await registry.get_status("another", "S3")
        assert not task.done()
        may_end.set()
        expected: Any = ClaimLost if how == "lost" else asyncio.CancelledError
        with pytest.raises((expected, DownloadFailed)):
            await task
        assert task.cancelled() == (how != "lost")
    assert order == ["download", "ensure"]


async def test_a_claim_that_is_lost_before_its_download_has_begun(
    server_url: str, namespace: str, other: Registry, tmp_path: Path
) -> None:
    """Nothing is said of a coroutine that was never awaited (warnings are errors here)."""
    slow = [True]

    class Slow(FolderStore):
        def staging(self, claim: Any) -> Path:
            if slow:
                slow.clear()
                other.delete_model(*MODEL)
                until(lambda: claim.lost.is_set() or None, "the claim is lost")
            return super().staging(claim)

    async def download(_claim: OwnedClaim, folder: Path) -> None:
        (folder / "weights").write_bytes(b"x")

    async with AsyncRegistry.from_url(server_url, namespace) as registry:
        record = await registry.ensure(*MODEL, download, store=Slow(tmp_path), lease=0.6)
        assert record.status is ModelStatus.DOWNLOADED
    gc.collect()


# Files


def test_a_store_publishes_what_was_downloaded(
    any_registry: Registry, downloads: Downloads, store: FolderStore
) -> None:
    record = any_registry.ensure(*MODEL, downloads, store=store)
    assert (store.path(record) / "weights").read_bytes() == b"x" * 14
    assert record.size_bytes == 14
    assert record.location is not None
    assert record.location.endswith(str(record.token))
    assert any_registry.ensure(*MODEL, downloads, store=store) == record
    assert len(downloads.claims) == 1
    assert list((store.root / ".pyregistry" / "staging").glob("*/*")) == []


def test_a_download_that_fails_publishes_nothing(
    any_registry: Registry, downloads: Downloads, store: FolderStore
) -> None:
    downloads.error = LookupError("no")
    with pytest.raises(DownloadFailed):
        any_registry.ensure(*MODEL, downloads, store=store, retry=None)
    assert [path.name for path in store.root.iterdir()] == [".pyregistry"]
    assert list((store.root / ".pyregistry" / "staging").glob("*/*")) == []


def test_a_download_with_a_link_that_would_not_hold(
    any_registry: Registry, store: FolderStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    away = tmp_path_factory.mktemp("away") / "weights"
    away.touch()

    def download(claim: OwnedClaim, folder: Path) -> None:
        (folder / "weights").symlink_to(away)

    with pytest.raises(InvalidArgument, match="the link 'weights' leads out of the download"):
        any_registry.ensure(*MODEL, download, store=store)
    assert [path.name for path in (store.root / ".pyregistry").iterdir()] == ["cache_id"]
    record = any_registry.ensure(
        "another", "S3", download, store=FolderStore(store.root, outside_links=True), retry=None
    )
    assert (store.path(record) / "weights").readlink() == away


@pytest.mark.parametrize("publish", ["rename", "manifest"])
def test_a_link_by_name_leads_to_what_was_downloaded(
    any_registry: Registry, downloads: Downloads, tmp_path: Path, publish: Any
) -> None:
    store = FolderStore(tmp_path, by_name=True, publish=publish)
    for _ in range(2):
        record = any_registry.ensure(*MODEL, downloads, store=store)
        (link,) = (tmp_path / "by-name").iterdir()
        assert link.resolve() == store.path(record)
        assert (link / "weights").read_bytes() == b"x" * 14
        any_registry.delete_model(*MODEL)
    assert len(downloads.claims) == 2


def test_the_leftovers_of_the_dead_are_removed(
    any_registry: Registry, other: Registry, downloads: Downloads, store: FolderStore
) -> None:
    dead = claimed(other, lease=0.2)
    (store.staging(dead) / "half").write_bytes(b"x")
    record = any_registry.ensure(*MODEL, downloads, store=store)
    assert not (
        store.root / ".pyregistry" / "staging" / store.path(record).parent.name / str(dead.token)
    ).exists()


def test_files_that_are_gone_are_downloaded_again(
    any_registry: Registry, downloads: Downloads, store: FolderStore
) -> None:
    first = any_registry.ensure(*MODEL, downloads, store=store)
    (store.path(first) / "weights").unlink()
    store.path(first).rmdir()
    second = any_registry.ensure(*MODEL, downloads, store=store, visibility_timeout=0.0)
    assert second.token > first.token
    assert store.contains(second)
    assert len(downloads.claims) == 2


def test_files_that_somebody_verifies(any_registry: Registry, downloads: Downloads) -> None:
    seen: list[ModelRecord] = []

    def verify(record: ModelRecord) -> bool:
        seen.append(record)
        return record.attempts == 1 and record.token > first.token

    first = any_registry.ensure(*MODEL, downloads)
    second = any_registry.ensure(*MODEL, downloads, verify=verify, visibility_timeout=0.0)
    assert second.token > first.token
    assert seen[0] == first
    assert seen[-1] == second


def test_a_push_outruns_the_file_system(any_registry: Registry, downloads: Downloads) -> None:
    # The files come to be seen a little later: they are looked for again, and nothing is deleted.
    looks = 0

    def verify(record: ModelRecord) -> bool:
        nonlocal looks
        looks += 1
        return looks > 4

    first = any_registry.ensure(*MODEL, downloads)
    assert any_registry.ensure(*MODEL, downloads, verify=verify) == first
    assert len(downloads.claims) == 1


def test_files_that_never_come_to_be_seen(any_registry: Registry, downloads: Downloads) -> None:
    first = any_registry.ensure(*MODEL, downloads)
    record = any_registry.ensure(
        *MODEL, downloads, verify=lambda record: record.token > first.token, visibility_timeout=0.5
    )
    assert record.finished_at is not None
    assert first.finished_at is not None
    assert record.finished_at - first.finished_at >= timedelta(seconds=0.5)


def test_a_slow_answer_takes_nothing_from_the_time_to_be_seen(
    connect_any: Connect, make_server: MakeServer, downloads: Downloads
) -> None:
    server = make_server()
    registry = connect_any(url=server.url)
    first = registry.ensure(*MODEL, downloads)
    looks = 0

    def verify(record: ModelRecord) -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:  # next it is asked how old the record is
            with redis.Redis.from_url(server.url) as raw:
                raw.client_pause(600)
        return record.token > first.token

    record = registry.ensure(*MODEL, downloads, verify=verify, visibility_timeout=1.0)
    assert record.finished_at is not None
    assert first.finished_at is not None
    assert record.finished_at - first.finished_at >= timedelta(seconds=1)


def test_a_rivals_fresh_claim_is_not_deleted(
    any_registry: Registry, other: Registry, downloads: Downloads
) -> None:
    first = any_registry.ensure(*MODEL, downloads)
    rival: list[Any] = []

    def verify(record: ModelRecord) -> bool:
        # While this one looks, the record is replaced.
        if record.token == first.token:
            if not rival:
                other.delete_model(*MODEL)
                rival.append(claimed(other))
                other.finish_download_claim(rival[0], ModelStatus.DOWNLOADED)
            return False
        return True

    record = any_registry.ensure(*MODEL, downloads, verify=verify, visibility_timeout=0.0)
    assert record.token == rival[0].token
    assert len(downloads.claims) == 1


def test_a_verification_that_fails_is_the_callers(any_registry: Registry, downloads: Downloads) -> None:
    def verify(record: ModelRecord) -> bool:
        raise ZeroDivisionError(record.model_name)

    any_registry.ensure(*MODEL, downloads)
    with pytest.raises(ZeroDivisionError):
        any_registry.ensure(*MODEL, downloads, verify=verify)
    assert any_registry.get_status(*MODEL) is ModelStatus.DOWNLOADED


class Nfs(FolderStore):
    """As an NFS client sees it: what it has once not found is there only after its folders were listed."""

    listed = 0

    def contains(self, record: ModelRecord) -> bool:
        return False

    def look_again(self, record: ModelRecord) -> bool:
        self.listed += 1
        return super().look_again(record)


def test_files_that_only_a_listing_shows_are_there(
    any_registry: Registry, other: Registry, store: FolderStore, downloads: Downloads
) -> None:
    record = other.ensure(*MODEL, downloads, store=store)
    seen = Nfs(store.root)
    assert any_registry.ensure(*MODEL, downloads, store=seen) == record
    assert seen.listed == 1
    assert len(downloads.claims) == 1
    assert VISIBILITY_TIMEOUT == 60.0


def test_how_old_files_are_is_told_by_lease_time(
    any_registry: Registry, other: Registry, server_url: str, downloads: Downloads
) -> None:
    # The server's time is two hours ahead of everybody's clock.
    with redis.Redis.from_url(server_url) as raw:
        ahead = round((time.time() + 7200) * 1_000_000)
        raw.hset(ops_of(other).keys.meta, "time", ahead)
    first = other.ensure(*MODEL, downloads)
    good: list[int] = []
    record = any_registry.ensure(
        *MODEL,
        lambda claim: good.append(claim.token),
        verify=lambda seen: seen.token in good,
        visibility_timeout=0.3,
    )
    assert record.token > first.token


# Which cache it is


def test_a_root_that_was_replaced_is_not_the_cache(
    connect_any: Connect, downloads: Downloads, store: FolderStore
) -> None:
    registry = connect_any()
    record = registry.ensure(*MODEL, downloads, store=store)
    store.root.rename(store.root.with_name("unmounted"))
    store.root.mkdir()
    for client in (registry, connect_any()):
        with pytest.raises(CacheMismatch, match="no cache"):
            client.ensure(*MODEL, downloads, store=store, visibility_timeout=0.0)
        with pytest.raises(CacheMismatch):
            client.ensure("another", "S3", downloads, store=store)
    assert registry.get_model_record(*MODEL) == record
    assert len(downloads.claims) == 1
    assert list(store.root.iterdir()) == []


def test_a_root_of_another_namespace_is_not_the_cache(
    any_registry: Registry, downloads: Downloads, store: FolderStore
) -> None:
    store.write_mark(CacheMark("id", "another-namespace"))
    with pytest.raises(CacheMismatch, match="another-namespace"):
        any_registry.ensure(*MODEL, downloads, store=store)
    assert downloads.claims == []


def test_a_second_root_is_not_the_cache(
    any_registry: Registry, downloads: Downloads, store: FolderStore, tmp_path: Path
) -> None:
    any_registry.ensure(*MODEL, downloads, store=store)
    (tmp_path / "second").mkdir()
    with pytest.raises(CacheMismatch):
        any_registry.ensure(*MODEL, downloads, store=FolderStore(tmp_path / "second"))


def test_after_the_loss_of_all_data_the_root_is_still_the_cache(
    any_registry: Registry, other: Registry, downloads: Downloads, store: FolderStore, server_url: str
) -> None:
    any_registry.ensure(*MODEL, downloads, store=store)
    mark = store.read_mark()
    with redis.Redis.from_url(server_url) as raw:
        raw.delete(ops_of(other).keys.meta, *raw.keys(f"pyregistry:{{{other.namespace}}}:*"))
    other.ensure(*MODEL, downloads, store=store)
    assert store.read_mark() == mark
    assert len(downloads.claims) == 2


def test_many_who_begin_at_once_agree_on_the_cache(
    connect_any: Connect, pool: ThreadPoolExecutor, downloads: Downloads, store: FolderStore
) -> None:
    clients = [connect_any() for _ in range(4)]
    wanted = [
        pool.submit(client.ensure, f"m{at}", "S3", downloads, store=store)
        for client in clients
        for at in range(5)
    ]
    for each in wanted:
        each.result(SECONDS)
    assert len(downloads.claims) == 5


CUT = [b"", b'{"cache_id":"4f2a', b"\0" * 40]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is damaged is looked at twice, and not for seconds."""
    monkeypatch.setattr("pyregistry.stores.mark._READ_AGAIN", (0.01, 0.2))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("content", CUT)
def test_a_cut_mark_is_written_anew(
    any_registry: Registry,
    other: Registry,
    downloads: Downloads,
    store: FolderStore,
    content: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = store.root / ".pyregistry" / "cache_id"
    path.parent.mkdir()
    path.write_bytes(content)
    record = any_registry.ensure(*MODEL, downloads, store=store)
    mark = store.read_mark()
    assert mark is not None
    assert mark.namespace == any_registry.namespace
    assert [path.name for path in path.parent.iterdir()] == ["cache_id"]
    assert sum("written anew" in each.getMessage() for each in caplog.records) == 1
    assert other.ensure(*MODEL, downloads, store=store) == record
    assert store.read_mark() == mark


@pytest.mark.usefixtures("impatient")
def test_many_who_find_a_cut_mark_agree_on_the_cache(
    connect_any: Connect, pool: ThreadPoolExecutor, downloads: Downloads, store: FolderStore
) -> None:
    path = store.root / ".pyregistry" / "cache_id"
    path.parent.mkdir()
    path.touch()
    wanted = [
        pool.submit(connect_any().ensure, f"m{at}", "S3", downloads, store=FolderStore(store.root))
        for at in range(8)
    ]
    for each in wanted:
        each.result(SECONDS)
    assert len(downloads.claims) == 8
    assert "cache_id" in [path.name for path in path.parent.iterdir()]
    assert not list(path.parent.glob("cache_id-*"))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("content", CUT)
def test_a_cut_mark_of_a_cache_that_the_registry_knows_is_for_a_person(
    connect_any: Connect, downloads: Downloads, store: FolderStore, content: bytes
) -> None:
    record = connect_any().ensure(*MODEL, downloads, store=store)
    path = store.root / ".pyregistry" / "cache_id"
    whole = path.read_text()
    path.write_bytes(content)
    with pytest.raises(CacheMismatch, match="damaged") as mismatch:
        connect_any().ensure(*MODEL, downloads, store=store)
    assert path.read_bytes() == content
    assert str(path) in str(mismatch.value)
    path.write_text(str(mismatch.value).partition("to that file: ")[2])  # as it says
    assert path.read_text() == whole
    assert connect_any().ensure(*MODEL, downloads, store=store) == record
