# Made from _redis/transport/exchange_async.py by tools/unasync.py: change that one.
"""Commands on a connection that the caller holds, and calls that wait for an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyregistry._redis.protocol.outcomes import PENDING, PendingCall
from pyregistry._redis.protocol.request import pack
from pyregistry._redis.transport.connection_sync import CommandConnection


def unanswered(asked: list[PendingCall[Any]]) -> list[PendingCall[Any]]:
    """Those that are to go out, maybe again."""
    for each in asked:
        if each.outcome is PENDING:
            return [each for each in asked if each.outcome is PENDING]
    return []  # nearly always


def ask(line: CommandConnection, *command: str | int) -> Any:
    """The reply to one command."""
    return reply_to(line, pack(command))


def tell(line: CommandConnection, commands: Sequence[bytes]) -> None:
    """Have the server do these, in one write."""
    line.send(commands)
    for _ in commands:
        _answer(line)


def reply_to(line: CommandConnection, packed: bytes) -> Any:
    """The reply to one command, which is packed already."""
    line.send([packed])
    return _answer(line)


def _answer(line: CommandConnection) -> Any:
    reply = line.reply()
    if isinstance(reply, Exception):
        raise reply
    return reply
