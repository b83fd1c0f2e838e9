"""A bare socket, a bare protocol, and commands that were packed before: what no client can beat."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis

from pyregistry._redis.protocol.request import Command, pack

_READ = 65536


def packed(commands: Sequence[Command]) -> list[bytes]:
    """As they travel; the same command is the same bytes."""
    made = {command: pack(command) for command in set(commands)}
    return [made[command] for command in commands]


class BareSocket:
    """A connection; an error that the server answers is raised."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(parts.path)
        else:
            self._socket = socket.create_connection((cast("str", parts.hostname), cast("int", parts.port)))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def ask(self, command: bytes) -> Any:
        """The reply to one command, looked for until it is there."""
        self._socket.send(command)
        while True:
            try:
                data = self._socket.recv(_READ, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            self._feed(data)
            reply = self._reply()
            if reply is not False:
                return reply

    def pump(self, commands: Sequence[bytes], most: int) -> None:
        """All of these, with so many on their way: the server always has something to do."""
        sent = answered = 0
        while answered < len(commands):
            more = commands[sent : answered + most]
            if more:
                self._socket.sendall(b"".join(more))
                sent += len(more)
            self._feed(self._socket.recv(_READ))
            while self._reply() is not False:
                answered += 1

    def _feed(self, data: bytes) -> None:
        if not data:
            raise ConnectionError("the server has closed the connection")
        self._reader.feed(data)

    def _reply(self) -> Any:
        reply: Any = self._reader.gets()
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply


class BareProtocol(asyncio.Protocol):
    """A connection on asyncio: a command is written at once, and a reply sets the oldest future, undecoded."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiters: deque[asyncio.Future[Any]] = deque()

    @classmethod
    async def connect(cls, url: str) -> BareProtocol:
        """Open one."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        host, port = cast("str", parts.hostname), cast("int", parts.port)
        _, protocol = await loop.create_connection(cls, host, port)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        """Replies have come."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            waiter = self._waiters.popleft()
            if isinstance(reply, hiredis.ReplyError):
                waiter.set_exception(cast("Exception", reply))
            else:
                waiter.set_result(reply)

    def ask(self, command: bytes) -> asyncio.Future[Any]:
        """The reply to one command."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        self._transport.write(command)
        return waiter

    def close(self) -> None:
        """Hang up."""
        self._transport.close()
