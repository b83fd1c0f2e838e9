"""Connections of redis-py's, each for one caller at a time, with threads. `connection_async` is the same for asyncio.

redis-py makes the connection (TLS, AUTH, SELECT and all). What it does around each command after that takes longer
than all else that a client does; so commands are packed and replies parsed by hiredis here, on the connection's own
socket and with its own reader. The names that this touches are private: redis-py's major version is pinned, and a
test looks after them. A connection that does anything of its own for a command is used by redis-py's methods.
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

_READ = 65536  # bytes at a time, as redis-py does
# Seconds for which a reply is looked for: a script alone takes the server 10 to 50 us, the way there and back on one
# machine 15; to sleep and be woken takes 10 to 60 more.
_LOOK = 150e-6
_HOPE = 8  # after so many in a row that did not come in that time none is looked for
_TRY_AGAIN = 256  # but one of so many
_COMMON = redis.connection.AbstractConnection


class _Heard(Enum):
    """In the place of a reply."""

    PUSH = auto()


class CommandConnection(Protocol):
    """What takes commands, and gives their replies in order."""

    def send(self, commands: Sequence[bytes]) -> None:
        """Write commands, packed."""

    def reply(self) -> Any:
        """The next reply; an exception, if the server says an error. Raises redis-py's errors: none comes."""


class CallConnection:
    """A connection that was taken, by redis-py's methods.

    Attributes:
        connection: redis-py's.
        owed: how many replies are to come. If it is given back with some, whatever the reason, it is closed:
            they must not be taken for the next caller's.
        spoilt: it is to be closed in any case.
        hears: whether the server says things that nobody asked for: `listen`.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.owed = 0
        self.must_close = False
        self.hears = False

    def listen(self, heard: Callable[[Sequence[Any]], None]) -> None:
        """Have somebody told what the server says of its own accord. What that raises, whoever reads gets."""

        def handle(push: Sequence[Any], **_options: Any) -> _Heard:
            heard(push)
            return _Heard.PUSH

        # Not by redis-py's way to be told: that takes every error of who is told to be of no account.
        self.connection._parser.handle_push_response = handle
        self.hears = True

    def send(self, commands: Sequence[bytes]) -> None:
        """Write commands, packed."""
        self.owed += len(commands)
        self.connection.send_packed_command([b"".join(commands)])

    def reply(self) -> Any:
        """The next reply; an exception, if the server says an error. Raises redis-py's errors: none comes."""
        reply: Any = _Heard.PUSH
        try:
            while reply is _Heard.PUSH:
                reply = self.connection.read_response(disable_decoding=True, push_request=self.hears)
        except (redis_errors.ResponseError, *NOT_RUN, *DENIED) as error:
            reply = error
            self.must_close |= isinstance(error, redis_errors.ConnectionError)  # redis-py has closed it
        except redis_errors.ConnectionError as error:
            # Under Sentinel redis-py makes a lost connection of it; but this too is the reply.
            if not isinstance(error.__context__, redis_errors.ReadOnlyError):
                raise
            reply = error.__context__
            self.must_close = True
        self.owed -= 1
        return reply

    def hear(self) -> None:
        """Take in what the server has said that nobody asked for. Raises redis-py's errors: it says no more."""
        while self.connection.can_read(0):
            self.connection.read_response(disable_decoding=True, push_request=True)


def _poll_of(socket: Any, what: int) -> Callable[[float | None], object]:
    """Waits for something of a socket; takes milliseconds."""
    if EVENTLET:  # it has no poll, and its select is its own, without the limit of descriptors
        wanted = ([socket], []) if what == select.POLLIN else ([], [socket])
        return lambda left: any(select.select(*wanted, [], None if left is None else left / 1000))
    poll = select.poll()
    poll.register(socket, what)
    return poll.poll


class FastConnection(CallConnection):
    """A connection that was taken, past redis-py's methods."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._socket = connection._sock
        # The parser's own: it knows redis-py's errors, and may hold the beginning of a push already.
        self._reader: hiredis.Reader = connection._parser._reader
        self._poll = _poll_of(self._socket, select.POLLIN)
        # Of TLS: what has been decrypted is not in the socket any more.
        self._decrypted: Callable[[], int] | None = getattr(self._socket, "pending", None)

    def send(self, commands: Sequence[bytes]) -> None:
        """Write commands, packed."""
        self.owed += len(commands)
        try:
            self._write(commands[0] if len(commands) == 1 else b"".join(commands))
        except OSError as error:
            raise self._failed("writing to", error) from error

    def reply(self) -> Any:
        """The next reply; an exception, if the server says an error. Raises redis-py's errors: none comes."""
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
        """The reply to one command: as `send` and `reply`, but it is waited for before it is looked for."""
        self.send((packed,))
        try:
            self._reader.feed(self._read())
        except OSError as error:
            raise self._failed("reading from", error) from error
        return self.reply()

    def hear(self) -> None:
        """Take in what the server has said that nobody asked for. Raises redis-py's errors: it says no more."""
        try:
            while not self.is_silent():
                said = self._message()
                if not isinstance(said, hiredis.PushNotification):
                    raise redis_errors.InvalidResponse(f"a reply to nothing: {said!r:.100}")
                self.connection._parser.handle_push_response(said)
        except OSError as error:
            raise self._failed("reading from", error) from error

    def is_silent(self) -> bool:
        """Whether nothing has come that nobody asked for: the end of the connection is what mostly comes."""
        return not (
            self._poll(0) or self._reader.has_data() or (self._decrypted is not None and self._decrypted())
        )

    def _message(self) -> Any:
        """The next message, a reply or a push; waits for it."""
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
        """The error of redis-py's that says so."""
        host = self.connection._host_error()
        if isinstance(error, TimeoutError):
            return redis_errors.TimeoutError(f"Timeout {doing} {host}")
        return redis_errors.ConnectionError(f"Error while {doing} {host}: {error}")


