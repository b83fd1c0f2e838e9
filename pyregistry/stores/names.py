"""How models and their folders are named below the root of a store."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from pyregistry._core import validation as checks
from pyregistry.errors import InvalidArgument
from pyregistry.models import ModelProvider, ModelRef

OURS = ".pyregistry"
BY_NAME = "by-name"
FILES, MANIFEST = ".files", ".json"
TOKEN = re.compile(r"0|[1-9][0-9]*")

_FOLDER_BYTES = 180  # the longest name that stays as it is: with all that follows it, below the usual 255
_SEPARATOR = quote(":", safe="")
_USUAL_CASE = {str(provider).lower(): str(provider) for provider in ModelProvider}


def folder_of(ref: ModelRef) -> str:
    """The name of a model's folder. It is no other model's, on any file system.

    It is ASCII, so that no file system normalises it. A file system may take ``M`` and ``m`` for one, so behind
    ``+`` stands which letters are upper-case: a hexadecimal number with a bit for each letter. ``=`` stands
    before the name of the model, and in no folder that an older version made.

    Raises:
        InvalidArgument: `ref` is not valid, or has no provider.
    """
    entry = _entry_of(ref)
    folder = _quoted(entry).replace(_SEPARATOR, "=", 1)
    if folder.endswith("."):
        folder = f"{folder[:-1]}%2E"  # Windows and SMB drop it
    if len(folder) > _FOLDER_BYTES:
        return _cut(folder, entry)
    case = _case_of(entry)
    return f"{folder}+{case:x}" if case else folder


def former_folder_of(ref: ModelRef) -> str:
    """The name that a model's folder had before, when it did not tell upper from lower case.

    Raises:
        InvalidArgument: as for `folder_of`.
    """
    entry = _entry_of(ref)
    folder = _quoted(entry)
    return _cut(folder, entry) if len(folder) > _FOLDER_BYTES else folder


def plain(location: str | None) -> PurePosixPath:
    """A location, checked as text; where links lead is their maker's business.

    Raises:
        InvalidArgument: there is none, or it is not below the root.
    """
    path = PurePosixPath(location or "")
    if not path.parts:
        raise InvalidArgument("location", "there is none")
    if path.is_absolute() or ".." in path.parts or path.parts[0] == OURS or "\0" in str(path):
        raise InvalidArgument("location", f"must be a folder of a model below the root, not {location!r}")
    return path


def manifest_of(folder: Path) -> Path | None:
    """The manifest that a folder of files needs to count; ``None``: it needs none."""
    token = folder.name.removesuffix(FILES)
    return folder.with_name(token + MANIFEST) if token != folder.name and TOKEN.fullmatch(token) else None


def _entry_of(ref: ModelRef) -> str:
    return checks.target(ref.name, ref.provider or "", ref.revision, ref.subset).entry


def _quoted(entry: str) -> str:
    return quote(entry, safe="").replace("~", "%7E")


def _cut(folder: str, entry: str) -> str:
    # Longer than the longest whole name, so it is nobody's whole name.
    return f"{folder[:_FOLDER_BYTES]}-{hashlib.sha256(entry.encode()).hexdigest()[:32]}"


def _case_of(entry: str) -> int:
    """A bit for each letter: whether its case is not the usual one, which is the lower, but for known providers."""
    usual = entry.encode().lower().decode()  # of bytes, so that none but ASCII letters change
    for lower, provider in _USUAL_CASE.items():
        if re.match(rf"{lower}[:@#]", usual):
            usual = provider + usual[len(provider) :]
    bits = 0
    for letter, as_usual in zip(entry, usual, strict=True):
        if letter.isascii() and letter.isalpha():
            bits = bits << 1 | (letter != as_usual)
    return bits
