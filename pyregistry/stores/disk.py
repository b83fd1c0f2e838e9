"""What a store does with files and folders, whichever file system is below."""

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
    """Unlike `Path.is_dir`, takes only absence for a no: what can't be told must not read as gone."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing, if there is none."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def tree(folder: str | Path) -> Iterator[tuple[str, os.stat_result]]:
    """All that is in a folder, at any depth; links are not followed. Each folder comes before what is in it."""
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
    """The sum of the sizes of its files."""
    return sum(info.st_size for _, info in tree(folder) if stat.S_ISREG(info.st_mode))


def sync(path: str | Path) -> None:
    """Have what was written to a file, or the names in a folder, on the disk.

    Raises:
        OSError: with the path, which ``fsync`` does not know.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_FSYNC:  # folders on some file systems
            raise OSError(error.errno, f"{error.strerror} (fsync)", os.fspath(path)) from error
    finally:
        os.close(opened)


def create(path: Path, content: bytes) -> None:
    """Make a file that is not there yet, with this in it, durably.

    Raises:
        FileExistsError: it is there.
        OSError: with the path, which ``write`` does not know.
    """
    with path.open("xb") as file:
        try:
            file.write(content)
            file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    sync(path)


def own(folder: str | Path) -> None:
    """Be able to list a folder and to change what is in it, if it is this user's; else nothing happens."""
    with suppress(OSError):
        info = os.lstat(folder)
        if stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(folder, stat.S_IMODE(info.st_mode) | stat.S_IRWXU)  # noqa: PTH101 - as often a str


def remove(folder: Path) -> None:
    """Remove a folder, or as much of it as can be; the rest is logged."""
    _own_all(folder)
    try:
        shutil.rmtree(folder, ignore_errors=True)  # goes on past what stands in the way (.nfsXXXX, no rights)
        shutil.rmtree(folder)  # says what that was
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s is left to the next sweep: %s", folder, error)


def _own_all(folder: Path) -> None:
    pending: list[str | Path] = [folder]
    while pending:
        at = pending.pop()
        own(at)
        with suppress(OSError), os.scandir(at) as scanned:  # what stays closed is told by who removes it
            pending += [entry.path for entry in scanned if entry.is_dir(follow_symlinks=False)]


def remove_empty(*folders: Path) -> None:
    """Remove those folders that are empty, in this order."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
