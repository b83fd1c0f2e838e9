"""A download that another ends: its owner stops, waiters are told why, nobody begins it again before its time."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest

from pyregistry import (
    AsyncRegistry,
    ClaimLost,
    DownloadFailed,
    EventKind,
    InvalidArgument,
    ModelStatus,
    OwnedClaim,
    Registry,
    RegistryEvent,
    RetryPolicy,
)
from tests.support.faults.proxy import SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.clients import Connect

MODEL: Final = ("org/model", "HuggingFace")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Downloads:
    """Downloads until the claim is lost."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.claims: list[OwnedClaim] = []

    def __call__(self, claim: OwnedClaim) -> None:
        self.claims.append(claim)
        self.begun.set()
        until(claim.lost.is_set, "it is told to stop")


@pytest.fixture
def downloads() -> Downloads:
    return Downloads()


@pytest.mark.parametrize("permanent", [False, True])
def test_the_owner_stops_at_once_and_waiters_are_told(
    connect_any: Connect, other: Registry, pool: ThreadPoolExecutor, downloads: Downloads, permanent: bool
) -> None:
    """A cancel ends the owner's download at once, and owner and waiters raise its message."""
    # By the lease alone it would hear of it after ten minutes.
    wanted = pool.submit(connect_any().ensure, MODEL[0], MODEL[1], downloads, lease=1800.0)
    assert downloads.begun.wait(SECONDS)
    waits = pool.submit(connect_any().ensure, MODEL[0], MODEL[1], downloads)
    assert other.cancel_download(*MODEL, "the wrong model", permanent=permanent)
    for each in (wanted, waits):
        with pytest.raises(DownloadFailed, match=f"cancelled by {other.owner}: the wrong model"):
            each.result(SECONDS)
    error = wanted.exception()
    assert error is not None
    assert isinstance(error.__cause__, ClaimLost)
    assert "the wrong model" in downloads.claims[0].lost.why
    assert len(downloads.claims) == 1
    record = other.get_model_record(*MODEL)
    assert record is not None
    assert (record.status, record.permanent) == (ModelStatus.ERROR, permanent)
    assert (record.retry_at is None) is permanent
    with pytest.raises(DownloadFailed, match="the wrong model"):
        other.ensure(*MODEL, downloads, retry=RetryPolicy(attempts=100))
    assert other.try_reset_error_for_retry(*MODEL) is None


def cancelled_block(registry: Registry, other: Registry) -> None:
    with registry.download(*MODEL, lease=1800.0) as owned:
        assert isinstance(owned, OwnedClaim)
        assert other.cancel_download(*MODEL, "not now")
        until(owned.lost.is_set, "it is told to stop")


def test_a_block_is_cancelled(registry: Registry, other: Registry) -> None:
    """A cancel makes a block raise ClaimLost with the message."""
    with pytest.raises(ClaimLost, match="not now"):
        cancelled_block(registry, other)


def test_an_async_block_is_cancelled(server_url: str, namespace: str, other: Registry) -> None:
    """A cancel makes an asynchronous block raise ClaimLost with the message."""

    async def block(registry: AsyncRegistry) -> None:
        async with registry.download(*MODEL, lease=1800.0):
            assert await asyncio.to_thread(other.cancel_download, *MODEL, "not now")
            await asyncio.wait_for(asyncio.Event().wait(), SECONDS)

    async def main() -> None:
        async with AsyncRegistry.from_url(server_url, namespace) as registry:
            with pytest.raises(ClaimLost, match="not now"):
                await block(registry)

    asyncio.run(main())


def test_another_may_begin_it_at_once(
    connect_any: Connect, other: Registry, pool: ThreadPoolExecutor, downloads: Downloads
) -> None:
    """A cancel with retry_in=0 lets a new attempt begin at once."""
    wanted = pool.submit(connect_any().ensure, MODEL[0], MODEL[1], downloads, lease=1800.0)
    assert downloads.begun.wait(SECONDS)
    downloads.begun.clear()
    assert other.cancel_download(*MODEL, retry_in=0)
    assert downloads.begun.wait(SECONDS)
    assert [claim.attempts for claim in downloads.claims] == [1, 1]
    assert other.cancel_download(*MODEL, permanent=True)
    with pytest.raises(DownloadFailed):
        wanted.result(SECONDS)


def test_what_it_says_and_to_whom(any_registry: Registry, other: Registry) -> None:
    """A cancel returns whether it ended a claim, and publishes an event with its caller."""
    assert not any_registry.cancel_download(*MODEL)
    claim = other.try_claim_for_download(*MODEL).claim  # type: ignore[union-attr]  # it is free
    assert not any_registry.cancel_download(*MODEL, expected_token=claim.token + 1)
    with other.watch(*MODEL) as events:
        assert any_registry.cancel_download(*MODEL, "why", expected_token=claim.token)
        event = next(events)
    assert isinstance(event, RegistryEvent)
    assert (event.kind, event.by, event.claim_id) == (
        EventKind.CANCELLED,
        any_registry.owner,
        claim.claim_id,
    )
    assert event.record.retry_at is not None
    assert (event.record.retry_at - event.at).total_seconds() == 300
    # Sent again, it was done.
    assert any_registry.cancel_download(*MODEL, expected_token=claim.token)
    assert not any_registry.cancel_download(*MODEL)
    assert not other.finish_download_claim(claim, ModelStatus.DOWNLOADED)


def test_wrong_calls(any_registry: Registry) -> None:
    """A cancel with invalid arguments raises InvalidArgument."""
    with pytest.raises(InvalidArgument, match="retry_in"):
        any_registry.cancel_download(*MODEL, permanent=True, retry_in=5)
    with pytest.raises(InvalidArgument, match="expected_token"):
        any_registry.cancel_download(*MODEL, expected_token=-1)
    with pytest.raises(InvalidArgument, match="message"):
        any_registry.cancel_download(*MODEL, "x" * 5000)


def test_set_status_says_more(any_registry: Registry, other: Registry) -> None:
    """set_status accepts permanent, retry_in, size_bytes and location where the status allows them."""
    any_registry.set_status(*MODEL, "ERROR", "gated", permanent=True)
    with pytest.raises(DownloadFailed, match="gated"):
        other.ensure(*MODEL, print)
    any_registry.set_status(*MODEL, "ERROR", retry_in=3600)
    assert other.try_reset_error_for_retry(*MODEL) is None
    any_registry.set_status(*MODEL, "DOWNLOADED", size_bytes=7, location="there/1")
    record = other.get_model_record(*MODEL)
    assert record is not None
    assert (record.size_bytes, record.location, record.retry_at) == (7, "there/1", None)
    for options in ({"permanent": True}, {"retry_in": 1.0}):
        with pytest.raises(InvalidArgument, match="is for an ERROR"):
            any_registry.set_status(*MODEL, "DOWNLOADED", **options)
    for named in ({"size_bytes": 1}, {"location": "x"}):
        with pytest.raises(InvalidArgument, match="is for a DOWNLOADED"):
            any_registry.set_status(*MODEL, "ERROR", **named)
    with pytest.raises(InvalidArgument, match="contradicts"):
        any_registry.set_status(*MODEL, "ERROR", permanent=True, retry_in=1.0)
