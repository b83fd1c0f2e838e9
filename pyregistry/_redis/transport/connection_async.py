"""Connections of redis-py, each for one caller at a time, on asyncio. `connection_sync` is the twin for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from redis import exceptions as redis_errors

from pyregistry._redis.protocol.outcomes import DENIED, NOT_RUN
from pyregistry._redis.transport.endpoint import CONNECTIONS


class CommandConnection(Protocol):
    """A connection that sends commands and returns their replies in order."""

    async def send(self, commands: Sequence[bytes]) -> None:
        """Write packed commands."""

    async def reply(self) -> Any:
        """Return the next reply; an error reply is returned as an exception.

        Raises:
            redis.RedisError: The connection ended, or no reply came in time.
        """


class CallConnection:
    """A connection that is lent to one caller.

    Attributes:
        connection: The connection of redis-py.
        owed: Number of replies that are not read yet. A connection that is given back with any is closed, because the
            next caller would take them for its own.
        must_close: Whether the connection is closed when it is given back, in any case.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.owed = 0
        self.must_close = False

    async def send(self, commands: Sequence[bytes]) -> None:
        """Write packed commands."""
        if not commands:
            return  # asyncio's transport never completes an empty write (Python 3.12 and newer)
        self.owed += len(commands)
        await self.connection.send_packed_command([b"".join(commands)])

    async def reply(self) -> Any:
        """Return the next reply; an error reply is returned as an exception.

        Raises:
            redis.RedisError: The connection ended, or no reply came in time.
        """
        try:
            reply = await self.connection.read_response(disable_decoding=True)
        except (redis_errors.ResponseError, *NOT_RUN, *DENIED) as error:
            reply = error
        except redis_errors.ConnectionError as error:
            # Under Sentinel redis-py turns READONLY into a ConnectionError; it is the reply all the same.
            if not isinstance(error.__context__, redis_errors.ReadOnlyError):
                raise
            reply = error.__context__
        self.owed -= 1
        return reply


class CallConnectionPool:
    """Lends the connections of a pool of redis-py, at most `CONNECTIONS` at a time.

    Attributes:
        pool: The pool of redis-py. `Any`, because redis-py types it only in part.
    """

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        # Not redis-py's blocking pools: before Python 3.13 a task that is cancelled when its turn comes loses the
        # turn, and the next task waits.
        self._turns = asyncio.Semaphore(CONNECTIONS)

    async def take(self) -> CallConnection:
        """Lend an open connection. Waits for its turn while `CONNECTIONS` are lent.

        Raises:
            redis.RedisError: No connection could be opened.
        """
        await self._turns.acquire()
        try:
            return CallConnection(await self.pool.get_connection())
        except BaseException:
            self._turns.release()
            raise

    async def give_back(self, line: CallConnection) -> None:
        """Take a lent connection back. Closes it if replies are unread or it must be closed."""
        try:
            if line.owed or line.must_close:
                await line.connection.disconnect(nowait=True)
            await self.pool.release(line.connection)
        finally:
            self._turns.release()

    async def close(self) -> None:
        """Close the connections that are not lent: redis-py raises unrelated errors if one is closed during a call."""
        await self.pool.disconnect(inuse_connections=False)


def pool_of(pool: Any, *, shared: bool) -> CallConnectionPool:
    """Return the lender of a pool's connections.

    Args:
        pool: The pool of redis-py.
        shared: Whether others use the pool too. No difference on asyncio.
    """
    return CallConnectionPool(pool)


def connection_of(connection: Any) -> CallConnection:
    """Wrap an open connection."""
    return CallConnection(connection)


async def receive(connection: Any, seconds: float) -> Any:
    """Return the next message or reply; None if none comes within `seconds`."""
    return await connection.read_response(
        disable_decoding=True, timeout=seconds, push_request=True, disconnect_on_error=False
    )


async def _as_it_is(message: Any) -> Any:
    return message


def unlogged(connection: Any) -> None:
    """Keep redis-py from logging each message, because an event contains a claim id, which is a secret."""
    connection._parser.set_pubsub_push_handler(_as_it_is)


def end_read(connection: Any) -> None:
    """Do nothing, because on an event loop the reading task is cancelled instead."""
