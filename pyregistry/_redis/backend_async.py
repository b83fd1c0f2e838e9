"""The backend on Redis and Valkey. Each verb sends one or a few requests through the transport."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import redis.asyncio

from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import ClaimResult, Default, ProgressUpdate, Rejection, chunks

# --- asyncio only: begin
from pyregistry._redis.backend_sync import RedisBackend

# --- asyncio only: end
from pyregistry._redis.cache.tracking_async import AsyncTrackedTransport
from pyregistry._redis.keepalive_backend import keepalive_backend
from pyregistry._redis.protocol.request import Request, plain_command
from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.protocol.scripts import BATCH
from pyregistry._redis.transport.endpoint import ClientEndpoint, UrlEndpoint, endpoint_of
from pyregistry._redis.transport.multiplexed import MultiplexedTransport
from pyregistry._redis.transport.pooled_async import AsyncTransport
from pyregistry._redis.transport.pubsub_async import AsyncEventReader
from pyregistry.backend.values import (
    Branch,
    Cancellation,
    Cancelled,
    Connected,
    Ending,
    StatusChange,
    StatusSet,
    Totals,
)
from pyregistry.errors import DamagedRecord, InvalidArgument, ServerRefused
from pyregistry.models import Claim, ModelProvider, ModelRecord, ModelStatus, StatusCounts

# --- asyncio only: begin
if TYPE_CHECKING:
    import asyncio
# --- asyncio only: end

__all__ = ["AsyncRedisBackend"]

T = TypeVar("T")

MOST_BATCHES = 16
"""Maximum number of batches of one call that are under way at the same time."""


class AsyncRedisBackend:
    """The registry of one namespace on one server. `AsyncBackend` documents the verbs.

    Args:
        source: The server.
        ops: Builds the requests of the namespace.
        transport: Sends the requests.
    """

    max_batch = BATCH

    def __init__(
        self,
        source: ClientEndpoint | UrlEndpoint,
        ops: RequestFactory,
        transport: AsyncTransport,
    ) -> None:
        self.ops = ops
        self.transport = transport
        self.cache = transport if isinstance(transport, AsyncTrackedTransport) else None
        self.namespace = ops.keys.namespace
        self.ids = ops.ids
        self.display_name = source.shown
        self.patience = source.patience
        self.for_keepalive = partial(keepalive_backend, RedisBackend, source, ops)
        self._within: float | None = None  # `patience`, if less than that of the transport

    @classmethod
    def from_url(
        cls,
        url: str,
        namespace: str,
        owner: str | None,
        providers: Iterable[str],
        *,
        timeout: float,
        cache: bool,
        stale_for: float | None,
        # --- asyncio only: begin
        multiplexed: bool = True,
        # --- asyncio only: end
        options: Mapping[str, Any],
    ) -> AsyncRedisBackend:
        """Make a backend with its own connections. Sends nothing yet.

        Args:
            url: URL of the server.
            namespace: Name of the registry.
            owner: Owner of claims without one. None: host and process.
            providers: Providers beyond the four built-in ones.
            timeout: Seconds that a connection attempt or a reply may take.
            cache: Whether to use the near cache.
            stale_for: With `cache`: seconds for which stale statuses are given during an outage. None: not at all.
            multiplexed: Whether all calls share one connection. Defaults to True.
            options: Options of redis-py's connections.

        Raises:
            ConfigurationError: The URL or an option is invalid.
        """
        source = endpoint_of(url, timeout, options)
        ops = RequestFactory(namespace, owner, providers)
        if cache:
            return cls(source, ops, AsyncTrackedTransport(source, ops, stale_for=stale_for or 0.0))
        # --- asyncio only: begin
        if not multiplexed:
            return cls(source, ops, AsyncTransport(source, ops))
        # --- asyncio only: end
        return cls(source, ops, MultiplexedTransport(source, ops))

    @classmethod
    def of_client(
        cls, client: redis.asyncio.Redis, namespace: str, owner: str | None, providers: Iterable[str]
    ) -> AsyncRedisBackend:
        """Make a backend on the caller's redis-py client. The backend does not close it.

        Raises:
            InvalidArgument: The client has the wrong type or settings.
        """
        if not isinstance(client, redis.asyncio.Redis):
            raise InvalidArgument("client", f"must be a redis.asyncio.Redis, not {type(client).__name__}")
        source = ClientEndpoint(client)
        ops = RequestFactory(namespace, owner, providers)
        return cls(source, ops, AsyncTransport(source, ops))

    @property
    def owner(self) -> str:
        """See `AsyncBackend.owner`."""
        return self.ops.owner

    @property
    def server_version(self) -> str | None:
        """See `AsyncBackend.server_version`."""
        return self.transport.server.version if self.transport.server else None

    # --- asyncio only: begin
    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """See `AsyncBackend.loop`."""
        return self.transport.home

    # --- asyncio only: end
    async def connect(self) -> Connected:
        """See `AsyncBackend.connect`."""
        opened = await self.transport.connect()
        return Connected(opened.version, opened.lacking)

    async def close(self) -> None:
        """See `AsyncBackend.close`."""
        await self.transport.close()

    def within(self, seconds: float) -> AsyncRedisBackend:
        """See `AsyncBackend.within`."""
        if seconds >= self.patience:
            return self
        other = copy.copy(self)
        other.patience = other._within = max(seconds, 0.0)
        return other

    def keys_of(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> list[ModelKey]:
        """See `AsyncBackend.keys_of`."""
        return self.ops.targets(name, provider, revision, subset)

    def _call(self, op: Request[T]) -> Awaitable[T]:
        return self.transport.call(op, self._within)

    async def _call_many(
        self,
        ops: Sequence[Request[list[T]]],
        tell: Callable[[Sequence[T]], None] = lambda _results: None,
    ) -> list[T | Exception]:
        """Return the results of all items, in order; an item without a result has the error of its batch.

        After a failed batch, no further group of `MOST_BATCHES` is sent.
        """
        results: list[T | Exception] = []
        error: Exception | None = None
        for some in chunks(ops, MOST_BATCHES):
            answers = [error] * len(some) if error else await self.transport.call_many(some)
            for op, got in zip(some, answers, strict=True):
                if isinstance(got, Exception):
                    error = got
                    results += [got] * op.items
                else:
                    tell(got)
                    results += got
        return results

    # Claims

    def claim(
        self,
        name: str,
        provider: ModelProvider | str,
        revision: str | None,
        subset: str | None,
        *,
        lease: float | Default | None,
        owner: str | None = None,
        claim_id: str | None = None,
        max_attempts: int | None = None,
        cooldown: float | None = None,
        expected_bytes: int | None = None,
    ) -> Awaitable[ClaimResult]:
        """See `AsyncBackend.claim`."""
        claiming = self.ops.claiming(provider, revision, subset, lease, owner, max_attempts, cooldown)
        if self._within is not None:
            return self.transport.call(claiming.claim(name, claim_id, expected_bytes), self._within)
        return self.transport.claim(claiming, name, claim_id, expected_bytes)

    # --- asyncio only: begin
    def release_unseen(self, call: Awaitable[ClaimResult]) -> None:
        """See `AsyncBackend.release_unseen`."""
        self.transport.give_back(call)

    # --- asyncio only: end
    async def claim_many(
        self,
        keys: Sequence[ModelKey],
        *,
        lease: float | Default | None,
        owner: str | None = None,
        max_attempts: int | None = None,
        tell: Callable[[Sequence[ClaimResult | DamagedRecord]], None] = lambda _results: None,
    ) -> list[ClaimResult | Exception]:
        """See `AsyncBackend.claim_many`."""
        ops = [
            self.ops.claims(some, lease=lease, owner=owner, max_attempts=max_attempts)
            for some in chunks(keys, BATCH)
        ]
        return await self._call_many(ops, tell)

    async def retry(
        self,
        key: ModelKey,
        *,
        lease: float | Default | None,
        claim_id: str | None = None,
        owner: str | None = None,
        max_attempts: int | None = None,
    ) -> Claim | Rejection:
        """See `AsyncBackend.retry`."""
        op = self.ops.retry(key, lease=lease, claim_id=claim_id, owner=owner, max_attempts=max_attempts)
        return await self._call(op)

    async def renew(
        self,
        claims: Sequence[Claim],
        *,
        lease: float | Default | None = Default.ITS_OWN,
        updates: Sequence[ProgressUpdate] | None = None,
    ) -> list[Claim | Rejection | DamagedRecord]:
        """See `AsyncBackend.renew`."""
        return await self._call(self.ops.renew(claims, lease=lease, updates=updates))

    async def renew_many(
        self, claims: Sequence[Claim], *, lease: float | Default | None = Default.ITS_OWN
    ) -> list[Claim | Rejection | Exception]:
        """See `AsyncBackend.renew_many`."""
        return await self._call_many([self.ops.renew(some, lease=lease) for some in chunks(claims, BATCH)])

    async def finish(self, claim: Claim, ending: Ending) -> str:
        """See `AsyncBackend.finish`."""
        return await self._call(self.ops.finish(claim, ending))

    async def release(self, claim: Claim) -> str:
        """See `AsyncBackend.release`."""
        return await self._call(self.ops.release(claim))

    async def release_many(self, claims: Sequence[Claim]) -> list[str | Exception]:
        """See `AsyncBackend.release_many`."""
        results: list[str | Exception] = []
        for some in chunks(claims, BATCH):
            ops = [self.ops.release(claim) for claim in some]
            answers = await self.transport.call_many(ops)
            results += answers
        return results

    # Changes from outside of a claim

    async def set_status(self, key: ModelKey, change: StatusChange) -> StatusSet:
        """See `AsyncBackend.set_status`."""
        return await self._call(self.ops.set_status(key, change))

    async def cancel(self, key: ModelKey, cancellation: Cancellation) -> Cancelled | None:
        """See `AsyncBackend.cancel`."""
        return await self._call(self.ops.cancel(key, cancellation))

    async def touch(self, keys: Sequence[ModelKey]) -> list[bool | DamagedRecord]:
        """See `AsyncBackend.touch`."""
        return await self._call(self.ops.touch(keys))

    async def touch_many(
        self,
        keys: Sequence[ModelKey],
        tell: Callable[[Sequence[bool | DamagedRecord]], None] = lambda _results: None,
    ) -> list[bool | Exception]:
        """See `AsyncBackend.touch_many`."""
        return await self._call_many([self.ops.touch(some) for some in chunks(keys, BATCH)], tell)

    def touch_model(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> Awaitable[bool]:
        """See `AsyncBackend.touch_model`."""
        return self.transport.call(self.ops.touch_model(name, provider, revision, subset))

    async def delete(self, keys: Sequence[ModelKey], *, expected_token: int | None, force: bool) -> int:
        """See `AsyncBackend.delete`."""
        return await self._call(self.ops.delete(keys, expected_token=expected_token, force=force))

    # Reads

    async def read(self, keys: Sequence[ModelKey]) -> list[ModelRecord | DamagedRecord | None]:
        """See `AsyncBackend.read`."""
        return await self._call(self.ops.read(keys))

    async def read_many(self, keys: Sequence[ModelKey]) -> list[ModelRecord | Exception | None]:
        """See `AsyncBackend.read_many`."""
        return await self._call_many([self.ops.read(some) for some in chunks(keys, BATCH)])

    def get_status(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> Awaitable[ModelStatus | None]:
        """See `AsyncBackend.get_status`."""
        if self.cache is not None:
            return self.cache.status(name, provider, revision, subset)
        return self.transport.call(self.ops.get_status(name, provider, revision, subset))

    def get_record(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> Awaitable[ModelRecord | None]:
        """See `AsyncBackend.get_record`."""
        if self.cache is not None:
            return self.cache.record(name, provider, revision, subset)
        return self.transport.call(self.ops.get_record(name, provider, revision, subset))

    async def scan(
        self, batch_size: int, status: ModelStatus | None
    ) -> AsyncIterator[ModelRecord | DamagedRecord | None]:
        """See `AsyncBackend.scan`."""
        # A page begins at the last score of the previous page, without the entries already seen at that score.
        # Ticks are unique, but scores that were set by hand may repeat.
        score, seen = 0, set[str]()
        while True:
            limit = min(batch_size + len(seen), 1000)
            page = await self._call(self.ops.page(status, score, limit))
            fresh = [item for item in page if item[0] not in seen]
            if fresh:
                for record in await self._call(self.ops.listed(fresh)):
                    yield record
            if len(page) < limit:
                return
            last = page[-1][1]
            if last != score:
                seen.clear()
            elif not fresh:
                last, seen = last + 1, set()
            seen |= {entry for entry, at in page if at == last}
            score = last

    async def counts(self) -> StatusCounts:
        """See `AsyncBackend.counts`."""
        return await self._call(self.ops.counts())

    async def totals(self) -> Totals:
        """See `AsyncBackend.totals`."""
        return await self._call(self.ops.stock())

    # The registry itself

    async def lease_time(self) -> datetime:
        """See `AsyncBackend.lease_time`."""
        return await self._call(self.ops.now())

    async def cache_id(self, proposed: str | None = None) -> str | None:
        """See `AsyncBackend.cache_id`."""
        return await self._call(self.ops.cache(proposed))

    async def branch(self, key: ModelKey) -> Branch:
        """See `AsyncBackend.branch`."""
        return await self._call(self.ops.branch(key))

    async def set_branch(self, key: ModelKey, commit: str, name: str, asked: int) -> None:
        """See `AsyncBackend.set_branch`."""
        await self._call(self.ops.set_branch(key, commit, name, asked))

    async def listeners(self) -> int | None:
        """See `AsyncBackend.listeners`."""
        channel = self.ops.keys.channel
        try:
            reply = await self._call(plain_command("listeners", "PUBSUB SHARDNUMSUB", channel))
        except ServerRefused:
            return None
        # RESP2 returns a list, RESP3 a map.
        count: int = reply[channel.encode()] if isinstance(reply, dict) else reply[1]
        return count

    def events(self) -> AsyncEventReader:
        """See `AsyncBackend.events`."""
        return AsyncEventReader(self.transport, self.ops.keys.channel)
