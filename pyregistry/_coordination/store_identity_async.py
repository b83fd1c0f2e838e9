"""Check that the folder of a store is the cache that a namespace stands for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pyregistry._coordination.session_async import AsyncSession
from pyregistry._core import backoff
from pyregistry._core.clock import now
from pyregistry._runtime.aio import ask
from pyregistry.backend.protocol_async import AsyncBackend
from pyregistry.errors import CacheMismatch, LocalFault
from pyregistry.stores.folder import FolderStore
from pyregistry.stores.mark import CacheMark, how_to_restore

__all__ = ["AsyncStoreIdentity"]

_log = logging.getLogger("pyregistry.flight")

_MARK_PATIENCE = 5.0  # seconds until a file that another machine wrote becomes visible


class AsyncStoreIdentity:
    """Comparison of the mark in a store's folder with the cache id in the registry.

    Args:
        session: The client.
        store: The store; ``None``: there is nothing to compare.
        backend: Returns the backend, with its patience limited to the remaining timeout of the call.
    """

    def __init__(
        self,
        session: AsyncSession,
        store: FolderStore | None,
        backend: Callable[[], AsyncBackend],
    ) -> None:
        self._session = session
        self._store = store
        self._backend = backend

    async def check(self, *, anew: bool = False) -> None:
        """Check that the folder is the cache that this namespace stands for.

        Args:
            anew: Whether to repeat a check that has succeeded before. Defaults to False.

        Raises:
            CacheMismatch: The folder is not the cache of this namespace.
            LocalFault: The folder is not usable.
        """
        store, session = self._store, self._session
        if store is None or (store.root in session.cache_roots and not anew):
            return
        try:
            await self._compare_marks(store)
        except OSError as error:
            raise LocalFault(f"{store.root} can't be used as a store: {error}") from error
        session.cache_roots.add(store.root)

    async def _compare_marks(self, store: FolderStore) -> None:
        session = self._session
        ends = now() + _MARK_PATIENCE
        known = await self._backend().cache_id()
        try:
            mark = await ask(store.read_mark)
        except CacheMismatch:
            known = await self._heal_mark(store, known)
            mark = await ask(store.read_mark)
        while known is not None and mark is None and now() < ends:
            # Another machine wrote the mark before it stored the id, but a shared file system may show the mark later.
            await asyncio.sleep(backoff.FIRST_PAUSE_S)
            mark = await ask(store.read_mark)
        if mark is None and known is None:
            mark = await ask(store.write_mark, CacheMark(session.ids.new(), session.backend.namespace))
        if mark is not None and mark.namespace == session.backend.namespace:
            known = known or await self._backend().cache_id(mark.cache_id)
        if mark is None or mark.namespace != session.backend.namespace or mark.cache_id != known:
            of = "of no cache" if mark is None else f"the cache of namespace {mark.namespace!r}"
            raise CacheMismatch(
                f"{store.root} is {of}, not the one that namespace {session.backend.namespace!r} stands for: "
                "was the folder replaced, or is another registry's?"
            )

    async def _heal_mark(self, store: FolderStore, known: str | None) -> str | None:
        """Replace a damaged mark, and return the id of the cache. The registry accepts one of several concurrent ids.

        Raises:
            CacheMismatch: The registry already has an id. The error describes how to restore the mark.
        """
        session = self._session
        if known is not None:
            raise CacheMismatch(how_to_restore(store.root, CacheMark(known, session.backend.namespace)))
        mark = CacheMark(session.ids.new(), session.backend.namespace)
        draft = await ask(store.draft_mark, mark)
        known = await self._backend().cache_id(mark.cache_id)
        if known != mark.cache_id:
            await ask(draft.unlink)
            return known
        await ask(store.replace_mark, draft)
        _log.warning("the damaged cache_id of %s is written anew: %s", store.root, known)
        return known
