"""Connections of redis-py, each for one caller at a time, with threads. `connection_async` is the twin for asyncio.

redis-py makes the connection (TLS, AUTH, SELECT). Its work around each command takes longer than the rest of the
client's work. So this module packs commands and parses replies with hiredis, on redis-py's socket and with its reader.
The attributes that it uses are private: redis-py's major version is pinned, and a test checks that they exist.
A connection whose class overrides how commands are sent or read is used by redis-py's methods (`CallConnection`).
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum, auto
from time import perf_counter
from typing import Any, Protocol

import hiredis
import redis
from redis import exceptions as redis_errors
from redis._parsers.hiredis import NOT_ENOUGH_DATA, _HiredisParser

from pyregistry._redis.protocol.outcomes import DENIED, NOT_RUN
from pyregistry._redis.transport.endpoint import CONNECTIONS
from pyregistry._runtime.greenlets import EVENTLET, check_runtime

_READ = 65536  # bytes per read; redis-py's value
# Seconds to spin for a reply. A script takes the server 10 to 50 us, the round trip on one machine 15 us; the sleep and
# wake-up of the thread take 10 to 60 us more.
_LOOK = 150e-6
_HOPE = 8  # stop spinning after this many consecutive replies that took longer
_TRY_AGAIN = 256  # then spin for one read in this many
_COMMON = redis.connection.AbstractConnection


class _Heard(Enum):
    """Sentinel in the place of a reply: redis-py has read a push."""

    PUSH = auto()


class CommandConnection(Protocol):
    """A connection that sends commands and returns their replies in order."""

    def send(self, commands: Sequence[bytes]) -> None:
        """Write packed commands."""

    def reply(self) -> Any:
        """Return the next reply; an error reply is returned as an exception.

        Raises:
            redis.RedisError: The connection ended, or no reply came in time.
        """


class CallConnection:
    """A connection that is lent to one caller, used by redis-py's methods.

    Attributes:
        connection: The connection of redis-py.
        owed: Number of replies that are not read yet. A connection that is given back with any is closed, because the
            next caller would take them for its own.
        must_close: Whether the connection is closed when it is given back, in any case.
        hears: Whether the server sends pushes on this connection (`listen`).
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.owed = 0
        self.must_close = False
        self.hears = False

    def listen(self, heard: Callable[[Sequence[Any]], None]) -> None:
        """Call a handler with each push of the server. An exception of the handler propagates to the reader."""

        def handle(push: Sequence[Any], **_options: Any) -> _Heard:
            heard(push)
            return _Heard.PUSH

        # Bypass redis-py's push hook: it swallows exceptions raised by the handler.
        self.connection._parser.handle_push_response = handle
        self.hears = True

    def send(self, commands: Sequence[bytes]) -> None:
        """Write packed commands."""
        self.owed += len(commands)
        self.connection.send_packed_command([b"".join(commands)])

    def reply(self) -> Any:
        """Return the next reply; an error reply is returned as an exception.

        Raises:
            redis.RedisError: The connection ended, or no reply came in time.
        """
        reply: Any = _Heard.PUSH
        try:
            while reply is _Heard.PUSH:
                reply = self.connection.read_response(disable_decoding=True, push_request=self.hears)
        except (redis_errors.ResponseError, *NOT_RUN, *DENIED) as error:
            reply = error
            self.must_close |= isinstance(error, redis_errors.ConnectionError)  # redis-py has closed it
        except redis_errors.ConnectionError as error:
            # Under Sentinel redis-py turns READONLY into a ConnectionError; it is the reply all the same.
            if not isinstance(error.__context__, redis_errors.ReadOnlyError):
                raise
            reply = error.__context__
            self.must_close = True
        self.owed -= 1
        return reply

    def hear(self) -> None:
        """Read the pushes that have arrived, without waiting.

        Raises:
            redis.RedisError: The connection ended.
        """
        while self.connection.can_read(0):
            self.connection.read_response(disable_decoding=True, push_request=True)


def _poll_of(socket: Any, what: int) -> Callable[[float | None], object]:
    """Return a function that waits for an event of a socket, for a number of milliseconds (None: without limit)."""
    if EVENTLET:  # eventlet has no poll; its own select has no limit of descriptors
        wanted = ([socket], []) if what == select.POLLIN else ([], [socket])
        return lambda left: any(select.select(*wanted, [], None if left is None else left / 1000))
    poll = select.poll()
    poll.register(socket, what)
    return poll.poll


