"""Stores on file systems that lack something, and stores that publish without a rename."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pyregistry import FolderStore, InvalidArgument, ModelRef
from pyregistry.errors import ClaimLost
from pyregistry.store import Published
from tests.support.faults.mounts import on_mount
from tests.support.stores import FOLDER, REF, claim_of, publish, record_at, stage, tokens, tree, yes

UPPER = ModelRef("Org/Model", "HuggingFace")


@pytest.fixture
def listed(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path, publish="manifest")


# Names that differ in case only


def test_models_that_differ_in_case_share_nothing_where_case_is_folded(tmp_path: Path) -> None:
    """Models that differ in case have separate folders on a file system that folds case."""
    code = """
store, upper = FolderStore(root), ModelRef("Org/Model", "HuggingFace")
(root / "FOLDS").touch()
assert (root / "folds").exists(), "the mount does not fold"
one, two = publish(store, 5, content=b"lower"), publish(store, 6, upper, b"UPPER!")
assert store.find(REF) == one and store.find(upper) == two
assert store.path(record_at(one.location)).joinpath("file").read_bytes() == b"lower"
assert store.sweep(upper, 9, two.location) == [] and store.sweep(REF, 9, one.location) == []
stage(store, 7), stage(store, 8, upper)
assert [path.name for path in store.sweep(REF, 9, None)] == ["7"]
assert store.contains(record_at(one.location)) and store.contains(record_at(two.location))
print(one.location, two.location)
"""
    assert on_mount(code, tmp_path, FOLDS=1).split() == [f"{FOLDER}/5", "HuggingFace=Org%2FModel+90/6"]


def test_a_former_folder_is_found_and_swept(tmp_path: Path) -> None:
    """Folders named by an older version are found and swept."""
    store = FolderStore(tmp_path)
    for model, form in ((UPPER, "HuggingFace%3AOrg%2FModel"), (REF, "HuggingFace%3Aorg%2Fmodel")):
        (tmp_path / form / "5").mkdir(parents=True)
        (tmp_path / form / "5/file").write_bytes(form.encode())
        (tmp_path / ".pyregistry/staging" / form / "6").mkdir(parents=True)
        assert store.find(model) == Published(f"{form}/5", len(form))
        assert store.contains(record_at(f"{form}/5"))
        assert store.sweep(model, 9, f"{form}/5") == [tmp_path / ".pyregistry/staging" / form / "6"]
        new = publish(store, 8, model)
        assert store.find(model) == new
        assert store.sweep(model, 9, new.location) == [tmp_path / form / "5"]
        assert not (tmp_path / form).exists()


def test_a_former_folder_that_may_be_anothers_is_left_alone(tmp_path: Path) -> None:
    """A folder of an older version that may belong to two models is left alone."""
    code = """
store = FolderStore(root)
(root / "HuggingFace%3AOrg%2FModel/5").mkdir(parents=True)  # an older version put both models here
(root / "HuggingFace%3AOrg%2FModel/5/file").touch()
for model in (REF, ModelRef("Org/Model", "HuggingFace")):
    assert store.find(model) is None
    new = publish(store, 8, model)
    assert store.sweep(model, 9, new.location) == []
assert store.contains(record_at("HuggingFace%3AOrg%2FModel/5"))
"""
    on_mount(code, tmp_path, FOLDS=1)


# Folders that can't be renamed


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ENOTSUP])
def test_a_root_that_can_not_rename_folders_is_found_before_the_download(tmp_path: Path, number: int) -> None:
    """check raises LocalFault on a root that can not rename folders."""
    code = """
from pyregistry import LocalFault
try:
    FolderStore(root).check()
except LocalFault as error:
    print(type(error.__cause__.errno).__name__, error.__cause__.errno, error)
FolderStore(root, publish="manifest").check()
"""
    _, said, message = on_mount(code, tmp_path, RENAME=number).split(" ", 2)
    assert int(said) == number
    assert str(tmp_path) in message
    assert "rename a folder" in message
    assert os.strerror(number) in message
    if number != errno.EACCES:
        assert 'publish="manifest"' in message
    assert tree(tmp_path) == {".pyregistry"}


def test_a_store_without_renames(tmp_path: Path) -> None:
    """publish="manifest" works without renames of folders."""
    code = """
store = FolderStore(root, publish="manifest", by_name=True)
store.check()
staging = store.staging(claim_of(5))
(staging / "a").mkdir()
(staging / "a/weights").write_bytes(b"x" * 1000)
(staging / "link").symlink_to(staging / "a/weights")
def prove():
    assert store.find(REF) is None
    assert not store.contains(record_at(FOLDER + "/5.files"))
    return True
