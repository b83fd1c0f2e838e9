"""The near cache of the asyncio client: one multiplexed, tracked connection.

Invariant: a cached value is at least as new as the last reply that the client has parsed on this connection.

Steps:

1. The cache learns a value when its reply is parsed, in order with the invalidations on the same connection.
2. An invalidation drops the values of its key.
3. A write of the client drops the values of its models twice: when the request is written, and when its reply is
   parsed. In between nothing is learned for them.
4. When the connection ends, the cache is emptied. A replaced connection teaches nothing more.
5. The cache answers until 3 s after the sending of the last request that was answered. A PING each second of silence
   renews that proof.
6. The cache answers for 5 ms in each turn of the event loop. After that a task waits two turns for each answer.

Why it holds: the server sends an invalidation after every reply that it has made before the change, on the same
connection. So a reply that is parsed before an invalidation is older than the change, and step 2 drops it.
See docs/explanation/near-cache.md.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pyregistry._core.clock import now
from pyregistry._redis.cache.cached_reads_async import AsyncCachedReads
from pyregistry._redis.cache.client_cache import PING_EVERY, REMEMBER, TRACKING, ClientCache
from pyregistry._redis.protocol.outcomes import ATTEMPTS
from pyregistry._redis.protocol.records import Opened
from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.transport.connection_async import CommandConnection
from pyregistry._redis.transport.endpoint import UrlEndpoint
from pyregistry._redis.transport.exchange_async import ask
from pyregistry._redis.transport.multiplexed import MultiplexedTransport
from pyregistry._redis.transport.pending import Batch
from pyregistry._redis.transport.pipelined import Expected, PipelinedConnection, Reply


class AsyncTrackedTransport(AsyncCachedReads, MultiplexedTransport):
    """A multiplexed connection with a near cache.

    Args:
        source: The server.
        ops: Builds the requests of the namespace.
        attempts: Maximum number of times that a request is sent. Defaults to 4.
        stale_for: Seconds for which stale answers are given during an outage. Defaults to 0: none.
    """

    _needs_resp3 = True

    def __init__(
        self, source: UrlEndpoint, ops: RequestFactory, attempts: int = ATTEMPTS, *, stale_for: float = 0.0
    ) -> None:
        self.known = ClientCache(stale_for)
        self._tracked: set[Batch] = set()  # pending reads whose keys the server tracks
        super().__init__(source, ops, attempts)

    # Calls

    async def validate(self) -> bool:
        """Return whether the cache may answer now. Lets the event loop read invalidations every 5 ms."""
        if now() < self.known.epoch.until:
            return True
        # Two turns, because the loop polls the socket at the end of the first, and parses the data in the second.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind_to_running_loop()  # the connection of an ended loop reads no invalidations
        pipe = self._pipe
        return pipe is not None and self.known.vouch(pipe.proved, loop.call_soon)

    async def close(self) -> None:
        """Empty the cache and close the connection."""
        self._bind_to_running_loop()  # raises if another loop uses this transport
        self.known.clear()
        await super().close()

    # Hooks of the transport

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
        """Handle the reply to a batch: cache the values of a tracked read, drop those of a write."""
        self._over(batch, reply)
        super().answered(batch, reply)

    def lost(self, batch: Batch, error: Exception) -> None:
        """Handle a batch that gets no reply. The values of a write are dropped."""
        self._over(batch, error)
        super().lost(batch, error)

    def _over(self, batch: Batch, reply: Any) -> None:
        if batch.head.changes:
            self.known.wrote(batch.keys())
        elif batch in self._tracked:
            self._tracked.remove(batch)
            if batch.pipe is self._pipe and isinstance(reply, list):
                self.known.learn(batch.keys(), reply)
