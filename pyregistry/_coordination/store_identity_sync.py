# Made from _coordination/store_identity_async.py by tools/unasync.py: change that one.
"""Check that the folder of a store is the cache that a namespace stands for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pyregistry._coordination.session_sync import Session
from pyregistry._core import backoff
from pyregistry._core.clock import now
from pyregistry._runtime.threads import ask
from pyregistry.backend.protocol_sync import Backend
from pyregistry.errors import CacheMismatch, LocalFault
from pyregistry.stores.folder import FolderStore
from pyregistry.stores.mark import CacheMark, how_to_restore

__all__ = ["StoreIdentity"]

_log = logging.getLogger("pyregistry.flight")

_MARK_PATIENCE = 5.0  # seconds until a file that another machine wrote becomes visible


class StoreIdentity:
    """Comparison of the mark in a store's folder with the cache id in the registry.

    Args:
        session: The client.
        store: The store; ``None``: there is nothing to compare.
        backend: Returns the backend, with its patience limited to the remaining timeout of the call.
    """

    def __init__(
        self,
        session: Session,
        store: FolderStore | None,
        backend: Callable[[], Backend],
    ) -> None:
        self._session = session
        self._store = store
        self._backend = backend

    def check(self, *, anew: bool = False) -> None:
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
            self._compare_marks(store)
        except OSError as error:
            raise LocalFault(f"{store.root} can't be used as a store: {error}") from error
        session.cache_roots.add(store.root)

    def _compare_marks(self, store: FolderStore) -> None:
        session = self._session
        ends = now() + _MARK_PATIENCE
        known = self._backend().cache_id()
        try:
            mark = ask(store.read_mark)
        except CacheMismatch:
            known = self._heal_mark(store, known)
            mark = ask(store.read_mark)
        while known is not None and mark is None and now() < ends:
            # Another machine wrote the mark before it stored the id, but a shared file system may show the mark later.
            time.sleep(backoff.FIRST_PAUSE_S)
            mark = ask(store.read_mark)
        if mark is None and known is None:
            mark = ask(store.write_mark, CacheMark(session.ids.new(), session.backend.namespace))
        if mark is not None and mark.namespace == session.backend.namespace:
            known = known or self._backend().cache_id(mark.cache_id)
        if mark is None or mark.namespace != session.backend.namespace or mark.cache_id != known:
            of = "of no cache" if mark is None else f"the cache of namespace {mark.namespace!r}"
            raise CacheMismatch(
                f"{store.root} is {of}, not the one that namespace {session.backend.namespace!r} stands for: "
                "was the folder replaced, or is another registry's?"
            )

    def _heal_mark(self, store: FolderStore, known: str | None) -> str | None:
        """Replace a damaged mark, and return the id of the cache. The registry accepts one of several concurrent ids.

        Raises:
            CacheMismatch: The registry already has an id. The error describes how to restore the mark.
        """
        session = self._session
        if known is not None:
            raise CacheMismatch(how_to_restore(store.root, CacheMark(known, session.backend.namespace)))
        mark = CacheMark(session.ids.new(), session.backend.namespace)
        draft = ask(store.draft_mark, mark)
        known = self._backend().cache_id(mark.cache_id)
        if known != mark.cache_id:
            ask(draft.unlink)
            return known
        ask(store.replace_mark, draft)
        _log.warning("the damaged cache_id of %s is written anew: %s", store.root, known)
        return known
