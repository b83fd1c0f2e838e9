"""Resolution of a snapshot's commit: by the hub, or by the fleet's last download while the hub is unavailable."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from pyregistry._core import validation as checks
from pyregistry._core.model_key import ModelKey
from pyregistry._runtime.aio import ask
from pyregistry.backend.protocol import AsyncBackend
from pyregistry.backend.values import Branch, HubAnswer
from pyregistry.errors import InvalidArgument, OutcomeUnknown, RegistryError, RegistryUnavailable
from pyregistry.huggingface.errors import SnapshotFailed, SnapshotRefused
from pyregistry.huggingface.specification import Resolved, Snapshot, is_offline
from pyregistry.models import ModelProvider, ModelRecord, ModelStatus
from pyregistry.retry import RetryPolicy

__all__ = ["AsyncResolver"]

_log = logging.getLogger("pyregistry.huggingface")

_AGAIN = 60.0  # seconds after which an unchanged commit is written to the registry again


class AsyncResolver:
    """Resolves the commit of a snapshot and records it.

    Args:
        backend: Backend of the registry.
        wanted: Requested snapshot.
        retry: Retry policy of requests to the hub.
        max_age: Maximum age of the registry's commit: seconds since the hub last confirmed it.
        needs_registry: Whether an unavailable registry is an error.
    """

    def __init__(
        self,
        backend: AsyncBackend,
        wanted: Snapshot,
        retry: RetryPolicy | None,
        max_age: float | None,
        *,
        needs_registry: bool,
    ) -> None:
        if max_age is not None:
            checks.microseconds("max_branch_age", max_age, zero=True)
        self._backend = backend
        self._wanted = wanted
        self._retry = retry
        self._max_age = max_age
        self._needs_registry = needs_registry

    async def resolve(self) -> Resolved:
        """Resolve the commit.

        Raises:
            SnapshotRefused: The hub does not know the revision, or denies access to it.
            SnapshotFailed: The hub is unavailable, and the fleet's last commit is not here or too old.
            LocalFault: This machine can't query the hub.
            RegistryError: The registry could not be queried.
        """
        wanted, attempt = self._wanted, 0
        while True:
            attempt += 1
            known = await self._known()
            found = await self._by_commit(known)
            if found is not None:
                return found
            try:
                answer = await ask(wanted.resolve)
                return Resolved(answer.name, answer.commit, known)
            except SnapshotFailed as error:
                failure = error
            if failure.hub_away:
                taken = await self._while_away(known, failure)
                if isinstance(taken, Resolved):
                    return taken
                failure = SnapshotFailed(f"{failure}; {taken}")
                failure.hub_away = True
            await asyncio.sleep(self._pause(attempt, failure))

    def _pause(self, attempt: int, error: SnapshotFailed) -> float:
        """Return the seconds until the next request to the hub. Raises `error` if there is none."""
        retry = self._retry
        if retry is None or attempt >= retry.attempts or isinstance(error, SnapshotRefused) or is_offline():
            raise error
        return retry.delay(attempt)

    async def remember(self, found: Resolved) -> None:
        """Record the commit of the branch, if the hub resolved it. The caller has the snapshot."""
        if found.known is not None and self._is_news(found, found.known):
            # Under the requested name and the hub's name, which differ after a renaming, for example.
            for spelling in dict.fromkeys((self._wanted.repo_id, found.name)):
                await self._tell(spelling, found, found.known.time)
        if self._wanted.store is None and self._wanted.branch is not None:
            try:
                await ask(self._write_ref, found)
            except OSError as error:
                _log.warning("%s can't be found by its branch offline: %s", self._wanted, error)

    def _is_news(self, found: Resolved, known: Branch) -> bool:
        if known.name is None or known.name.value != found.name:
            return True
        if self._wanted.branch is None:
            return False
        commit = known.commit
        return commit is None or commit.value != found.commit or _seconds(known, commit) > _AGAIN

    async def _tell(self, spelling: str, found: Resolved, asked: int) -> None:
        key = self._target(spelling)
        try:
            await self._backend.set_branch(key, found.commit, found.name, asked)
        except RegistryError as error:
            _log.warning("that %s is commit %s can't be remembered: %s", self._wanted, found.commit, error)

    def _write_ref(self, found: Resolved) -> None:
        self._wanted.write_ref(found.name, found.commit, replace=not found.why_not)

    def _target(self, spelling: str) -> ModelKey:
        """Return the key of a repository's branch. In lower case, because hubs ignore the case of names."""
        wanted = self._wanted
        return checks.target(spelling.lower(), ModelProvider.HUGGING_FACE, wanted.branch, wanted.subset)

    async def _known(self) -> Branch | None:
        """Return the registry's data of the branch, or ``None`` if the registry is unavailable."""
        try:
            return await self._backend.branch(self._target(self._wanted.repo_id))
        except (RegistryUnavailable, OutcomeUnknown):
            if self._needs_registry:
                raise
            return None

    async def _by_commit(self, known: Branch | None) -> Resolved | None:
        """Return a requested commit that is downloaded or downloading. This needs no request to the hub."""
        commit = self._wanted.commit
        if commit is None or known is None:
            return None
        for name in self._names(known):
            record = await self._record(name, commit)
            if record is None:
                continue
            if record.status is ModelStatus.DOWNLOADING or await self._is_there(record):
                return Resolved(name, commit, None, self._offline())
        return None

    def _names(self, known: Branch | None) -> list[str]:
        """Return the possible names of the repository: the hub's spelling and the requested one."""
        said = known.name.value if known is not None and known.name is not None else self._wanted.repo_id
        return list(dict.fromkeys((said, self._wanted.repo_id)))

    def _offline(self) -> str:
        return f"{self._wanted!r} can't be downloaded: HF_HUB_OFFLINE is set" if is_offline() else ""

    async def _while_away(self, known: Branch | None, failure: SnapshotFailed) -> Resolved | str:
        """Return an available snapshot while the hub is unavailable, or the reason why there is none."""
        wanted = self._wanted
        if wanted.commit is not None:
            if known is None:  # neither the hub nor the registry answers, so files on disk may count
                return Resolved(wanted.repo_id, wanted.commit, None, str(failure))
            return f"and the registry knows of no download of {wanted!r} whose files are here"
        why = f"and the fleet has downloaded nothing for {wanted.branch!r} that is remembered"
        if known is None:
            why = f"and the registry is away, which may know what {wanted.branch!r} was"
        for name, commit, age in await self._candidates(known):
            if self._max_age is not None and age > self._max_age:
                why = f"and {commit}, which {wanted.branch!r} was {_ago(age)}, is older than max_branch_age"
                continue
            if known is None:
                there = wanted.store is None and await ask(wanted.is_cached, name, commit)
            else:
                record = await self._record(name, commit)
                there = record is not None and await self._is_there(record)
            if not there:
                why = f"and {commit}, which {wanted.branch!r} was {_ago(age)}, is not downloaded here"
                continue
            _log.warning(
                "%s: the hub is away, taken is commit %s, which it was %s: %s",
                wanted, commit, _ago(age), failure,
            )  # fmt: skip
            return Resolved(name, commit, None, f"{failure}; and {commit}, which was taken, is gone")
        return why

    async def _candidates(self, known: Branch | None) -> list[tuple[str, str, float]]:
        """Return the candidate commits of the branch, best first: name, commit, age in seconds.

        The cache's ref of the branch counts only if the registry has none, because it may be older than its file time.
        """
        names = self._names(known)
        if known is not None and known.commit is not None:
            return [(name, known.commit.value, _seconds(known, known.commit)) for name in names]
        found: list[tuple[str, str, float]] = []
        for name in names if self._wanted.store is None else ():
            ref = await ask(self._wanted.read_ref, name)
            if ref is not None:
                found.append((name, ref.commit, max(time.time() - ref.written, 0.0)))
        return found

    async def _record(self, name: str, commit: str) -> ModelRecord | None:
        target = checks.target(name, ModelProvider.HUGGING_FACE, commit, self._wanted.subset)
        (record,) = await self._backend.read([target])
        return record if isinstance(record, ModelRecord) else None

    async def _is_there(self, record: ModelRecord) -> bool:
        """Return whether a record is DOWNLOADED and its files are on this machine."""
        wanted, store = self._wanted, self._wanted.store
        if record.status is not ModelStatus.DOWNLOADED:
            return False
        if store is None:
            return bool(await ask(wanted.is_cached, record.model_name, str(record.revision)))
        with suppress(InvalidArgument):  # the record has no location in this store
            return await ask(store.contains, record) or bool(await ask(store.look_again, record))
        return False


def _seconds(known: Branch, told: HubAnswer) -> float:
    """Return the age of an answer of the hub in seconds."""
    return max(known.time - told.at, 0) / 1_000_000


def _ago(seconds: float) -> str:
    """Return an age as human-readable text."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
