"""Which cache a root is, and whose: the file ``cache_id`` in it."""

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

# Where links are not supported, the mark is empty for a moment after it was made (seconds).
_READ_AGAIN = (0.01, 0.05, 0.25, 1.0, 2.0)

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class CacheMark(msgspec.Struct, frozen=True):
    """What the file ``cache_id`` in a root says.

    Attributes:
        cache_id: which cache this is.
        namespace: the namespace that it belongs to.
    """

    cache_id: str
    namespace: str


def path_of(root: Path) -> Path:
    """The file."""
    return root / OURS / "cache_id"


def read(root: Path) -> CacheMark | None:
    """What a root says of itself; ``None``: nothing yet.

    Raises:
        CacheMismatch: the mark can't be understood.
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
    """Say which cache a root is, unless that was said before. Returns what the root says of itself now.

    Raises:
        CacheMismatch: there is a mark that can't be understood.
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
    return read(root) or write(root, mark)  # the latter if somebody removed it


def write_draft(root: Path, mark: CacheMark) -> Path:
    """A file that may become the mark, on the disk."""
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
    """Make a draft the mark, whatever was there."""
    path = path_of(root)
    try:
        draft.replace(path)
    except OSError:  # a mount that renames nothing
        path.unlink(missing_ok=True)
        disk.create(path, draft.read_bytes())
        make_file(root, path)
        draft.unlink()
    _sync(root)


def how_to_restore(root: Path, mark: CacheMark) -> str:
    """What to tell a person whose mark is damaged, and can't heal, as the registry knows which cache it should be."""
    return (
        f"{path_of(root)} is damaged. If {root} is the folder that namespace {mark.namespace!r} stands for, "
        f"write this to that file: {_content(mark).decode()}"
    )


def _content(mark: CacheMark) -> bytes:
    return msgspec.json.encode(mark)


def _sync(root: Path) -> None:
    disk.sync(root / OURS)
    disk.sync(root)
