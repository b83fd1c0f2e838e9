"""Every backend passes the scenarios of the contract: Redis by each way to it, and the one in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec
import pytest
import redis

from pyregistry._core.model_key import ModelKey
from pyregistry._redis.backend_async import AsyncRedisBackend
from pyregistry._redis.backend_sync import RedisBackend
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry.backend.conformance import SCENARIOS, Context, Scenario, Subject, Unsupported, blocking, steps
from pyregistry.backend.conformance.steps import model_key
from pyregistry.backend.protocol import AsyncBackend, AsyncEventSource, Backend, EventSource
from pyregistry.backend.values import Ending
from pyregistry.errors import DamagedRecord
from pyregistry.models import Claim, ModelProvider, ModelRecord, ModelStatus
from tests.lua.model import Item, Model, Outcome
from tests.support import memory_backend
from tests.support.async_memory_backend import AsyncMemoryBackend, AsyncMemoryEventSource
from tests.support.memory_backend import MemoryBackend, MemoryEventSource
from tests.support.memory_store import ClaimTerms, MemoryStore

EVERY = pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
NEEDS_NO_SERVER = pytest.mark.server("embedded")


class RecordEditor:
    """Brings records on a server into states that no verb leads to."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url = url
        self._keys = Keyspace(namespace)

    def _client(self) -> Any:
        return redis.Redis.from_url(self._url)

    def _lease_time(self, client: Any) -> int:
        seconds, microseconds = client.time()
        return int(seconds) * 1_000_000 + int(microseconds) + int(client.hget(self._keys.meta, "skew") or 0)

    def hold(self, key: ModelKey, seconds: float) -> None:
        with self._client() as client:
            end = self._lease_time(client) + round(seconds * 1_000_000)
            client.zadd(self._keys.holds(key.entry), {"holder": end})

    def evict(self, key: ModelKey, seconds: float) -> None:
        with self._client() as client:
            now = self._lease_time(client)
            stored = wire.decode_record(client.get(self._keys.record(key.entry)))
            evicting = msgspec.structs.replace(
                stored,
                status="EVICTING",
                claim_id="eviction",
                token=now,
                lease_end=now + round(seconds * 1_000_000),
            )
            client.set(self._keys.record(key.entry), msgspec.msgpack.encode(evicting))
            client.zrem(self._keys.indexes[ModelStatus.DOWNLOADED], key.entry)
            client.zadd(self._keys.indexes[ModelStatus.EVICTING], {key.entry: now})
            client.hset(self._keys.meta, "clock", now)

    def damage(self, key: ModelKey) -> None:
        with self._client() as client:
            client.set(self._keys.record(key.entry), b"\xc1")


@EVERY
@pytest.mark.parametrize("near_cache", [False, True], ids=["plain", "near_cache"])
def test_redis(scenario: Scenario, near_cache: bool, server_url: str, namespace: str) -> None:
    """The blocking Redis backend passes every scenario, with and without near cache."""

    def make(owner: str) -> Backend:
        return RedisBackend.from_url(
            server_url, namespace, owner, (), timeout=5.0, cache=near_cache, stale_for=None, options={}
        )

    editor = RecordEditor(server_url, namespace)
    scenario(Subject(make, editor.hold, editor.evict, editor.damage))


@EVERY
@pytest.mark.parametrize("way", ["multiplexed", "near_cache", "redis-py"])
def test_redis_by_asyncio(scenario: Scenario, way: str, server_url: str, namespace: str) -> None:
    """The asyncio Redis backend passes every scenario on each transport."""

    def make(owner: str) -> AsyncBackend:
        return AsyncRedisBackend.from_url(
            server_url,
            namespace,
            owner,
            (),
            timeout=5.0,
            cache=way == "near_cache",
            stale_for=None,
            multiplexed=way != "redis-py",
            options={},
        )

    editor = RecordEditor(server_url, namespace)
    with blocking(make) as make_blocking:
        scenario(Subject(make_blocking, editor.hold, editor.evict, editor.damage))


@EVERY
@NEEDS_NO_SERVER
def test_memory(scenario: Scenario) -> None:
    """The blocking backend in memory passes every scenario."""
    store = MemoryStore()
    scenario(Subject(lambda owner: MemoryBackend(store, owner), store.hold, store.evict, store.damage))


@EVERY
@NEEDS_NO_SERVER
def test_memory_by_asyncio(scenario: Scenario) -> None:
    """The asyncio backend in memory passes every scenario."""
    store = MemoryStore()
    with blocking(lambda owner: AsyncMemoryBackend(store, owner)) as make:
        scenario(Subject(make, store.hold, store.evict, store.damage))


def test_the_backends_are_those_of_the_contract() -> None:
    """What mypy proves here, these types have."""
    store = MemoryStore()
    backend: Backend = MemoryBackend(store)
    source: EventSource = backend.events()
    async_backend: AsyncBackend = AsyncMemoryBackend(store)
    async_source: AsyncEventSource = async_backend.events()
    assert isinstance(source, MemoryEventSource)
    assert isinstance(async_source, AsyncMemoryEventSource)
    of_redis: tuple[Callable[..., Backend], Callable[..., AsyncBackend]]
    of_redis = (RedisBackend.from_url, AsyncRedisBackend.from_url)
    assert of_redis


# The scenarios themselves


def test_every_scenario_states_its_property() -> None:
    """Each scenario has a name of its own and states its property in a sentence."""
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert all(scenario.text.endswith(".") for scenario in SCENARIOS)


