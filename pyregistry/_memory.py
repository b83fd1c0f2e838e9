"""The one connection of a client that remembers the records it has read, as long as the server vouches for them."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from typing import Any, TypeVar, cast

from pyregistry._checks import Target
from pyregistry._lines_async import Speaks
from pyregistry._mux import Batch, MuxTransport
from pyregistry._near import PING_EVERY, Near
from pyregistry._op import Op, pack
from pyregistry._ops import Ops, read_record, read_stored
from pyregistry._owned import now
from pyregistry._pipe import Expected, Pipe, Reply
from pyregistry._replies import ATTEMPTS
from pyregistry._source import UrlSource
from pyregistry._transport_async import ask
from pyregistry._wire import Found, Opened, ReadReply
from pyregistry.errors import DamagedRecord
from pyregistry.models import ModelRecord, ModelStatus

T = TypeVar("T")

_REMEMBER = pack(("CLIENT", "CACHING", "YES"))  # of the next command: the server is to say what changes


class RememberingTransport(MuxTransport):
    """A multiplexed connection with a near cache.

    Attributes:
        near: what is remembered.
    """

    def __init__(self, source: UrlSource, ops: Ops, attempts: int = ATTEMPTS) -> None:
        self.near = Near()
        self._tracked: set[Batch] = set()  # of these the server will say when what they read has changed
        super().__init__(source, ops, attempts)

    # The callers' side

    async def call(self, op: Op[T]) -> T:
        """The reply of one operation, from memory if that holds it; raises what `AsyncTransport.call` raises."""
        if op.head.near and self.near.values(op.keys) is not None and await self.vouched():
            # Once more: the news may have come meanwhile.
            values = self.near.values(op.keys)
            if values is not None:
                return op.decode(values)
        return await super().call(op)

    async def is_downloaded(self, question: Hashable, op: Op[ModelStatus | None]) -> bool:
        """Whether a model is there, which is kept as the answer to this question."""
        there = await self.call(op) is ModelStatus.DOWNLOADED
        self.near.answer(question, op.keys, lambda values: op.decode(values) is ModelStatus.DOWNLOADED)
        return there

    async def records(self, targets: Sequence[Target]) -> list[ModelRecord | DamagedRecord | None]:
        """The records of a few models, from memory if that holds them and their last use."""
        near, stored = self.near, self._ops.stored(targets)
        if near.last_uses(stored.keys) is not None and await self.vouched():
            values, uses = near.values(stored.keys), near.last_uses(stored.keys)
            if values is not None and uses is not None:
                return [
                    None if value is None else read_stored(target.ref, value, used)
                    for target, value, used in zip(targets, values, uses, strict=True)
                ]
        # In one write: what is remembered is told of when it changes; the last use, which changes often, is not.
        both: list[Op[Any]] = [stored, self._ops.look_up(targets)]
        answers = await self.call_many(both)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        found = cast("list[ReadReply]", answers[1])
        for key, each in zip(stored.keys, found, strict=True):
            if isinstance(each, Found):
                near.used(key, bytes(each.record), each.last_used)
        return [read_record(target.ref, each) for target, each in zip(targets, found, strict=True)]

    async def vouched(self) -> bool:
        """Whether memory may answer. The news is let in now and then, however often this is asked."""
        if now() < self.near.until:
            return True
        # The loop looks for news in its next turn, after that of this task; then come those that it finds.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._come_home()  # nobody reads what is said on the connection of a loop that has ended
        pipe = self._pipe
        return pipe is not None and self.near.vouch(pipe.proved, loop.call_soon)

    async def close(self) -> None:
        """Forget, and close the connection."""
        self._come_home()  # refused where another loop uses it
        self.near.clear()
        await super().close()

    # The server's side

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._tracked.clear()
        self.near.begin_anew()

    def _unplug(self) -> None:
        super()._unplug()
        self.near.clear()

    async def _open(self, line: Speaks) -> Opened:
        opened = await super()._open(line)
        await ask(line, "CLIENT", "TRACKING", "ON", "OPTIN")
        return opened

    async def _open_pipe(self) -> Pipe:
        pipe = await super()._open_pipe()
        self.near.clear()
        pipe.on_push[b"invalidate"] = self.near.invalidate
        pipe.ping(PING_EVERY)
        return pipe

    def _prepare(self, batch: Batch, packed: list[bytes], expected: list[Expected]) -> None:
        if batch.head.near:
            packed.append(_REMEMBER)
            expected.append(Reply(lambda reply: self._tracks(batch, reply)))
        elif batch.head.changes:
            self.near.writes(batch.keys())

    def _tracks(self, batch: Batch, reply: Any) -> None:
        if reply == b"OK" and batch.pipe is self._pipe:
            self._tracked.add(batch)

    def answered(self, batch: Batch, reply: Any) -> None:
        """The server has answered a batch: what is read is remembered, what is written is not."""
        self._over(batch, reply)
        super().answered(batch, reply)

    def lost(self, batch: Batch, error: Exception) -> None:
        """There will be no answer to a batch."""
        self._over(batch, error)
        super().lost(batch, error)

    def _over(self, batch: Batch, reply: Any) -> None:
        if batch.head.changes:
            self.near.wrote(batch.keys())
        elif batch in self._tracked:
            self._tracked.remove(batch)
            if batch.pipe is self._pipe and isinstance(reply, list):
                self.near.learn(batch.keys(), reply)
