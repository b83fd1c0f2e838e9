"""Reads that are answered from the near cache. The subclass decides in `validate` whether the cache may answer.

Invariant: a result is as new as the epoch or the proof that permits it.

Steps:

1. A lookup checks the current epoch, or validates, before it reads the cache.
2. On a hit the decoded result is returned. On a miss the server is asked with a tracked read.
3. The result is cached only if the values that it was decoded from are cached at that moment.

Why it holds: each change drops the values and all decoded results. A value that changes between validation and lookup
is no longer in the cache, so the lookup misses.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any, Final, TypeVar, cast

from pyregistry._core.clock import now
from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import preferred_record
from pyregistry._redis.cache.client_cache import UNKNOWN, ClientCache
from pyregistry._redis.protocol.reads import read_record, read_stored
from pyregistry._redis.protocol.records import Found, ReadReply
from pyregistry._redis.protocol.request import Request
from pyregistry._redis.transport.pooled_async import AsyncTransport
from pyregistry.errors import DamagedRecord, RegistryUnavailable
from pyregistry.models import ModelProvider, ModelRecord, ModelStatus

T = TypeVar("T")

_log = logging.getLogger("pyregistry.near")

# First element of a cache key. A sentinel object equals no argument of a caller, so the two kinds never collide.
_STATUS: Final = object()
_RECORD: Final = object()


class AsyncCachedReads(AsyncTransport):
    """Answers from the cache; on a miss it asks the next transport in the method resolution order.

    Attributes:
        known: The near cache.
    """

    known: ClientCache

    @property
    def stale_answers(self) -> int:
        """See `AsyncAnswerCache.stale_answers`."""
        return self.known.outage.answers

    async def validate(self) -> bool:
        """Return whether the cache may answer now. Reads invalidations every 5 ms."""
        raise NotImplementedError

    async def call(self, op: Request[T], patience: float | None = None) -> T:
        """Return the reply of one request, from the cache if it holds the values.

        Args:
            op: The request.
            patience: Seconds for which a temporary refusal is retried. Defaults to that of the transport.

        Raises:
            RegistryError: As `AsyncTransport.call`.
        """
        if op.head.near and self.known.values(op.keys) is not None and await self.validate():
            # Look up again, because an invalidation may have been parsed during validation.
            values = self.known.values(op.keys)
            if values is not None:
                return op.decode(values)
        return await super().call(op, patience)

    async def _recall(self, question: Hashable) -> Any:
        """Return the cached result if the cache may answer, else `UNKNOWN`."""
        near = self.known
        try:
            # Validate before the lookup, so that the result is as new as the proof that permits it.
            if now() < near.epoch.until or (question in near.answers and await self.validate()):
                return near.answers.get(question, UNKNOWN)
        except TypeError:
            pass  # unhashable argument: the validator raises InvalidArgument
        return UNKNOWN

    async def is_downloaded(
        self,
        question: Hashable,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> bool:
        """See `AsyncAnswerCache.is_downloaded`."""
        op = self._ops.get_status(name, provider, revision, subset)
        there = await self._status(op) is ModelStatus.DOWNLOADED
        self.known.answer(question, op.keys, lambda values: op.decode(values) is ModelStatus.DOWNLOADED)
        return there

    async def status(self, *model: Any) -> ModelStatus | None:
        """Return the status of a model (name, provider, revision, subset), and cache it."""
        question = (_STATUS, *model)
        known = await self._recall(question)
        if known is not UNKNOWN:
            return cast("ModelStatus | None", known)
        op = self._ops.get_status(*model)
        status = await self._status(op)
        self.known.answer(question, op.keys, op.decode)
        return status

    async def _status(self, op: Request[ModelStatus | None]) -> ModelStatus | None:
        """Return the status of a model. During an outage, return the stale status if `stale_for` permits.

        Raises:
            RegistryUnavailable: The server does not answer, and no stale status may be given.
        """
        near = self.known
        if not near.stale_for:
            return await self.call(op)
        outage = near.outage
        if outage.is_taken_for_granted() and (values := near.stale(op.keys)) is not None:
            outage.answer()
            return op.decode(values)
        try:
            status = await self.call(op)
        except RegistryUnavailable as error:
            outage.begin()
            values = near.stale(op.keys)
            if values is None:
                raise
            if outage.answer():
                _log.warning("statuses are told as they were, up to %g s ago: %s", near.stale_for, error)
            return op.decode(values)
        except BaseException:
            outage.leave()
            raise
        outage.end()
        return status

    async def record(self, *model: Any) -> ModelRecord | None:
        """Return the record of a model (name, provider, revision, subset), and cache it unless it is damaged."""
        question = (_RECORD, *model)
        known = await self._recall(question)
        if known is not UNKNOWN:
            return cast("ModelRecord | None", known)
        targets = self._ops.targets(*model)
        stored = self._ops.stored(targets)
        record = preferred_record(await self._records(targets, stored))

        def follow(_values: object) -> object:
            found = self._known(targets, stored)
            damaged = found is None or any(isinstance(each, DamagedRecord) for each in found)
            return UNKNOWN if damaged else preferred_record(found or ())

        self.known.answer(question, stored.keys, follow)
        return record

    def _known(
        self, targets: Sequence[ModelKey], stored: Request[Any]
    ) -> list[ModelRecord | DamagedRecord | None] | None:
        values, uses = self.known.values(stored.keys), self.known.last_uses(stored.keys)
        if values is None or uses is None:
            return None
        return [
            None if value is None else read_stored(target.ref, value, used)
            for target, value, used in zip(targets, values, uses, strict=True)
        ]

    async def _records(
        self, targets: Sequence[ModelKey], stored: Request[Any]
    ) -> list[ModelRecord | DamagedRecord | None]:
        """Return the records of these models, from the cache if it holds their values and last uses."""
        near = self.known
        if near.last_uses(stored.keys) is not None and await self.validate():
            known = self._known(targets, stored)
            if known is not None:
                return known
        # Two requests in one write: a tracked MGET for the values, and an untracked script for the last use.
        # Tracking the indexes would send an invalidation for every touch.
        both: list[Request[Any]] = [stored, self._ops.look_up(targets)]
        answers = await self.call_many(both)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        found = cast("list[ReadReply]", answers[1])
        for key, each in zip(stored.keys, found, strict=True):
            if isinstance(each, Found):
                near.used(key, bytes(each.record), each.last_used)
        return [read_record(target.ref, each) for target, each in zip(targets, found, strict=True)]