def test_what_a_subject_can_not_bring_about_is_told() -> None:
    """A scenario raises Unsupported if the subject lacks a hook that it needs."""
    store = MemoryStore()
    subject = Subject(lambda owner: MemoryBackend(store, owner))
    scenario = Scenario("name", "The property.", lambda context: context.hold(model_key(), 1.0))
    with pytest.raises(Unsupported):
        scenario(subject)


def test_a_failure_states_the_property() -> None:
    """The error of a failed scenario has its name, its property and the reason."""

    def fail(_stage: Context) -> None:
        raise AssertionError("this is so")

    scenario = Scenario("name", "The property.", fail)
    with pytest.raises(AssertionError, match=r"^name: The property\.\nthis is so$"):
        scenario(Subject(lambda owner: MemoryBackend(MemoryStore(), owner)))


def args_of(it: Item) -> dict[str, Any]:
    assert isinstance(it, ClaimTerms)
    return it.args


class LateProgress(Model):
    def renew(self, it: Item) -> Outcome:
        return super().renew(ClaimTerms(it.model, {**args_of(it), "order": 0}))


class EndlessTakeOver(Model):
    def live(self, record: wire.StoredRecord) -> bool:
        return False


class ShorterLease(Model):
    def later(self, record: wire.StoredRecord, lease: int) -> int:
        return self.until(lease)


class SameToken(Model):
    def tick(self) -> int:
        return 7


class ForgottenEnd(Model):
    def ended(self, it: Item) -> int:
        return 0


class AnyToken(Model):
    def delete(self, it: Item) -> Outcome:
        return super().delete(ClaimTerms(it.model, {**args_of(it), "token": ""}))


class CountedRelease(Model):
    def release(self, it: Item) -> Outcome:
        attempts = {model: record.attempts for model, record in self.records.items()}
        outcome = super().release(it)
        if it.model in self.records:
            record = self.records[it.model]
            self.records[it.model] = msgspec.structs.replace(record, attempts=attempts[it.model])
        return outcome


class ShortBackOff(Model):
    def finish(self, it: Item) -> Outcome:
        return super().finish(ClaimTerms(it.model, {**args_of(it), "retry_in": 0}))


class LostEvents(MemoryStore):
    def run(self, script: str, requests: Sequence[ClaimTerms], by: str = "") -> list[Any]:
        silent = self.model.clock % 7 == 0
        subscribers, self.subscribers = self.subscribers, [] if silent else self.subscribers
        try:
            return super().run(script, requests, by)
        finally:
            self.subscribers = subscribers


class ShortScan(MemoryBackend):
    def scan(
        self, batch_size: int, status: ModelStatus | None
    ) -> Iterator[ModelRecord | DamagedRecord | None]:
        return islice(super().scan(batch_size, status), 1000)


class LastCacheId(MemoryBackend):
    def cache_id(self, proposed: str | None = None) -> str | None:
        self.store.cache_id = proposed or self.store.cache_id
        return super().cache_id(proposed)


class AnyAnswer(MemoryBackend):
    def set_branch(self, key: ModelKey, commit: str, name: str, asked: int) -> None:
        self.store.hub_answers.clear()
        super().set_branch(key, commit, name, asked)


class AnyCopy(MemoryBackend):
    def get_record(
        self, name: str, provider: ModelProvider | str | None, revision: str | None, subset: str | None
    ) -> ModelRecord | None:
        found = self.read(self.keys_of(name, provider, revision, subset))
        return next((record for record in found if isinstance(record, ModelRecord)), None)


class StillOpen(MemoryBackend):
    def check(self) -> None: ...


class Unchecked(MemoryBackend):
    def finish(self, claim: Claim, ending: Ending) -> str:
        return super().finish(claim, ending) if isinstance(claim, Claim) else "no claim"


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (LateProgress, "late_progress_is_not_stored"),
        (EndlessTakeOver, "a_claim_is_won_once"),
        (ShorterLease, "a_lease_is_never_shortened"),
        (SameToken, "tokens_grow"),
        (ForgottenEnd, "an_end_that_is_sent_twice_counts_once"),
        (AnyToken, "a_deleted_record_is_gone"),
        (CountedRelease, "a_released_attempt_is_not_counted"),
        (ShortBackOff, "a_retry_waits_for_the_back_off"),
        (LostEvents, "no_event_is_missed"),
        (ShortScan, "a_scan_is_as_long_as_it_takes"),
        (LastCacheId, "the_first_cache_id_stays"),
        (AnyAnswer, "the_hubs_last_answer_stays"),
        (AnyCopy, "a_downloaded_copy_is_preferred"),
        (StillOpen, "a_closed_backend_says_so"),
        (Unchecked, "bad_arguments_change_nothing"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_scenario_finds_its_fault(fault: type[Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenarios that no backend can fail would prove nothing."""
    monkeypatch.setattr(steps, "LIMIT_S", 0.5)
    monkeypatch.setattr(memory_backend, "SILENCE_S", 0.2)
    store = LostEvents() if fault is LostEvents else MemoryStore()
    if issubclass(fault, Model):
        store.model = fault()
    backend = fault if issubclass(fault, MemoryBackend) else MemoryBackend
    (scenario,) = [each for each in SCENARIOS if each.name == name]
    with pytest.raises(AssertionError, match=f"^{name}: "):
        scenario(Subject(lambda owner: backend(store, owner)))
