"""Preparation of staged files for publishing: they become readable, durable and self-contained."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pyregistry.errors import InvalidArgument
from pyregistry.stores import disk
from pyregistry.stores.sharing import Sharing

_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


def settle(folder: Path, final: Path, root: Path, *, outside_links: bool) -> None:
    """Prepare the files of a download for publishing.

    Args:
        folder: Folder of the files.
        final: Path of the folder after publishing.
        root: Root of the store.
        outside_links: Whether links may lead out of the folder.

    Raises:
        InvalidArgument: The folder has no file, a dangling link, or a forbidden link out of the folder.
        OSError: An operation on the disk failed.
    """
    found = list(_adapted(folder, Sharing.of(root)))
    if all(stat.S_ISDIR(info.st_mode) for _, info in found):
        raise InvalidArgument("staging", f"there is no file in it: {folder}")
    links = [Path(path) for path, info in found if stat.S_ISLNK(info.st_mode)]
    targets = [_target(path, folder, final, outside_links=outside_links) for path in links]
    for path, target in zip(links, targets, strict=True):
        if target is not None:
            _link(path, target)
    for place, info in found:
        if stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
            disk.sync(place)
    disk.sync(folder)


def _adapted(folder: Path, sharing: Sharing) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the entries of a folder, after giving each the rights of the root."""
    sharing.adapt(folder, folder.lstat())
    for path, info in disk.tree(folder):
        # `disk.tree` yields a folder before its entries, so the folder is readable when it is listed.
        if stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
            sharing.adapt(path, info)
        yield path, info


def _target(path: Path, folder: Path, final: Path, *, outside_links: bool) -> str | None:
    """Return the new target of a link, or ``None`` if the link stays unchanged.

    Raises:
        InvalidArgument: The link is dangling or leads out of the folder.
    """
    name, says = path.relative_to(folder), Path(os.readlink(path))  # noqa: PTH115 - error messages show the raw text
    try:
        path.stat()
    except OSError as error:
        if error.errno not in _NOWHERE:
            raise
        raise InvalidArgument("staging", f"the link '{name}' leads nowhere: '{says}'") from None
    home, real = folder.resolve(), path.resolve()
    if real.is_relative_to(home):
        if says.is_absolute() or _leaves(name, says):
            return os.path.relpath(real, home / name.parent)
        return None
    if not outside_links:
        raise InvalidArgument(
            "staging",
            f"the link '{name}' leads out of the download, to '{says}': have it bring that file, "
            "or use FolderStore(..., outside_links=True) if all who read the store have it at that place",
        )
    if says.is_absolute():
        return None
    return os.path.relpath(real, (final.parent.resolve() / final.name / name).parent)


def _leaves(name: Path, says: Path) -> bool:
    """Return whether a relative link leaves the download on its way to a target inside.

    The folders outside differ after publishing.
    """
    depth = len(name.parts) - 1
    for part in says.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


def _link(path: Path, target: str) -> None:
    draft = path.with_name(f".{os.urandom(8).hex()}")
    draft.symlink_to(target)
    draft.replace(path)
