"""Which cache a root is: the mark in it."""

from __future__ import annotations

import errno
import os
import time

import pytest

from pyregistry.errors import CacheMismatch
from pyregistry.store import CacheMark, FolderStore
from tests.support.stores import failing, tokens, tree
from tests.support.threads import at_once

MARK = CacheMark("4f2a", "shared-cache")


@pytest.fixture(params=["links", "no links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no links":
        monkeypatch.setattr(os, "link", failing(errno.EPERM))


@pytest.mark.usefixtures("links")
def test_the_first_mark_stays(store: FolderStore) -> None:
    """The first mark of a root stays."""
    assert store.read_mark() is None
    assert store.write_mark(MARK) == MARK
    assert store.write_mark(CacheMark("other", "another")) == MARK
    assert FolderStore(store.root).read_mark() == MARK
    assert (
        store.root / ".pyregistry/cache_id"
    ).read_text() == '{"cache_id":"4f2a","namespace":"shared-cache"}'
    assert tree(store.root) == {".pyregistry", ".pyregistry/cache_id"}


@pytest.mark.usefixtures("links")
def test_many_write_the_mark_at_once(store: FolderStore) -> None:
    """Concurrent writers agree on one mark and leave no other file."""
    for turn in range(20):
        marks = [CacheMark(f"{turn}-{each}", "n") for each in range(4)]
        results = at_once([lambda mark=mark: store.write_mark(mark) for mark in marks])  # type: ignore[misc]  # mark
        assert len({mark.cache_id for mark in results}) == 1
        assert results[0] in marks
        assert store.read_mark() == results[0]
        assert tokens(store.root / ".pyregistry") == ["cache_id"]
        (store.root / ".pyregistry/cache_id").unlink()


def test_a_mark_is_readable_by_others(store: FolderStore) -> None:
    """A mark has the permissions of any new file."""
    store.write_mark(MARK)
    (store.root / "usual").touch()
    usual = (store.root / "usual").stat().st_mode
    assert (store.root / ".pyregistry/cache_id").stat().st_mode == usual


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"4f2a",
        b'{"cache_id":"a"}',
        b'{"cache_id":"","namespace":"n"}',
        b'{"cache_id":"\xff"}',
    ],
)
def test_a_damaged_mark(store: FolderStore, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """A damaged mark raises CacheMismatch and is left as it is."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    path = store.root / ".pyregistry/cache_id"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CacheMismatch, match="damaged"):
        store.read_mark()
    with pytest.raises(CacheMismatch, match="damaged"):
        store.write_mark(MARK)
    assert path.read_bytes() == content
    assert tokens(path.parent) == ["cache_id"]


def test_a_mark_that_is_being_written(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark that is being written is read again."""
    path = store.root / ".pyregistry/cache_id"
    path.parent.mkdir()
    path.touch()
    content = b'{"cache_id":"4f2a","namespace":"shared-cache","newer":1}'
    monkeypatch.setattr(time, "sleep", lambda _: path.write_bytes(content))
    assert store.read_mark() == MARK


def test_a_mark_that_is_removed_at_once_is_written_again(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark removed right after it was written is written again."""
    read = store.read_mark
    path = store.root / ".pyregistry/cache_id"
    removals = iter([True, False])

    def read_mark(_self: FolderStore) -> CacheMark | None:
        if next(removals):
            path.unlink()
        return read()

    monkeypatch.setattr(FolderStore, "read_mark", read_mark)
    assert store.write_mark(MARK) == MARK


def test_a_mark_that_can_not_be_written(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark that can not be written raises and leaves no file."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", failing(errno.EIO))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            store.write_mark(MARK)
    assert tokens(store.root / ".pyregistry") == []
    assert store.read_mark() is None
