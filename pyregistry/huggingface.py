"""A snapshot of a Hugging Face repository, downloaded once for a fleet (extra ``huggingface``).

`ensure_snapshot` is `Registry.ensure` around `huggingface_hub.snapshot_download`. The record is named by the commit:
a branch is resolved before anything is claimed, and two members of a fleet that see it at different commits
have two records. The download runs in a process of its own, which is ended when the claim is lost, the download stalls
or its caller is cancelled.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import logging
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypedDict

import msgspec

from pyregistry._snapshot import is_permanent, without_secrets
from pyregistry._wait_async import ask, see_through, settle
from pyregistry.errors import ConfigurationError, InvalidArgument, RegistryError
from pyregistry.models import ModelProvider, ModelRecord
from pyregistry.policy import DEFAULT_RETRY, RetryPolicy, message_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pyregistry._owned import OwnedClaim
    from pyregistry._wish import OnUnavailable, OnUnproven
    from pyregistry.aio import AsyncRegistry
    from pyregistry.registry import Registry
    from pyregistry.store import FolderStore

__all__ = [
    "EnsureOptions",
    "SnapshotFailed",
    "SnapshotRefused",
    "ensure_snapshot",
    "ensure_snapshot_async",
    "snapshot_path",
    "subset_of",
]

_log = logging.getLogger("pyregistry.huggingface")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLAIN = re.compile(r"[\w.*?/\[\]!-]+", re.ASCII)
_SUBSET_LENGTH = 80
_RESOLVE_TIMEOUT = 10.0  # seconds for a branch to become a commit
_LOOK_EVERY = 0.2  # seconds between two looks at whether the claim is lost
_GRACE = 5.0  # seconds between TERM and KILL
_LAST_WORDS = 2000  # characters of what a process said that ended without an answer

# Its own path is all that it needs to know before it reads its job.
_PROGRAM = (
    "import json, sys; job = json.loads(sys.stdin.buffer.readline()); sys.path[:] = job['path']; "
    "from pyregistry._snapshot import main; main(job)"
)


class SnapshotFailed(RegistryError):
    """A snapshot could not be downloaded; to try again may help."""


class SnapshotRefused(SnapshotFailed):
    """The hub says no: no such repository or revision, or not with this token. To try again does not help."""


class EnsureOptions(TypedDict, total=False):
    """What `Registry.ensure` takes beyond the model and its files, and means there."""

    lease: float
    owner: str | None
    timeout: float | None
    stall_timeout: float | None
    visibility_timeout: float
    on_unavailable: OnUnavailable
    on_unproven: OnUnproven


def ensure_snapshot(
    registry: Registry,
    repo_id: str,
    *,
    revision: str | None = None,
    allow_patterns: str | Iterable[str] | None = None,
    ignore_patterns: str | Iterable[str] | None = None,
    store: FolderStore | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
    max_workers: int = 8,
    verify: Callable[[ModelRecord], Any] | None = None,
    retry: RetryPolicy | None = DEFAULT_RETRY,
    **options: Unpack[EnsureOptions],
) -> ModelRecord:
    """Have a snapshot of a model repository there: one of the fleet downloads it, the others wait for that one.

    The record has the commit as its ``revision`` (and ``resolved_revision``), and the patterns as its ``subset``.

    Args:
        registry: the registry of the cache.
        repo_id: the repository, ``org/model``.
        revision: a commit, tag or branch; left out: the default branch. All but a full commit is resolved by the
            hub first.
        allow_patterns: only files that match one of these.
        ignore_patterns: no files that match one of these.
        store: puts each snapshot into a folder of its own.
        cache_dir: without a store: the cache of huggingface_hub that the namespace stands for; left out: its
            default.
        token: as in huggingface_hub: a token, ``False`` for none; left out: the one that this machine has.
        endpoint: the hub; left out: ``HF_ENDPOINT``.
        max_workers: how many files are downloaded at a time.
        verify: as in `Registry.ensure`, beside the look that is taken anyway.
        retry: as in `Registry.ensure`; `SnapshotRefused` is permanent.
        **options: more of what `Registry.ensure` takes.

    Returns:
        The record; `snapshot_path` says where the files are.

    Raises:
        SnapshotRefused: the hub does not know the revision, or does not give it out.
        SnapshotFailed: the hub could not be asked for the revision.
        ConfigurationError: huggingface_hub is not installed.
        DownloadFailed, WaitTimedOut, CacheMismatch: as in `Registry.ensure`.
    """
    wanted = _Snapshot(
        repo_id, revision, allow_patterns, ignore_patterns, store, cache_dir, token, endpoint, max_workers
    )
    for attempt in range(1, _attempts(retry) + 1):
        try:
            commit = wanted.resolve()
            break
        except SnapshotFailed as error:
            time.sleep(_pause(retry, attempt, error))

    def complete(record: ModelRecord) -> bool:
        return wanted.is_cached(commit) and (verify is None or bool(verify(record)))

    return registry.ensure(
        repo_id,
        ModelProvider.HUGGING_FACE,
        _Fetch(wanted, commit).run,
        revision=commit,
        subset=wanted.subset,
        store=store,
        verify=complete if store is None else verify,
        retry=_with_refusal(retry),
        **options,
    )


async def ensure_snapshot_async(
    registry: AsyncRegistry,
    repo_id: str,
    *,
    revision: str | None = None,
    allow_patterns: str | Iterable[str] | None = None,
    ignore_patterns: str | Iterable[str] | None = None,
    store: FolderStore | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
    max_workers: int = 8,
    verify: Callable[[ModelRecord], Any] | None = None,
    retry: RetryPolicy | None = DEFAULT_RETRY,
    **options: Unpack[EnsureOptions],
) -> ModelRecord:
    """`ensure_snapshot` for an `AsyncRegistry`; ``verify`` may be plain or async."""
    wanted = _Snapshot(
        repo_id, revision, allow_patterns, ignore_patterns, store, cache_dir, token, endpoint, max_workers
    )
    for attempt in range(1, _attempts(retry) + 1):
        try:
            commit = await ask(wanted.resolve)
            break
        except SnapshotFailed as error:
            await asyncio.sleep(_pause(retry, attempt, error))

    async def complete(record: ModelRecord) -> bool:
        if not await ask(wanted.is_cached, commit):
            return False
        return verify is None or bool(await ask(verify, record))

    async def download(claim: OwnedClaim, folder: Path | None = None) -> None:
        # In a thread of its own, and never left behind: when this ends, its process has ended.
        fetch = _Fetch(wanted, commit)
        task = asyncio.ensure_future(ask(fetch.run, claim, folder))
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            fetch.stop()
            await see_through(settle, task)
            raise
        task.result()

    return await registry.ensure(
        repo_id,
        ModelProvider.HUGGING_FACE,
        download,
        revision=commit,
        subset=wanted.subset,
        store=store,
        verify=complete if store is None else verify,
        retry=_with_refusal(retry),
        **options,
    )


def snapshot_path(
    record: ModelRecord,
    *,
    store: FolderStore | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Where the files of a snapshot are.

    Args:
        record: what `ensure_snapshot` has returned.
        store: the same as there.
        cache_dir: the same as there.
    """
    if store is not None:
        return store.path(record)
    location = record.location or _cached(record.model_name, str(record.revision))
    return _cache_of(cache_dir) / location


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