one = store.publish(claim_of(5), prove)
assert store.publish(claim_of(5), prove) == one
assert store.find(REF) == one
record = record_at(one.location)
assert store.contains(record) and store.look_again(record)
assert not store.contains(record_at(FOLDER + "/6.files"))
assert (store.path(record) / "link").read_bytes() == b"x" * 1000
stage(store, 6)
assert [path.name for path in store.sweep(REF, 7, None)] == ["6.files"]
assert store.contains(record)
two = publish(store, 8)
assert store.find(REF) == two
assert [path.name for path in store.sweep(REF, 9, two.location)] == ["5.files"]
assert not store.contains(record) and store.contains(record_at(two.location))
claim = stage(store, 10)
store.discard(claim)
store.discard(claim_of(8))
assert tokens(root / FOLDER) == ["8.files", "8.json"]
print(one.location, one.size_bytes)
"""
    assert on_mount(code, tmp_path, RENAME=errno.EXDEV).split() == [f"{FOLDER}/5.files", "1000"]
    assert tokens(tmp_path / ".pyregistry") == []


ENSURE = """
import asyncio, json
from pyregistry import AsyncRegistry, Registry, RetryPolicy
url, namespace, kind = sys.argv[1:]
store = FolderStore(root, publish="manifest")
def download(claim, folder):
    (folder / "weights").write_bytes(b"x" * 14)
def checked(record):
    assert store.contains(record)
    print(json.dumps([record.location, record.size_bytes, record.token]))
async def on_a_loop():
    async with AsyncRegistry.from_url(url, namespace) as registry:
        return await registry.ensure("org/model", "HuggingFace", download, store=store)
if kind == "asyncio":
    checked(asyncio.run(on_a_loop()))
else:
    with Registry.from_url(url, namespace) as registry:
        checked(registry.ensure("org/model", "HuggingFace", download, store=store))
"""


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_a_fleet_on_a_mount_without_renames(
    tmp_path: Path, server_url: str, namespace: str, kind: str
) -> None:
    """ensure with publish="manifest" works without renames, and downloads incomplete files again."""
    first: Any = json.loads(on_mount(ENSURE, tmp_path, server_url, namespace, kind, RENAME=errno.EXDEV))
    assert first[:2] == [f"{FOLDER}/{first[2]}.files", 14]
    again: Any = json.loads(on_mount(ENSURE, tmp_path, server_url, namespace, kind, RENAME=errno.EXDEV))
    assert again == first
    (tmp_path / FOLDER / f"{first[2]}.files/weights").write_bytes(b"cut")  # not all that the manifest lists
    code = ENSURE.replace("store=store)", "store=store, visibility_timeout=0.0)")
    third: Any = json.loads(on_mount(code, tmp_path, server_url, namespace, kind, RENAME=errno.EXDEV))
    assert third[2] > first[2]
    assert tokens(tmp_path / FOLDER) == [f"{third[2]}.files", f"{third[2]}.json"]


def test_what_can_not_be_flushed_is_not_published(tmp_path: Path) -> None:
    """A store that can not flush publishes nothing, and check says so."""
    code = """
from pyregistry import LocalFault
for how in ("rename", "manifest"):
    store = FolderStore(root, publish=how)
    claim = stage(store, 5)
    try:
        store.publish(claim, yes)
    except OSError as error:
        print(error.errno, error.filename)
    try:
        store.check()
    except LocalFault as error:
        print(error.__cause__.errno, "room on the volume" in str(error))
    assert store.find(REF) is None
    store.discard(claim)
