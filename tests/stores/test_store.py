"""Files in folders: staging, publishing by one rename, finding, sweeping, and whose cache a root is."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyregistry import ConfigurationError, InvalidArgument, ModelRef, Provider
from pyregistry.errors import ClaimLost
from pyregistry.store import CacheMark, FolderStore, Published
from pyregistry.stores.names import folder_of, former_folder_of
from tests.support.stores import FOLDER, REF, claim_of, failing, publish, record_at, stage, tokens, tree, yes
from tests.support.threads import at_once

WORDS = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,31}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
REFS = st.builds(ModelRef, TEXTS, WORDS, st.none() | TEXTS, st.none() | TEXTS)


def published(store: FolderStore) -> list[str]:
    return tokens(store.root / FOLDER)


def staged(store: FolderStore) -> list[str]:
    return tokens(store.root / ".pyregistry/staging" / FOLDER)


def trash(store: FolderStore) -> list[str]:
    return tokens(store.root / ".pyregistry/trash" / FOLDER)


# The root and the names of folders


def test_the_root_must_be_a_folder(tmp_path: Path) -> None:
    """A root that is not a folder raises ConfigurationError."""
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(ConfigurationError, match=bad.name):
            FolderStore(bad)
    assert tree(tmp_path) == {"file"}


def test_a_relative_root_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative root is resolved when the store is made."""
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    store = FolderStore("a")
    monkeypatch.chdir("/")
    assert store.root == tmp_path / "a"
    assert store.staging(claim_of(1)).is_relative_to(tmp_path / "a")


def test_a_root_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    """A root that is gone raises and is not created."""
    (tmp_path / "mount").mkdir()
    store = FolderStore(tmp_path / "mount")
    store.root.rmdir()
    with pytest.raises(FileNotFoundError):
        store.staging(claim_of(1))
    with pytest.raises(FileNotFoundError):
        store.write_mark(CacheMark("a", "n"))
    with pytest.raises(FileNotFoundError):
        store.look_again(record_at("m/1"))
    assert store.sweep(REF, 5, "m/1") == []
    assert not store.root.exists()


UNUSUAL = [
    ModelRef("org/model", "HuggingFace"),
    ModelRef("a:b@c#d", "S3", "refs/pr/1", "*.json"),
    ModelRef("a:b@c", "S3", "refs/pr/1", "*.json"),
    ModelRef("a b", "S3"),
    ModelRef("a%20b", "S3"),
    ModelRef("~a", "S3"),
    ModelRef("Größe/模型", "S3"),
    ModelRef(".", "S3"),
    ModelRef("..", "S3"),
    ModelRef("../../../etc", "S3"),
    ModelRef(".pyregistry", "S3"),
    ModelRef("m" * 1024, "S3"),
    ModelRef("m" * 1023 + "n", "S3"),
    ModelRef("/" * 1024, "S3", "ü" * 127, "#" * 255),
]


def test_unusual_names(store: FolderStore) -> None:
    """Models with unusual names are published, found and swept."""
    placed = {ref: publish(store, 7, ref, b"x" * size) for size, ref in enumerate(UNUSUAL, 1)}
    assert len({each.location for each in placed.values()}) == len(UNUSUAL)
    for size, ref in enumerate(UNUSUAL, 1):
        location = placed[ref].location
        folder, token = location.split("/")
        assert token == "7"
        assert len(folder.encode()) <= 226
        assert all(each.isascii() and (each.isalnum() or each in "._-%=+") for each in folder)
        assert store.path(record_at(location)) == store.root / location
        assert store.contains(record_at(location))
        assert store.find(ref) == Published(location, size)
    assert len(tokens(store.root)) == len(UNUSUAL) + 1
    assert tokens(store.root.parent).count(store.root.name) == 1
    for ref in UNUSUAL:
        assert store.sweep(ref, 8, "else/9") == [store.root / placed[ref].location]
    assert all(not tokens(store.root / each.location.split("/")[0]) for each in placed.values())


def test_a_short_name_can_not_pose_as_a_long_one(store: FolderStore) -> None:
    """The folder of a long name differs from that of any short name."""
    long = publish(store, 1, ModelRef("m" * 500, "S3")).location.split("/")[0]
    poser = ModelRef(long.removeprefix("S3%3A"), "S3")
    assert publish(store, 1, poser).location.split("/")[0] != long


