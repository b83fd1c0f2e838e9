# Made from _redis/transport/pubsub_async.py by tools/unasync.py: change that one.
"""The events of a namespace, from a subscription to its channel."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import msgspec
from redis import exceptions as redis_errors

from pyregistry._redis.protocol.events import StoredEvent, decode_events
from pyregistry._redis.protocol.outcomes import DENIED, NO_ANSWER, NOT_RUN, refusal
from pyregistry._redis.transport.connection_sync import end_read, receive
from pyregistry._redis.transport.pooled_sync import Transport
from pyregistry.errors import RegistryError, RegistryUnavailable

__all__ = ["EventReader"]

PING_INTERVAL_S = 10.0
"""Seconds without a message after which a PING is sent. After as many again without a reply the connection is lost."""


class EventReader:
    """A subscription. See `EventSource`.

    Args:
        transport: Opens the connection.
        channel: The channel of the namespace.
    """

    def __init__(self, transport: Transport, channel: str) -> None:
        self._transport = transport
        self._channel = channel
        self._connection: Any = None
        # Held while the connection is closed or interrupted, because the descriptor of a socket that is closed during
        # a read may be given to another socket at once, and the read then waits on that socket.
        self._lock = threading.Lock()
        self._pinged = False

    def open(self) -> None:
        """See `EventSource.open`."""
        try:
            connection = self._transport.ear()
            self._connection = connection
            connection.send_command("SSUBSCRIBE", self._channel)
            self._pinged = True  # the reply to SSUBSCRIBE is due within the same time as one to PING
            while True:
                message = self._message()
                if message is not None and message[0] == b"ssubscribe":
                    return
        except (redis_errors.RedisError, OSError) as error:
            raise _public(error) from error

    def receive(self) -> Sequence[StoredEvent] | str:
        """See `EventSource.receive`."""
        try:
            message = self._message()
        except (redis_errors.RedisError, OSError) as error:
            raise _public(error) from error
        if message is None or message[0] != b"smessage":
            return ()
        self._transport.doubt()
        try:
            return decode_events(message[2])
        except msgspec.DecodeError as error:
            return f"an event could not be read: {error}"

    def _message(self) -> list[Any] | None:
        """Return the next message of the channel, or None if none came. Sends the PING when it is due.

        Raises:
            redis.RedisError: The connection ended, or no reply to the PING came in time.
        """
        message = receive(self._connection, PING_INTERVAL_S)
        if message is None:
            if self._pinged:
                raise redis_errors.TimeoutError("the server is silent")
            self._pinged = True
            self._connection.send_command("PING")
            return None
        self._pinged = False
        if not isinstance(message, list):
            return None  # the reply to a PING
        if message[0] == b"sunsubscribe":
            raise redis_errors.ConnectionError("the server has ended the subscription")
        return message

    def interrupt(self) -> None:
        """See `EventSource.interrupt`."""
        with self._lock:
            if self._connection is not None:
                end_read(self._connection)

    def close(self) -> None:
        """See `EventSource.close`."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.disconnect(nowait=True)


def _public(error: Exception) -> RegistryError:
    """Return the public form of an error of redis-py."""
    if isinstance(error, (*NO_ANSWER, *NOT_RUN)) and not isinstance(error, DENIED):
        return RegistryUnavailable(str(error))
    return refusal(error)
