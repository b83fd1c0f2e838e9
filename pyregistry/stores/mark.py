"""The mark of a root: the file ``cache_id``, which names the cache and its namespace."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from pyregistry.errors import CacheMismatch
from pyregistry.stores import disk
from pyregistry.stores.names import OURS
from pyregistry.stores.sharing import make, make_file

# Seconds between reads. Without support for links, the mark is empty for a moment after its creation.
_READ_AGAIN = (0.01, 0.05, 0.25, 1.0, 2.0)

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class CacheMark(msgspec.Struct, frozen=True):
    """The content of the file ``cache_id`` in a root.

    Attributes:
        cache_id: Unique id of the cache.
        namespace: Namespace of the cache.
    """

    cache_id: str
    namespace: str


def path_of(root: Path) -> Path:
    """Return the path of the mark."""
    return root / OURS / "cache_id"


def read(root: Path) -> CacheMark | None:
    """Return the mark of a root, or ``None`` if there is none yet.

    Raises:
        CacheMismatch: The mark can't be parsed.
    """
    path = path_of(root)
    for pause in (*_READ_AGAIN, None):
        try:
            mark = msgspec.json.decode(path.read_bytes(), type=CacheMark)
            if mark.cache_id:
                return mark
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        if pause is not None:
            time.sleep(pause)
    raise CacheMismatch(f"{path} is damaged")


def write(root: Path, mark: CacheMark) -> CacheMark:
    """Write the mark of a root, unless it has one. Returns the mark that the root has now.

    Raises:
        CacheMismatch: The existing mark can't be parsed.
    """
    path = path_of(root)
    draft = write_draft(root, mark)
    try:
        try:
            os.link(draft, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            disk.create(path, _content(mark))
            make_file(root, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
    _sync(root)
    return read(root) or write(root, mark)  # written again if another process removed it meanwhile


def write_draft(root: Path, mark: CacheMark) -> Path:
    """Write a file, durably, that may become the mark. Returns its path."""
    draft = make(root, OURS) / f"cache_id-{os.urandom(8).hex()}"
    try:
        disk.create(draft, _content(mark))
        make_file(root, draft)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    return draft


def replace(root: Path, draft: Path) -> None:
    """Make a draft the mark. It replaces any existing one."""
    path = path_of(root)
    try:
        draft.replace(path)
    except OSError:  # the mount does not support renames
        path.unlink(missing_ok=True)
        disk.create(path, draft.read_bytes())
        make_file(root, path)
        draft.unlink()
    _sync(root)


def how_to_restore(root: Path, mark: CacheMark) -> str:
    """Return the instructions to repair a damaged mark by hand.

    It can't be repaired automatically, because the registry already records which cache it must be.
    """
    return (
        f"{path_of(root)} is damaged. If {root} is the folder that namespace {mark.namespace!r} stands for, "
        f"write this to that file: {_content(mark).decode()}"
    )


def _content(mark: CacheMark) -> bytes:
    return msgspec.json.encode(mark)


def _sync(root: Path) -> None:
    disk.sync(root / OURS)
    disk.sync(root)
