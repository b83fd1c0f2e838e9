"""A pipelined connection for many calls: it writes commands at once, and matches the replies to them in order.

redis-py makes the connection (TLS, AUTH, SELECT); then this module takes over its asyncio transport. The attributes
that it uses are private: redis-py's major version is pinned, and a test checks that they exist.
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
"""Maximum number of unanswered commands on one connection. More wait until replies arrive."""

_PING = pack(("PING",))


class Expected(Protocol):
    """Handles the outcome of one command. Exactly one of the two methods is called, once."""

    def answered(self, reply: Any) -> None:
        """Handle the server's reply; an error reply is an exception. Must not raise."""

    def lost(self, error: Exception) -> None:
        """Handle the loss of the reply. Must not raise."""


class PipelinedConnection(asyncio.Protocol):
    """An open pipelined connection.

    Args:
        connection: The open connection of redis-py. It cannot be used afterwards.
        timeout: Seconds that a reply may take.
        changed: A bound method, called after replies, when writing may resume, and at the end. Its object is
            referenced weakly, so that a connection keeps no transport alive.

    Attributes:
        error: The error that ended the connection; None while it is open.
        closed: Future that is done as soon as the asyncio transport is closed.
        on_push: Handlers of pushes, by kind (for example ``b"smessage"``).
        on_end: Handler of the error that ends the connection, or None.
        proved: Time (`now`) at which the last answered command was sent. The server was reachable then, and all pushes
            that it had sent by then are handled.
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
        self.proved = now()  # the server has just answered the `open` script
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
        # The reader of redis-py's parser: it creates redis-py's errors, and may already hold the start of a push.
        self._replies: hiredis.Reader = connection._parser._reader
        reader, self._writer = connection._reader, connection._writer
        # Detach both, because redis-py's connection closes the transport when it is collected. The writer does so too,
        # so this object keeps it.
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
        """Whether the connection has ended."""
        return self.error is not None

    @property
    def room(self) -> int:
        """Number of further commands that may be written now."""
        if self._paused or self.error is not None or self._retired:
            return 0
        return COMMANDS - len(self._pending)

    @property
    def idle(self) -> bool:
        """Whether no command is unanswered."""
        return not self._pending

    def awaited(self, kind: type[T]) -> list[T]:
        """Return the handlers of this class whose command is unanswered, the oldest first."""
        return [each for each, _ in self._pending if isinstance(each, kind)]

    def send(self, packed: bytes, expected: Sequence[Expected]) -> None:
        """Write packed commands.

        Args:
            packed: The commands.
            expected: The handler of each reply, in order. If the connection has ended, each gets `lost` at once.
        """
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
        """Accept no more commands, and close when all replies have arrived."""
        self._retired = True
        if not self._pending:
            self.drop(redis_errors.ConnectionError("it was closed"))

    def drop(self, error: Exception) -> None:
        """Close now; every unanswered command is lost. Idempotent."""
        if self.error is not None:
            return
        self.error = error
        for timer in (self._timer, self._ping_timer):
            if timer is not None:
                timer.cancel()
        # Not close(): that waits until the write buffer is empty, for ever if the server does not read.
        self._transport.abort()
        pending = self._pending
        # The last first, so that a handler can put each back at the head of a queue.
        while pending:
            pending.pop()[0].lost(error)
        if self.on_end is not None:
            self.on_end(error)
        self._tell()

    def ping(self, every: float) -> None:
        """Start sending a PING after `every` seconds without a reply."""
        self._ping_timer = self._loop.call_later(every, self.ping, every)
        if not self._pending and now() - self.proved > every / 2:
            self.send(_PING, [Reply(lambda _reply: None)])

    def leave(self) -> None:
        """Close the connection from any thread. Its event loop may have ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._transport.abort)

    def _tell(self) -> None:
        owner = self._owner()
        if owner is not None:
            self._changed(owner, self)

    def _watch(self) -> None:
        # One timer for all commands: it checks the oldest unanswered one, which saves a timer for each call.
        self._timer = None
        if not self._pending:
            return
        left = self._pending[0][1] + self._timeout - now()
        if left > 0:
            self._timer = self._loop.call_later(left, self._watch)
        else:
            self.drop(redis_errors.TimeoutError(f"Timeout reading from {self._host}"))

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; pass each reply and push to its handler."""
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
                    return  # a handler has closed the connection
        except redis_errors.RedisError as error:
            self.drop(error)
            return
        if self._retired and not self._pending:
            self.drop(redis_errors.ConnectionError("it was closed"))
        else:
            self._tell()

    def _confirms(self, push: list[Any]) -> bool:
        """Return whether a push is the due reply: the server confirms SSUBSCRIBE by a push, and refuses by an error."""
        due = self._pending[0][0] if self._pending else None
        return push[0] in (b"ssubscribe", b"sunsubscribe") and isinstance(due, Reply) and due.by_push

    def eof_received(self) -> None:
        """Handle the end of the stream: the server has closed the connection."""
        self.drop(redis_errors.ConnectionError("Connection closed by server."))

    def connection_lost(self, error: Exception | None) -> None:
        """Handle the close of the transport, by either end."""
        text = f"Error while reading from {self._host}: {error}" if error else "Connection closed by server."
        self.drop(redis_errors.ConnectionError(text))
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Stop writing, because the write buffer is full: the server reads too slowly."""
        self._paused = True

    def resume_writing(self) -> None:
        """Resume writing, because the write buffer has drained."""
        self._paused = False
        self._tell()


class PipelinedCommands:
    """Sends the transport's own commands on a pipelined connection, between those of the calls."""

    def __init__(self, pipe: PipelinedConnection) -> None:
        self._pipe = pipe
        self._replies: deque[asyncio.Future[Any]] = deque()

    async def send(self, commands: Sequence[bytes]) -> None:
        """Write packed commands."""
        futures = [asyncio.get_running_loop().create_future() for _ in commands]
        self._replies.extend(futures)
        self._pipe.send(b"".join(commands), [Reply(partial(_settle, future)) for future in futures])

    async def reply(self) -> Any:
        """Return the oldest unread reply. An error reply, or the loss of the reply, is returned as an exception."""
        return await self._replies.popleft()


def _settle(future: asyncio.Future[Any], reply: Any) -> None:
    # An error is set as a result, because asyncio logs an exception of a future that is never retrieved.
    if not future.done():
        future.set_result(reply)


class Reply:
    """Passes one reply, or the error that replaces it, to a function.

    Args:
        tell: Called with the reply or the error.
        by_push: Whether the reply is a push, unless it is an error. Defaults to False.
    """

    __slots__ = ("answered", "by_push", "lost")

    def __init__(self, tell: Callable[[Any], None], *, by_push: bool = False) -> None:
        self.answered = self.lost = tell
        self.by_push = by_push
