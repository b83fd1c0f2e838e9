"""ensure and download: one caller downloads, the others get what it brought. The same through both clients."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pyregistry import (
    AsyncRegistry,
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
from pyregistry._core import backoff
from pyregistry._core.clock import now
from pyregistry._redis.protocol.outcomes import ATTEMPTS
from tests.support.clients import AsyncFacade
from tests.support.downloads import MODEL, Downloads, claimed, listens
from tests.support.faults.proxy import SECONDS, Proxy, until
from tests.support.internals import lease_time_of, subscriber_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import MakeServer
    from tests.support.clients import Connect

# One download


def test_it_is_downloaded_once(any_registry: Registry, downloads: Downloads) -> None:
    """A second ensure of a downloaded model returns the same record without a download."""
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
    """Concurrent calls of several clients cause one download and return the same record."""
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
    """Each revision and subset is downloaded for itself."""
    every: list[dict[str, Any]] = [{}, {"revision": "main"}, {"revision": "main", "subset": "tokenizer"}]
    for options in every:
        record = any_registry.ensure(*MODEL, downloads, **options)
        assert (record.revision, record.subset) == (options.get("revision"), options.get("subset"))
    assert len(downloads.claims) == 3


def test_what_it_was_is_recorded(any_registry: Registry) -> None:
    """What the download describes is in the record."""

    def download(claim: OwnedClaim) -> None:
        claim.describe(size_bytes=5, location="there")
        claim.describe(resolved_revision="abc")

    record = any_registry.ensure(*MODEL, download, expected_bytes=7)
    assert (record.size_bytes, record.location, record.resolved_revision) == (5, "there", "abc")
    assert record.finished_at == record.last_used_at


def test_progress_is_seen(any_registry: Registry, other: Registry, pool: ThreadPoolExecutor) -> None:
    """The progress that a download reports is in the record."""
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
    """Many progress reports cause few renewals."""

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
    """Invalid progress raises in the download and does not end it."""

    def download(claim: OwnedClaim) -> None:
        with pytest.raises(InvalidArgument):
            claim.report(*wrong)

    assert any_registry.ensure(*MODEL, download).status is ModelStatus.DOWNLOADED


def test_a_takeover_is_told_of_the_one_before(
    any_registry: Registry, other: Registry, downloads: Downloads
) -> None:
    """A claim that takes over has the former owner and its progress."""
    theirs = claimed(other)
    other.refresh_download_claim(theirs, bytes_done=4711)
    other.release_download_claim(theirs)
    any_registry.ensure(*MODEL, downloads)
    (claim,) = downloads.claims
    assert (claim.taken_over, claim.previous_owner, claim.previous_bytes_done) == (True, "other", 4711)


def test_who_waits_takes_over_when_the_lease_ends(
    any_registry: Registry, other: Registry, downloads: Downloads
) -> None:
    """A waiter takes over when the owner's lease expires."""
    theirs = claimed(other, lease=0.5)  # nobody renews it
    record = any_registry.ensure(*MODEL, downloads)
    assert record.token > theirs.token
    assert not other.finish_download_claim(theirs, ModelStatus.DOWNLOADED)
    assert other.get_model_record(*MODEL) == record


def test_who_waits_goes_on_at_once_when_it_is_given_back(
    any_registry: Registry, other: Registry, downloads: Downloads, pool: ThreadPoolExecutor
) -> None:
    """A waiter claims at once when the owner releases."""
    theirs = claimed(other, lease=3600.0)
    wanted = pool.submit(any_registry.ensure, MODEL[0], MODEL[1], downloads)
    until(lambda: listens(other), "it waits")
    assert other.release_download_claim(theirs)
    assert wanted.result(SECONDS).owner != "other"


# Errors


def test_an_error_is_recorded_and_told(any_registry: Registry, downloads: Downloads) -> None:
    """An error of the download is recorded and raised with its cause, without secrets."""
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
    """Several clients together make as many attempts as the policy allows."""
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
    """A failed attempt is retried until one succeeds."""

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
    """An error that the policy calls permanent is retried by no client."""
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
    """A waiter without retries raises the owner's error."""
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
    """A model that has lost as many owners as allowed attempts raises DownloadFailed."""
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
    """Attempts are separated by the delays of the policy."""
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
    """An owner whose lease is over sends no finish."""
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
    """An owner counts its lease from when the request was sent, and renews at a third of it."""
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
    """A wait beyond the timeout raises WaitTimedOut."""
    claimed(other)
    for timeout in (0.0, 0.3):
        with pytest.raises(WaitTimedOut) as caught:
            any_registry.ensure(*MODEL, downloads, timeout=timeout)
        assert isinstance(caught.value, TimeoutError)
    assert downloads.claims == []


def test_the_back_off_is_a_wait_too(any_registry: Registry, other: Registry, downloads: Downloads) -> None:
    """A back-off beyond the timeout raises WaitTimedOut."""
    other.finish_download_claim(claimed(other), ModelStatus.ERROR, retry_in=3600.0)
    with pytest.raises(WaitTimedOut):
        any_registry.ensure(*MODEL, downloads, timeout=0.2)


def test_every_wait_is_bounded(
    any_registry: Registry, connect_any: Connect, make_server: MakeServer, store: FolderStore, other: Registry
) -> None:
    """The timeout bounds waits for files, in blocks, and for a server that is away."""
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
    """The block form refuses the same invalid options as ensure."""
    for argument, wrong in (("lease", None), ("retry", 3), ("timeout", -1.0), ("on_unproven", "maybe")):
        with pytest.raises(InvalidArgument) as caught:
            enter(any_registry, *MODEL, **{argument: wrong})
        assert caught.value.argument == argument
    assert any_registry.get_status(*MODEL) is None


def test_what_is_no_function_is_told(connect_any: Connect, server_url: str, namespace: str) -> None:
    """A download or verify of the wrong kind raises InvalidArgument before any claim."""

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
    """A waiter accepts a status that set_status has written."""
    other.set_status(*MODEL, ModelStatus.DOWNLOADING)
    wanted = pool.submit(any_registry.ensure, MODEL[0], MODEL[1], downloads, touch=False)
    until(lambda: listens(other), "it waits")
    other.set_status(*MODEL, ModelStatus.DOWNLOADED)
    assert wanted.result(SECONDS) == other.get_model_record(*MODEL)
    assert downloads.claims == []


def test_who_waits_learns_that_its_client_is_closed(
    connect_any: Connect, other: Registry, downloads: Downloads, pool: ThreadPoolExecutor
) -> None:
    """close makes the waiters of a client raise RegistryClosed."""
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
    """An invalid option raises InvalidArgument with its name and claims nothing."""
    with pytest.raises(InvalidArgument) as caught:
        any_registry.ensure(*MODEL, downloads, **options)
    assert caught.value.argument == argument
    with pytest.raises(InvalidArgument):
        any_registry.ensure("", "S3", downloads)
    assert any_registry.get_model_record(*MODEL) is None


def test_a_policy_is_checked() -> None:
    """RetryPolicy refuses invalid values and bounds its delays."""
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
