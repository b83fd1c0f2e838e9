"""Sends what many tasks ask over one connection, and gathers it.

What is asked in one turn of the event loop goes out together: grouped by head (see `_redis.protocol.request`), up to
64 items in one call of a script. What makes a batch fail, makes all its calls fail; so those that may be sent
again and those that may not never share one.

An answer is never older than its question: a call joins another that asks the same only until that has been written.
"""

from __future__ import annotations

import asyncio
import ctypes
import warnings
from asyncio import get_running_loop
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar, cast

from pyregistry._core.values import ClaimResult
from pyregistry._redis.protocol.claims import ClaimTemplate
from pyregistry._redis.protocol.request import Request
from pyregistry._redis.protocol.scripts import BATCH
from pyregistry._redis.transport.batching import BatchingTransport
from pyregistry._redis.transport.pending import Batch
from pyregistry._redis.transport.pipelined_pubsub import PubSubReader
from pyregistry.errors import RegistryClosed

T = TypeVar("T")


class MultiplexedTransport(BatchingTransport):
    """The one connection of a client."""

    def __del__(self) -> None:
        pipe = self._pipe
        if pipe is not None and pipe.error is None:
            warnings.warn(
                f"unclosed connection to {self._source.shown}", ResourceWarning, source=self, stacklevel=2
            )
            pipe.leave()

    # The callers' side

    # Not a coroutine function, because a coroutine costs as much as the rest of a call.
    def call(self, op: Request[T], patience: float | None = None) -> Awaitable[T]:  # type: ignore[override]  # callers await the result
        """Return the reply to one request. Raises as `AsyncTransport.call` does."""
        future: asyncio.Future[T] = self._future()
        if patience is None:
            self._join(op, future)
        else:
            # Not joined with others, because its patience is its own.
            self._ask(op, None, future).patience = patience
        return future if op.undo is None else self._answer_or_undo(op, future)

    def claim(  # type: ignore[override]  # as above
        self, claiming: ClaimTemplate, name: str, claim_id: str | None, expected_bytes: int | None
    ) -> asyncio.Future[ClaimResult]:
        """Claim a model. A caller that is cancelled must call `give_back`."""
        # `_future` inlined, because claims are the most frequent call.
        loop = get_running_loop()
        if loop is not self._loop or self._closed:
            self._check_open()
            self._bind_to_running_loop()
        future: asyncio.Future[ClaimResult] = loop.create_future()
        if claim_id is None is expected_bytes:
            key = claiming, name  # the operation's `same`, if one is made
            try:
                call = self._same.get(key)
            except TypeError:  # unhashable: the validator raises InvalidArgument
                call = None
            if call is None:
                self._ask(claiming.claim(name), key, future)
            else:
                call.join(future)
            return future
        self._join(claiming.claim(name, claim_id, expected_bytes), future)
        return future

    def give_back(self, call: Awaitable[ClaimResult]) -> None:
        """Release a claim whose caller was cancelled between the reply and its next step."""
        future = cast("asyncio.Future[ClaimResult]", call)
        if _has_result(future):
            self._send_owed(self._ops.give_back(future.result()))

    async def _answer_or_undo(self, op: Request[T], future: asyncio.Future[T]) -> T:
        try:
            return await future
        except asyncio.CancelledError:
            # Cancelled between the reply and the next step of the task?
            if _has_result(future):
                self._undo(op, future.result())
            raise

    async def call_many(self, ops: Sequence[Request[T]]) -> list[T | Exception]:
        """Return the replies to requests, in order, or the errors that `call` would raise."""
        try:
            self._check_open()
            self._bind_to_running_loop()
        except RegistryClosed as error:
            return [error] * len(ops)
        futures: list[asyncio.Future[T]] = []
        for op in ops:
            futures.append(asyncio.get_running_loop().create_future())
            self._join(op, futures[-1])
        try:
            await asyncio.wait(futures)
        except asyncio.CancelledError:
            for op, future in zip(ops, futures, strict=True):
                if not future.cancel() and future.exception() is None:
                    self._undo(op, future.result())
            raise
        return [cast("Exception | None", future.exception()) or future.result() for future in futures]

    async def close(self) -> None:
        """Close the connection. Calls under way still get their answers; new calls are refused."""
        self._bind_to_running_loop()  # raises while another loop uses it
        self._closed = True
        connecting = self._connecting
        if connecting is not None:
            connecting.cancel()
            self._refuse_queued()
            await asyncio.wait({connecting})
        self._flush()
        pipe = self._pipe
        if pipe is not None:
            self._changed(pipe)
            # Wait for releases on behalf of cancelled callers, not for waiting callers.
            if self._loading is None and not any(batch.waited_for() for batch in pipe.awaited(Batch)):
                await pipe.closed

    async def ear(self) -> Any:
        """Return the connection for events: the shared one, or a new one under RESP2, which has no pushes."""
        while (pipe := self._pipe) is None:
            await self.connect()
        return PubSubReader(pipe) if self._speaks else await super().ear()

    def after_fork_in_child(self) -> None:
        """Leave the connection to the parent, in a forked child."""
        # Never freed, because that would close the parent's connection or warn about it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(dict(self.__dict__)))
        super().after_fork_in_child()

    def _future(self) -> asyncio.Future[Any]:
        loop = get_running_loop()
        if loop is not self._loop or self._closed:
            self._check_open()
            self._bind_to_running_loop()
        return loop.create_future()

    def _join(self, op: Request[Any], future: asyncio.Future[Any]) -> None:
        """Queue a request, or join an equal one that is not written yet."""
        key = op.same
        call = None if key is None else self._same.get(key)
        if call is None:
            self._ask(op, key, future)
            if op.items == BATCH:
                self._flush()
        else:
            call.join(future)


def _has_result(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
