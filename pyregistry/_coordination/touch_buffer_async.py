"""Coalesced touches: a call returns at once, and a background task sends batches, each model once per interval.

The intervals are fixed multiples of the local clock, equal for all models. The first touch of a model is sent at once.
The next touch of this model is sent no earlier than the interval after the next. Models that are touched continuously
are sent together, at the beginning of an interval.
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
"""Maximum number of buffered models while the server is unavailable. Beyond it the oldest touches are lost."""


class AsyncTouchBuffer:
    """Buffer of the touches of one client. A background task runs as long as the buffer holds touches.

    Args:
        backend: The registry.
        interval: Interval in seconds.

    Attributes:
        noted: Questions whose touches are already buffered, so that the caller can skip them.
    """

    def __init__(self, backend: AsyncBackend, interval: float) -> None:
        checks.microseconds("touch_interval", interval)
        self._backend = backend
        self._interval = interval
        self._closed = False
        self.reset()
        _instances.add(self)

    def reset(self) -> None:
        """Reset to the initial state: no touches and no background task."""
        self.noted: set[Hashable] = set()
        self._due: dict[str, ModelKey] = {}  # by entry: send at once
        self._waiting: dict[str, ModelKey] = {}  # by entry: send at the beginning of an interval
        self._allowed: dict[str, int] = {}  # by entry: first interval of the next send
        self._lost = 0  # number of dropped touches that are not logged yet
        self._away = False
        self._beside: BackgroundTask | None = None
        self._news = Wakeup()
        self._lock = threading.Lock()  # held for a few statements at a time, never across a blocking call

    def touch(self, question: Hashable, targets: Iterable[ModelKey]) -> None:
        """Buffer the touches of models.

        Args:
            question: Key of the caller's request, added to `noted`.
            targets: The models.

        Raises:
            RegistryClosed: The client is closed.
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
        """Send the buffered touches if the server is available, and reject further touches. Idempotent."""
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
                await self._send(chunk)
            self._log_lost()
            if not targets:
                await self._news.wait((self._interval_now() + 1) * self._interval - now())

    def _take(self) -> Sequence[ModelKey]:
        """Take the touches to send now; all touches if the client closes."""
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

    async def _send(self, targets: Sequence[ModelKey]) -> None:
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

    def _log_lost(self) -> None:
        """Log the number of lost touches once, when the server is available again or the client closes."""
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


_instances: weakref.WeakSet[AsyncTouchBuffer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Reset the buffers of a forked child. The parent sends the buffered touches."""
    for toucher in list(_instances):
        toucher.reset()


os.register_at_fork(after_in_child=_after_fork_in_child)
