"""download, the block form: its ends, its errors, and the loss of its claim."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from pyregistry import (
    AlreadyExists,
    AsyncRegistry,
    Claimed,
    ClaimLost,
    DownloadFailed,
    FolderStore,
    ModelRecord,
    ModelStatus,
    OwnedClaim,
    Registry,
)
from tests.support.downloads import MODEL, claimed
from tests.support.faults.proxy import SECONDS, until


def test_a_block_downloads_or_gets_the_record(server_url: str, namespace: str, other: Registry) -> None:
    """A block gets the claim of a missing model and the record of a downloaded one."""
    with Registry.from_url(server_url, namespace) as registry:
        with registry.download(*MODEL) as got:
            assert isinstance(got, OwnedClaim)
            got.describe(size_bytes=5)
            assert isinstance(other.try_claim_for_download(*MODEL), AlreadyExists)
        with registry.download(*MODEL) as again:
            assert isinstance(again, ModelRecord)
            assert (again.size_bytes, again.token) == (5, got.token)


def test_a_block_that_fails_is_recorded(server_url: str, namespace: str) -> None:
    """An exception in a block makes the model an ERROR with its text."""
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
    """KeyboardInterrupt and SystemExit release the claim without an attempt used."""
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
    """KeyboardInterrupt and SystemExit on an event loop release the claim without an attempt used."""

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
    """A block whose claim is lost raises ClaimLost at its end."""
    with Registry.from_url(server_url, namespace) as registry:
        with pytest.raises(ClaimLost), registry.download(*MODEL, lease=0.6) as got:  # noqa: PT012 - a block
            assert isinstance(got, OwnedClaim)
            other.delete_model(*MODEL)
            theirs = claimed(other)
            assert got.lost.wait(SECONDS)
        assert other.finish_download_claim(theirs, ModelStatus.DOWNLOADED)


async def test_an_async_block(server_url: str, namespace: str, other: Registry) -> None:
    """An asynchronous block is cancelled on loss, and a cancelled one releases its claim."""
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
