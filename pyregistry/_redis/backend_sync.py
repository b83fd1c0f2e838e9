# Made from _redis/backend_async.py by tools/unasync.py: change that one.
"""The backend on Redis and Valkey. Each verb sends one or a few requests through the transport."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import redis

from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import ClaimResult, Default, ProgressUpdate, Rejection, chunks
from pyregistry._redis.cache.tracking_sync import TrackedTransport
from pyregistry._redis.keepalive_backend import keepalive_backend
from pyregistry._redis.protocol.request import Request, plain_command
from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.protocol.scripts import BATCH
from pyregistry._redis.transport.endpoint import ClientEndpoint, OwnEndpoint, endpoint_of
from pyregistry._redis.transport.fast_path_sync import FastPathTransport
from pyregistry._redis.transport.pooled_sync import Transport
from pyregistry._redis.transport.pubsub_sync import EventReader
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

__all__ = ["RedisBackend"]

T = TypeVar("T")

MOST_BATCHES = 16
"""Maximum number of batches of one call that are under way at the same time."""


class RedisBackend:
    """The registry of one namespace on one server. `Backend` documents the verbs.

    Args:
        source: The server.
        ops: Builds the requests of the namespace.
        transport: Sends the requests.
    """

    max_batch = BATCH

    def __init__(
        self,
        source: ClientEndpoint | OwnEndpoint,
        ops: RequestFactory,
        transport: Transport,
    ) -> None:
        self.ops = ops
        self.transport = transport
        self.cache = transport if isinstance(transport, TrackedTransport) else None
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
        options: Mapping[str, Any],
    ) -> RedisBackend:
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
            return cls(source, ops, TrackedTransport(source, ops, stale_for=stale_for or 0.0))
        return cls(source, ops, FastPathTransport(source, ops))

    @classmethod
    def of_client(
        cls, client: redis.Redis, namespace: str, owner: str | None, providers: Iterable[str]
    ) -> RedisBackend:
        """Make a backend on the caller's redis-py client. The backend does not close it.

        Raises:
            InvalidArgument: The client has the wrong type or settings.
        """
        if not isinstance(client, redis.Redis):
            raise InvalidArgument("client", f"must be a redis.Redis, not {type(client).__name__}")
        source = ClientEndpoint(client)
        ops = RequestFactory(namespace, owner, providers)
        return cls(source, ops, FastPathTransport(source, ops))

    @property
    def owner(self) -> str:
        """See `Backend.owner`."""
        return self.ops.owner

    @property
    def server_version(self) -> str | None:
        """See `Backend.server_version`."""
        return self.transport.server.version if self.transport.server else None

    def connect(self) -> Connected:
        """See `Backend.connect`."""
        opened = self.transport.connect()
        return Connected(opened.version, opened.lacking)

    def close(self) -> None:
        """See `Backend.close`."""
        self.transport.close()

    def within(self, seconds: float) -> RedisBackend:
        """See `Backend.within`."""
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
        """See `Backend.keys_of`."""
        return self.ops.targets(name, provider, revision, subset)

    def _call(self, op: Request[T]) -> T:
        return self.transport.call(op, self._within)

    def _call_many(
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
            answers = [error] * len(some) if error else self.transport.call_many(some)
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
    ) -> ClaimResult:
        """See `Backend.claim`."""
        claiming = self.ops.claiming(provider, revision, subset, lease, owner, max_attempts, cooldown)
        if self._within is not None:
            return self.transport.call(claiming.claim(name, claim_id, expected_bytes), self._within)
        return self.transport.claim(claiming, name, claim_id, expected_bytes)

    def claim_many(
        self,
        keys: Sequence[ModelKey],
        *,
        lease: float | Default | None,
        owner: str | None = None,
        max_attempts: int | None = None,
        tell: Callable[[Sequence[ClaimResult | DamagedRecord]], None] = lambda _results: None,
    ) -> list[ClaimResult | Exception]:
        """See `Backend.claim_many`."""
        ops = [
            self.ops.claims(some, lease=lease, owner=owner, max_attempts=max_attempts)
            for some in chunks(keys, BATCH)
        ]
        return self._call_many(ops, tell)

    def retry(
        self,
        key: ModelKey,
        *,
        lease: float | Default | None,
        claim_id: str | None = None,
        owner: str | None = None,
        max_attempts: int | None = None,
    ) -> Claim | Rejection:
        """See `Backend.retry`."""
        op = self.ops.retry(key, lease=lease, claim_id=claim_id, owner=owner, max_attempts=max_attempts)
        return self._call(op)

    def renew(
        self,
        claims: Sequence[Claim],
        *,
        lease: float | Default | None = Default.ITS_OWN,
        updates: Sequence[ProgressUpdate] | None = None,
    ) -> list[Claim | Rejection | DamagedRecord]:
        """See `Backend.renew`."""
        return self._call(self.ops.renew(claims, lease=lease, updates=updates))

    def renew_many(
        self, claims: Sequence[Claim], *, lease: float | Default | None = Default.ITS_OWN
    ) -> list[Claim | Rejection | Exception]:
        """See `Backend.renew_many`."""
        return self._call_many([self.ops.renew(some, lease=lease) for some in chunks(claims, BATCH)])

    def finish(self, claim: Claim, ending: Ending) -> str:
        """See `Backend.finish`."""
        return self._call(self.ops.finish(claim, ending))

    def release(self, claim: Claim) -> str:
        """See `Backend.release`."""
        return self._call(self.ops.release(claim))

    def release_many(self, claims: Sequence[Claim]) -> list[str | Exception]:
        """See `Backend.release_many`."""
        results: list[str | Exception] = []
        for some in chunks(claims, BATCH):
            ops = [self.ops.release(claim) for claim in some]
            answers = self.transport.call_many(ops)
            results += answers
        return results

    # Changes from outside of a claim

    def set_status(self, key: ModelKey, change: StatusChange) -> StatusSet:
        """See `Backend.set_status`."""
        return self._call(self.ops.set_status(key, change))

    def cancel(self, key: ModelKey, cancellation: Cancellation) -> Cancelled | None:
        """See `Backend.cancel`."""
        return self._call(self.ops.cancel(key, cancellation))

    def touch(self, keys: Sequence[ModelKey]) -> list[bool | DamagedRecord]:
        """See `Backend.touch`."""
        return self._call(self.ops.touch(keys))

    def touch_many(
        self,
        keys: Sequence[ModelKey],
        tell: Callable[[Sequence[bool | DamagedRecord]], None] = lambda _results: None,
    ) -> list[bool | Exception]:
        """See `Backend.touch_many`."""
        return self._call_many([self.ops.touch(some) for some in chunks(keys, BATCH)], tell)

    def touch_model(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> bool:
        """See `Backend.touch_model`."""
        return self.transport.call(self.ops.touch_model(name, provider, revision, subset))

    def delete(self, keys: Sequence[ModelKey], *, expected_token: int | None, force: bool) -> int:
        """See `Backend.delete`."""
        return self._call(self.ops.delete(keys, expected_token=expected_token, force=force))

    # Reads

    def read(self, keys: Sequence[ModelKey]) -> list[ModelRecord | DamagedRecord | None]:
        """See `Backend.read`."""
        return self._call(self.ops.read(keys))

    def read_many(self, keys: Sequence[ModelKey]) -> list[ModelRecord | Exception | None]:
        """See `Backend.read_many`."""
        return self._call_many([self.ops.read(some) for some in chunks(keys, BATCH)])

    def get_status(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> ModelStatus | None:
        """See `Backend.get_status`."""
        if self.cache is not None:
            return self.cache.status(name, provider, revision, subset)
        return self.transport.call(self.ops.get_status(name, provider, revision, subset))

    def get_record(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> ModelRecord | None:
        """See `Backend.get_record`."""
        if self.cache is not None:
            return self.cache.record(name, provider, revision, subset)
        return self.transport.call(self.ops.get_record(name, provider, revision, subset))

    def scan(
        self, batch_size: int, status: ModelStatus | None
    ) -> Iterator[ModelRecord | DamagedRecord | None]:
        """See `Backend.scan`."""
        # A page begins at the last score of the previous page, without the entries already seen at that score.
        # Ticks are unique, but scores that were set by hand may repeat.
        score, seen = 0, set[str]()
        while True:
            limit = min(batch_size + len(seen), 1000)
            page = self._call(self.ops.page(status, score, limit))
            fresh = [item for item in page if item[0] not in seen]
            if fresh:
                for record in self._call(self.ops.listed(fresh)):
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

    def counts(self) -> StatusCounts:
        """See `Backend.counts`."""
        return self._call(self.ops.counts())

    def totals(self) -> Totals:
        """See `Backend.totals`."""
        return self._call(self.ops.stock())

    # The registry itself

    def lease_time(self) -> datetime:
        """See `Backend.lease_time`."""
        return self._call(self.ops.now())

    def cache_id(self, proposed: str | None = None) -> str | None:
        """See `Backend.cache_id`."""
        return self._call(self.ops.cache(proposed))

    def branch(self, key: ModelKey) -> Branch:
        """See `Backend.branch`."""
        return self._call(self.ops.branch(key))

    def set_branch(self, key: ModelKey, commit: str, name: str, asked: int) -> None:
        """See `Backend.set_branch`."""
        self._call(self.ops.set_branch(key, commit, name, asked))

    def listeners(self) -> int | None:
        """See `Backend.listeners`."""
        channel = self.ops.keys.channel
        try:
            reply = self._call(plain_command("listeners", "PUBSUB SHARDNUMSUB", channel))
        except ServerRefused:
            return None
        # RESP2 returns a list, RESP3 a map.
        count: int = reply[channel.encode()] if isinstance(reply, dict) else reply[1]
        return count

    def events(self) -> EventReader:
        """See `Backend.events`."""
        return EventReader(self.transport, self.ops.keys.channel)