@st.composite
def alike(draw: st.DrawFn) -> tuple[ModelRef, ModelRef]:
    """Two models whose names may differ in case, or in the form of their letters, alone."""
    ref = draw(REFS)
    changes: list[Callable[[str], str]] = [str.swapcase, str.upper, str.lower, partial(normalize, "NFD"), str]
    change = draw(st.sampled_from(changes))
    changed = [change(str(each)) if each and draw(st.booleans()) else each for each in ref]
    return ref, ModelRef(*changed)  # type: ignore[arg-type]  # a name stays a name


@given(st.tuples(REFS, REFS | st.sampled_from(UNUSUAL)) | alike())
def test_a_folder_is_of_one_model_on_any_file_system(pair: tuple[ModelRef, ModelRef]) -> None:
    """Folders of different models differ, also where case is folded."""
    ref, other = pair
    try:
        one, another = folder_of(ref), folder_of(other)
    except InvalidArgument:  # a name that is longer in another form
        return
    assert (one.lower() == another.lower()) == (ref == other)
    assert one.isascii()
    assert len(one) <= 226
    assert not one.startswith(".")
    assert not one.endswith(".")
    assert ref == other or one.lower() != former_folder_of(other).lower()


@pytest.mark.parametrize(
    ("ref", "folder"),
    [
        (ModelRef("org/model", "HuggingFace"), "HuggingFace=org%2Fmodel"),
        (ModelRef("Org/model", "HuggingFace"), "HuggingFace=Org%2Fmodel+80"),
        (ModelRef("org/model", Provider("huggingface")), "huggingface=org%2Fmodel+40800"),
        (ModelRef("m", "S3", "v1", "a,b"), "S3%40v1%23a%2Cb=m"),
        (ModelRef("m.", "S3"), "S3=m%2E"),
        (ModelRef("é", "S3"), "S3=%C3%A9"),
        (ModelRef("e\u0301", "S3"), "S3=e%CC%81"),
    ],
)
def test_what_folders_are_called(ref: ModelRef, folder: str) -> None:
    """A model has the folder name that is documented."""
    assert folder_of(ref) == folder


@pytest.mark.parametrize(
    "ref", [ModelRef("m"), ModelRef("", "S3"), ModelRef("m\0", "S3"), ModelRef("m", Provider("../x"))]
)
def test_what_names_no_model_is_refused(store: FolderStore, ref: ModelRef) -> None:
    """A reference that names no model raises InvalidArgument."""
    with pytest.raises(InvalidArgument):
        store.find(ref)
    with pytest.raises(InvalidArgument):
        store.sweep(ref, 1, None)


# A download


def test_staging_is_kept_and_is_the_claims_own(store: FolderStore) -> None:
    """The staging folder belongs to one claim and keeps its files."""
    mine = store.staging(claim_of(5))
    assert mine == store.root / ".pyregistry/staging" / FOLDER / "5"
    assert not list(mine.iterdir())
    (mine / "half").touch()
    assert store.staging(claim_of(5)) == mine
    assert tree(mine) == {"half"}
    assert not list(store.staging(claim_of(6)).iterdir())


def test_what_is_published_is_whole(store: FolderStore) -> None:
    """A published folder has every file, folder and link of its staging, at once."""
    claim = claim_of(5)
    staging = store.staging(claim)
    (staging / "a/b").mkdir(parents=True)
    (staging / "empty").mkdir()
    (staging / "config.json").write_bytes(b"{}")
    (staging / "a/b/weights").write_bytes(b"x" * 1000)
    (staging / "link").symlink_to("a/b/weights")
    (staging / "loop").symlink_to(".")
    os.mkfifo(staging / "fifo")
    before = tree(staging)

    def prove() -> bool:
        assert tree(staging) == before
        assert store.find(REF) is None
        return True

    result = store.publish(claim, prove)
    assert result == Published(f"{FOLDER}/5", 1002)
    assert tree(store.root / result.location) == before
    assert (store.root / result.location / "link").read_bytes() == b"x" * 1000
    assert staged(store) == []


def test_publishing_again_says_the_same(store: FolderStore) -> None:
    """A second publish of one claim returns the same result."""
    claim = stage(store, 5)
    first = store.publish(claim, yes)
    assert store.publish(claim, failing(errno.EIO)) == first  # needs no proof: it was published under one


def test_two_threads_publish_one_claim(store: FolderStore) -> None:
    """Two threads that publish one claim get the same result."""
    claim = stage(store, 5)
    both = threading.Barrier(2)

    def prove() -> bool:  # both are about to rename
        both.wait()
        return True

    results = at_once([lambda: store.publish(claim, prove)] * 2)
    assert results == [Published(f"{FOLDER}/5", 7)] * 2


