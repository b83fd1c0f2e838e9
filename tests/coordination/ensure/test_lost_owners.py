"""ensure: owners whose claims are lost, and downloads that hang."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyregistry import DownloadFailed, FolderStore, ModelStatus, OwnedClaim, Registry, RetryPolicy
from tests.support.downloads import MODEL, MOST_BATCHES, Downloads
from tests.support.faults.proxy import SECONDS


@pytest.mark.parametrize("error", [None, FileNotFoundError("swept")], ids=["ends well", "fails"])
def test_what_was_lost_does_not_count(
    any_registry: Registry,
    other: Registry,
    downloads: Downloads,
    pool: ThreadPoolExecutor,
    error: Exception | None,
) -> None:
    """The result of a download whose claim is lost is dropped for the current record."""
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
    """A download without progress for stall_timeout loses its claim and counts as failed."""
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
    """A stalled download publishes nothing even if it ends without an error."""

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
    """Progress within stall_timeout keeps a download alive."""

    def download(claim: OwnedClaim) -> None:
        for done in range(12):
            claim.report(done)
            assert not claim.lost.wait(0.1)

    assert any_registry.ensure(*MODEL, download, stall_timeout=1.0).attempts == 1


def test_a_download_that_reports_nothing_is_not_ended(any_registry: Registry) -> None:
    """stall_timeout does not apply to a download that never reports progress."""

    def download(claim: OwnedClaim) -> None:
        assert not claim.lost.wait(0.5)

    assert any_registry.ensure(*MODEL, download, stall_timeout=0.1).attempts == 1