class OwnConnection(FastConnection):
    """One that nobody else uses, and that is not encrypted: its socket does not block.

    Much of what a call to a server nearby takes is that the thread goes to sleep and is woken. So a reply is looked
    for a little while before that, unless that was in vain of late, or other threads have something to do.

    Args:
        connection: redis-py's.
        alone: whether no other thread is calling.
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
                if sent == len(left):  # nearly always
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
            with suppress(BlockingIOError):  # it was nothing
                return read(_READ)

    def _wait(self, what: int) -> None:
        if not _poll_of(self._socket, what)(None if self._timeout is None else self._timeout * 1000):
            raise TimeoutError


class CallConnectionPool:
    """The connections of a pool of redis-py's: it lends them, and gets them back.

    Attributes:
        pool: redis-py's, which is typed in part only.
    """

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        # A semaphore: the one of `threading` takes longer than all else that is done here. eventlet has no such queue.
        self._turns: queue.SimpleQueue[None] | queue.Queue[None]
        self._turns = queue.Queue() if EVENTLET else queue.SimpleQueue()
        for _ in range(CONNECTIONS):
            self._turns.put(None)

    def take(self) -> CallConnection:
        """A connection that is open; waits for a turn where too many are taken. Raises redis-py's errors."""
        check_runtime()
        # Interrupted, this may give back a turn that it never had: rather one too many than one too few.
        try:
            self._turns.get()
            return self._lend()
        except BaseException:
            self._turns.put(None)
            raise

    def give_back(self, line: CallConnection) -> None:
        """It is used no more."""
        try:
            lost = bool(line.owed or line.must_close)
            if lost:
                line.connection.disconnect()
            self._take_back(line, lost)
        finally:
            self._turns.put(None)

    def idle(self) -> FastConnection | None:
        """A connection that waits for its next caller, if there is one; where others use the pool there is none."""
        return None

    def _lend(self) -> CallConnection:
        return connection_of(self.pool.get_connection())

    def _take_back(self, line: CallConnection, _lost: bool) -> None:
        self.pool.release(line.connection)

    def close(self) -> None:
        """Close those that are not taken: redis-py fails in odd ways where one is closed under a call."""
        self.pool.disconnect(inuse_connections=False)


class OwnConnectionPool(CallConnectionPool):
    """Connections that nobody else uses: they are as the pool would make them, and wait here."""

    def __init__(self, pool: Any) -> None:
        super().__init__(pool)
        self._idle: list[FastConnection] = []  # the one that was used last is taken next

    def idle(self) -> FastConnection | None:
        """A connection that waits for its next caller, if there is one."""
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
                break  # another thread was faster
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
        """Close those that are not taken."""
        with suppress(IndexError):
            while True:
                self._idle.pop().connection.disconnect()


def pool_of(pool: Any, *, shared: bool) -> CallConnectionPool:
    """The connections of a pool; ``shared``: others use it too."""
    kind: type = type(pool)
    # What redis-py does for any of these when it lends a connection, or gets it back, is not to be missed.
    wants_more = (
        kind is not redis.ConnectionPool
        or pool.cache is not None
        or pool.maint_notifications_enabled()
        or pool.connection_kwargs.get("credential_provider")
        or pool.connection_kwargs.get("health_check_interval")
    )
    return CallConnectionPool(pool) if shared or wants_more else OwnConnectionPool(pool)


def connection_of(connection: Any) -> CallConnection:
    """A connection that has just been opened."""
    kind = type(connection)
    known = (
        getattr(kind, "send_packed_command", None) is _COMMON.send_packed_command
        and kind.read_response is _COMMON.read_response
        and type(connection._parser) is _HiredisParser
        and not connection.health_check_interval
    )
    return FastConnection(connection) if known else CallConnection(connection)


def receive(connection: Any, seconds: float) -> Any:
    """The next message or reply; ``None`` if nothing comes in that time."""
    with contextlib.suppress(redis_errors.TimeoutError):
        return connection.read_response(
            disable_decoding=True, timeout=seconds, push_request=True, disconnect_on_error=False
        )
    return None


def _as_it_is(message: Any) -> Any:
    return message


def unlogged(connection: Any) -> None:
    """Keep redis-py from logging each message: an event holds a claim id, and that is a secret."""
    connection._parser.set_pubsub_push_handler(_as_it_is)


def end_read(connection: Any) -> None:
    """End the read of another thread on a connection: it ends as if the server had hung up.

    The connection must not be closed meanwhile, because its descriptor may then be another's.
    """
    connected = connection._sock
    if connected is not None:
        with contextlib.suppress(OSError):  # the server has hung up already
            _shut_down(connected)


def _shut_down(connected: Any) -> None:
    """End both directions of the socket itself: TLS would drop its state under the read of the thread."""
    if EVENTLET:  # its sockets wrap the one that can do it
        with socket.socket(fileno=os.dup(connected.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)
    else:
        socket.socket.shutdown(connected, socket.SHUT_RDWR)
