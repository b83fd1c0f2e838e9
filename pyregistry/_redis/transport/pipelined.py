"""One connection for many calls: commands go out as they come, and replies are matched to them in order.

redis-py makes the connection (TLS, AUTH, SELECT and all); then its transport is taken over. The names that
this touches are private: redis-py's major version is pinned, and a test looks after them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar, cast
from weakref import ref

import hiredis
from redis import exceptions as redis_errors
from redis._parsers.hiredis import NOT_ENOUGH_DATA

from pyregistry._core.clock import now
from pyregistry._redis.protocol.request import pack

T = TypeVar("T")

COMMANDS = 64
"""How many commands may be under way on one connection; more wait until some are answered."""

_PING = pack(("PING",))


class Expected(Protocol):
    """Who waits for the reply to one command; exactly one of the two is called, once."""

    def answered(self, reply: Any) -> None:
        """The server's reply; an exception, if it is an error. Must not raise."""

    def lost(self, error: Exception) -> None:
        """There will be no reply. Must not raise."""


class PipelinedConnection(asyncio.Protocol):
    """A connection that has been opened.

    Args:
        connection: redis-py's; it is of no more use afterwards.
        timeout: seconds that a reply may take.
        changed: a method that is called when replies came in, when writing may go on, and at the end. It is
            held weakly: a pipe keeps nobody alive.

    Attributes:
        error: why it has ended; ``None``: it lives.
        closed: done as soon as the transport is closed.
        on_push: who is told what the server says of its own accord, by its kind (``b"smessage"``).
        on_end: who is told why it has ended.
        proved: until when (`now`) the server is known to have been there, at the other end of this: when that
            was sent which it has answered last. All that it had to say until then has been told.
    """

    def __init__(
        self,
        connection: Any,
        timeout: float,
        changed: Callable[[PipelinedConnection], None],
    ) -> None:
        self.error: Exception | None = None
        self.on_push: dict[bytes, Callable[[list[Any]], None]] = {}
        self.on_end: Callable[[Exception], None] | None = None
        self.proved = now()  # its `open` has just been answered
        self.closed = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._owner = ref(cast("Any", changed).__self__)
        self._changed = cast("Any", changed).__func__
        self._pending: deque[tuple[Expected, float]] = deque()
        self._paused = False
        self._retired = False
        self._timer: asyncio.TimerHandle | None = None
        self._ping_timer: asyncio.TimerHandle | None = None
        self._host = connection._host_error()
        # The parser's own: it knows redis-py's errors, and may hold the beginning of a push already.
        self._replies: hiredis.Reader = connection._parser._reader
        reader, self._writer = connection._reader, connection._writer
        # Else it would close the transport when it is thrown away; so would the writer, which stays here.
        connection._reader = connection._writer = None
        self._transport: asyncio.Transport = self._writer.transport
        self._transport.set_protocol(self)
        early = bytes(reader._buffer)
        reader._buffer.clear()
        if early:
            self.data_received(early)
        if reader.at_eof() or self._transport.is_closing():
            self.drop(redis_errors.ConnectionError("Connection closed by server."))

    @property
    def ended(self) -> bool:
        """Whether it takes and brings nothing more."""
        return self.error is not None

    @property
    def room(self) -> int:
        """How many more commands may be written now."""
        if self._paused or self.error is not None or self._retired:
            return 0
        return COMMANDS - len(self._pending)

    @property
    def idle(self) -> bool:
        """Whether no reply is awaited."""
        return not self._pending

    def awaited(self, kind: type[T]) -> list[T]:
        """Who of this kind expects a reply."""
        return [each for each, _ in self._pending if isinstance(each, kind)]

    def send(self, packed: bytes, expected: Sequence[Expected]) -> None:
        """Write commands, for each of which somebody expects a reply."""
        if self.error is not None:
            for each in expected:
                each.lost(self.error)
            return
        at = now()
        self._pending.extend([(each, at) for each in expected])
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._watch)
        self._transport.write(packed)

    def retire(self) -> None:
        """Take nothing more; close when all replies that are awaited have come."""
        self._retired = True
        if not self._pending:
            self.drop(redis_errors.ConnectionError("it was closed"))

    def drop(self, error: Exception) -> None:
        """Close now: what is awaited will not come."""
        if self.error is not None:
            return
        self.error = error
        for timer in (self._timer, self._ping_timer):
            if timer is not None:
                timer.cancel()
        # Not close(): that would wait until what is written has gone out, for ever if nobody reads it.
        self._transport.abort()
        pending = self._pending
        # The last first, so that each can go back to the head of a queue.
        while pending:
            pending.pop()[0].lost(error)
        if self.on_end is not None:
            self.on_end(error)
        self._tell()

    def ping(self, every: float) -> None:
        """From now on the server is asked for an answer after so many seconds without one."""
        self._ping_timer = self._loop.call_later(every, self.ping, every)
        if not self._pending and now() - self.proved > every / 2:
            self.send(_PING, [Reply(lambda _reply: None)])

    def leave(self) -> None:
        """Close it, from whatever thread; its loop may have ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._transport.abort)

    def _tell(self) -> None:
        owner = self._owner()
        if owner is not None:
            self._changed(owner, self)

    def _watch(self) -> None:
        # One timer for all: it looks at the oldest reply that is awaited, not once for each call.
        self._timer = None
        if not self._pending:
            return
        left = self._pending[0][1] + self._timeout - now()
        if left > 0:
            self._timer = self._loop.call_later(left, self._watch)
        else:
            self.drop(redis_errors.TimeoutError(f"Timeout reading from {self._host}"))

    # asyncio's side

    def data_received(self, data: bytes) -> None:
        """What the server says."""
        if self.error is not None:
            return
        try:
            self._replies.feed(data)
            while (reply := self._replies.gets(False)) is not NOT_ENOUGH_DATA:
                if isinstance(reply, hiredis.PushNotification) and not self._confirms(reply):
                    if (told := self.on_push.get(reply[0])) is not None:
                        told(reply)
                elif self._pending:
                    expected, self.proved = self._pending.popleft()
                    expected.answered(reply)
                else:
                    raise redis_errors.InvalidResponse(f"a reply to nothing: {reply!r:.100}")
                if self.ended:
                    return  # by one of them
        except redis_errors.RedisError as error:
            self.drop(error)
            return
        if self._retired and not self._pending:
            self.drop(redis_errors.ConnectionError("it was closed"))
        else:
            self._tell()

    def _confirms(self, push: list[Any]) -> bool:
        """Whether it is the reply that is due: subscriptions are confirmed, but refused by an ordinary error."""
        due = self._pending[0][0] if self._pending else None
        return push[0] in (b"ssubscribe", b"sunsubscribe") and isinstance(due, Reply) and due.by_push

    def eof_received(self) -> None:
        """The server has hung up."""
        self.drop(redis_errors.ConnectionError("Connection closed by server."))

    def connection_lost(self, error: Exception | None) -> None:
        """The transport is closed, by whomever."""
        text = f"Error while reading from {self._host}: {error}" if error else "Connection closed by server."
        self.drop(redis_errors.ConnectionError(text))
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """The server reads more slowly than we write."""
        self._paused = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._paused = False
        self._tell()


class PipelinedCommands:
    """Commands of the transport's own on a pipe, among those of the calls."""

    def __init__(self, pipe: PipelinedConnection) -> None:
        self._pipe = pipe
        self._replies: deque[asyncio.Future[Any]] = deque()

    async def send(self, commands: Sequence[bytes]) -> None:
        """Write commands, packed."""
        futures = [asyncio.get_running_loop().create_future() for _ in commands]
        self._replies.extend(futures)
        self._pipe.send(b"".join(commands), [Reply(partial(_settle, future)) for future in futures])

    async def reply(self) -> Any:
        """The reply to the oldest of them that has not been read; an exception, if it is an error, or none comes."""
        return await self._replies.popleft()


def _settle(future: asyncio.Future[Any], reply: Any) -> None:
    # An error too is a result here: nobody has to fetch it.
    if not future.done():
        future.set_result(reply)


class Reply:
    """Expects one reply, and tells it: an error is one too.

    Attributes:
        by_push: the reply is a push, unless it is an error.
    """

    __slots__ = ("answered", "by_push", "lost")

    def __init__(self, tell: Callable[[Any], None], *, by_push: bool = False) -> None:
        self.answered = self.lost = tell
        self.by_push = by_push
