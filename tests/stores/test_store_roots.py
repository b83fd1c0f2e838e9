"""The root of a store: who may do what in it, what is tried of it, what links may do, and what is left in it."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pyregistry import FolderStore, InvalidArgument, LocalFault, ModelRef
from pyregistry.store import CacheMark
from pyregistry.stores.names import folder_of, former_folder_of
from pyregistry.stores.sharing import Sharing
from tests.support.stores import (
    FOLDER,
    REF,
    as_user,
    claim_of,
    failing,
    publish,
    record_at,
    stage,
    start_as_user,
    tokens,
    tree,
    yes,
)

USERS_GROUP = 4711
ROOT_ALONE = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A root that a group shares, where other users can come to it."""
    base = Path(tempfile.mkdtemp(prefix="pyregistry-shared-"))
    base.chmod(0o711)
    root = base / "root"
    root.mkdir()
    os.chown(root, 0, USERS_GROUP)
    root.chmod(0o2770)
    yield root
    shutil.rmtree(base)


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode)
        for path in [folder, *folder.rglob("*")]
        if not path.is_symlink()
    }


def has_access_lists(folder: Path) -> bool:
    """Whether what is made in a folder may inherit rights, which the umask does not take away."""
    probe = folder / "probe"
    probe.mkdir()
    Sharing.of(folder).pass_on(probe)
    has = bool(os.listxattr(probe))
    probe.rmdir()
    return has


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# Users of one group

DOWNLOAD = """
import pyregistry.store
def download(token):
    store.check()
    claim = claim_of(token)
    staging = store.staging(claim)
    (staging / "sub").mkdir()
    for name in ("file", "sub/file", "program", "read-only"):
        (staging / name).write_bytes(b"x")
    (staging / "program").chmod(0o700)
    (staging / "read-only").chmod(0o400)
    return claim

store, token = FolderStore(sys.argv[1]), int(sys.argv[2])
store.write_mark(pyregistry.store.CacheMark("id", "n"))
assert store.read_mark()
claim = download(token)
store.sweep(claim.ref, token, None)
published = store.publish(claim, yes)
store.sweep(claim.ref, token, published.location)
publish(store, token, ModelRef(f"of {token}", "S3"))
print(published.location)
download(token + 1)  # and dies
"""


@ROOT_ALONE
@pytest.mark.parametrize("umask", [0o077, 0])
@pytest.mark.parametrize("setgid", [0o2000, 0], ids=["setgid", "plain"])
def test_users_of_one_group_share_a_root(shared: Path, umask: int, setgid: int) -> None:
    """Each stores models, takes over from the one before, who died, and removes what that one had."""
    shared.chmod(0o770 | setgid)
    acls = has_access_lists(shared)
    for uid in (4001, 4002):
        token = uid * 10
        first = as_user(DOWNLOAD, shared, token, uid=uid, gid=uid, groups=[USERS_GROUP], umask=umask)
        assert first == f"{FOLDER}/{token}"
        folder = shared / first
        found = modes(folder)
        assert {found[each] & 0o7770 for each in (".", "sub")} == {0o2770}
        assert {found[each] & 0o770 for each in ("file", "sub/file")} == {0o660}
        assert {found[each] for each in ("program", "read-only")} == {0o770, 0o440}
        assert {path.lstat().st_gid for path in [folder, *folder.rglob("*")]} == {USERS_GROUP}
        assert {path.lstat().st_uid for path in [folder, *folder.rglob("*")]} == {uid}
        assert tokens(shared / FOLDER) == [str(token)]
        assert tokens(shared / f".pyregistry/staging/{FOLDER}") == [str(token + 1)]
        assert tokens(shared / ".pyregistry") == ["cache_id", "staging"] + ["trash"] * (
            uid > 4001 and not acls
        )
    made = (shared / FOLDER, shared / ".pyregistry", shared / ".pyregistry/staging", shared / "S3=of%2040010")
    assert {(mode(path), path.stat().st_gid) for path in made} == {(0o2770, USERS_GROUP)}
    assert mode(shared / ".pyregistry/cache_id") & 0o660 == 0o660


