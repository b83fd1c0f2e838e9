"""The requested snapshot: its checked arguments, its resolution by the hub, and its place in the cache."""

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
_RESOLVE_TIMEOUT = 10.0  # seconds allowed to resolve a branch
_DEFAULT_BRANCH = "main"


def subset_of(
    allow_patterns: str | Iterable[str] | None = None, ignore_patterns: str | Iterable[str] | None = None
) -> str | None:
    """Return the ``subset`` of the records of snapshots with these patterns: a word, or a hash if that is too long.

    The order of patterns and duplicates do not matter.

    Returns:
        The subset, or ``None`` if the patterns select all files.

    Raises:
        InvalidArgument: No file can match.
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
    # huggingface_hub expands a pattern that ends in "/" to the folder's content.
    return sorted({f"{each}*" if each.endswith("/") else each for each in listed})


def storage_of(repo_id: str) -> str:
    """Return the folder of a repository in the cache of huggingface_hub."""
    return f"models--{repo_id.replace('/', '--')}"


def cached(repo_id: str, commit: str) -> str:
    """Return the folder of a snapshot in the cache of huggingface_hub."""
    return f"{storage_of(repo_id)}/snapshots/{commit}"


def cache_of(cache_dir: str | os.PathLike[str] | None) -> Path:
    """Return the cache of huggingface_hub. ``None`` stands for its default.

    Raises:
        LocalFault: This user has no home directory.
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
    """Return whether huggingface_hub is offline (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


class Answer(NamedTuple):
    """The hub's answer for a revision: its commit, and the repository's name in the hub's spelling."""

    name: str
    commit: str


class Resolved(NamedTuple):
    """A resolved snapshot.

    Attributes:
        name: Repository in the hub's spelling.
        commit: Commit of the snapshot.
        known: Registry's data before the request to the hub. ``None``: the hub or the registry was not queried.
        why_not: Reason why no download can begin. Empty: the hub is available, as far as known.
    """

    name: str
    commit: str
    known: Branch | None
    why_not: str = ""


class Ref(NamedTuple):
    """A branch in the cache of huggingface_hub: its commit, and the time of its write (Unix time)."""

    commit: str
    written: float


class Snapshot:
    """A requested snapshot. The constructor checks the arguments."""

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
            cache_of(self.cache_dir)  # raises LocalFault without a home directory

    def __repr__(self) -> str:
        return f"{self.repo_id}@{self.revision or _DEFAULT_BRANCH}"

    @property
    def commit(self) -> str | None:
        """The revision if it is a full commit, else ``None``."""
        return self.revision if self.revision is not None and _COMMIT.fullmatch(self.revision) else None

    @property
    def branch(self) -> str | None:
        """The branch or tag, or ``None`` if the revision is a full commit."""
        return None if self.commit is not None else self.revision or _DEFAULT_BRANCH

    def resolve(self) -> Answer:
        """Resolve the revision by a request to the hub.

        Raises:
            SnapshotFailed: The hub did not answer (``hub_away``) or refused (`SnapshotRefused`).
            LocalFault: This machine can't query the hub.
        """
        try:
            from huggingface_hub import HfApi
        except OSError as error:  # a dependency that is imported with it may need files
            raise LocalFault(f"huggingface_hub can't be imported: {error}") from error

        if is_offline():
            raise self._failed(SnapshotFailed, "HF_HUB_OFFLINE is set", away=True)
        api = HfApi(endpoint=self.endpoint, token=self.token)
        try:
            info = api.model_info(self.repo_id, revision=self.revision, timeout=_RESOLVE_TIMEOUT)
        except Exception as error:
            # Not chained, because the error of the hub's client may contain a signed URL.
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
        """Return whether the cache has the files, as far as huggingface_hub can tell without the hub."""
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
        """Return the cache's ref of the branch, or ``None`` if there is no valid one."""
        path = self._ref(name)
        with suppress(OSError, UnicodeDecodeError):
            commit = path.read_text("ascii").strip()
            if _COMMIT.fullmatch(commit):
                return Ref(commit, path.stat().st_mtime)
        return None

    def write_ref(self, name: str, commit: str, *, replace: bool) -> None:
        """Write the cache's ref of the branch, as huggingface_hub does, which reads it while offline.

        Args:
            name: Repository.
            commit: Commit whose snapshot is in the cache.
            replace: Whether to replace a ref to another commit.

        Raises:
            OSError: The ref can't be written.
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
        """Return the job for the worker process."""
        return {
            # Imports ignore other types in `sys.path`; a path object there is meant as a str.
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
