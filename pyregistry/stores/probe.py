"""The probe of a root: it tries the operations of a download before anything is claimed."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyregistry.errors import LocalFault
from pyregistry.stores import disk
from pyregistry.stores.names import OURS
from pyregistry.stores.sharing import make

_ID = r"[0-9a-f]{16}"
_LEFT_INSIDE = re.compile(rf"(probe|cache_id|link)-{_ID}")
_LEFT_OUTSIDE = re.compile(rf"\.pyregistry-probe-{_ID}")
_OLD = 3600.0  # seconds after which the leftovers of a killed process are removed
_CONTENT = b"pyregistry\n" * 400
_DESCRIPTORS = 16  # flush, list and remove need fewer; the rest is for the download

_REMEDIES = {
    errno.EACCES: "give user {user} the right to write to it (user, group, mode, access lists)",
    errno.EPERM: "give user {user} the right to write to it (user, group, mode, access lists)",
    errno.EROFS: "mount it so that it can be written to",
    errno.ENOSPC: "make room on the volume",
    errno.EDQUOT: "make room, or raise the quota",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files of the machine",
    errno.ENOENT: "see that the volume is mounted",
    errno.ENOTCONN: "mount the volume anew",
    errno.ESTALE: "mount the volume anew",
}
_NO_RENAME = (
    "a folder is published by a rename: use a file system that can, or, in all replicas, "
    'FolderStore(root, publish="manifest") (pyregistry run --publish manifest)'
)


def probe(root: Path, *, rename: bool) -> None:
    """Try the operations of a download: make folders and a file, write, flush, rename, read, list, remove.

    The probe removes its files, and the leftovers of earlier probes whose process was killed.

    Args:
        root: Root of the store.
        rename: Whether to try the rename of a folder.

    Raises:
        LocalFault: An operation fails on this machine.
    """
    name = f"probe-{os.urandom(8).hex()}"
    inside, outside = root / OURS / name, root / f".pyregistry-{name}"
    staged = inside / "folder" if rename else outside
    try:
        with _trying(root, "make a folder", root / OURS):
            now = make(root, OURS, name).stat().st_mtime  # clock of the file system
        with _trying(root, "make a folder", staged):
            make(root, *staged.relative_to(root).parts)
        with _trying(root, "write a file", staged / "file"):
            disk.create(staged / "file", _CONTENT)
        with _trying(root, f"open {_DESCRIPTORS} files", staged / "file"):
            _open_many(staged / "file")
        with _trying(root, "flush a folder", staged):
            disk.sync(staged)
        if rename:
            with _trying(root, "rename a folder with a file in it", staged, _NO_RENAME):
                staged.rename(outside)
        with _trying(root, "read what was written", outside):
            if (outside / "file").read_bytes() != _CONTENT:
                raise OSError(errno.EIO, "the file has another content", os.fspath(outside / "file"))
        with _trying(root, "remove a folder", outside):
            shutil.rmtree(outside)
            inside.rmdir()
    finally:
        # Removed by name, because listing a folder needs a file descriptor, and none may be left.
        for folder in (staged, outside):
            with suppress(OSError):
                (folder / "file").unlink()
        disk.remove_empty(staged, outside, inside)
    with suppress(OSError):
        _remove_leftovers(root, now)


@contextmanager
def _trying(root: Path, what: str, path: Path, remedy: str | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        known = _REMEDIES.get(error.errno or 0)
        if remedy is None or error.errno in (errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            remedy = known or "try it by hand on this machine"
        raise LocalFault(
            f"this machine can't use the store {root}: to {what} failed with "
            f"{error.strerror or error} ({path}); {remedy.format(user=os.geteuid())}"
        ) from error


def _open_many(path: Path) -> None:
    opened: list[int] = []
    try:
        for _ in range(_DESCRIPTORS):
            opened.append(os.open(path, os.O_RDONLY))  # noqa: PERF401 - `finally` closes the open ones if one fails
    finally:
        for each in opened:
            os.close(each)


def _remove_leftovers(root: Path, now: float) -> None:
    for folder, pattern in ((root / OURS, _LEFT_INSIDE), (root, _LEFT_OUTSIDE)):
        for path in disk.entries(folder):
            if not pattern.fullmatch(path.name) or now - path.lstat().st_mtime < _OLD:
                continue
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)