@ROOT_ALONE
def test_a_root_that_only_its_owner_may_write_to(shared: Path) -> None:
    """Published files are readable by the group, and check tells a user who may not write."""
    shared.chmod(0o750)
    os.chown(shared, 4001, USERS_GROUP)
    where = as_user(DOWNLOAD, shared, 5, uid=4001, gid=4001, groups=[USERS_GROUP], umask=0o027)
    found = modes(shared / where)
    assert (found["."], found["sub"], found["file"], found["read-only"]) == (0o2750, 0o2750, 0o640, 0o440)
    code = "print((FolderStore(sys.argv[1]).path(record_at(sys.argv[2])) / 'sub/file').read_text())"
    assert as_user(code, shared, where, uid=4002, gid=4002, groups=[USERS_GROUP]) == "x"
    code = """
from pyregistry import LocalFault
try:
    FolderStore(sys.argv[1]).check()
except LocalFault as error:
    print(error)
"""
    told = as_user(code, shared, uid=4002, gid=4002, groups=[USERS_GROUP])
    assert str(shared) in told
    assert "Permission denied" in told
    assert "user 4002" in told


@ROOT_ALONE
def test_folders_that_are_closed(shared: Path) -> None:
    """Read-only folders in a download, of a user who has no more rights than others."""
    shared.chmod(0o2775)
    code = """
import os
def closed(token):
    claim = stage(store, token)
    folder = store.staging(claim)
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").write_bytes(b"x")
    (folder / "a/b/file").chmod(0o000)
    for path in ("a/b", "a", "."):
        (folder / path).chmod(0o555 if path != "a/b" else 0o111)
    return claim
for how in ("rename", "manifest"):
    store = FolderStore(sys.argv[1], publish=how)
    one = store.publish(closed(5), yes)
    for path in ("a/b", "a", "."):
        (store.path(record_at(one.location)) / path).chmod(0o555)
    store.discard(closed(6))
    closed(7)
    two = store.publish(closed(8), yes)
    assert two.size_bytes == 8, two
    print(len(store.sweep(REF, 9, two.location)))
    print(*sorted(tree(store.root)))
    store.sweep(REF, 9, "else/9")
"""
    said = as_user(code, shared, uid=4001, gid=4001, groups=[USERS_GROUP]).splitlines()
    in_it = ["", "/a", "/a/b", "/a/b/file", "/file"]
    assert said[0] == said[2] == "2"
    assert said[1].split() == [".pyregistry", FOLDER, *[f"{FOLDER}/8{path}" for path in in_it]]
    assert said[3].split() == [
        ".pyregistry", FOLDER, *[f"{FOLDER}/8.files{path}" for path in in_it], f"{FOLDER}/8.json"
    ]  # fmt: skip
    assert tree(shared) == {".pyregistry"}


@ROOT_ALONE
def test_what_another_user_has_closed_is_moved_and_left_to_that_user(shared: Path) -> None:
    """A closed folder of another user is moved to the trash, and its user's sweep removes it."""
    code = """
store = FolderStore(sys.argv[1])
closed = store.staging(stage(store, 5)) / "closed"
closed.mkdir()
(closed / "file").touch()
closed.chmod(0o555)
"""
    as_user(code, shared, uid=4001, gid=4001, groups=[USERS_GROUP])
    sweep = "print(len(FolderStore(sys.argv[1]).sweep(REF, 9, None)))"
    assert as_user(sweep, shared, uid=4002, gid=4002, groups=[USERS_GROUP]) == "1"
    assert tokens(shared / ".pyregistry") == ["trash"]
    assert as_user(sweep, shared, uid=4001, gid=4001, groups=[USERS_GROUP]) == "0"
    assert tree(shared) == {".pyregistry"}