"""
    said = on_mount(code, tmp_path, FSYNC=errno.ENOSPC).splitlines()
    assert [line.split()[0] for line in said] == [str(errno.ENOSPC)] * 4
    assert [line.split()[1] for line in said[::2]] == [
        str(tmp_path / f".pyregistry/staging/{FOLDER}/5/file"),
        str(tmp_path / FOLDER / "5.files/file"),
    ]
    assert [line.split()[1] for line in said[1::2]] == ["True", "True"]
    assert not [path for path in tree(tmp_path) if "probe" in path]


# Manifests


def test_a_manifest_lists_what_there_is(listed: FolderStore) -> None:
    """A manifest lists every file with its size, and every link."""
    claim = claim_of(5)
    staging = listed.staging(claim)
    (staging / "a b").mkdir()
    (staging / "a b/ü").write_bytes(b"12")
    (staging / os.fsdecode(b"\xff")).write_bytes(b"3")
    (staging / "link").symlink_to("a b/ü")
    published = listed.publish(claim, yes)
    assert published.size_bytes == 3
    content: Any = json.loads((listed.root / FOLDER / "5.json").read_bytes())
    assert content == {"files": {"a%20b/%C3%BC": 2, "%FF": 1}, "links": {"link": "a%20b/%C3%BC"}}
    assert listed.contains(record_at(published.location))


@pytest.mark.parametrize("damage", ["file", "folder", "link", "size", "cut", "empty"])
def test_what_is_not_whole_is_not_there(listed: FolderStore, damage: str) -> None:
    """A published folder that differs from its manifest is not found."""
    claim = stage(listed, 5)
    staging = listed.staging(claim)
    (staging / "sub").mkdir()
    (staging / "sub/more").write_bytes(b"1")
    (staging / "link").symlink_to("file")
    published = listed.publish(claim, yes)
    for store in (listed, FolderStore(listed.root)):
        assert store.contains(record_at(published.location))
    manifest = listed.root / FOLDER / "5.json"
    match damage:
        case "file":
            (staging / "file").unlink()
        case "folder":
            (staging / "sub/more").unlink()
            (staging / "sub").rmdir()
        case "link":
            (staging / "link").unlink()
        case "size":
            (staging / "file").write_bytes(b"weight")
        case "cut":
            manifest.write_bytes(manifest.read_bytes()[:-9])
        case "empty":
            manifest.write_bytes(b"")
    for store in (listed, FolderStore(listed.root)):
        assert not store.contains(record_at(published.location))
        assert not store.look_again(record_at(published.location))
        assert store.find(REF) is None


def test_a_cut_manifest_is_written_anew(listed: FolderStore) -> None:
    """A truncated manifest is rewritten by its claim."""
    claim = stage(listed, 5)
    (listed.root / FOLDER / "5.json").write_bytes(b'{"files":')  # written by this claim, and stopped
    assert listed.find(REF) is None
    assert listed.publish(claim, yes) == listed.find(REF)


def test_what_was_published_with_a_manifest_is_not_changed(listed: FolderStore) -> None:
    """A second download of one claim does not replace a published manifest."""
    publish(listed, 5)
    again = claim_of(5)
    (listed.staging(again) / "more").touch()
    with pytest.raises(FileExistsError, match="already"):
        listed.publish(again, yes)


def test_a_lost_claim_writes_no_manifest(listed: FolderStore) -> None:
    """A publish whose proof fails writes no manifest."""
    claim = stage(listed, 5)
    with pytest.raises(ClaimLost, match="token 5"):
        listed.publish(claim, lambda: False)
    assert listed.find(REF) is None
    assert tokens(listed.root / FOLDER) == ["5.files"]
    with pytest.raises(FileNotFoundError, match="nothing to publish"):
        listed.publish(claim_of(6), yes)


def test_stores_of_both_kinds_share_a_root(listed: FolderStore) -> None:
    """Stores with and without manifests find and sweep each other's folders."""
    renaming = FolderStore(listed.root)
    half = stage(listed, 7)
    one = publish(renaming, 5)
    for store in (listed, renaming):
        assert store.find(REF) == one  # and not what is only half there
        assert store.contains(record_at(one.location))
        assert store.sweep(REF, 6, one.location) == []
    two = listed.publish(half, yes)
    for store in (listed, renaming):
        assert store.find(REF) == two
    assert renaming.sweep(REF, 8, two.location) == [listed.root / one.location]
    assert tokens(listed.root / FOLDER) == ["7.files", "7.json"]
    three = publish(renaming, 9)
    assert renaming.sweep(REF, 9, three.location) == [listed.root / two.location]
    assert tokens(listed.root / FOLDER) == ["9"]


def test_a_stale_owner_leaves_a_manifest_of_what_was_swept(listed: FolderStore) -> None:
    """A manifest of swept files is not found, and is swept."""
    stale = stage(listed, 5)

    def prove() -> bool:
        assert [path.name for path in listed.sweep(REF, 9, None)] == ["5.files"]
        return True

    with_none = publish(listed, 9)
    assert not listed.contains(record_at(listed.publish(stale, prove).location))
    assert listed.find(REF) == with_none
    assert listed.sweep(REF, 9, with_none.location) == []
    assert tokens(listed.root / FOLDER) == ["9.files", "9.json"]


def test_the_root_itself_is_never_removed(listed: FolderStore) -> None:
    """No discard and no sweep removes the root."""
    listed.discard(stage(listed, 5))
    assert tree(listed.root) == set()
    listed.sweep(REF, 9, None)
    claim = stage(listed, 6)
    with pytest.raises(ClaimLost):
        listed.publish(claim, lambda: False)
    listed.sweep(REF, 9, "else/9")
    assert tree(listed.root) == set()
    assert listed.root.is_dir()


def test_a_mark_heals_where_nothing_can_be_renamed(tmp_path: Path) -> None:
    """A mark is replaced on a file system without renames."""
    code = """
from pyregistry.store import CacheMark
store, mark = FolderStore(root, publish="manifest"), CacheMark("4f2a", "n")
store.check()
draft = store.draft_mark(CacheMark("old", "n"))
store.replace_mark(draft)
draft = store.draft_mark(mark)
store.replace_mark(draft)
assert store.read_mark() == mark
"""
    on_mount(code, tmp_path, RENAME_ALL=errno.ENOSYS)
    assert tree(tmp_path) == {".pyregistry", ".pyregistry/cache_id"}


def test_how_to_publish_is_one_of_two_words(tmp_path: Path) -> None:
    """publish accepts "rename" and "manifest" alone."""
    with pytest.raises(InvalidArgument, match="rename, manifest"):
        FolderStore(tmp_path, publish="copy")  # type: ignore[arg-type]  # that is the test
