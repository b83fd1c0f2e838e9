"""What is heard on the connection of the calls: the events of a channel, among the replies."""

from __future__ import annotations

from collections import deque
from typing import Any

from pyregistry._redis.protocol.request import pack
from pyregistry._redis.transport.pipelined import PipelinedConnection, Reply
from pyregistry._runtime.aio import Wakeup


class PubSubReader:
    """What `AsyncSubscriber` asks of a connection, on a pipe that is others' too. A pipe has one ear at a time.

    Args:
        pipe: a live one.
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
        """Send PING or SSUBSCRIBE; the reply is heard in its turn."""
        if verb == "SSUBSCRIBE":
            (self._channel,) = words
        self._pipe.send(pack((verb, *words)), [Reply(self._hear, by_push=verb != "PING")])

    async def read_response(self, *, timeout: float, **_how: Any) -> Any:
        """What is heard next; ``None``: nothing in so many seconds."""
        if not self._heard:
            self._news.clear()
            await self._news.wait(timeout)
        heard = self._heard.popleft() if self._heard else None
        if isinstance(heard, Exception):
            raise heard
        return heard

    async def disconnect(self, *, nowait: bool) -> None:
        """Hear nothing more. Where another ear has taken its place, the channel is that one's now."""
        pipe = self._pipe
        if pipe.on_end != self._hear:
            return
        del pipe.on_push[b"smessage"], pipe.on_push[b"sunsubscribe"]
        pipe.on_end = None
        if self._channel is not None and not pipe.ended:
            pipe.send(pack(("SUNSUBSCRIBE", self._channel)), [Reply(lambda _reply: None, by_push=True)])
