"""The one connection of a client that remembers the records it has read, as long as the server vouches for them."""

from __future__ import annotations

import asyncio
from typing import Any

from pyregistry._core.clock import now
from pyregistry._redis.cache.cached_reads_async import AsyncCachedReads
from pyregistry._redis.cache.client_cache import PING_EVERY, REMEMBER, TRACKING, ClientCache
from pyregistry._redis.protocol.outcomes import ATTEMPTS
from pyregistry._redis.protocol.records import Opened
from pyregistry._redis.protocol.requests import RequestFactory
from pyregistry._redis.transport.connection_async import CommandConnection
from pyregistry._redis.transport.endpoint import UrlEndpoint
from pyregistry._redis.transport.exchange_async import ask
from pyregistry._redis.transport.multiplexed import MultiplexedTransport
from pyregistry._redis.transport.pending import Batch
from pyregistry._redis.transport.pipelined import Expected, PipelinedConnection, Reply


class AsyncTrackedTransport(AsyncCachedReads, MultiplexedTransport):
    """A multiplexed connection with a near cache."""

    _needs_resp3 = True

    def __init__(
        self, source: UrlEndpoint, ops: RequestFactory, attempts: int = ATTEMPTS, *, stale_for: float = 0.0
    ) -> None:
        self.known = ClientCache(stale_for)
        self._tracked: set[Batch] = set()  # of these the server will say when what they read has changed
        super().__init__(source, ops, attempts)

    # The callers' side

    async def validate(self) -> bool:
        """Whether memory may answer. The news is let in now and then, however often this is asked."""
        if now() < self.known.epoch.until:
            return True
        # The loop looks for news in its next turn, after that of this task; then come those that it finds.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind_to_running_loop()  # nobody reads what is said on the connection of a loop that has ended
        pipe = self._pipe
        return pipe is not None and self.known.vouch(pipe.proved, loop.call_soon)

    async def close(self) -> None:
        """Forget, and close the connection."""
        self._bind_to_running_loop()  # refused where another loop uses it
        self.known.clear()
        await super().close()

    # The server's side

    def _reset(self) -> None:
        super()._reset()
        self._tracked.clear()
        self.known.begin_anew()

    def _unplug(self) -> None:
        pipe = self._pipe
        super()._unplug()
        if pipe is None:
            self.known.clear()
        else:
            self.known.lose(pipe.proved)

    async def _open(self, line: CommandConnection) -> Opened:
        opened = await super()._open(line)
        await ask(line, *TRACKING)
        return opened

    async def _open_pipe(self) -> PipelinedConnection:
        pipe = await super()._open_pipe()
        self.known.clear()
        pipe.on_push[b"invalidate"] = self.known.invalidate
        pipe.ping(PING_EVERY)
        return pipe

    def _prepare(self, batch: Batch, packed: list[bytes], expected: list[Expected]) -> None:
        if batch.head.near:
            packed.append(REMEMBER)
            expected.append(Reply(lambda reply: self._tracks(batch, reply)))
        elif batch.head.changes:
            self.known.writes(batch.keys())

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
            self.known.wrote(batch.keys())
        elif batch in self._tracked:
            self._tracked.remove(batch)
            if batch.pipe is self._pipe and isinstance(reply, list):
                self.known.learn(batch.keys(), reply)