@ROOT_ALONE
def test_a_folder_that_another_user_is_just_making(shared: Path) -> None:
    """It has the mode of the root a moment after it was made."""
    (shared / ".pyregistry").mkdir(mode=0o700)
    code = """
from pyregistry.stores import sharing
def pause(seconds):
    print("denied", flush=True)
    input()
sharing.time.sleep = pause
print(FolderStore(sys.argv[1]).staging(claim_of(5)).is_dir())
"""
    process = start_as_user(code, shared, uid=4001, gid=4001, groups=[USERS_GROUP])
    assert process.stdout is not None
    assert process.stdout.readline() == "denied\n"
    (shared / ".pyregistry").chmod(0o2770)
    os.chown(shared / ".pyregistry", 0, USERS_GROUP)
    said, errors = process.communicate("\n", timeout=60)
    assert said == "True\n", errors


# What is tried of a root


def test_a_check_leaves_nothing(store: FolderStore) -> None:
    """check leaves no file."""
    store.check()
    assert tree(store.root) == {".pyregistry"}
    FolderStore(store.root, publish="manifest").check()
    assert tree(store.root) == {".pyregistry"}


def test_what_a_check_left_that_was_killed_is_removed(store: FolderStore) -> None:
    """Files of a killed check are removed once they are old."""
    program = """
import os, sys
from pathlib import Path
from pyregistry import FolderStore
read = Path.read_bytes
def die(path):
    os._exit(9)
Path.read_bytes = die
FolderStore(sys.argv[1]).check()
"""
    killed = subprocess.run([sys.executable, "-c", program, store.root], check=False)
    assert killed.returncode == 9
    (outside,) = [path for path in store.root.iterdir() if path.name.startswith(".pyregistry-probe-")]
    (inside,) = (store.root / ".pyregistry").iterdir()
    draft = store.draft_mark(CacheMark("id", "n"))
    store.check()
    assert all(path.exists() for path in (inside, outside, draft))  # it may be under way
    assert store.find(REF) is None
    for path in (inside, outside, draft):
        os.utime(path, (time.time() - 7200,) * 2)
    others = [store.root / "probe-0123456789abcdef", store.root / ".pyregistry/probe-notes"]
    for path in others:
        path.mkdir()
        os.utime(path, (0, 0))
    store.check()
    assert tree(store.root) == {".pyregistry", others[0].name, f".pyregistry/{others[1].name}"}


def test_many_check_one_root_at_once(store: FolderStore) -> None:
    """Concurrent checks of one root succeed and leave no file."""
    program = """
import sys
from pyregistry import FolderStore
store = FolderStore(sys.argv[1])
for _ in range(50):
    store.check()
"""
    both = [subprocess.Popen([sys.executable, "-c", program, store.root]) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(store.check) for _ in range(100)]:
            each.result()
    assert [each.wait(60) for each in both] == [0, 0]
    assert tree(store.root) == {".pyregistry"}


def test_a_root_that_is_gone_is_a_fault_of_this_machine(tmp_path: Path) -> None:
    """check of a root that is gone raises LocalFault and creates nothing."""
    (tmp_path / "mount").mkdir()
    store = FolderStore(tmp_path / "mount")
    store.root.rmdir()
    with pytest.raises(LocalFault, match="mounted") as fault:
        store.check()
    assert isinstance(fault.value.__cause__, FileNotFoundError)
    assert tree(tmp_path) == set()


def test_too_few_descriptors_are_a_fault_of_this_machine(store: FolderStore) -> None:
    """check without free descriptors raises LocalFault and names the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = os.open(os.devnull, os.O_RDONLY)
    os.close(opened)
    for more in (0, 8):  # none, and not enough
        resource.setrlimit(resource.RLIMIT_NOFILE, (opened + more, hard))
        try:
            with pytest.raises(LocalFault, match="ulimit") as fault:
                store.check()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert isinstance(fault.value.__cause__, OSError)
        assert fault.value.__cause__.errno == errno.EMFILE
        assert tree(store.root) == {".pyregistry"}


def test_a_full_volume_is_a_fault_of_this_machine(store: FolderStore) -> None:
    """A limit of the size of files stands for it: what is written ends in the middle."""
    program = """
