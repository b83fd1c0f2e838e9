"""The manifest of a model's files. It is written last, and publishes files where a folder can't be renamed."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import msgspec

from pyregistry.stores import disk
from pyregistry.stores.sharing import make_file


class Manifest(msgspec.Struct, frozen=True):
    """The content of a complete folder. Names are percent-encoded relative paths, because they may be any bytes.

    Attributes:
        files: Size of each file in bytes.
        links: Target of each symbolic link.
    """

    files: dict[str, int]
    links: dict[str, str]

    @property
    def size_bytes(self) -> int:
        """Total size of the files in bytes."""
        return sum(self.files.values())

    @classmethod
    def of(cls, folder: Path) -> Manifest:
        """Create the manifest of a folder's current content."""
        manifest = cls({}, {})
        for path, info in disk.tree(folder):
            name = _encoded(os.path.relpath(path, folder))
            if stat.S_ISREG(info.st_mode):
                manifest.files[name] = info.st_size
            elif stat.S_ISLNK(info.st_mode):
                manifest.links[name] = _encoded(os.readlink(path))  # noqa: PTH115 - the raw text, not a path
        return manifest

    def fits(self, folder: Path) -> bool:
        """Return whether the folder contains all files and links of this manifest.

        Raises:
            OSError: The folder can't be examined.
        """
        try:
            return all(
                stat.S_ISREG(info.st_mode) and info.st_size == size
                for name, size in self.files.items()
                for info in [_place(folder, name).lstat()]
            ) and all(
                _encoded(os.readlink(_place(folder, name))) == says  # noqa: PTH115 - as above
                for name, says in self.links.items()
            )
        except (FileNotFoundError, NotADirectoryError):
            return False


def read(path: Path) -> Manifest | None:
    """Read a manifest. Returns ``None`` if it is missing or truncated.

    Raises:
        OSError: The file can't be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def write(root: Path, path: Path, manifest: Manifest) -> None:
    """Write a manifest. It replaces a truncated one."""
    with suppress(FileNotFoundError):
        path.unlink()
    disk.create(path, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    make_file(root, path)


def _encoded(name: str) -> str:
    return quote(os.fsencode(name), safe="/")


def _place(folder: Path, name: str) -> Path:
    return folder / os.fsdecode(unquote_to_bytes(name))
