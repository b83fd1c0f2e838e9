"""The backend in memory for an event loop."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import (
    ClaimResult,
    Default,
    ProgressUpdate,
    Rejection,
)
from pyregistry._redis.protocol.events import StoredEvent
from pyregistry.backend.protocol import AsyncAnswerCache
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
from pyregistry.errors import (
    DamagedRecord,
    RegistryUnavailable,
)
from pyregistry.models import (
    Claim,
    Claimed,
    ModelProvider,
    ModelRecord,
    ModelStatus,
    StatusCounts,
)
from tests.support.memory_backend import MemoryBackend
from tests.support.memory_store import BATCH, SILENCE_S, MemoryStore

T = TypeVar("T")


class _Answer(Awaitable[T]):
    """A request that has been carried out already, and whose caller learns of it one turn of the loop later."""

    def __init__(self, result: T) -> None:
        self.result = result

    def __await__(self) -> Generator[Any, None, T]:
        yield from asyncio.sleep(0).__await__()
        return self.result


class AsyncMemoryBackend:
    """The asyncio backend of a `MemoryStore`. Its verbs are described at `AsyncBackend`."""

    max_batch = BATCH
    display_name = "memory"
    cache: AsyncAnswerCache | None = None
    loop: asyncio.AbstractEventLoop | None = None  # no connection belongs to one

    def __init__(self, store: MemoryStore, owner: str | None = None, providers: Iterable[str] = ()) -> None:
        self._sync = MemoryBackend(store, owner, providers)
        self.namespace = store.namespace
        self.patience = self._sync.patience
        self.ids = self._sync.ids
        self.connection = self._sync.connection
        self.for_keepalive = self._sync.for_keepalive

    @property
    def owner(self) -> str:
        return self._sync.owner

    @property
    def server_version(self) -> str | None:
        return self._sync.server_version

    async def _run(self, verb: Callable[..., T], *args: Any, **options: Any) -> T:
        await asyncio.sleep(0)  # a caller may be cancelled before its request is carried out, and after
        result = verb(*args, **options)
        await asyncio.sleep(0)
        return result

    async def connect(self) -> Connected:
        return await self._run(self._sync.connect)

    async def close(self) -> None:
        self._sync.close()

    def within(self, seconds: float) -> AsyncMemoryBackend:
        if seconds >= self.patience:
            return self
        other = copy.copy(self)
        other._sync = self._sync.within(seconds)
        other.patience = other._sync.patience
        return other

    def keys_of(
        self, name: str, provider: ModelProvider | str | None, revision: str | None, subset: str | None
    ) -> list[ModelKey]:
        return self._sync.keys_of(name, provider, revision, subset)

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
        result = self._sync.claim(
            name, provider, revision, subset,
            lease=lease, owner=owner, claim_id=claim_id,
            max_attempts=max_attempts, cooldown=cooldown, expected_bytes=expected_bytes,
        )  # fmt: skip
        return _Answer(result)

    def release_unseen(self, call: Awaitable[ClaimResult]) -> None:
        assert isinstance(call, _Answer)
        if isinstance(call.result, Claimed):
            self._sync.release(call.result.claim)

    async def claim_many(
        self,
        keys: Sequence[ModelKey],
        *,
        lease: float | Default | None,
        owner: str | None = None,
        max_attempts: int | None = None,
        tell: Callable[[Sequence[ClaimResult | DamagedRecord]], None] = lambda _results: None,
    ) -> list[ClaimResult | Exception]:
        return await self._run(
            self._sync.claim_many, keys, lease=lease, owner=owner, max_attempts=max_attempts, tell=tell
        )

    async def retry(
        self,
        key: ModelKey,
        *,
        lease: float | Default | None,
        claim_id: str | None = None,
        owner: str | None = None,
        max_attempts: int | None = None,
    ) -> Claim | Rejection:
        return await self._run(
            self._sync.retry, key, lease=lease, claim_id=claim_id, owner=owner, max_attempts=max_attempts
        )

    async def renew(
        self,
        claims: Sequence[Claim],
        *,
        lease: float | Default | None = Default.ITS_OWN,
        updates: Sequence[ProgressUpdate] | None = None,
    ) -> list[Claim | Rejection | DamagedRecord]:
        return await self._run(self._sync.renew, claims, lease=lease, updates=updates)

    async def renew_many(
        self, claims: Sequence[Claim], *, lease: float | Default | None = Default.ITS_OWN
    ) -> list[Claim | Rejection | Exception]:
        return await self._run(self._sync.renew_many, claims, lease=lease)

    async def finish(self, claim: Claim, ending: Ending) -> str:
        return await self._run(self._sync.finish, claim, ending)

    async def release(self, claim: Claim) -> str:
        return await self._run(self._sync.release, claim)

    async def release_many(self, claims: Sequence[Claim]) -> list[str | Exception]:
        return await self._run(self._sync.release_many, claims)

    async def set_status(self, key: ModelKey, change: StatusChange) -> StatusSet:
        return await self._run(self._sync.set_status, key, change)

    async def cancel(self, key: ModelKey, cancellation: Cancellation) -> Cancelled | None:
        return await self._run(self._sync.cancel, key, cancellation)

    async def touch(self, keys: Sequence[ModelKey]) -> list[bool | DamagedRecord]:
        return await self._run(self._sync.touch, keys)

    async def touch_many(
        self,
        keys: Sequence[ModelKey],
        tell: Callable[[Sequence[bool | DamagedRecord]], None] = lambda _results: None,
    ) -> list[bool | Exception]:
        return await self._run(self._sync.touch_many, keys, tell)

    async def touch_model(
        self, name: str, provider: ModelProvider | str | None, revision: str | None, subset: str | None
    ) -> bool:
        return await self._run(self._sync.touch_model, name, provider, revision, subset)

    async def delete(self, keys: Sequence[ModelKey], *, expected_token: int | None, force: bool) -> int:
        return await self._run(self._sync.delete, keys, expected_token=expected_token, force=force)

    async def read(self, keys: Sequence[ModelKey]) -> list[ModelRecord | DamagedRecord | None]:
        return await self._run(self._sync.read, keys)

    async def read_many(self, keys: Sequence[ModelKey]) -> list[ModelRecord | Exception | None]:
        return await self._run(self._sync.read_many, keys)

    async def get_status(
        self, name: str, provider: ModelProvider | str | None, revision: str | None, subset: str | None
    ) -> ModelStatus | None:
        return await self._run(self._sync.get_status, name, provider, revision, subset)

    async def get_record(
        self, name: str, provider: ModelProvider | str | None, revision: str | None, subset: str | None
    ) -> ModelRecord | None:
        return await self._run(self._sync.get_record, name, provider, revision, subset)

    async def scan(
        self, batch_size: int, status: ModelStatus | None
    ) -> AsyncIterator[ModelRecord | DamagedRecord | None]:
        for record in self._sync.scan(batch_size, status):
            await asyncio.sleep(0)
            yield record

    async def counts(self) -> StatusCounts:
        return await self._run(self._sync.counts)

    async def totals(self) -> Totals:
        return await self._run(self._sync.totals)

    async def lease_time(self) -> datetime:
        return await self._run(self._sync.lease_time)

    async def cache_id(self, proposed: str | None = None) -> str | None:
        return await self._run(self._sync.cache_id, proposed)

    async def branch(self, key: ModelKey) -> Branch:
        return await self._run(self._sync.branch, key)

    async def set_branch(self, key: ModelKey, commit: str, name: str, asked: int) -> None:
        await self._run(self._sync.set_branch, key, commit, name, asked)

    async def listeners(self) -> int | None:
        return await self._run(self._sync.listeners)

    def events(self) -> AsyncMemoryEventSource:
        return AsyncMemoryEventSource(self._sync)


class AsyncMemoryEventSource:
    """A subscription. See `AsyncEventSource`."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self._store = backend.store
        self._events: deque[StoredEvent] = deque()
        self._ended = False
        self._wake: Callable[[], object] = lambda: None
        self._forget: Callable[[], None] = lambda: None

    async def open(self) -> None:
        self._backend.check()
        self._news = asyncio.Event()
        self._wake = partial(asyncio.get_running_loop().call_soon_threadsafe, self._news.set)
        self._forget = self._backend.on_end(self.interrupt)
        with self._store.lock:
            self._store.subscribers.append(self._deliver)

    def _deliver(self, events: Sequence[StoredEvent]) -> None:
        self._events += events
        with suppress(RuntimeError):  # the loop of the subscriber is closed
            self._wake()

    async def receive(self) -> Sequence[StoredEvent] | str:
        if not self._events and not self._ended:
            self._news.clear()
            if not self._events and not self._ended:  # of another thread, meanwhile
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._news.wait(), SILENCE_S)
        if self._ended:
            raise RegistryUnavailable("the subscription has ended")
        return [self._events.popleft() for _ in range(len(self._events))]

    def interrupt(self) -> None:
        self._ended = True
        with suppress(RuntimeError):
            self._wake()

    async def close(self) -> None:
        self.interrupt()
        self._forget()
        with self._store.lock, suppress(ValueError):
            self._store.subscribers.remove(self._deliver)