import resource, signal, sys
from pyregistry import FolderStore, LocalFault
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    FolderStore(sys.argv[1]).check()
except LocalFault as error:
    print(error.__cause__.errno)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, store.root], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(errno.EFBIG)
    assert tree(store.root) == {".pyregistry"}


# Links


def test_links_into_the_download_are_made_relative(store: FolderStore, tmp_path: Path) -> None:
    """Links within a download are made relative and lead to the published files."""
    (tmp_path / "by another way").symlink_to(tmp_path)
    claim = claim_of(5)
    folder = store.staging(claim)
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").write_bytes(b"weights")
    (folder / "a/absolute").symlink_to(folder / "a/b/file")
    (folder / "folder").symlink_to(folder / "a")
    (folder / "through").symlink_to(folder / "folder/b/file")
    (folder / "other way").symlink_to(tmp_path / "by another way" / folder.relative_to(tmp_path) / "a/b/file")
    (folder / "a/out and in").symlink_to(f"../../../{FOLDER}/5/a/b/file")
    (folder / "a/b/relative").symlink_to("../absolute")
    (folder / "a/b/up").symlink_to("../..")
    published = store.path(record_at(store.publish(claim, yes).location))
    says = {
        str(path.relative_to(published)): str(path.readlink())
        for path in published.rglob("*")
        if path.is_symlink()
    }
    assert says == {
        "a/absolute": "b/file",
        "folder": "a",
        "through": "a/b/file",
        "other way": "a/b/file",
        "a/out and in": "b/file",
        "a/b/relative": "../absolute",
        "a/b/up": "../..",
    }
    for name in says:
        assert (published / name).resolve().is_relative_to(published)
        assert name in ("folder", "a/b/up") or (published / name).read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ("nowhere", "leads nowhere: 'nowhere'"),
        ("/nowhere/at all", "leads nowhere: '/nowhere/at all'"),
        ("sub/link", "leads nowhere"),
        ("file/below", "leads nowhere"),
        ("/usr/bin", "leads out of the download, to '/usr/bin'"),
        ("/", "leads out of the download, to '/'"),
        ("../..", "leads out of the download, to '../..'"),
        ("cache", "leads out of the download, to '../.."),
    ],
)
@pytest.mark.parametrize("how", ["rename", "manifest"])
def test_links_that_would_not_hold_are_refused(tmp_path: Path, says: str, why: str, how: str) -> None:
    """A link out of a download, or to nothing, raises InvalidArgument and changes nothing."""
    (tmp_path / "cache").touch()
    store = FolderStore(tmp_path, publish=how)  # type: ignore[arg-type]  # one of the two
    claim = stage(store, 5)
    folder = store.staging(claim)
    (folder / "sub").mkdir()
    (folder / "absolute").symlink_to(folder / "file")
    if says == "cache":
        says = os.path.relpath(tmp_path / "cache", folder / "sub")
    (folder / "sub/link").symlink_to(says)
    with pytest.raises(InvalidArgument, match="'sub/link'") as refused:
        store.publish(claim, yes)
    assert why in str(refused.value)
    assert refused.value.argument == "staging"
    assert store.find(REF) is None
    assert (folder / "absolute").readlink() == folder / "file"  # nothing was changed