def test_what_was_published_is_not_replaced_by_the_claim_itself(store: FolderStore) -> None:
    """A second download of one claim does not replace the first."""
    publish(store, 5, content=b"first")
    again = stage(store, 5, content=b"second")
    with pytest.raises(FileExistsError, match="already"):
        store.publish(again, yes)
    assert (store.root / FOLDER / "5/file").read_bytes() == b"first"


@pytest.mark.parametrize("entries", [[], ["a/b", "c"]])
def test_a_download_that_wrote_nothing(store: FolderStore, entries: list[str]) -> None:
    """A download without a file raises InvalidArgument and publishes nothing."""
    for entry in entries:
        (store.staging(claim_of(5)) / entry).mkdir(parents=True)
    store.staging(claim_of(5))
    with pytest.raises(InvalidArgument, match="no file") as error:
        store.publish(claim_of(5), yes)
    assert error.value.argument == "staging"
    assert store.find(REF) is None
    assert staged(store) == ["5"]


def test_nothing_staged(store: FolderStore) -> None:
    """A publish without a staging folder raises FileNotFoundError."""
    with pytest.raises(FileNotFoundError, match="nothing to publish"):
        store.publish(claim_of(5), yes)


def test_a_lost_claim_publishes_nothing(store: FolderStore) -> None:
    """A publish whose proof fails raises, publishes nothing, and can be repeated."""
    claim = stage(store, 5)
    with pytest.raises(ClaimLost, match="token 5") as lost:
        store.publish(claim, lambda: False)
    assert (lost.value.model_name, lost.value.provider) == ("org/model", "HuggingFace")
    assert "id-5" not in str(lost.value)
    with pytest.raises(RuntimeError, match="no server"):
        store.publish(claim, lambda: (_ for _ in ()).throw(RuntimeError("no server")))
    assert store.find(REF) is None
    assert published(store) == []
    assert tree(store.staging(claim)) == {"file"}
    assert store.publish(claim, yes).size_bytes == 7  # as nothing was changed, it may be tried again


def test_all_is_on_the_disk_before_the_proof(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and folder is flushed before the proof, and the parents after the rename."""
    claim = stage(store, 5)
    (store.staging(claim) / "sub").mkdir()
    (store.staging(claim) / "sub/more").write_bytes(b"1")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda opened: synced.append(os.fstat(opened).st_ino))
    staging = store.staging(claim)
    expected = {path.stat().st_ino for path in (staging, *staging.rglob("*"))}

    def prove() -> bool:
        assert set(synced) == expected
        synced.clear()
        return True

    result = store.publish(claim, prove)
    assert synced[0] == (store.root / result.location).parent.stat().st_ino
    assert store.root.stat().st_ino in synced


def test_what_can_not_be_synced(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed flush prevents a publish, unless the file system does not support it."""
    claim = stage(store, 5)
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="space"):
        store.publish(claim, yes)
    assert store.find(REF) is None
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))  # as folders on some file systems
    assert store.publish(claim, yes).size_bytes == 7


def test_a_failed_download_is_discarded(store: FolderStore) -> None:
    """discard removes the staging folder of one claim and nothing that is published."""
    claim = stage(store, 5)
    stage(store, 6)
    store.discard(claim)
    store.discard(claim)
    assert staged(store) == ["6"]
    publish(store, 7)
    store.discard(claim_of(7))
    assert published(store) == ["7"]


def test_a_stale_owner_publishes_after_the_later_one(store: FolderStore) -> None:
    """Files that a stale owner publishes later are not found, and are swept."""
    stale = stage(store, 5, content=b"stale")
    proved, go_on = threading.Event(), threading.Event()

    def prove() -> bool:
        proved.set()
        assert go_on.wait(60)  # stopped here, beyond its lease
        return True

    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(store.publish, stale, prove)
        assert proved.wait(60)
        later = publish(store, 9, content=b"later")
        go_on.set()
        assert late.result() == Published(f"{FOLDER}/5", 5)
    assert (store.root / later.location / "file").read_bytes() == b"later"
    assert store.find(REF) == later
    assert store.sweep(REF, 9, later.location) == [store.root / FOLDER / "5"]
    assert published(store) == ["9"]
    assert store.find(REF) == later


def test_a_stale_owner_was_swept(store: FolderStore) -> None:
    """A stale owner whose staging was swept publishes nothing."""
    stale = stage(store, 5)

    def prove() -> bool:
        assert store.sweep(REF, 9, None) == [store.root / ".pyregistry/staging" / FOLDER / "5"]
        return True

    with pytest.raises(FileNotFoundError):
        store.publish(stale, prove)
    assert published(store) == []