class FastConnection(CallConnection):
    """A connection that is lent to one caller, used without redis-py's methods."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._socket = connection._sock
        # The reader of redis-py's parser: it creates redis-py's errors, and may already hold the start of a push.
        self._reader: hiredis.Reader = connection._parser._reader
        self._poll = _poll_of(self._socket, select.POLLIN)
        # With TLS, poll does not see data that is already decrypted.
        self._decrypted: Callable[[], int] | None = getattr(self._socket, "pending", None)

    def send(self, commands: Sequence[bytes]) -> None:
        """Write packed commands."""
        self.owed += len(commands)
        try:
            self._write(commands[0] if len(commands) == 1 else b"".join(commands))
        except OSError as error:
            raise self._failed("writing to", error) from error

    def reply(self) -> Any:
        """Return the next reply; an error reply is returned as an exception.

        Raises:
            redis.RedisError: The connection ended, or no reply came in time.
        """
        try:
            while isinstance(reply := self._message(), hiredis.PushNotification):
                self.connection._parser.handle_push_response(reply)
        except OSError as error:
            raise self._failed("reading from", error) from error
        self.owed -= 1
        if isinstance(reply, redis_errors.ConnectionError):
            self.must_close = True
        return reply

    def ask(self, packed: bytes) -> Any:
        """Send one command and return its reply, as `send` and `reply`.

        Reads the socket first, because the reader holds no complete reply before that.
        """
        self.send((packed,))
        try:
            self._reader.feed(self._read())
        except OSError as error:
            raise self._failed("reading from", error) from error
        return self.reply()

    def hear(self) -> None:
        """Read the pushes that have arrived, without waiting.

        Raises:
            redis.RedisError: The connection ended.
        """
        try:
            while not self.is_silent():
                said = self._message()
                if not isinstance(said, hiredis.PushNotification):
                    raise redis_errors.InvalidResponse(f"a reply to nothing: {said!r:.100}")
                self.connection._parser.handle_push_response(said)
        except OSError as error:
            raise self._failed("reading from", error) from error

    def is_silent(self) -> bool:
        """Return whether nothing is to be read. On an idle connection that is a push or the server's end of file."""
        return not (
            self._poll(0) or self._reader.has_data() or (self._decrypted is not None and self._decrypted())
        )

    def _message(self) -> Any:
        """Wait for the next message and return it: a reply or a push."""
        while (message := self._reader.gets(False)) is NOT_ENOUGH_DATA:
            data = self._read()
            if not data:
                raise redis_errors.ConnectionError("Connection closed by server.")
            self._reader.feed(data)
        return message

    def _write(self, packed: bytes) -> None:
        self._socket.sendall(packed)

    def _read(self) -> bytes:
        data: bytes = self._socket.recv(_READ)
        return data

    def _failed(self, doing: str, error: OSError) -> redis_errors.RedisError:
        """Return redis-py's error for an error of the socket."""
        host = self.connection._host_error()
        if isinstance(error, TimeoutError):
            return redis_errors.TimeoutError(f"Timeout {doing} {host}")
        return redis_errors.ConnectionError(f"Error while {doing} {host}: {error}")


class OwnConnection(FastConnection):
    """An unencrypted connection of our own pool. Its socket does not block.

    For a local server, most of a blocking call is the thread's sleep and wake-up. So a read spins for 150 us first,
    unless the last `_HOPE` spins were in vain or another thread is in a call.

    Args:
        connection: The connection of redis-py.
        alone: Returns whether no other thread is in a call.
    """

    def __init__(self, connection: Any, alone: Callable[[], bool]) -> None:
        super().__init__(connection)
        self._alone = alone
        self._timeout: float | None = connection.socket_timeout
        self._socket.settimeout(0)
        self._hope = _HOPE
        self._reads = 0

    def _write(self, packed: bytes) -> None:
        left: bytes | memoryview = packed
        while left:
            try:
                sent = self._socket.send(left)
            except BlockingIOError:
                self._wait(select.POLLOUT)
            else:
                if sent == len(left):
                    return
                left = memoryview(left)[sent:]

    def _read(self) -> bytes:
        read: Callable[[int], bytes] = self._socket.recv
        self._reads += 1
        if (self._hope or self._reads % _TRY_AGAIN == 0) and self._alone():
            until = perf_counter() + _LOOK
            while True:
                try:
                    data = read(_READ)
                except BlockingIOError:
                    if perf_counter() > until:
                        break
                else:
                    self._hope = _HOPE
                    return data
            self._hope = max(self._hope - 1, 0)
        while True:
            self._wait(select.POLLIN)
            with suppress(BlockingIOError):  # spurious wake-up
                return read(_READ)

    def _wait(self, what: int) -> None:
        if not _poll_of(self._socket, what)(None if self._timeout is None else self._timeout * 1000):
            raise TimeoutError