@pytest.mark.parametrize("how", ["rename", "manifest"])
def test_links_out_of_the_download_for_those_who_ask(tmp_path: Path, how: str) -> None:
    """outside_links keeps links out of a download, except to nothing."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "blob").write_bytes(b"shared")
    (tmp_path / "away").write_bytes(b"away")
    store = FolderStore(root, outside_links=True, publish=how)  # type: ignore[arg-type]  # one of the two
    claim = stage(store, 5)
    folder = store.staging(claim)
    (folder / "sub").mkdir()
    (folder / "sub/relative").symlink_to(os.path.relpath(root / "blob", folder / "sub"))
    (folder / "sub/absolute").symlink_to(tmp_path / "away")
    (folder / "dangling").symlink_to("/nowhere")
    with pytest.raises(InvalidArgument, match="leads nowhere"):
        store.publish(claim, yes)
    (folder / "dangling").unlink()
    published = store.path(record_at(store.publish(claim, yes).location))
    assert (published / "sub/absolute").readlink() == tmp_path / "away"
    assert (published / "sub/relative").readlink() == Path("../../../blob")
    assert (published / "sub/relative").read_bytes() == b"shared"


# What is left in a root


def test_folders_that_are_empty_go(store: FolderStore) -> None:
    """Empty folders of a store are removed."""
    one = publish(store, 5)
    assert tokens(store.root / ".pyregistry") == []
    store.discard(stage(store, 6))
    assert tokens(store.root / ".pyregistry") == []
    stage(store, 7)
    two = publish(store, 8)
    stage(store, 6, ModelRef("another", "S3"))
    store.sweep(REF, 9, two.location)
    assert tokens(store.root / ".pyregistry/staging") == ["S3=another"]
    assert tokens(store.root / ".pyregistry") == ["staging"]
    assert not store.contains(record_at(one.location))


def test_folders_that_go_meanwhile_are_made_again(store: FolderStore) -> None:
    """Many claims of one model, each of whose ends removes what is empty of the others."""

    def one(token: int) -> str:
        claim = stage(store, token)
        if token % 3 == 0:
            store.discard(claim)
            return ""
        location = store.publish(claim, yes).location
        store.sweep(REF, 0, location)
        return location

    with ThreadPoolExecutor(8) as pool:
        locations = list(filter(None, pool.map(one, range(1, 200))))
    assert all(store.contains(record_at(each)) for each in locations)
    assert tree(store.root / ".pyregistry") == set()
    assert store.sweep(REF, 1000, "else/9")
    assert tree(store.root) == {".pyregistry"}


def test_a_folder_that_goes_while_one_is_made_in_it(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """staging succeeds while another sweep removes its parents."""
    mkdir = Path.mkdir
    gone: list[Path] = []

    def mkdir_late(path: Path, **options: Any) -> None:
        if path not in gone and path.parent != store.root:
            gone.append(path)
            path.parent.rmdir()  # another's sweep: it is empty
        mkdir(path, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir_late)
    assert store.staging(claim_of(5)).is_dir()
    assert len(gone) == 3


def test_the_folder_of_a_model_that_goes_just_before_its_first_files_come(store: FolderStore) -> None:
    """publish succeeds while another sweep removes the model's folder."""
    proved = []

    def prove() -> bool:
        proved.append(True)
        if len(proved) < 3:
            store.sweep(REF, 1, "else/1")  # another's: the folder is empty
            assert not (store.root / FOLDER).exists()
        return True

    assert store.contains(record_at(store.publish(stage(store, 5), prove).location))
    assert len(proved) == 3


# Links for people


def test_a_link_by_name_leads_to_the_newest_files(tmp_path: Path) -> None:
    """The link by name leads to the newest published folder."""
    store = FolderStore(tmp_path, by_name=True)
    link = tmp_path / "by-name" / FOLDER
    for token in (5, 9, 10):
        published = publish(store, token, content=b"%d" % token)
        before = str(link.readlink()) if token > 5 else None
        store.sweep(REF, token, None)
        assert (str(link.readlink()) if before else None) == before
        store.sweep(REF, token, published.location)
        assert str(link.readlink()) == f"../{FOLDER}/{token}"
        assert (link / "file").read_bytes() == b"%d" % token
    assert tree(tmp_path / ".pyregistry") == set()
    store.sweep(REF, 8, f"{FOLDER}/8")  # a stale owner's, who comes last
    assert str(link.readlink()) == f"../{FOLDER}/10"
    FolderStore(tmp_path).sweep(REF, 11, "else/11")
    store.sweep(REF, 11, "else/11")
    assert tokens(tmp_path / "by-name") == []