# What is there


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        ".",
        "/",
        "/etc",
        "..",
        "a/../../b",
        "a/..",
        ".pyregistry/staging/m/1",
        "./.pyregistry",
        "a\0/b",
    ],
)
def test_locations_that_lead_astray(store: FolderStore, location: str | None) -> None:
    """A location out of the root raises InvalidArgument."""
    for call in (store.path, store.contains, store.look_again):
        with pytest.raises(InvalidArgument) as error:
            call(record_at(location))
        assert error.value.argument == "location"
    if location is not None:
        publish(store, 1)
        with pytest.raises(InvalidArgument):
            store.sweep(REF, 5, location)
        assert published(store) == ["1"]


def test_what_is_there(store: FolderStore) -> None:
    """contains and look_again are true for published folders alone."""
    record = record_at(publish(store, 5).location)
    assert store.path(record) == store.root / FOLDER / "5"
    for look in (store.contains, store.look_again):
        assert look(record)
        assert not look(record_at("absent/5"))
        assert not look(record_at(f"{FOLDER}/6"))
        assert not look(record_at(f"{FOLDER}/5/file"))
        assert not look(record_at(f"{FOLDER}/5/file/below"))
        assert look(record_at(f"./{FOLDER}//5/"))


def test_a_link_is_its_makers_business(store: FolderStore, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A published folder replaced by a link is found and not swept."""
    disk = tmp_path_factory.mktemp("disk")
    location = publish(store, 5).location
    (store.root / location).rename(disk / "moved")
    (store.root / location).symlink_to(disk / "moved")
    assert store.contains(record_at(location))
    assert store.find(REF) == Published(location, 7)
    assert store.sweep(REF, 9, "else/9") == []
    assert tree(disk / "moved") == {"file"}


def test_what_can_not_be_told_is_not_a_no(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the file system is raised and not taken for absence."""
    record = record_at(publish(store, 5).location)
    for number in (errno.EACCES, errno.EIO, errno.ESTALE):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", failing(number))
            for look in (store.contains, store.look_again):
                with pytest.raises(OSError, match=os.strerror(number)):
                    look(record)


def test_looking_again_lists_from_the_root_down(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """look_again lists each folder from the root to the location."""
    listed: list[Path] = []
    listdir = os.listdir

    def listing(folder: Path) -> list[str]:
        listed.append(folder)
        return listdir(folder)

    (store.root / "a/b/c").mkdir(parents=True)
    monkeypatch.setattr(os, "listdir", listing)
    assert store.look_again(record_at("a/b/c"))
    assert listed == [store.root, store.root / "a", store.root / "a/b"]


def test_the_newest_is_found(store: FolderStore) -> None:
    """find returns the published folder with the largest token."""
    assert store.find(REF) is None
    stage(store, 50)
    assert store.find(REF) is None
    for token in (9, 10, 2):
        publish(store, token, content=b"x" * token)
    (store.root / FOLDER / "77").touch()
    (store.root / FOLDER / "088").mkdir()
    (store.root / FOLDER / "99-old").mkdir()
    (store.root / FOLDER / "٩٩").mkdir()
    assert store.find(REF) == Published(f"{FOLDER}/10", 10)
    assert store.find(ModelRef("org/model", "HuggingFace", "main")) is None


def test_what_vanishes_while_it_is_looked_at(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """find skips a folder that vanishes meanwhile."""
    publish(store, 5)
    publish(store, 6)
    scandir = os.scandir

    def scanning(folder: str) -> object:
        if folder == str(store.root / FOLDER / "6"):
            store.sweep(REF, 7, f"{FOLDER}/5")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scanning)
    assert store.find(REF) == Published(f"{FOLDER}/5", 7)


# Leftovers


def test_a_sweep_removes_what_is_below_the_token(store: FolderStore) -> None:
    """A sweep removes what is older than the token, except the location."""
    other = ModelRef("org/other", "HuggingFace")
    for token in (3, 5, 7, 9, 11):
        publish(store, token)
        publish(store, token, other)
    for token in (4, 8, 10, 12):
        stage(store, token)
    removed = store.sweep(REF, 10, f"{FOLDER}/7")
    staging = store.root / ".pyregistry/staging" / FOLDER
    final = store.root / FOLDER
    assert removed == [final / "3", staging / "4", final / "5", staging / "8", final / "9"]
    assert published(store) == ["11", "7"]
    assert staged(store) == ["10", "12"]
    assert trash(store) == []
    assert len(tokens(store.root / FOLDER.replace("model", "other"))) == 5
    assert store.sweep(REF, 10, f"{FOLDER}/7") == []


@pytest.mark.parametrize("location", [f"{FOLDER}/5", f"./{FOLDER}//5/", f"{FOLDER}/5/inside"])
def test_a_sweep_spares_the_location(store: FolderStore, location: str) -> None:
    """A sweep keeps the location in any spelling."""
    publish(store, 5)
    publish(store, 6)
    assert store.sweep(REF, 9, location) == [store.root / FOLDER / "6"]
    assert published(store) == ["5"]


def test_a_sweep_without_a_location_leaves_what_is_published(store: FolderStore) -> None:
    """A sweep without a location removes staging folders alone."""
    publish(store, 3)
    stage(store, 4)
    stage(store, 5)
    assert [path.name for path in store.sweep(REF, 5, None)] == ["4"]
    assert (published(store), staged(store)) == (["3"], ["5"])


def test_a_sweep_touches_only_folders_that_are_named_by_a_token(store: FolderStore) -> None:
    """A sweep removes folders that are named by a token, and nothing else."""
    publish(store, 3)
    for where in (store.root / FOLDER, store.staging(claim_of(3)).parent):
        for name in ("03", "1.tmp", "+1", "-1", "notes", "٣", ".1"):
            (where / name).mkdir()
        (where / "2").touch()
        (where / "1").symlink_to("notes")
    before = tree(store.root)
    removed = store.sweep(REF, 100, "else/1")
    assert [path.name for path in removed] == ["3", "3"]
    gone = {f"{FOLDER}/3", f"{FOLDER}/3/file", f".pyregistry/staging/{FOLDER}/3"}
    assert before - tree(store.root) == gone


def test_a_sweep_where_nothing_is(store: FolderStore) -> None:
    """A sweep of an empty root changes nothing."""
    assert store.sweep(REF, 100, f"{FOLDER}/5") == []
    assert tree(store.root) == set()


def test_two_sweepers(store: FolderStore, caplog: pytest.LogCaptureFixture) -> None:
    """Concurrent sweeps remove each folder once, without a warning."""
    for token in range(40):
        publish(store, token)
        stage(store, token + 100)
    removed = at_once([lambda: store.sweep(REF, 1000, f"{FOLDER}/7")] * 4)
    everything = [path for each in removed for path in each]
    assert len(everything) == len(set(everything)) == 79
    assert (published(store), staged(store)) == (["7"], [])
    assert trash(store) == []
    assert caplog.records == []


def test_what_can_not_be_removed_is_left_to_the_next_sweep(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that can not be removed stays in the trash until a later sweep."""
    publish(store, 3)
    for name in (".nfs0001", *"abcdefgh"):  # before and after it, in whichever order they are removed
        (store.root / FOLDER / "3" / name).touch()
    unlink = os.unlink

    def busy(path: str, **options: int) -> None:
        if Path(path).name == ".nfs0001":
            raise OSError(errno.EBUSY, "Device or resource busy")
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", busy)
        assert store.sweep(REF, 9, "else/9") == [store.root / FOLDER / "3"]
    assert published(store) == []  # gone from its place, though not from the disk
    (left,) = trash(store)
    assert left.startswith("3-")
    assert tree(store.root / ".pyregistry/trash" / FOLDER / left) == {".nfs0001"}
    (told,) = caplog.records
    assert (told.name, told.levelno) == ("pyregistry.store", logging.WARNING)
    assert left in told.message
    assert "busy" in told.message
    assert store.sweep(ModelRef("org/other", "HuggingFace"), 9, "else/9") == []
    assert trash(store) == [left]
    assert store.sweep(REF, 9, None) == []
    assert trash(store) == []


def test_what_can_not_be_moved_stays_whole(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that can not be moved stays whole, with a warning."""
    publish(store, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing(errno.EACCES))
        assert store.sweep(REF, 9, "else/9") == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert store.find(REF) == Published(f"{FOLDER}/3", 7)
    assert store.sweep(REF, 9, "else/9") == [store.root / FOLDER / "3"]


def test_what_can_not_be_discarded_is_logged(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A staging folder that can not be discarded is logged and swept later."""
    claim = stage(store, 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing(errno.EACCES))
        store.discard(claim)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert store.sweep(REF, 4, None)
    assert staged(store) == []