class CallConnectionPool:
    """Lends the connections of a pool of redis-py, at most `CONNECTIONS` at a time.

    Attributes:
        pool: The pool of redis-py. `Any`, because redis-py types it only in part.
    """

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        # A queue as semaphore, because that of `threading` takes longer than the rest of `take` and `give_back`.
        # eventlet has no SimpleQueue.
        self._turns: queue.SimpleQueue[None] | queue.Queue[None]
        self._turns = queue.Queue() if EVENTLET else queue.SimpleQueue()
        for _ in range(CONNECTIONS):
            self._turns.put(None)

    def take(self) -> CallConnection:
        """Lend an open connection. Waits for its turn while `CONNECTIONS` are lent.

        Raises:
            redis.RedisError: No connection could be opened.
        """
        check_runtime()
        # If an asynchronous exception interrupts `get`, this gives back a turn that it never had. One turn too many
        # is safe; one too few would block a caller for ever.
        try:
            self._turns.get()
            return self._lend()
        except BaseException:
            self._turns.put(None)
            raise

    def give_back(self, line: CallConnection) -> None:
        """Take a lent connection back. Closes it if replies are unread or it must be closed."""
        try:
            lost = bool(line.owed or line.must_close)
            if lost:
                line.connection.disconnect()
            self._take_back(line, lost)
        finally:
            self._turns.put(None)

    def idle(self) -> FastConnection | None:
        """Return an idle connection, or None. A shared pool has none, because others may take it meanwhile."""
        return None

    def _lend(self) -> CallConnection:
        return connection_of(self.pool.get_connection())

    def _take_back(self, line: CallConnection, _lost: bool) -> None:
        self.pool.release(line.connection)

    def close(self) -> None:
        """Close the connections that are not lent: redis-py raises unrelated errors if one is closed during a call."""
        self.pool.disconnect(inuse_connections=False)


class OwnConnectionPool(CallConnectionPool):
    """Connections of this client alone, made with the settings of the pool. Idle ones are kept here, not there."""

    def __init__(self, pool: Any) -> None:
        super().__init__(pool)
        self._idle: list[FastConnection] = []  # last in, first out

    def idle(self) -> FastConnection | None:
        """Lend an idle connection, or return None. Waits for its turn while `CONNECTIONS` are lent."""
        check_runtime()
        line = None
        try:
            self._turns.get()
            line = self._next()
            return line
        finally:
            if line is None:
                self._turns.put(None)

    def _next(self) -> FastConnection | None:
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:
                break  # another thread took the last one
            if line.is_silent():
                return line
            line.connection.disconnect()
        return None

    def _lend(self) -> CallConnection:
        if (line := self._next()) is not None:
            return line
        connection = self.pool.connection_class(**self.pool.connection_kwargs)
        connection.connect()
        if isinstance(connection, redis.SSLConnection):
            return FastConnection(connection)
        return OwnConnection(connection, self._is_one_taken)

    def _take_back(self, line: CallConnection, lost: bool) -> None:
        if not lost and isinstance(line, FastConnection):
            self._idle.append(line)

    def _is_one_taken(self) -> bool:
        return self._turns.qsize() == CONNECTIONS - 1

    def close(self) -> None:
        """Close the idle connections."""
        with suppress(IndexError):
            while True:
                self._idle.pop().connection.disconnect()


def pool_of(pool: Any, *, shared: bool) -> CallConnectionPool:
    """Return the lender of a pool's connections.

    Args:
        pool: The pool of redis-py.
        shared: Whether others use the pool too.
    """
    kind: type = type(pool)
    # With any of these, redis-py's pool does work on each get and release that must not be skipped.
    wants_more = (
        kind is not redis.ConnectionPool
        or pool.cache is not None
        or pool.maint_notifications_enabled()
        or pool.connection_kwargs.get("credential_provider")
        or pool.connection_kwargs.get("health_check_interval")
    )
    return CallConnectionPool(pool) if shared or wants_more else OwnConnectionPool(pool)


def connection_of(connection: Any) -> CallConnection:
    """Wrap an open connection: a `FastConnection` if its class overrides none of redis-py's methods."""
    kind = type(connection)
    known = (
        getattr(kind, "send_packed_command", None) is _COMMON.send_packed_command
        and kind.read_response is _COMMON.read_response
        and type(connection._parser) is _HiredisParser
        and not connection.health_check_interval
    )
    return FastConnection(connection) if known else CallConnection(connection)


def receive(connection: Any, seconds: float) -> Any:
    """Return the next message or reply; None if none comes within `seconds`."""
    with contextlib.suppress(redis_errors.TimeoutError):
        return connection.read_response(
            disable_decoding=True, timeout=seconds, push_request=True, disconnect_on_error=False
        )
    return None


def _as_it_is(message: Any) -> Any:
    return message


def unlogged(connection: Any) -> None:
    """Keep redis-py from logging each message, because an event contains a claim id, which is a secret."""
    connection._parser.set_pubsub_push_handler(_as_it_is)


def end_read(connection: Any) -> None:
    """End the read of another thread on a connection, as if the server had closed it.

    The caller must keep the connection open meanwhile, because a closed descriptor may be given to another socket.
    """
    connected = connection._sock
    if connected is not None:
        with contextlib.suppress(OSError):  # the server has closed it already
            _shut_down(connected)


def _shut_down(connected: Any) -> None:
    """Shut down both directions of the plain socket: a TLS shutdown would drop state that the reading thread uses."""
    if EVENTLET:  # an eventlet socket wraps the plain one; a duplicate of the descriptor reaches it
        with socket.socket(fileno=os.dup(connected.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)
    else:
        socket.socket.shutdown(connected, socket.SHUT_RDWR)