def test_who_was_slow_to_link_by_name_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow writer of the link by name does not leave it on older files."""
    store = FolderStore(tmp_path, by_name=True)
    old = publish(store, 5)
    replace = Path.replace

    def slow(draft: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        new = publish(store, 9)
        store.sweep(REF, 9, new.location)
        return replace(draft, target)

    monkeypatch.setattr(Path, "replace", slow)
    store.sweep(REF, 5, old.location)
    assert (tmp_path / "by-name" / FOLDER).readlink() == Path(f"../{FOLDER}/9")


def test_what_a_person_has_put_by_name_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder in place of the link by name is kept, with a warning."""
    store = FolderStore(tmp_path, by_name=True)
    (tmp_path / "by-name" / FOLDER).mkdir(parents=True)
    published = publish(store, 5)
    store.sweep(REF, 5, published.location)
    assert (tmp_path / "by-name" / FOLDER).is_dir()
    assert not (tmp_path / "by-name" / FOLDER).is_symlink()
    (told,) = caplog.records
    assert "does not lead to the newest files" in told.getMessage()


def test_links_by_name_are_made_only_for_who_asks(store: FolderStore) -> None:
    """A store without by_name makes no link."""
    published = publish(store, 5)
    store.sweep(REF, 5, published.location)
    assert tokens(store.root) == [".pyregistry", FOLDER]


def test_many_link_by_name_at_once(tmp_path: Path) -> None:
    """Concurrent publishes leave the link by name on the newest files."""
    store = FolderStore(tmp_path, by_name=True)

    def one(token: int) -> None:
        published = publish(store, token)
        store.sweep(REF, 0, published.location)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(1, 60)))
    assert (tmp_path / "by-name" / FOLDER).readlink() == Path(f"../{FOLDER}/59")


# The docs


def test_the_docs_say_what_folders_are_called() -> None:
    """The table of folder names in the docs is correct."""
    docs = (Path(__file__).parents[2] / "docs/reference/store-layout.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `([^`]+)` of `(\w+)`(?:, revision `([^`]+)`, subset `([^`]+)`)? \| `([^`]+)` \|$",
        docs,
        re.MULTILINE,
    )
    assert len(rows) == 4
    for name, provider, revision, subset, folder in rows:
        assert folder_of(ModelRef(name, provider, revision or None, subset or None)) == folder
    assert "HuggingFace%3Aorg%2Fmodel" in docs
    assert former_folder_of(REF) == "HuggingFace%3Aorg%2Fmodel"


@pytest.mark.parametrize("how", ["rename", "manifest"])
def test_the_paths_in_the_docs_are_the_real_ones(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paths of the docs are those that a store makes."""
    docs = (Path(__file__).parents[2] / "docs/reference/store-layout.md").read_text("utf-8")
    store = FolderStore(tmp_path, publish=how, by_name=True)  # type: ignore[arg-type]  # one of the two
    said = {path.rstrip("/") for path in re.findall(r"<root>/[^\s`]+", docs)}
    found = set()

    def look() -> None:
        for path in tree(tmp_path):
            name = path.replace(FOLDER, "<model>").replace("12345", "<token>")
            found.add("<root>/" + re.sub(r"-[0-9a-f]{16}$", "-<..>", name))

    store.write_mark(CacheMark("id", "n"))
    claim = stage(store, 12345)
    look()
    published = store.publish(claim, yes)
    store.sweep(REF, 12345, published.location)
    look()
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing(errno.EBUSY))  # what is in the trash stays there for once
        store.sweep(REF, 12346, "else/1")
    look()
    kind = {"rename": {path for path in said if ".files" not in path and ".json" not in path}}
    kind["manifest"] = {path for path in said if "<token>/" not in f"{path}/" and "trash" not in path}
    assert kind[how] <= found
    assert len(said) == 7
