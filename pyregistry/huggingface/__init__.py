"""Snapshots of Hugging Face repositories, downloaded once for a fleet (extra ``huggingface``).

`ensure_snapshot` is `Registry.ensure` around `huggingface_hub.snapshot_download`. The record is keyed by the commit.
A branch is resolved before the claim, so two replicas that see it at different commits have two records. While
the hub is unavailable, a branch resolves to the last commit that the fleet downloaded. The download runs in its own
process, which is ended when the claim is lost, the download stalls, or the caller is cancelled.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pyregistry._coordination.ensure_async import AsyncEnsure
from pyregistry._coordination.ensure_sync import Ensure
from pyregistry._coordination.options import VISIBILITY_TIMEOUT, EnsureOptions, EnsureRequest
from pyregistry._core.values import KEPT_LEASE
from pyregistry._runtime.aio import ask, run_to_completion, settle
from pyregistry.huggingface.branch_async import AsyncResolver
from pyregistry.huggingface.branch_sync import Resolver
from pyregistry.huggingface.errors import SnapshotFailed, SnapshotRefused
from pyregistry.huggingface.specification import Resolved, Snapshot, cache_of, cached, subset_of
from pyregistry.huggingface.worker_process import Fetch
from pyregistry.models import ModelProvider, ModelRecord
from pyregistry.retry import DEFAULT_RETRY, RetryPolicy

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pyregistry._coordination.lease import OwnedClaim
    from pyregistry.aio import AsyncRegistry
    from pyregistry.registry import Registry
    from pyregistry.stores.folder import FolderStore

__all__ = [
    "EnsureOptions",
    "SnapshotFailed",
    "SnapshotRefused",
    "ensure_snapshot",
    "ensure_snapshot_async",
    "snapshot_path",
    "subset_of",
]


def ensure_snapshot(
    registry: Registry,
    repo_id: str,
    *,
    revision: str | None = None,
    max_branch_age: float | None = None,
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
    """Ensure that a snapshot of a model repository is downloaded. One replica downloads it; the others wait.

    The record has the repository's name in the hub's spelling. Its ``revision`` and ``resolved_revision`` are the
    commit, and its ``subset`` stands for the patterns.

    Args:
        registry: The registry of the cache.
        repo_id: Repository, ``org/model``.
        revision: Commit, tag or branch, which the hub resolves to a commit. While the hub is unavailable (no answer,
            429, 5xx, or ``HF_HUB_OFFLINE``), the fleet's last downloaded commit for this revision is used. Defaults
            to the default branch.
        max_branch_age: Maximum age of that commit: seconds since the hub last confirmed it. Defaults to ``None``:
            any age.
        allow_patterns: Download only files that match one of these. Defaults to all files.
        ignore_patterns: Skip files that match one of these. Defaults to none.
        store: Store that gives each snapshot its own folder. Defaults to ``None``: the cache of huggingface_hub.
        cache_dir: Cache of huggingface_hub that the namespace stands for, if there is no store. Defaults to that
            of huggingface_hub.
        token: Access token, as in huggingface_hub. ``False``: none. Defaults to the token of this machine.
        endpoint: URL of the hub. Defaults to ``HF_ENDPOINT``.
        max_workers: Maximum number of concurrent file downloads. Defaults to 8.
        verify: As in `Registry.ensure`, in addition to the built-in check.
        retry: As in `Registry.ensure`. `SnapshotRefused` is permanent.
        **options: Further arguments of `Registry.ensure`.

    Returns:
        The record. `snapshot_path` returns the path of its files.

    Raises:
        SnapshotRefused: The hub does not know the revision, or denies access to it.
        SnapshotFailed: The hub is unavailable, and no earlier download can be used.
        LocalFault: This machine can't download the snapshot.
        ConfigurationError: huggingface_hub is not installed.
        DownloadFailed, WaitTimedOut, CacheMismatch: As in `Registry.ensure`.
    """
    wanted = Snapshot(
        repo_id, revision, allow_patterns, ignore_patterns, store, cache_dir, token, endpoint, max_workers
    )
    needed = options.get("on_unavailable") != "verify"
    resolver = Resolver(registry._backend, wanted, retry, max_branch_age, needs_registry=needed)
    found = resolver.resolve()

    def complete(record: ModelRecord) -> bool:
        return wanted.is_cached(found.name, found.commit) and (verify is None or bool(verify(record)))

    fetch = Fetch(wanted, found.name, found.commit, found.why_not)
    verify_all = complete if store is None else verify
    wish = _wish(registry, wanted, found, verify_all, retry, fetch.check, options)
    record = Ensure(registry._session, wish).ensure(fetch.run)
    resolver.remember(found)
    return record


async def ensure_snapshot_async(
    registry: AsyncRegistry,
    repo_id: str,
    *,
    revision: str | None = None,
    max_branch_age: float | None = None,
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
    """Ensure a snapshot like `ensure_snapshot`, for an `AsyncRegistry`. ``verify`` may be plain or async."""
    wanted = Snapshot(
        repo_id, revision, allow_patterns, ignore_patterns, store, cache_dir, token, endpoint, max_workers
    )
    needed = options.get("on_unavailable") != "verify"
    resolver = AsyncResolver(registry._backend, wanted, retry, max_branch_age, needs_registry=needed)
    found = await resolver.resolve()

    async def complete(record: ModelRecord) -> bool:
        if not await ask(wanted.is_cached, found.name, found.commit):
            return False
        return verify is None or bool(await ask(verify, record))

    fetch = Fetch(wanted, found.name, found.commit, found.why_not)

    async def ended(work: Callable[..., None], *args: Any) -> None:
        # Runs in its own thread. This waits for the thread even when cancelled, so that no process outlives it.
        task = asyncio.ensure_future(ask(work, *args))
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            fetch.stop()
            await run_to_completion(settle, task)
            raise
        task.result()

    async def ready() -> None:
        await ended(fetch.check)

    async def download(claim: OwnedClaim, folder: Path | None = None) -> None:
        await ended(fetch.run, claim, folder)

    verify_all = complete if store is None else verify
    wish = _wish(registry, wanted, found, verify_all, retry, ready, options)
    record = await AsyncEnsure(registry._session, wish).ensure(download)
    await resolver.remember(found)
    return record


def snapshot_path(
    record: ModelRecord,
    *,
    store: FolderStore | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Return the path of a snapshot's files.

    Args:
        record: The record that `ensure_snapshot` returned.
        store: The same as in `ensure_snapshot`.
        cache_dir: The same as in `ensure_snapshot`.
    """
    if store is not None:
        return store.path(record)
    return cache_of(cache_dir) / (record.location or cached(record.model_name, str(record.revision)))