def _attempts(retry: RetryPolicy | None) -> int:
    return 1 if retry is None else retry.attempts


def _pause(retry: RetryPolicy | None, attempt: int, error: SnapshotFailed) -> float:
    """Seconds until the hub is asked again; raises where it is not to be."""
    if retry is None or attempt >= retry.attempts or isinstance(error, SnapshotRefused):
        raise error
    return retry.delay(attempt)


def _with_refusal(retry: RetryPolicy | None) -> RetryPolicy | None:
    if retry is None:
        return None
    return msgspec.structs.replace(retry, permanent=(*retry.permanent, SnapshotRefused))


def _cached(repo_id: str, commit: str) -> str:
    """Where a snapshot is in the cache of huggingface_hub."""
    return f"models--{repo_id.replace('/', '--')}/snapshots/{commit}"


def _cache_of(cache_dir: str | os.PathLike[str] | None) -> Path:
    if cache_dir is None:
        from huggingface_hub import constants

        cache_dir = constants.HF_HUB_CACHE
    return Path(cache_dir).expanduser()


class _Snapshot:
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
        self.cache_dir = cache_dir if cache_dir is None else os.fspath(cache_dir)
        self.token = token
        self.endpoint = endpoint
        self.max_workers = max_workers

    def __repr__(self) -> str:
        return f"{self.repo_id}@{self.revision or 'main'}"

    def resolve(self) -> str:
        """The commit. The hub is asked, unless the revision is one.

        Raises:
            SnapshotFailed: the hub did not answer, or said no (`SnapshotRefused`).
        """
        if self.revision is not None and _COMMIT.fullmatch(self.revision):
            return self.revision
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint, token=self.token)
        try:
            info = api.model_info(self.repo_id, revision=self.revision, timeout=_RESOLVE_TIMEOUT)
        except Exception as error:
            kind = SnapshotRefused if is_permanent(error, api.endpoint) else SnapshotFailed
            # Not chained: what the hub's client says may hold a signed URL.
            why = without_secrets(message_of(error), self.token)
            raise kind(f"{self!r} can't be resolved: {why}") from None
        if info.sha is None:
            raise SnapshotFailed(f"{self!r} can't be resolved: the hub does not tell its commit")
        return info.sha

    def is_cached(self, commit: str) -> bool:
        """Whether the files are in the cache, as far as huggingface_hub can tell without asking the hub."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            snapshot_download(
                self.repo_id,
                revision=commit,
                cache_dir=self.cache_dir,
                allow_patterns=self.allow_patterns,
                ignore_patterns=self.ignore_patterns,
                local_files_only=True,
            )
        except LocalEntryNotFoundError:
            return False
        return True

    def job(self, commit: str, folder: Path | None) -> dict[str, Any]:
        """What its process is told."""
        return {
            "path": sys.path,
            "parent": os.getpid(),
            "repo_id": self.repo_id,
            "revision": commit,
            "allow_patterns": self.allow_patterns,
            "ignore_patterns": self.ignore_patterns,
            "folder": None if folder is None else os.fspath(folder),
            "cache_dir": self.cache_dir,
            "token": self.token,
            "endpoint": self.endpoint,
            "max_workers": self.max_workers,
        }


class _Fetch:
    """Downloads a snapshot in a process of its own, and ends that process whatever happens."""

    def __init__(self, wanted: _Snapshot, commit: str) -> None:
        self._wanted = wanted
        self._commit = commit
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End it. Any thread."""
        self._stopped.set()

    def run(self, claim: OwnedClaim, folder: Path | None = None) -> None:
        """Download, and tell the claim how far it is and what it was. Blocks.

        Raises:
            SnapshotFailed: it did not work, or the hub said no (`SnapshotRefused`).
            ClaimLost: somebody else's counts.
        """
        claim.report(0, message=f"Asking the hub for {self._commit[:12]}")
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # a group of its own, and no Ctrl-C that is not for it
            )
            try:
                _log.info("%s is downloaded by process %d", claim.ref, process.pid)
                done = self._follow(process, claim, folder, errors)
            finally:
                _end(process)
        claim.describe(size_bytes=done["size"], location=done.get("location"), resolved_revision=self._commit)

    def _follow(
        self, process: subprocess.Popen[bytes], claim: OwnedClaim, folder: Path | None, errors: IO[bytes]
    ) -> dict[str, Any]:
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        with suppress(BrokenPipeError):  # it has ended; why is seen below
            process.stdin.write(json.dumps(self._wanted.job(self._commit, folder)).encode() + b"\n")
            process.stdin.flush()
        unread = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if claim.lost.is_set():
                    raise claim.held.loss()
                if self._stopped.is_set():
                    raise SnapshotFailed("its caller was cancelled")
                if not selector.select(_LOOK_EVERY):
                    continue
                got = os.read(process.stdout.fileno(), 65536)
                if not got:
                    break
                *lines, unread = (unread + got).split(b"\n")
                for line in lines:
                    done = self._hear(claim, json.loads(line))
                    if done is not None:
                        return done
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        errors.seek(0)
        said = errors.read().decode(errors="replace")[-_LAST_WORDS:]
        why = without_secrets(message_of(Exception(said)), self._wanted.token).removeprefix("Exception: ")
        raise SnapshotFailed(f"its process ended by itself ({process.returncode}): {why}")

    def _hear(self, claim: OwnedClaim, words: dict[str, Any]) -> dict[str, Any] | None:
        """Something that the process said; what was downloaded, if that is it."""
        if "bytes" in words:
            claim.report(words["bytes"])
        elif "total" in words:
            files = "1 file" if words["files"] == 1 else f"{words['files']} files"
            claim.report(0, words["total"], f"Downloading {files} of {self._commit[:12]}")
        elif "log" in words:
            _log.warning("%s: %s", claim.ref, words["log"])
        elif "failed" in words:
            raise (SnapshotRefused if words["permanent"] else SnapshotFailed)(words["failed"])
        else:
            done: dict[str, Any] = words["done"]
            return done
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """See that a process and its group have ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE if number == signal.SIGTERM else None)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
