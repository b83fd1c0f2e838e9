"""Commands on a connection that the caller holds, and calls that wait for an answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from pyregistry._redis.protocol.outcomes import PENDING, PendingCall
from pyregistry._redis.protocol.request import pack
from pyregistry._redis.transport.connection_async import CommandConnection
from pyregistry._runtime.aio import settle

# --- asyncio only: begin
_LOSES_CANCELLATIONS: bool = sys.version_info < (3, 12)


# --- asyncio only: end


# --- asyncio only: begin
async def in_a_task(call: Coroutine[Any, Any, None]) -> None:
    """Await a call so that a cancellation of the caller is never lost: where it could be, in a task of its own.

    redis-py sends under ``asyncio.wait_for``, which before Python 3.12 swallows one that comes when the sending is
    just done.
    """
    if not _LOSES_CANCELLATIONS:
        await call
        return
    task = asyncio.get_running_loop().create_task(call)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await settle(task)
        raise
    task.result()


# --- asyncio only: end
def unanswered(asked: list[PendingCall[Any]]) -> list[PendingCall[Any]]:
    """Those that are to go out, maybe again."""
    for each in asked:
        if each.outcome is PENDING:
            return [each for each in asked if each.outcome is PENDING]
    return []  # nearly always


async def ask(line: CommandConnection, *command: str | int) -> Any:
    """The reply to one command."""
    return await reply_to(line, pack(command))


async def tell(line: CommandConnection, commands: Sequence[bytes]) -> None:
    """Have the server do these, in one write."""
    await line.send(commands)
    for _ in commands:
        await _answer(line)


async def reply_to(line: CommandConnection, packed: bytes) -> Any:
    """The reply to one command, which is packed already."""
    await line.send([packed])
    return await _answer(line)


async def _answer(line: CommandConnection) -> Any:
    reply = await line.reply()
    if isinstance(reply, Exception):
        raise reply
    return reply
