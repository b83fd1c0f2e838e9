"""Which snapshot is wanted: its arguments, checked; what the hub says of it; where it is in huggingface_hub's cache."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyregistry.errors import ConfigurationError, InvalidArgument, LocalFault
from pyregistry.huggingface.errors import (
    SnapshotFailed,
    SnapshotRefused,
    is_away,
    is_local,
    is_permanent,
    without_secrets,
)
from pyregistry.retry import message_of

if TYPE_CHECKING:
    from pyregistry.backend.values import Branch
    from pyregistry.stores.folder import FolderStore

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLAIN = re.compile(r"[\w.*?/\[\]!-]+", re.ASCII)
_SUBSET_LENGTH = 80
_RESOLVE_TIMEOUT = 10.0  # seconds for a branch to become a commit
_DEFAULT_BRANCH = "main"


def subset_of(
    allow_patterns: str | Iterable[str] | None = None, ignore_patterns: str | Iterable[str] | None = None
) -> str | None:
    """The ``subset`` of records of snapshots with these patterns: a word, or a hash where that would be long.

    The order of patterns does not matter, nor whether one is said twice. ``None``: all files.

    Raises:
        InvalidArgument: no file could match.
    """
    allowed, ignored = _sorted("allow_patterns", allow_patterns), _sorted("ignore_patterns", ignore_patterns)
    parts = []
    if allowed is not None and "*" not in allowed:
        if not allowed:
            raise InvalidArgument("allow_patterns", "must not be empty: nothing would be downloaded")
        parts.append("only=" + ",".join(allowed))
    if ignored:
        parts.append("but=" + ",".join(ignored))
    word = ";".join(parts)
    patterns = [*(allowed or ()), *(ignored or ())]
    if len(word) <= _SUBSET_LENGTH and all(_PLAIN.fullmatch(each) for each in patterns):
        return word or None
    exact = json.dumps([allowed, ignored or None]).encode()
    return f"sha256={hashlib.sha256(exact).hexdigest()[:32]}"


def _sorted(argument: str, patterns: str | Iterable[str] | None) -> list[str] | None:
    if patterns is None:
        return None
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    if not all(isinstance(each, str) and each for each in listed):
        raise InvalidArgument(argument, "must be non-empty texts")
    # huggingface_hub takes a folder for all that is in it.
    return sorted({f"{each}*" if each.endswith("/") else each for each in listed})


def storage_of(repo_id: str) -> str:
    """The folder of a repository in the cache of huggingface_hub."""
    return f"models--{repo_id.replace('/', '--')}"


def cached(repo_id: str, commit: str) -> str:
    """Where a snapshot is in the cache of huggingface_hub."""
    return f"{storage_of(repo_id)}/snapshots/{commit}"


def cache_of(cache_dir: str | os.PathLike[str] | None) -> Path:
    """The cache of huggingface_hub; ``None``: its default.

    Raises:
        LocalFault: this user has no home directory.
    """
    if cache_dir is None:
        from huggingface_hub import constants

        cache_dir = constants.HF_HUB_CACHE
    try:
        return Path(cache_dir).expanduser()
    except RuntimeError as error:
        raise LocalFault(
            f"the cache of huggingface_hub would be {str(cache_dir)!r}, and this user has no home directory: "
            "set HOME or HF_HOME, or say cache_dir= or store="
        ) from error


def is_offline() -> bool:
    """Whether huggingface_hub is told to send nothing (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


class Answer(NamedTuple):
    """What the hub says of a revision: its commit, and how the hub writes the name of the repository."""

    name: str
    commit: str


class Resolved(NamedTuple):
    """Which snapshot it is.

    Attributes:
        name: the repository, as the hub writes it.
        commit: the commit.
        known: what the registry knew before the hub was asked; ``None``: the hub was not asked, or the registry.
        why_not: why no download can be begun; "": the hub is there, as far as is known.
    """

    name: str
    commit: str
    known: Branch | None
    why_not: str = ""


class Ref(NamedTuple):
    """What the cache of huggingface_hub says of a branch: its commit, and when that was written (Unix time)."""

    commit: str
    written: float


class Snapshot:
    """What is wanted, checked."""

    def __init__(
        self,
        repo_id: str,
        revision: str | None,
        allow_patterns: str | Iterable[str] | None,
        ignore_patterns: str | Iterable[str] | None,
        store: FolderStore | None,
        cache_dir: str | os.PathLike[str] | None,
        token: str | bool | None,
        endpoint: str | None,
        max_workers: int,
    ) -> None:
        if importlib.util.find_spec("huggingface_hub") is None:
            raise ConfigurationError(
                "huggingface_hub is missing: pip install 'pyregistry-redis[huggingface]'"
            )
        if store is not None and cache_dir is not None:
            raise InvalidArgument("cache_dir", "is for snapshots without a store")
        self.repo_id = repo_id
        self.revision = revision
        self.allow_patterns = _sorted("allow_patterns", allow_patterns)
        self.ignore_patterns = _sorted("ignore_patterns", ignore_patterns)
        self.subset = subset_of(self.allow_patterns, self.ignore_patterns)
        self.store = store
        self.cache_dir = cache_dir if cache_dir is None else os.fspath(cache_dir)
        self.token = token
        self.endpoint = endpoint
        self.max_workers = max_workers
        if store is None:
            cache_of(self.cache_dir)  # raises where there can't be one

    def __repr__(self) -> str:
        return f"{self.repo_id}@{self.revision or _DEFAULT_BRANCH}"

    @property
    def commit(self) -> str | None:
        """The revision, if it is a full commit."""
        return self.revision if self.revision is not None and _COMMIT.fullmatch(self.revision) else None

    @property
    def branch(self) -> str | None:
        """The branch or tag, if the revision is no full commit."""
        return None if self.commit is not None else self.revision or _DEFAULT_BRANCH

    def resolve(self) -> Answer:
        """Ask the hub.

        Raises:
            SnapshotFailed: the hub did not answer (``hub_away``), or said no (`SnapshotRefused`).
            LocalFault: it can't be asked from here.
        """
        try:
            from huggingface_hub import HfApi
        except OSError as error:  # what is imported with it may want files of its own
            raise LocalFault(f"huggingface_hub can't be imported: {error}") from error

        if is_offline():
            raise self._failed(SnapshotFailed, "HF_HUB_OFFLINE is set", away=True)
        api = HfApi(endpoint=self.endpoint, token=self.token)
        try:
            info = api.model_info(self.repo_id, revision=self.revision, timeout=_RESOLVE_TIMEOUT)
        except Exception as error:
            # Not chained: what the hub's client says may hold a signed URL.
            why = without_secrets(message_of(error), self.token)
            if is_permanent(error, api.endpoint):
                raise self._failed(SnapshotRefused, why) from None
            if is_local(error):
                raise LocalFault(f"the hub can't be asked from here: {why}") from None
            raise self._failed(SnapshotFailed, why, away=is_away(error)) from None
        if info.sha is None:
            raise self._failed(SnapshotFailed, "the hub does not tell its commit")
        return Answer(info.id or self.repo_id, info.sha)

    def _failed(self, kind: type[SnapshotFailed], why: str, *, away: bool = False) -> SnapshotFailed:
        error = kind(f"{self!r} can't be resolved: {why}")
        error.hub_away = away
        return error

    def is_cached(self, name: str, commit: str) -> bool:
        """Whether the files are in the cache, as far as huggingface_hub can tell without asking the hub."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            snapshot_download(
                name,
                revision=commit,
                cache_dir=self.cache_dir,
                allow_patterns=self.allow_patterns,
                ignore_patterns=self.ignore_patterns,
                local_files_only=True,
            )
        except LocalEntryNotFoundError:
            return False
        return True

    def read_ref(self, name: str) -> Ref | None:
        """What the cache says of the branch."""
        path = self._ref(name)
        with suppress(OSError, UnicodeDecodeError):
            commit = path.read_text("ascii").strip()
            if _COMMIT.fullmatch(commit):
                return Ref(commit, path.stat().st_mtime)
        return None

    def write_ref(self, name: str, commit: str, *, replace: bool) -> None:
        """Have the cache say which commit the branch is, as huggingface_hub does: it finds that while offline.

        Args:
            name: the repository.
            commit: its snapshot is there.
            replace: also where the cache says another.

        Raises:
            OSError: it can't be written.
        """
        known = self.read_ref(name)
        if known is not None and (known.commit == commit or not replace):
            return
        path = self._ref(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.urandom(4).hex()}.tmp")
        try:
            draft.write_text(commit, "ascii")
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def _ref(self, name: str) -> Path:
        return cache_of(self.cache_dir) / storage_of(name) / "refs" / str(self.branch)

    def job(self, name: str, commit: str, folder: Path | None) -> dict[str, Any]:
        """What its process is told."""
        return {
            # What is no text there is passed over by an import; a path is meant to be one.
            "path": [os.fsdecode(each) for each in sys.path if isinstance(each, (str, os.PathLike))],
            "parent": os.getpid(),
            "repo_id": name,
            "revision": commit,
            "allow_patterns": self.allow_patterns,
            "ignore_patterns": self.ignore_patterns,
            "stored": self.store is not None,
            "folder": None if folder is None else os.fspath(folder),
            "cache_dir": self.cache_dir,
            "token": self.token,
            "endpoint": self.endpoint,
            "max_workers": self.max_workers,
        }
