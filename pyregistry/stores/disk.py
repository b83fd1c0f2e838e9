"""File operations of a store that work on every file system."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("pyregistry.store")

_NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder.

    Unlike `Path.is_dir`, this raises if the answer is unknown, because an unreadable folder must not count as missing.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def entries(folder: Path) -> list[Path]:
    """Return the entries of a folder. A missing folder has none."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def tree(folder: str | Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield all entries of a folder, at any depth. Links are not followed. Each folder precedes its entries."""
    pending = [os.fspath(folder)]
    while pending:
        found = []
        with os.scandir(pending.pop()) as scanned:
            for entry in scanned:
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    pending.append(entry.path)
                found.append((entry.path, info))
        yield from found


def size(folder: Path) -> int:
    """Return the total size of a folder's files in bytes."""
    return sum(info.st_size for _, info in tree(folder) if stat.S_ISREG(info.st_mode))


def sync(path: str | Path) -> None:
    """Flush a file's content, or a folder's names, to the disk.

    Raises:
        OSError: The flush failed. The error names the path, which ``fsync`` itself does not report.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_FSYNC:  # some file systems do not support fsync of folders
            raise OSError(error.errno, f"{error.strerror} (fsync)", os.fspath(path)) from error
    finally:
        os.close(opened)


def create(path: Path, content: bytes) -> None:
    """Create a new file with this content, durably.

    Raises:
        FileExistsError: The file exists.
        OSError: The write failed. The error names the path, which ``write`` itself does not report.
    """
    with path.open("xb") as file:
        try:
            file.write(content)
            file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    sync(path)


def own(folder: str | Path) -> None:
    """Give this user all rights to a folder that it owns. Other folders stay unchanged."""
    with suppress(OSError):
        info = os.lstat(folder)
        if stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(folder, stat.S_IMODE(info.st_mode) | stat.S_IRWXU)  # noqa: PTH101 - often a str


def remove(folder: Path) -> None:
    """Remove a folder as far as possible. What remains is logged."""
    _own_all(folder)
    try:
        shutil.rmtree(folder, ignore_errors=True)  # skips what it can't remove (.nfsXXXX, no rights)
        shutil.rmtree(folder)  # raises the error of the first such entry
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s is left to the next sweep: %s", folder, error)


def _own_all(folder: Path) -> None:
    pending: list[str | Path] = [folder]
    while pending:
        at = pending.pop()
        own(at)
        with suppress(OSError), os.scandir(at) as scanned:  # `remove` logs a folder that stays unreadable
            pending += [entry.path for entry in scanned if entry.is_dir(follow_symlinks=False)]


def remove_empty(*folders: Path) -> None:
    """Remove those of the folders that are empty, in this order."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
