"""Which files a model has, written last: how files are published where a folder can't be renamed."""

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
    """The content of a folder that is whole. Names are percent-encoded paths in it, as they may be any bytes.

    Attributes:
        files: how many bytes each file has.
        links: where each symbolic link leads.
    """

    files: dict[str, int]
    links: dict[str, str]

    @property
    def size_bytes(self) -> int:
        """The sum of the sizes of the files."""
        return sum(self.files.values())

    @classmethod
    def of(cls, folder: Path) -> Manifest:
        """What is in a folder now."""
        manifest = cls({}, {})
        for path, info in disk.tree(folder):
            name = _encoded(os.path.relpath(path, folder))
            if stat.S_ISREG(info.st_mode):
                manifest.files[name] = info.st_size
            elif stat.S_ISLNK(info.st_mode):
                manifest.links[name] = _encoded(os.readlink(path))  # noqa: PTH115 - what it says, not a path
        return manifest

    def fits(self, folder: Path) -> bool:
        """Whether all of it is in that folder.

        Raises:
            OSError: it can't be told.
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
    """A manifest; ``None``: there is none, or it was cut.

    Raises:
        OSError: it can't be told.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def write(root: Path, path: Path, manifest: Manifest) -> None:
    """Write a manifest, over one that was cut."""
    with suppress(FileNotFoundError):
        path.unlink()
    disk.create(path, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    make_file(root, path)


def _encoded(name: str) -> str:
    return quote(os.fsencode(name), safe="/")


def _place(folder: Path, name: str) -> Path:
    return folder / os.fsdecode(unquote_to_bytes(name))
