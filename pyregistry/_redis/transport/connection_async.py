"""Connections of redis-py's, each for one caller at a time, on asyncio. `connection_sync` is the same for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from redis import exceptions as redis_errors

from pyregistry._redis.protocol.outcomes import DENIED, NOT_RUN
from pyregistry._redis.transport.endpoint import CONNECTIONS


class CommandConnection(Protocol):
    """What takes commands, and gives their replies in order."""

    async def send(self, commands: Sequence[bytes]) -> None:
        """Write commands, packed."""

    async def reply(self) -> Any:
        """The next reply; an exception, if the server says an error. Raises redis-py's errors: none comes."""


class CallConnection:
    """A connection that was taken.

    Attributes:
        connection: redis-py's.
        owed: how many replies are to come. If it is given back with some, whatever the reason, it is closed:
            they must not be taken for the next caller's.
        spoilt: it is to be closed in any case.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.owed = 0
        self.must_close = False

    async def send(self, commands: Sequence[bytes]) -> None:
        """Write commands, packed."""
        if not commands:
            return  # of an empty write asyncio's transport makes one that never ends (Python 3.12 and newer)
        self.owed += len(commands)
        await self.connection.send_packed_command([b"".join(commands)])

    async def reply(self) -> Any:
        """The next reply; an exception, if the server says an error. Raises redis-py's errors: none comes."""
        try:
            reply = await self.connection.read_response(disable_decoding=True)
        except (redis_errors.ResponseError, *NOT_RUN, *DENIED) as error:
            reply = error
        except redis_errors.ConnectionError as error:
            # Under Sentinel redis-py makes a lost connection of it; but this too is the reply.
            if not isinstance(error.__context__, redis_errors.ReadOnlyError):
                raise
            reply = error.__context__
        self.owed -= 1
        return reply


class CallConnectionPool:
    """The connections of a pool of redis-py's.

    Attributes:
        pool: redis-py's, which is typed in part only.
    """

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        # Not redis-py's blocking pools: before Python 3.13 a task that is cancelled when its turn comes takes
        # the turn with it, and the next one waits.
        self._turns = asyncio.Semaphore(CONNECTIONS)

    async def take(self) -> CallConnection:
        """A connection that is open; waits for a turn where too many are taken. Raises redis-py's errors."""
        await self._turns.acquire()
        try:
            return CallConnection(await self.pool.get_connection())
        except BaseException:
            self._turns.release()
            raise

    async def give_back(self, line: CallConnection) -> None:
        """It is used no more."""
        try:
            if line.owed or line.must_close:
                await line.connection.disconnect(nowait=True)
            await self.pool.release(line.connection)
        finally:
            self._turns.release()

    async def close(self) -> None:
        """Close those that are not taken: redis-py fails in odd ways where one is closed under a call."""
        await self.pool.disconnect(inuse_connections=False)


def pool_of(pool: Any, *, shared: bool) -> CallConnectionPool:
    """The connections of a pool; ``shared``: others use it too."""
    return CallConnectionPool(pool)


def connection_of(connection: Any) -> CallConnection:
    """A connection that has just been opened."""
    return CallConnection(connection)


async def receive(connection: Any, seconds: float) -> Any:
    """The next message or reply; ``None`` if nothing comes in that time."""
    return await connection.read_response(
        disable_decoding=True, timeout=seconds, push_request=True, disconnect_on_error=False
    )


async def _as_it_is(message: Any) -> Any:
    return message


def unlogged(connection: Any) -> None:
    """Keep redis-py from logging each message: an event holds a claim id, and that is a secret."""
    connection._parser.set_pubsub_push_handler(_as_it_is)


def end_read(connection: Any) -> None:
    """Do nothing: on an event loop the task that reads is cancelled."""
