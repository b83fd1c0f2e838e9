# Made from _coordination/store_identity_async.py by tools/unasync.py: change that one.
"""Is the folder of a store the cache that a namespace stands for?"""

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

_MARK_PATIENCE = 5.0  # seconds in which a file that another machine wrote may come to be seen


class StoreIdentity:
    """Compares the mark of a store's folder with what the registry knows.

    Args:
        session: the client.
        store: the store; ``None``: there is nothing to compare.
        backend: gives the registry, with what is left of the caller's patience.
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
        """Is the folder the cache that this namespace stands for?"""
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
            time.sleep(backoff.FIRST_PAUSE_S)  # it was written before it was told, but on another machine
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
        """Write a damaged mark anew; the id of the cache. Of all that do so at once the registry takes one's."""
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
