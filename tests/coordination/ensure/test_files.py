"""ensure with a store: files that are published, found, missing; and which cache a root is."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pyregistry import (
    CacheMismatch,
    DownloadFailed,
    FolderStore,
    InvalidArgument,
    ModelRecord,
    ModelStatus,
    OwnedClaim,
    Registry,
)
from pyregistry._coordination.options import VISIBILITY_TIMEOUT
from pyregistry.store import CacheMark
from tests.support.downloads import MODEL, Downloads, claimed
from tests.support.faults.proxy import SECONDS
from tests.support.internals import ops_of

if TYPE_CHECKING:
    from tests.conftest import MakeServer
    from tests.support.clients import Connect

# Files


def test_a_store_publishes_what_was_downloaded(
    any_registry: Registry, downloads: Downloads, store: FolderStore
) -> None:
    """A download with a store is published, recorded with size and location, and leaves no staging."""
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
    """A failed download publishes no file and leaves no staging."""
    downloads.error = LookupError("no")
    with pytest.raises(DownloadFailed):
        any_registry.ensure(*MODEL, downloads, store=store, retry=None)
    assert [path.name for path in store.root.iterdir()] == [".pyregistry"]
    assert list((store.root / ".pyregistry" / "staging").glob("*/*")) == []


def test_a_download_with_a_link_that_would_not_hold(
    any_registry: Registry, store: FolderStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A link out of the download is refused unless the store allows it."""
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
    """The link by name leads to the latest download."""
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
    """The staging folder of a dead owner is removed."""
    dead = claimed(other, lease=0.2)
    (store.staging(dead) / "half").write_bytes(b"x")
    record = any_registry.ensure(*MODEL, downloads, store=store)
    assert not (
        store.root / ".pyregistry" / "staging" / store.path(record).parent.name / str(dead.token)
    ).exists()


def test_files_that_are_gone_are_downloaded_again(
    any_registry: Registry, downloads: Downloads, store: FolderStore
) -> None:
    """Missing files are downloaded again under a later token."""
    first = any_registry.ensure(*MODEL, downloads, store=store)
    (store.path(first) / "weights").unlink()
    store.path(first).rmdir()
    second = any_registry.ensure(*MODEL, downloads, store=store, visibility_timeout=0.0)
    assert second.token > first.token
    assert store.contains(second)
    assert len(downloads.claims) == 2


def test_files_that_somebody_verifies(any_registry: Registry, downloads: Downloads) -> None:
    """A verify that returns False causes a new download."""
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
    """Files that appear within visibility_timeout are not downloaded again."""
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
    """Files that stay invisible for visibility_timeout are downloaded again."""
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
    """A slow reply does not shorten visibility_timeout."""
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
    """A failed verification does not delete a record that has replaced the verified one."""
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
    """An exception of verify reaches the caller and leaves the record as it is."""

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
    """Files that only a listing of their folder shows are found."""
    record = other.ensure(*MODEL, downloads, store=store)
    seen = Nfs(store.root)
    assert any_registry.ensure(*MODEL, downloads, store=seen) == record
    assert seen.listed == 1
    assert len(downloads.claims) == 1
    assert VISIBILITY_TIMEOUT == 60.0


def test_how_old_files_are_is_told_by_lease_time(
    any_registry: Registry, other: Registry, server_url: str, downloads: Downloads
) -> None:
    """The age of files is measured in the server's lease time."""
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
    """A root that lost its mark raises CacheMismatch and is not written to."""
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
    """A root with the mark of another namespace raises CacheMismatch."""
    store.write_mark(CacheMark("id", "another-namespace"))
    with pytest.raises(CacheMismatch, match="another-namespace"):
        any_registry.ensure(*MODEL, downloads, store=store)
    assert downloads.claims == []


def test_a_second_root_is_not_the_cache(
    any_registry: Registry, downloads: Downloads, store: FolderStore, tmp_path: Path
) -> None:
    """A second root for the same namespace raises CacheMismatch."""
    any_registry.ensure(*MODEL, downloads, store=store)
    (tmp_path / "second").mkdir()
    with pytest.raises(CacheMismatch):
        any_registry.ensure(*MODEL, downloads, store=FolderStore(tmp_path / "second"))


def test_after_the_loss_of_all_data_the_root_is_still_the_cache(
    any_registry: Registry, other: Registry, downloads: Downloads, store: FolderStore, server_url: str
) -> None:
    """The mark of a root outlasts the loss of all data on the server."""
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
    """Concurrent first downloads agree on one mark."""
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
    """A truncated mark of an unknown cache is rewritten once, with a warning."""
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
    """Concurrent clients that find a truncated mark agree on one new mark."""
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
    """A truncated mark of a known cache raises an error that says how to restore it."""
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
