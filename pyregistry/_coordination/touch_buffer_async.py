"""Touches that take no time: the server is told later, of many models at once, and of each once in an interval.

The intervals are those of the clock, the same for all models. A model that was not touched lately is told of at
once, and then not before the interval after the next; those that are touched all the time are told of when an
interval begins, together.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Hashable, Iterable, Sequence

from pyregistry._core import validation as checks
from pyregistry._core.clock import now
from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import chunks
from pyregistry._runtime.aio import BackgroundTask, Wakeup
from pyregistry.backend.protocol_async import AsyncBackend
from pyregistry.errors import DamagedRecord, RegistryClosed, RegistryError

_log = logging.getLogger("pyregistry.touches")

MOST = 10_000
"""Models that wait to be told of, as long as the server is away; then the oldest touches are lost."""


class AsyncTouchBuffer:
    """The touches of one client. It has something run beside the callers as long as there are any.

    Args:
        backend: the registry.
        interval: seconds.

    Attributes:
        noted: what was asked and waits to be told already, so that it need not be looked at again.
    """

    def __init__(self, backend: AsyncBackend, interval: float) -> None:
        checks.microseconds("touch_interval", interval)
        self._backend = backend
        self._interval = interval
        self._closed = False
        self.reset()
        _everyone.add(self)

    def reset(self) -> None:
        """Nothing waits, and nothing runs."""
        self.noted: set[Hashable] = set()
        self._due: dict[str, ModelKey] = {}  # by entry: to be told of at once
        self._waiting: dict[str, ModelKey] = {}  # to be told of when an interval begins
        self._allowed: dict[str, int] = {}  # from which interval on each may be told of again
        self._lost = 0  # as many have not been told of, and will not be
        self._away = False
        self._beside: BackgroundTask | None = None
        self._news = Wakeup()
        self._lock = threading.Lock()  # held for a few lines at a time, never while anybody waits

    def touch(self, question: Hashable, targets: Iterable[ModelKey]) -> None:
        """These are in use; that is what was asked.

        Raises:
            RegistryClosed: the client is closed.
        """
        # --- asyncio only: begin
        if self._beside is not None and not self._beside.is_here():
            self.reset()
        # --- asyncio only: end
        with self._lock:
            if self._closed:
                raise RegistryClosed("the client is closed")
            interval = self._interval_now()
            for target in targets:
                entry = target.entry
                if entry in self._due or entry in self._waiting:
                    continue
                if interval < self._allowed.get(entry, 0):
                    self._wait(target)
                else:
                    self._due[entry] = target
                    self._allowed[entry] = interval + 2
                    self._bound()
            if len(self.noted) >= MOST:
                self.noted.clear()
            self.noted.add(question)
            if self._beside is None:
                self._news = Wakeup()
                self._beside = BackgroundTask(self._run, "touches")
            elif self._due:
                self._news.set()

    async def close(self) -> None:
        """Tell of what waits, if anybody can be told, and take nothing more."""
        with self._lock:
            self._closed = True
            self.noted.clear()
            beside = self._beside
        if beside is not None and beside.is_here():
            self._news.set()
            await beside.ended()

    def _interval_now(self) -> int:
        return int(now() / self._interval)

    def _wait(self, target: ModelKey) -> None:
        self._waiting[target.entry] = target
        self._bound()

    def _bound(self) -> None:
        if len(self._due) + len(self._waiting) > MOST:
            oldest = next(iter(self._waiting or self._due))
            (self._waiting or self._due).pop(oldest)
            self._allowed.pop(oldest, None)
            self._lost += 1
            self.noted.clear()

    async def _run(self, _beside: BackgroundTask) -> None:
        while True:
            self._news.clear()
            with self._lock:
                targets = self._take()
                if not targets and (self._closed or not self._allowed):
                    self._beside = None
                    return
            for chunk in chunks(targets, self._backend.max_batch):
                await self._tell(chunk)
            self._tell_what_is_lost()
            if not targets:
                await self._news.wait((self._interval_now() + 1) * self._interval - now())

    def _take(self) -> Sequence[ModelKey]:
        """What is to be told of now; when the client closes, everything."""
        interval = self._interval_now()
        begins = [entry for entry in self._waiting if self._closed or self._allowed.get(entry, 0) <= interval]
        targets = [*self._due.values(), *(self._waiting.pop(entry) for entry in begins)]
        self._due.clear()
        if targets:
            self.noted.clear()
        for entry in begins:
            self._allowed[entry] = interval + 1
        for entry in [entry for entry, since in self._allowed.items() if since <= interval]:
            if entry not in self._waiting:
                del self._allowed[entry]
        return targets

    async def _tell(self, targets: Sequence[ModelKey]) -> None:
        try:
            answers = await self._backend.touch(targets)
        except RegistryError as error:
            with self._lock:
                if not self._closed:
                    self._keep(targets)
                level = logging.DEBUG if self._away and not self._closed else logging.WARNING
                self._away = True
            _log.log(
                level,
                "%d models could not be touched%s: %s",
                len(targets),
                " yet" * (not self._closed),
                error,
            )
            return
        self._away = False
        _log.debug("touched %d records", len(targets))
        for answer in answers:
            if isinstance(answer, DamagedRecord):
                _log.warning("not touched: %s", answer)

    def _tell_what_is_lost(self) -> None:
        """Once, when the server is there again, or never will be."""
        if self._lost and (self._closed or not self._away):
            with self._lock:
                lost, self._lost = self._lost, 0
            _log.warning("%d touches are lost: more than %d models waited to be told of", lost, MOST)

    def _keep(self, targets: Iterable[ModelKey]) -> None:
        interval = self._interval_now()
        for target in targets:
            if target.entry not in self._due:
                self._allowed[target.entry] = interval + 1
                self._wait(target)


_everyone: weakref.WeakSet[AsyncTouchBuffer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """In a forked child: what waits to be told, the parent tells."""
    for toucher in list(_everyone):
        toucher.reset()


os.register_at_fork(after_in_child=_after_fork_in_child)
