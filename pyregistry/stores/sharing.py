"""Modes and groups: users with rights to the root of a store get them to its content.

The umask stays unchanged, because it belongs to the whole process.
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

# Seconds between tries to make a folder. Another process may have removed an empty parent folder meanwhile, or made
# one that does not have the mode of the root yet.
_MAKE_AGAIN = (0.0, 0.0, 0.0, 0.0, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)

_RWX = 0o7

# Format of linux/posix_acl_xattr.h: a version, then a tag, rights and an id for each entry. These three tags have no
# id.
_DEFAULT_ACL = "system.posix_acl_default"
_ACL_VERSION, _ACL_ENTRY, _NO_ID = struct.pack("<I", 2), struct.Struct("<HHI"), 0xFFFFFFFF
_USER, _GROUP, _OTHERS = 0x01, 0x04, 0x20


class Sharing(NamedTuple):
    """The rights that folders and files inherit from the root of their store.

    Attributes:
        mode: Minimum mode bits of a folder.
        group: Group of folders and files. ``None``: the group has no rights beyond those of others.
    """

    mode: int
    group: int | None

    @classmethod
    def of(cls, root: Path) -> Sharing:
        """Read the rights of a root.

        Raises:
            FileNotFoundError: The root does not exist.
        """
        info = root.stat()
        mode = stat.S_IMODE(info.st_mode)
        has_rights = bool(mode >> 3 & ~mode & _RWX)
        if has_rights:
            mode |= stat.S_ISGID  # so that the files of a download inherit the group
        return cls(mode & ~stat.S_ISUID | stat.S_IRWXU, info.st_gid if has_rights else None)

    def adapt(self, path: str | Path, info: os.stat_result) -> None:
        """Add the missing rights to a folder or file. It keeps its existing rights.

        A folder gets the mode of the root. A file gets the group's and others' rights of the root, as far as the
        file's owner has the same right: a read-only file stays read-only. A file of another user stays unchanged, as
        does any file where the file system has no modes or groups.
        """
        if stat.S_ISLNK(info.st_mode) or os.geteuid() not in (0, info.st_uid):
            return
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISDIR(info.st_mode):
            wanted = mode | self.mode
        else:
            owners = mode >> 6 & _RWX | stat.S_IRUSR >> 6  # the owner must read the file to flush it
            wanted = mode | stat.S_IRUSR | self.mode & (owners << 3 | owners)
        try:
            if self.group is not None and self.group != info.st_gid and _is_ours(self.group):
                os.chown(path, -1, self.group)
                mode = -1  # chown may have cleared bits
            if mode != wanted:
                os.chmod(path, wanted)  # noqa: PTH101 - often a str
        except OSError as error:
            log.debug("%s stays as it is: %s", path, error)

    def pass_on(self, folder: Path) -> None:
        """Set a default access list, so that new files in a folder get these rights at creation.

        This applies if the group may write and the file system supports access lists. It allows another user to
        remove the files of an unfinished download.
        """
        if sys.platform == "linux" and self.mode & stat.S_IWGRP:
            rights = (_USER, self.mode >> 6), (_GROUP, self.mode >> 3), (_OTHERS, self.mode)
            entries = b"".join(_ACL_ENTRY.pack(tag, bits & _RWX, _NO_ID) for tag, bits in rights)
            with suppress(OSError):  # for example, the folder inherited a list from the root
                os.setxattr(folder, _DEFAULT_ACL, _ACL_VERSION + entries, os.XATTR_CREATE)


def _is_ours(group: int) -> bool:
    return os.geteuid() == 0 or group == os.getegid() or group in os.getgroups()


def make(root: Path, *parts: str) -> Path:
    """Return a folder below the root, made if needed. The root is never made: a missing root is an unmounted one."""
    for pause in _MAKE_AGAIN:
        try:
            return _make(root, parts)
        except (FileNotFoundError, FileExistsError, PermissionError):
            root.stat()
        time.sleep(pause * random.uniform(0.5, 1.0))  # jitter, against lockstep with removers
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
    """Give a file below the root the root's mode and group."""
    Sharing.of(root).adapt(path, path.lstat())
