"""Reads the events of a channel on the multiplexed connection, between the replies of the calls."""

from __future__ import annotations

from collections import deque
from typing import Any

from pyregistry._redis.protocol.request import pack
from pyregistry._redis.transport.pipelined import PipelinedConnection, Reply
from pyregistry._runtime.aio import Wakeup


class PubSubReader:
    """The connection interface of `AsyncSubscriber`, on a pipelined connection that calls share.

    A connection has one reader at a time.

    Args:
        pipe: An open connection.
    """

    def __init__(self, pipe: PipelinedConnection) -> None:
        self._pipe = pipe
        self._channel: str | None = None
        self._heard: deque[Any] = deque()
        self._news = Wakeup()
        pipe.on_push[b"smessage"] = pipe.on_push[b"sunsubscribe"] = pipe.on_end = self._hear

    def _hear(self, what: Any) -> None:
        self._heard.append(what)
        self._news.set()

    async def send_command(self, verb: str, *words: str) -> None:
        """Send PING or SSUBSCRIBE. `read_response` returns the reply, in order with the messages."""
        if verb == "SSUBSCRIBE":
            (self._channel,) = words
        self._pipe.send(pack((verb, *words)), [Reply(self._hear, by_push=verb != "PING")])

    async def read_response(self, *, timeout: float, **_how: Any) -> Any:
        """Return the next message or reply; None if none comes within `timeout` seconds.

        Raises:
            Exception: The error that ended the connection, or an error reply.
        """
        if not self._heard:
            self._news.clear()
            await self._news.wait(timeout)
        heard = self._heard.popleft() if self._heard else None
        if isinstance(heard, Exception):
            raise heard
        return heard

    async def disconnect(self, *, nowait: bool) -> None:
        """Stop reading and unsubscribe. Does nothing if another reader has replaced this one. Idempotent."""
        pipe = self._pipe
        if pipe.on_end != self._hear:
            return
        del pipe.on_push[b"smessage"], pipe.on_push[b"sunsubscribe"]
        pipe.on_end = None
        if self._channel is not None and not pipe.ended:
            pipe.send(pack(("SUNSUBSCRIBE", self._channel)), [Reply(lambda _reply: None, by_push=True)])
