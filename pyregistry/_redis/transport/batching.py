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
        self._speaks = True  # whether the server may speak on the connection of its own accord: by RESP3
        self._queue: dict[CommandTemplate, list[PendingRequest]] = {}  # what is to be written
        self._same: dict[Hashable, PendingRequest] = {}  # what can be joined
        self._scheduled = False
        self._connecting: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._unloaded: list[PendingRequest] = []  # what waits for scripts to be loaded, or for `open`
        self._refused_now: list[PendingRequest] = []  # what waits for a refusal to pass
        self._failures = 0  # since the last answer
        # See `pyregistry._redis.transport.coalescing`.
        self._under_way = 0  # requests that are written to the pipe and not answered
        self._active = 0  # the same, at the end of the last turn in which any was written
        self._woken = 0  # callers that the last read of replies woke
        self._waking = 0  # the same, of the read in progress
        self._wrote = False  # whether anything was written in this turn
        self._left = BATCH  # requests to gather until they are written

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
        """Whether nothing waits to be written."""
        waits = self._queue or self._unloaded or self._refused_now
        return not waits and self._loading is None

    # The server's side

    def _writable(self) -> int:
        """How many commands may be written now."""
        pipe = self._pipe
        return 0 if pipe is None or self._loading is not None else pipe.room

    def _flush(self) -> None:
        """Write what may be written."""
        pipe = self._pipe
        if pipe is None:
            if self._closed:
                self._refuse_queued()
            elif self._queue and self._connecting is None:
                self._connecting = asyncio.get_running_loop().create_task(self._connect())
        elif self._queue and (room := self._writable()) > 0 and not (self._due and self._open_first(pipe)):
            self._write(self._gather(pipe, room))

    def _open_first(self, pipe: PipelinedConnection) -> bool:  # type: ignore[override]  # it waits for nothing
        """`open` is due, before what writes: whether it is under way now, for what waits."""
        writing = [head for head in self._queue if head.writes]
        if not writing:
            return False
        for head in writing:
            self._unloaded += self._queue.pop(head)
        self._loading = asyncio.get_running_loop().create_task(self._load_again(pipe, self._open))
        return True

    def _write(self, batches: Sequence[Batch]) -> None:
        """Write these batches, of one connection, together."""
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
        """It goes out next; what has to go before it is put there."""

    def _packed(self, batch: Batch) -> bytes:
        """What travels; nothing, if that can't be: its callers are told, and the others' calls go on."""
        try:
            return batch.packed()
        except Exception as error:
            wrong = error
        for call in batch.calls:
            self._fail(call, lambda _call: wrong)
        return b""

    def _gather(self, pipe: PipelinedConnection, room: int) -> list[Batch]:
        """What is to be written, in so many batches at most; the rest stays in the queue."""
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
            if 0 not in items and 0 < sum(items) <= BATCH and len(batches) < room:  # nearly always
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
        """From now on it can't be joined."""
        if call.key is not None:
            del self._same[call.key]
            call.key = None

    def _changed(self, pipe: PipelinedConnection) -> None:
        """Replies have come, or it may be written to again, or it has ended."""
        if pipe is self._pipe and pipe.error is not None:
            self._unplug()
        if self._waking:
            self._woken, self._waking = self._waking, 0
            self._gather_anew()
            if self._woken > 1:
                # The turn ends right after the callers that were woken, and ask again in it.
                self._soon()
        if self._queue:
            if not self._scheduled:
                self._flush()
        elif self._closed and pipe.idle and self._rests():
            pipe.retire()

    def answered(self, batch: Batch, reply: Any) -> None:
        """The server has answered a batch."""
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
                # Nearly every one is waited for by one alone.
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
        """There will be no answer to a batch: it may have run."""
        if self._pipe is batch.pipe:
            self._unplug()
            self._failures += 1
            if isinstance(error, redis_errors.TimeoutError):
                # Who waited behind what the server left unanswered, has waited for it as long; else each in
                # a long queue would wait for the silence of all before him.
                self._not_connected(error)
        self._again(batch.calls, error, ran=True)

    def _refused(self, batch: Batch, error: Exception) -> None:
        if isinstance(error, redis_errors.NoScriptError) and batch.pipe is self._pipe:
            # What was sent before this is known meets the same; it comes back before the scripts are there.
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
        """The server is the right one, and may do it soon; what it does not refuse goes on meanwhile."""
        if not calls:
            return
        if not self._refused_now:  # else a timer, one for all, runs already
            at = now()
            left = min((call.ends - at for call in calls if call.ends > at), default=0.0)
            wait = pause(1 + max(call.attempts for call in calls), left)
            asyncio.get_running_loop().call_later(wait, self._try_again, error)
        self._refused_now += calls

    def _try_again(self, error: Exception) -> None:
        """A refusal may have passed."""
        calls, self._refused_now = self._refused_now, []
        self._again(calls, error, ran=False)
        if self._pipe is not None:
            self._changed(self._pipe)  # where all have given up, a closed client may hang up now

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
        """`open` is due, and maybe the scripts are gone; nothing else is written meanwhile."""
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
        """`open` has run on the connection; or it was refused, and is due before the first write."""
        self._due = bool(opened.due)

    async def _connect(self) -> None:
        """Connect, as often as anybody waits for it."""
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
            self._failures = 0  # who comes next has waited for nothing yet
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
            # It serves for reading; but another connection may lead to the primary.
            asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._retire, pipe)
        return pipe

    def _not_connected(self, error: Exception) -> None:
        self._again(self._taken(), error, ran=False)

    # What becomes of calls

    def _again(self, calls: Iterable[PendingRequest], error: Exception, *, ran: bool) -> None:
        """Put these back to the head of the queue, if they may be sent again after this."""
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
        """What was in the queue."""
        queue, self._queue = self._queue, {}
        return [call for asked in queue.values() for call in asked]

    def _failure(self, call: PendingRequest) -> RegistryError:
        error = failure(call.op, call.maybe_ran, call.trouble, self._source.shown)
        error.__cause__ = call.trouble
        return error

    def _closed_error(self, _call: PendingRequest) -> RegistryError:
        return RegistryClosed(f"the client of {self._source.shown} is closed")

    def _fail(self, call: PendingRequest, error: Callable[[PendingRequest], Exception]) -> None:
        """Each who waits gets an error of his own: it is changed on its way."""
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
            # A result of his own for each, unless nobody can change it.
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
        """Give back what nobody has."""
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
