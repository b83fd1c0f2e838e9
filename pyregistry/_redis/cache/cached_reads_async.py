"""What callers are told of what a client remembers. The transports below say whether that may be told."""

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

# Each begins the questions of a kind: no name that anybody gives can be equal to it.
_STATUS: Final = object()
_RECORD: Final = object()


class AsyncCachedReads(AsyncTransport):
    """Answers from memory where that holds the answer, and asks the transport that comes after it where not.

    Attributes:
        known: what is remembered.
    """

    known: ClientCache

    @property
    def stale_answers(self) -> int:
        """See `AsyncAnswerCache.stale_answers`."""
        return self.known.outage.answers

    async def validate(self) -> bool:
        """Whether memory may answer. The news is let in now and then, however often this is asked."""
        raise NotImplementedError

    async def call(self, op: Request[T], patience: float | None = None) -> T:
        """The reply of one operation, from memory if that holds it; raises what `AsyncTransport.call` raises."""
        if op.head.near and self.known.values(op.keys) is not None and await self.validate():
            # Once more: the news may have come meanwhile.
            values = self.known.values(op.keys)
            if values is not None:
                return op.decode(values)
        return await super().call(op, patience)

    async def _recall(self, question: Hashable) -> Any:
        """The answer that was kept, if it may be given; else `UNKNOWN`."""
        near = self.known
        try:
            # In this order: the answer is as new as what vouches for it.
            if now() < near.epoch.until or (question in near.answers and await self.validate()):
                return near.answers.get(question, UNKNOWN)
        except TypeError:
            pass  # nobody can have asked that: what is wrong with it is told by whoever tries to find out
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
        """The status of a model (name, provider, revision, subset), which is kept as the answer."""
        question = (_STATUS, *model)
        known = await self._recall(question)
        if known is not UNKNOWN:
            return cast("ModelStatus | None", known)
        op = self._ops.get_status(*model)
        status = await self._status(op)
        self.known.answer(question, op.keys, op.decode)
        return status

    async def _status(self, op: Request[ModelStatus | None]) -> ModelStatus | None:
        """The status of a model; where nobody answers, the last that was known, if that may be told."""
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
        """The record of a model (name, provider, revision, subset), which is kept as the answer."""
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
        """The records of a few models, from memory if that holds them and their last use."""
        near = self.known
        if near.last_uses(stored.keys) is not None and await self.validate():
            known = self._known(targets, stored)
            if known is not None:
                return known
        # In one write: what is remembered is told of when it changes; the last use, which changes often, is not.
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
