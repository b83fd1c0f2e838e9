"""The events of a namespace, from a subscription to its channel."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import msgspec
from redis import exceptions as redis_errors

from pyregistry._redis.protocol.events import StoredEvent, decode_events
from pyregistry._redis.protocol.outcomes import DENIED, NO_ANSWER, NOT_RUN, refusal
from pyregistry._redis.transport.connection_async import end_read, receive
from pyregistry._redis.transport.pooled_async import AsyncTransport
from pyregistry.errors import RegistryError, RegistryUnavailable

__all__ = ["AsyncEventReader"]

PING_INTERVAL_S = 10.0
"""Seconds without a message after which a PING is sent. After as many again without a reply the connection is lost."""


class AsyncEventReader:
    """A subscription. See `AsyncEventSource`.

    Args:
        transport: Opens the connection.
        channel: The channel of the namespace.
    """

    def __init__(self, transport: AsyncTransport, channel: str) -> None:
        self._transport = transport
        self._channel = channel
        self._connection: Any = None
        # Held while the connection is closed or interrupted, because the descriptor of a socket that is closed during
        # a read may be given to another socket at once, and the read then waits on that socket.
        self._lock = threading.Lock()
        self._pinged = False

    async def open(self) -> None:
        """See `AsyncEventSource.open`."""
        try:
            connection = await self._transport.ear()
            self._connection = connection
            await connection.send_command("SSUBSCRIBE", self._channel)
            self._pinged = True  # the reply to SSUBSCRIBE is due within the same time as one to PING
            while True:
                message = await self._message()
                if message is not None and message[0] == b"ssubscribe":
                    return
        except (redis_errors.RedisError, OSError) as error:
            raise _public(error) from error

    async def receive(self) -> Sequence[StoredEvent] | str:
        """See `AsyncEventSource.receive`."""
        try:
            message = await self._message()
        except (redis_errors.RedisError, OSError) as error:
            raise _public(error) from error
        if message is None or message[0] != b"smessage":
            return ()
        self._transport.doubt()
        try:
            return decode_events(message[2])
        except msgspec.DecodeError as error:
            return f"an event could not be read: {error}"

    async def _message(self) -> list[Any] | None:
        """Return the next message of the channel, or None if none came. Sends the PING when it is due.

        Raises:
            redis.RedisError: The connection ended, or no reply to the PING came in time.
        """
        message = await receive(self._connection, PING_INTERVAL_S)
        if message is None:
            if self._pinged:
                raise redis_errors.TimeoutError("the server is silent")
            self._pinged = True
            await self._connection.send_command("PING")
            return None
        self._pinged = False
        if not isinstance(message, list):
            return None  # the reply to a PING
        if message[0] == b"sunsubscribe":
            raise redis_errors.ConnectionError("the server has ended the subscription")
        return message

    def interrupt(self) -> None:
        """See `AsyncEventSource.interrupt`."""
        with self._lock:
            if self._connection is not None:
                end_read(self._connection)

    async def close(self) -> None:
        """See `AsyncEventSource.close`."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                await connection.disconnect(nowait=True)


def _public(error: Exception) -> RegistryError:
    """Return the public form of an error of redis-py."""
    if isinstance(error, (*NO_ANSWER, *NOT_RUN)) and not isinstance(error, DENIED):
        return RegistryUnavailable(str(error))
    return refusal(error)
