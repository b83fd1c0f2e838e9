"""Modes and groups: what is in a store may be read and removed by those for whom its root is.

The umask is not touched, as it is the whole process's.
"""

from __future__ import annotations

import os
import random
import stat
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pyregistry.stores.disk import log

# Seconds between tries to make a folder. Another process may just have removed one on the way, as it was empty, or
# made one that has not the mode of the root yet.
_MAKE_AGAIN = (0.0, 0.0, 0.0, 0.0, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)

_RWX = 0o7

# As in linux/posix_acl_xattr.h: a version, and for each entry a tag, rights, and an id that these three do not have.
_DEFAULT_ACL = "system.posix_acl_default"
_ACL_VERSION, _ACL_ENTRY, _NO_ID = struct.pack("<I", 2), struct.Struct("<HHI"), 0xFFFFFFFF
_USER, _GROUP, _OTHERS = 0x01, 0x04, 0x20


class Sharing(NamedTuple):
    """What folders and files take from the root of their store.

    Attributes:
        mode: the bits that a folder has at least.
        group: the group that they belong to; ``None``: it has no rights of its own.
    """

    mode: int
    group: int | None

    @classmethod
    def of(cls, root: Path) -> Sharing:
        """As it is now.

        Raises:
            FileNotFoundError: the root is gone.
        """
        info = root.stat()
        mode = stat.S_IMODE(info.st_mode)
        has_rights = bool(mode >> 3 & ~mode & _RWX)
        if has_rights:
            mode |= stat.S_ISGID  # so that what a download makes is of the group too
        return cls(mode & ~stat.S_ISUID | stat.S_IRWXU, info.st_gid if has_rights else None)

    def adapt(self, path: str | Path, info: os.stat_result) -> None:
        """Give a folder or file the rights that it lacks; it keeps those that it has.

        A folder gets the mode of the root. A file gets what the root gives to the group and to others, as far
        as its owner has the same right: what is read-only stays so. Where the file system has no modes or
        groups, or the file is another user's, it stays as it is.
        """
        if stat.S_ISLNK(info.st_mode) or os.geteuid() not in (0, info.st_uid):
            return
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISDIR(info.st_mode):
            wanted = mode | self.mode
        else:
            owners = mode >> 6 & _RWX | stat.S_IRUSR >> 6  # it is read: to be flushed
            wanted = mode | stat.S_IRUSR | self.mode & (owners << 3 | owners)
        try:
            if self.group is not None and self.group != info.st_gid and _is_ours(self.group):
                os.chown(path, -1, self.group)
                mode = -1  # may have lost bits
            if mode != wanted:
                os.chmod(path, wanted)  # noqa: PTH101 - as often a str
        except OSError as error:
            log.debug("%s stays as it is: %s", path, error)

    def pass_on(self, folder: Path) -> None:
        """Have what is made in a folder get these rights from the beginning, by a default access list.

        Only where a group may write, and where the file system has such lists. It is for what a download leaves that
        never comes to its end: another user may remove it.
        """
        if sys.platform == "linux" and self.mode & stat.S_IWGRP:
            rights = (_USER, self.mode >> 6), (_GROUP, self.mode >> 3), (_OTHERS, self.mode)
            entries = b"".join(_ACL_ENTRY.pack(tag, bits & _RWX, _NO_ID) for tag, bits in rights)
            with suppress(OSError):  # such as one that was inherited from the root
                os.setxattr(folder, _DEFAULT_ACL, _ACL_VERSION + entries, os.XATTR_CREATE)


def _is_ours(group: int) -> bool:
    return os.geteuid() == 0 or group == os.getegid() or group in os.getgroups()


def make(root: Path, *parts: str) -> Path:
    """A folder below the root, made if need be; but never the root: what is gone was unmounted."""
    for pause in _MAKE_AGAIN:
        try:
            return _make(root, parts)
        except (FileNotFoundError, FileExistsError, PermissionError):
            root.stat()
        time.sleep(pause * random.uniform(0.5, 1.0))  # else those that make and remove it stay in step
    return _make(root, parts)


def _make(root: Path, parts: tuple[str, ...]) -> Path:
    sharing = Sharing.of(root)
    folder = root
    for part in parts:
        folder /= part
        folder.mkdir(mode=sharing.mode & 0o777, exist_ok=True)
        sharing.adapt(folder, folder.lstat())
    return folder


def make_file(root: Path, path: Path) -> None:
    """Give a file that was made below the root the root's mode and group."""
    Sharing.of(root).adapt(path, path.lstat())
