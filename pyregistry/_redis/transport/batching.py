"""Batches over one connection: when they are written, and what follows from their replies.

What makes a batch fail makes all its requests fail. Requests that may be sent again and those that may not therefore
never share a batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar, cast

from redis import exceptions as redis_errors

from pyregistry._core.backoff import backoff
from pyregistry._core.clock import now
from pyregistry._redis.protocol.outcomes import (
    ATTEMPTS,
    DENIED,
    NO_ANSWER,
    NOT_RUN,
    PASSING,
    RefusedNow,
    failure,
    pause,
    recognised,
    refusal,
)
from pyregistry._redis.protocol.records import Opened
from pyregistry._redis.protocol.request import CommandTemplate, Request
from pyregistry._redis.protocol.scripts import BATCH
from pyregistry._redis.transport.coalescing import gather
from pyregistry._redis.transport.connection_async import CommandConnection
from pyregistry._redis.transport.endpoint import UrlEndpoint
from pyregistry._redis.transport.pending import Batch, PendingRequest
from pyregistry._redis.transport.pipelined import Expected, PipelinedCommands, PipelinedConnection
from pyregistry._redis.transport.pooled_async import _LOOK_AGAIN, AsyncTransport
from pyregistry.errors import RegistryClosed, RegistryError, RegistryUnavailable

T = TypeVar("T")


class BatchingTransport(AsyncTransport):
    """The server's side of the one connection of a client. `MultiplexedTransport` adds the callers' side."""

    _source: UrlEndpoint
    _pipe: PipelinedConnection | None = None

    def _reset(self) -> None:
        super()._reset()
        self._pipe = None
        self._url: str | None = None
        self._speaks = True  # whether the connection has pushes (RESP3)
        self._queue: dict[CommandTemplate, list[PendingRequest]] = {}  # requests to write
        self._same: dict[Hashable, PendingRequest] = {}  # requests that callers can join, by their key
        self._scheduled = False
        self._connecting: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._unloaded: list[
            PendingRequest
        ] = []  # requests that wait for scripts to be loaded, or for `open`
        self._refused_now: list[PendingRequest] = []  # requests that are refused for now
        self._failures = 0  # failed connection attempts since the last answer
        # See `pyregistry._redis.transport.coalescing`.
        self._under_way = 0  # requests that are written and not answered
        self._active = 0  # `_under_way` at the end of the last loop iteration with a write
        self._woken = 0  # callers that the last read of replies has woken
        self._waking = 0  # `_woken` of the read in progress
        self._wrote = False  # whether this loop iteration has written
        self._left = BATCH  # requests to gather before the next write

    def _ask(self, op: Request[Any], key: Hashable, future: asyncio.Future[Any]) -> PendingRequest:
        head, call = op.head, PendingRequest(op, key, future)
        if key is not None:
            self._same[key] = call
        self._left -= 1
        if not self._left and not self._queue and not self._due and self._writable() > 0:
            self._write([Batch(self, cast("PipelinedConnection", self._pipe), head, [call], op.items)])
            return call
        try:
            asked = self._queue[head]
        except KeyError:
            asked = self._queue[head] = []
        asked.append(call)
        if not self._left:
            self._flush()
        elif not self._scheduled:
            self._soon()
        return call

    def _soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            cast("asyncio.AbstractEventLoop", self._loop).call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._flush()
        if self._wrote:
            self._wrote = False
            self._active = self._under_way
            self._gather_anew()

    def _rests(self) -> bool:
        """Return whether no request waits to be written."""
        waits = self._queue or self._unloaded or self._refused_now
        return not waits and self._loading is None

    # The server's side

    def _writable(self) -> int:
        """Return how many commands may be written now."""
        pipe = self._pipe
        return 0 if pipe is None or self._loading is not None else pipe.room

    def _flush(self) -> None:
        """Write the queued requests that may be written."""
        pipe = self._pipe
        if pipe is None:
            if self._closed:
                self._refuse_queued()
            elif self._queue and self._connecting is None:
                self._connecting = asyncio.get_running_loop().create_task(self._connect())
        elif self._queue and (room := self._writable()) > 0 and not (self._due and self._open_first(pipe)):
            self._write(self._gather(pipe, room))

    def _open_first(self, pipe: PipelinedConnection) -> bool:  # type: ignore[override]  # it does not block
        """Run `open` before the first write, if it is due; return whether it runs now."""
        writing = [head for head in self._queue if head.writes]
        if not writing:
            return False
        for head in writing:
            self._unloaded += self._queue.pop(head)
        self._loading = asyncio.get_running_loop().create_task(self._load_again(pipe, self._open))
        return True

    def _write(self, batches: Sequence[Batch]) -> None:
        """Write batches of one connection with one system call."""
        packed: list[bytes] = []
        expected: list[Expected] = []
        for batch in batches:
            for call in batch.calls:
                self._forget(call)
            command = self._packed(batch)
            if command:
                self._prepare(batch, packed, expected)
                packed.append(command)
                expected.append(batch)
                self._under_way += len(batch.calls)
        if packed:
            batches[0].pipe.send(b"".join(packed), expected)
        self._wrote = True
        self._gather_anew()

    def _gather_anew(self) -> None:
        self._left = gather(max(self._active, self._woken), self._under_way)

    def _prepare(self, batch: Batch, packed: list[bytes], expected: list[Expected]) -> None:
        """Add the commands that must precede a batch. A subclass overrides this."""

    def _packed(self, batch: Batch) -> bytes:
        """Return the packed batch; empty if packing fails, which its callers get as their error."""
        try:
            return batch.packed()
        except Exception as error:
            wrong = error
        for call in batch.calls:
            self._fail(call, lambda _call: wrong)
        return b""

    def _gather(self, pipe: PipelinedConnection, room: int) -> list[Batch]:
        """Take at most `room` batches from the queue."""
        batches: list[Batch] = []
        queue, self._queue = self._queue, {}
        for head, asked in queue.items():
            calls = [
                call
                for call in asked
                if ((alone := call.alone) is not None and not alone.done()) or call.wanted()
            ]
            if len(calls) < len(asked):
                for call in asked:
                    if not call.wanted():
                        self._forget(call)
            items = [call.op.items for call in calls]
            if 0 not in items and 0 < sum(items) <= BATCH and len(batches) < room:  # the usual case
                batches.append(Batch(self, pipe, head, calls, sum(items)))
                continue
            batch: Batch | None = None
            for at, call in enumerate(calls):
                count = items[at]
                if batch is None or not count or not batch.items or batch.items + count > BATCH:
                    if len(batches) == room:
                        self._queue[head] = calls[at:]
                        break
                    batch = Batch(self, pipe, head, [], 0)
                    batches.append(batch)
                batch.calls.append(call)
                batch.items += count
        return batches

    def _forget(self, call: PendingRequest) -> None:
        """Keep later callers from joining a request."""
        if call.key is not None:
            del self._same[call.key]
            call.key = None

    def _changed(self, pipe: PipelinedConnection) -> None:
        """React to replies, to free room in the write buffer, and to the end of a connection."""
        if pipe is self._pipe and pipe.error is not None:
            self._unplug()
        if self._waking:
            self._woken, self._waking = self._waking, 0
            self._gather_anew()
            if self._woken > 1:
                # Flush right after the callers that the replies woke, because they send their next requests first.
                self._soon()
        if self._queue:
            if not self._scheduled:
                self._flush()
        elif self._closed and pipe.idle and self._rests():
            pipe.retire()

    def answered(self, batch: Batch, reply: Any) -> None:
        """Give the reply of a batch to its callers."""
        if batch.pipe is self._pipe:
            self._under_way -= len(batch.calls)
        if isinstance(reply, Exception):
            self._refused(batch, recognised(reply))
            return
        self._failures = 0
        if not batch.items:
            self._settle(batch.calls[0], (reply,))
            return
        try:
            answers = batch.head.split(reply)
            if len(answers) != batch.items:
                raise ValueError(f"{len(answers)} answers to {batch.items} questions")
        except (TypeError, ValueError) as error:  # also what msgspec raises
            wrong = redis_errors.InvalidResponse(f"{batch.head.name}: {error}")
            batch.pipe.drop(wrong)
            self.lost(batch, wrong)
            return
        if len(batch.calls) == batch.items:
            self._waking += batch.items
            for call, answer in zip(batch.calls, answers, strict=True):
                alone = call.alone
                if alone is None or alone.done():
                    self._waking -= 1
                    self._settle(call, (answer,))
                    continue
                # Usually one caller waits.
                try:
                    alone.set_result(call.op.decode((answer,)))
                except Exception as error:
                    alone.set_exception(error)
            return
        at = 0
        for call in batch.calls:
            upto = at + call.op.items
            self._settle(call, answers[at:upto])
            at = upto

    def lost(self, batch: Batch, error: Exception) -> None:
        """Repeat or fail the requests of a batch that gets no reply. It may have run."""
        if self._pipe is batch.pipe:
            self._unplug()
            self._failures += 1
            if isinstance(error, redis_errors.TimeoutError):
                # A request behind an overdue reply has waited as long, so its attempt counts too. Otherwise a long
                # queue would wait for one timeout after the other.
                self._not_connected(error)
        self._again(batch.calls, error, ran=True)

    def _refused(self, batch: Batch, error: Exception) -> None:
        if isinstance(error, redis_errors.NoScriptError) and batch.pipe is self._pipe:
            # Batches sent before this reply get the same error, and return before the scripts are loaded.
            self._unloaded += batch.calls
            if self._loading is None:
                loop = asyncio.get_running_loop()
                self._loading = loop.create_task(self._load_again(batch.pipe, self._load))
        elif isinstance(error, RefusedNow) and batch.pipe is self._pipe:
            self._try_later(batch.calls, error)
        elif isinstance(error, NOT_RUN):
            # After READONLY the next connection may lead to the new primary.
            self._retire(batch.pipe)
            self._again(batch.calls, error, ran=False)
        elif isinstance(error, NO_ANSWER) and not isinstance(error, DENIED):
            self._retire(batch.pipe)
            self._again(batch.calls, error, ran=True)
        else:
            for call in batch.calls:
                self._fail(call, lambda _call: _refusal(error))

    def _try_later(self, calls: Sequence[PendingRequest], error: Exception) -> None:
        """Repeat requests later that the server refuses for now. Other requests go on."""
        if not calls:
            return
        if not self._refused_now:  # otherwise the shared timer runs already
            at = now()
            left = min((call.ends - at for call in calls if call.ends > at), default=0.0)
            wait = pause(1 + max(call.attempts for call in calls), left)
            asyncio.get_running_loop().call_later(wait, self._try_again, error)
        self._refused_now += calls

    def _try_again(self, error: Exception) -> None:
        """Send the requests again that were refused for now."""
        calls, self._refused_now = self._refused_now, []
        self._again(calls, error, ran=False)
        if self._pipe is not None:
            self._changed(self._pipe)  # without waiting requests a closed client closes the connection

    def _retire(self, pipe: PipelinedConnection) -> None:
        if pipe is self._pipe:
            self._unplug()
            self._failures += 1
        pipe.retire()

    def _unplug(self) -> None:
        self._pipe = None
        self._under_way = 0

    async def _load_again(
        self, pipe: PipelinedConnection, load: Callable[[CommandConnection], Awaitable[Opened]]
    ) -> None:
        """Run `open`, and load the scripts if they are gone. Nothing else is written meanwhile."""
        trouble: Exception = redis_errors.NoScriptError("the scripts were flushed again and again")
        try:
            self.server = await load(PipelinedCommands(pipe))
            if pipe is self._pipe:
                self._opened(None, self.server)
        except Exception as error:
            trouble = error
            self._retire(pipe)
        finally:
            self._loading = None
            calls, self._unloaded = self._unloaded, []
            refused = self._refusal
            if self._due and refused is not None and pipe is self._pipe:
                writing = [call for call in calls if call.op.head.writes]
                calls = [call for call in calls if not call.op.head.writes]
                if isinstance(refused, RefusedNow):
                    self._try_later(writing, refused)
                else:
                    self._retire(pipe)  # as after any READONLY
                    self._again(writing, refused, ran=False)
            self._again(calls, trouble, ran=False)
            if self._queue:
                self._soon()

    def _opened(self, connection: Any, opened: Opened) -> None:
        """Record that `open` has run on a connection, or is due before the first write."""
        self._due = bool(opened.due)

    async def _connect(self) -> None:
        """Connect, and repeat that while a request waits."""
        try:
            while any(call.wanted() for asked in self._queue.values() for call in asked):
                if self._failures:
                    await asyncio.sleep(backoff(min(self._failures, ATTEMPTS - 1)))
                try:
                    self._pipe = await self._open_pipe()
                    return
                except Exception as error:
                    self._failures += 1
                    self._not_connected(self._judge(error))
            self._failures = 0  # later requests start with a full count of attempts
        except asyncio.CancelledError:
            self._not_connected(RegistryUnavailable("connecting was cancelled"))
            raise
        finally:
            self._connecting = None
            if self._queue:
                self._soon()

    async def _open_pipe(self) -> PipelinedConnection:
        if self._url is None:
            self._url = await asyncio.to_thread(self._source.resolve)
        # Any: redis-py's connections are typed in part only.
        connection: Any = self._source.async_connection(self._url, self._on_connect, resp3=self._needs_resp3)
        await connection.connect()
        self._speaks = str(connection.protocol) == "3"
        pipe = PipelinedConnection(connection, self._source.timeout, self._changed)
        if pipe.error is not None:
            raise pipe.error
        if self._due and isinstance(self._refusal, redis_errors.ReadOnlyError):
            # The connection serves reads. A later one may lead to the primary.
            asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._retire, pipe)
        return pipe

    def _not_connected(self, error: Exception) -> None:
        self._again(self._taken(), error, ran=False)

    # What becomes of calls

    def _again(self, calls: Iterable[PendingRequest], error: Exception, *, ran: bool) -> None:
        """Put requests back to the head of the queue if they may be sent again; fail the others."""
        error = recognised(error)
        passes = isinstance(error, (*NOT_RUN, *NO_ANSWER)) and not isinstance(error, DENIED)
        refused = isinstance(error, PASSING)
        patience = 0.0 if self._closed else self._patience
        back: list[PendingRequest] = []
        for call in calls:
            call.attempts += 1
            call.maybe_ran |= ran
            if passes:
                call.trouble = error
            if call.maybe_ran and self._closed:
                self._fail(call, self._failure)
            elif not passes:
                self._fail(call, lambda _call: _refusal(error))
            elif (
                not call.goes_on(self._attempts, patience)
                or (ran and not call.op.head.resend)
                or (refused and not call.op.head.patient)
            ):
                self._fail(call, self._failure)
            else:
                back.append(call)
        for call in reversed(back):
            self._queue.setdefault(call.op.head, []).insert(0, call)
        if back:
            self._soon()

    def _refuse_queued(self) -> None:
        for call in self._taken():
            self._fail(call, self._failure if call.maybe_ran else self._closed_error)

    def _taken(self) -> list[PendingRequest]:
        """Empty the queue, and return its requests."""
        queue, self._queue = self._queue, {}
        return [call for asked in queue.values() for call in asked]

    def _failure(self, call: PendingRequest) -> RegistryError:
        error = failure(call.op, call.maybe_ran, call.trouble, self._source.shown)
        error.__cause__ = call.trouble
        return error

    def _closed_error(self, _call: PendingRequest) -> RegistryError:
        return RegistryClosed(f"the client of {self._source.shown} is closed")

    def _fail(self, call: PendingRequest, error: Callable[[PendingRequest], Exception]) -> None:
        """Give each waiting caller an error of its own, because callers modify it (traceback, context)."""
        self._forget(call)
        for future in call.waiting():
            future.set_exception(error(call))

    def _settle(self, call: PendingRequest, answers: Sequence[Any]) -> None:
        op = call.op
        live = call.waiting()
        try:
            result = told = op.decode(answers)
            if op.for_others is not None and len(live) > 1:
                told = op.for_others(result) or result
        except Exception as error:
            self._tell_error(op, answers, live, error)
            return
        if not live:
            self._undo(op, result)
            return
        self._waking += len(live)
        live[0].set_result(result)
        for future in live[1:]:
            # A result of its own for each caller, unless the result is immutable.
            future.set_result(told if op.shared else op.decode(answers))

    def _tell_error(
        self, op: Request[Any], answers: Sequence[Any], live: list[asyncio.Future[Any]], error: Exception
    ) -> None:
        for future in live:
            future.set_exception(error)
            try:
                op.decode(answers)
            except Exception as another:
                error = another

    def _undo(self, op: Request[T], result: T) -> None:
        """Release what was granted to a request without callers."""
        if op.undo is not None:
            self._send_owed(op.undo(result))

    def _send_owed(self, ops: Iterable[Request[Any]]) -> None:
        for op in ops:
            self._queue.setdefault(op.head, []).append(PendingRequest(op, None, None, owed=True))
            self._soon()


def _refusal(error: Exception) -> Exception:
    if not isinstance(error, redis_errors.RedisError):
        return error  # ours
    refused = refusal(error)
    refused.__cause__ = None if isinstance(error, DENIED) else error
    return refused