_DEFAULTS: EnsureOptions = {
    "lease": KEPT_LEASE,
    "owner": None,
    "timeout": None,
    "stall_timeout": None,
    "visibility_timeout": VISIBILITY_TIMEOUT,
    "on_unavailable": "raise",
    "on_unproven": "cancel",
    "touch": True,
}


def _wish(
    registry: Registry | AsyncRegistry,
    wanted: Snapshot,
    found: Resolved,
    verify: Callable[[ModelRecord], Any] | None,
    retry: RetryPolicy | None,
    ready: Callable[[], Any],
    options: EnsureOptions,
) -> EnsureRequest:
    """Return the request that `Registry.ensure` makes of its arguments, with the check of this machine."""
    if unknown := [name for name in options if name not in _DEFAULTS]:
        raise TypeError(f"ensure_snapshot has no option {unknown[0]!r}")
    if isinstance(retry, RetryPolicy):
        retry = msgspec.structs.replace(retry, permanent=(*retry.permanent, SnapshotRefused))
    wishes = {**_DEFAULTS, **options, "expected_bytes": None}
    targets = registry._backend.keys_of(found.name, ModelProvider.HUGGING_FACE, found.commit, wanted.subset)
    return registry._wish(targets, store=wanted.store, verify=verify, retry=retry, ready=ready, **wishes)
