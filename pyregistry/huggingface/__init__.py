"""A snapshot of a Hugging Face repository, downloaded once for a fleet (extra ``huggingface``).

`ensure_snapshot` is `Registry.ensure` around `huggingface_hub.snapshot_download`. The record is named by the commit:
a branch is resolved before anything is claimed, and two members of a fleet that see it at different commits
have two records. While the hub is away, a branch is the commit that the fleet had last. The download runs in a
process of its own, which is ended when the claim is lost, the download stalls or its caller is cancelled.
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
    """Have a snapshot of a model repository there: one of the fleet downloads it, the others wait for that one.

    The record has the repository's name as the hub writes it, the commit as its ``revision`` (and
    ``resolved_revision``), and the patterns as its ``subset``.

    Args:
        registry: the registry of the cache.
        repo_id: the repository, ``org/model``.
        revision: a commit, tag or branch; left out: the default branch. The hub says which commit it is. While the
            hub is away (no answer, 429, 5xx, or ``HF_HUB_OFFLINE``), it is the commit that the fleet downloaded last
            for it.
        max_branch_age: seconds since the hub was asked last, beyond which that commit is not taken. Defaults to
            ``None``: any age.
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
        SnapshotFailed: the hub is away, and there is nothing to take instead.
        LocalFault: this machine can't download it.
        ConfigurationError: huggingface_hub is not installed.
        DownloadFailed, WaitTimedOut, CacheMismatch: as in `Registry.ensure`.
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
    """`ensure_snapshot` for an `AsyncRegistry`; ``verify`` may be plain or async."""
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
        # In a thread of its own, and never left behind: when this ends, its process has ended.
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
    """Where the files of a snapshot are.

    Args:
        record: what `ensure_snapshot` has returned.
        store: the same as there.
        cache_dir: the same as there.
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
    """What `Registry.ensure` makes of its arguments, and the look at this machine before a claim."""
    if unknown := [name for name in options if name not in _DEFAULTS]:
        raise TypeError(f"ensure_snapshot has no option {unknown[0]!r}")
    if isinstance(retry, RetryPolicy):
        retry = msgspec.structs.replace(retry, permanent=(*retry.permanent, SnapshotRefused))
    wishes = {**_DEFAULTS, **options, "expected_bytes": None}
    targets = registry._backend.keys_of(found.name, ModelProvider.HUGGING_FACE, found.commit, wanted.subset)
    return registry._wish(targets, store=wanted.store, verify=verify, retry=retry, ready=ready, **wishes)
