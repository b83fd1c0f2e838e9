"""The names of models and their folders below the root of a store."""

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

_FOLDER_BYTES = 180  # longest unshortened name: with all suffixes it stays below the usual limit of 255
_SEPARATOR = quote(":", safe="")
_USUAL_CASE = {str(provider).lower(): str(provider) for provider in ModelProvider}


def folder_of(ref: ModelRef) -> str:
    """Return the name of a model's folder. It is unique to the model on any file system.

    The name is ASCII, so that no file system normalises it. A suffix after ``+`` records the case of the letters,
    because a file system may treat ``M`` and ``m`` as equal. The suffix is a hexadecimal number with one bit for
    each letter. ``=`` separates the name of the model; folders of older versions do not contain it.

    Raises:
        InvalidArgument: `ref` is invalid or has no provider.
    """
    entry = _entry_of(ref)
    folder = _quoted(entry).replace(_SEPARATOR, "=", 1)
    if folder.endswith("."):
        folder = f"{folder[:-1]}%2E"  # Windows and SMB drop a trailing dot
    if len(folder) > _FOLDER_BYTES:
        return _cut(folder, entry)
    case = _case_of(entry)
    return f"{folder}+{case:x}" if case else folder


def former_folder_of(ref: ModelRef) -> str:
    """Return the folder name of older versions, which did not distinguish upper from lower case.

    Raises:
        InvalidArgument: As for `folder_of`.
    """
    entry = _entry_of(ref)
    folder = _quoted(entry)
    return _cut(folder, entry) if len(folder) > _FOLDER_BYTES else folder


def plain(location: str | None) -> PurePosixPath:
    """Return a location as a path, validated as text. Symbolic links are not resolved.

    Raises:
        InvalidArgument: The location is missing or not below the root.
    """
    path = PurePosixPath(location or "")
    if not path.parts:
        raise InvalidArgument("location", "there is none")
    if path.is_absolute() or ".." in path.parts or path.parts[0] == OURS or "\0" in str(path):
        raise InvalidArgument("location", f"must be a folder of a model below the root, not {location!r}")
    return path


def manifest_of(folder: Path) -> Path | None:
    """Return the path of the manifest that publishes a folder, or ``None`` if the folder needs none."""
    token = folder.name.removesuffix(FILES)
    return folder.with_name(token + MANIFEST) if token != folder.name and TOKEN.fullmatch(token) else None


def _entry_of(ref: ModelRef) -> str:
    return checks.target(ref.name, ref.provider or "", ref.revision, ref.subset).entry


def _quoted(entry: str) -> str:
    return quote(entry, safe="").replace("~", "%7E")


def _cut(folder: str, entry: str) -> str:
    # Longer than the longest unshortened name, so it can't equal the unshortened name of another model.
    return f"{folder[:_FOLDER_BYTES]}-{hashlib.sha256(entry.encode()).hexdigest()[:32]}"


def _case_of(entry: str) -> int:
    """Return a bit for each letter: whether its case is unusual.

    Lower case is usual, except in the words of known providers.
    """
    usual = entry.encode().lower().decode()  # `bytes.lower` changes ASCII letters only
    for lower, provider in _USUAL_CASE.items():
        if re.match(rf"{lower}[:@#]", usual):
            usual = provider + usual[len(provider) :]
    bits = 0
    for letter, as_usual in zip(entry, usual, strict=True):
        if letter.isascii() and letter.isalpha():
            bits = bits << 1 | (letter != as_usual)
    return bits
