"""The near cache: what it spares, and that it never says what is not true any more."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis

from pyregistry import (
    AccessDenied,
    AsyncRegistry,
    Claimed,
    DamagedRecord,
    InvalidArgument,
    InvalidModelName,
    ModelProvider,
    ModelRecord,
    ModelStatus,
    Registry,
    RegistryClosed,
    RegistryUnavailable,
)
from pyregistry._core.clock import now
from pyregistry._redis.cache import client_cache, tracking_async, tracking_sync
from pyregistry._redis.cache.client_cache import ClientCache, SharedClientCache
from pyregistry._redis.cache.tracking_sync import TrackedTransport
from pyregistry._redis.protocol.operations import Ops
from pyregistry._redis.transport.connection_sync import FastLine, Line
from tests.coordination.test_fork import left_open
from tests.support.faults.proxy import until
from tests.support.faults.truncate import Cutter
from tests.support.internals import ops_of, subscriber_of, transport_of
from tests.support.servers import self_signed
from tests.transport.test_lines import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from pyregistry.embedded import EmbeddedServer
    from tests.conftest import MakeServer

pytestmark = pytest.mark.server("embedded", "debian", "stack")  # on servers of their own: not in containers
HITS = 3_000_000  # more than could be asked in vain before the test is over


@pytest.fixture
def server(make_server: MakeServer) -> EmbeddedServer:
    return make_server()


class Awaited:
    """A `Registry` to be used like an `AsyncRegistry`: what is awaited is done already, in this very thread."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def __aenter__(self) -> Awaited:
        self._registry.connect()
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._registry.close()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._registry, name)
        if not callable(attribute):
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            return attribute(*args, **kwargs)

        return call


@pytest.fixture(params=["asyncio", "threads"])
def from_url(request: pytest.FixtureRequest) -> Callable[..., AsyncRegistry]:
    """Makes either client, behind the interface of the asyncio one."""
    if request.param == "asyncio":
        return AsyncRegistry.from_url

    def make(*args: Any, **options: Any) -> AsyncRegistry:
        return cast("AsyncRegistry", Awaited(Registry.from_url(*args, **options)))

    return make


@pytest.fixture
async def registry(
    server: EmbeddedServer, namespace: str, from_url: Callable[..., AsyncRegistry]
) -> AsyncIterator[AsyncRegistry]:
    """Either client."""
    async with from_url(server.url, namespace, near_cache=True) as registry:
        yield registry


@pytest.fixture
async def asyncio_registry(server: EmbeddedServer, namespace: str) -> AsyncIterator[AsyncRegistry]:
    """The asyncio client, where it differs."""
    async with AsyncRegistry.from_url(server.url, namespace, near_cache=True) as registry:
        yield registry


@pytest.fixture
def blocking(server: EmbeddedServer, namespace: str) -> Iterator[Registry]:
    """The blocking client, where it differs."""
    with Registry.from_url(server.url, namespace, near_cache=True) as blocking:
        yield blocking


@pytest.fixture
def other(server: EmbeddedServer, namespace: str) -> Iterator[Registry]:
    """Somebody else, without a near cache."""
    with Registry.from_url(server.url, namespace, owner="other") as other:
        yield other


@pytest.fixture
def raw(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as raw:
        yield raw


def asked(raw: redis.Redis, *commands: str) -> int:
    """How many such commands the server has seen."""
    stats: Any = raw.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{command}", {}).get("calls", 0)) for command in commands)


def near_of(registry: AsyncRegistry | Registry) -> ClientCache:
    transport: Any = transport_of(registry)
    near = transport.known
    assert isinstance(near, ClientCache)
    return near


def listens(registry: object) -> bool:
    """Whether it hears of what happens without being asked anything."""
    return isinstance(registry, AsyncRegistry)


def tracked(blocking: Registry) -> TrackedTransport:
    transport = transport_of(blocking)
    assert isinstance(transport, TrackedTransport)
    return transport


async def comes(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(until, condition, what)


# Requests that are shared


QUESTIONS: dict[str, tuple[Callable[[AsyncRegistry], Any], Callable[[Any], object]]] = {
    "status": (lambda registry: registry.get_status("model", "S3"), lambda status: status),
    "there": (lambda registry: registry.is_downloaded("model", "S3"), lambda there: there or None),
    "record": (lambda registry: registry.get_model_record("model", "S3"), lambda record: record.status),
    "records": (
        lambda registry: registry.get_model_records([("model", "S3")]),
        lambda found: found[0].status,
    ),
    "ensure": (lambda registry: registry.ensure("model", "S3", print), lambda record: record.status),
    "touch": (lambda registry: registry.touch_model("model", "S3"), lambda known: known or None),
    "touches": (lambda registry: registry.touch_models([("model", "S3")]), lambda known: known[0] or None),
    "claim": (
        lambda registry: registry.try_claim_for_download("model", "S3", lease=30.0),
        lambda result: result.status,
    ),
}


@pytest.mark.parametrize("near_cache", [False, True])
async def test_all_pairs_of_questions_of_one_turn_get_their_own_answers(
    server: EmbeddedServer, namespace: str, other: Registry, near_cache: bool
) -> None:
    """What is asked of one model in one turn may be one request: never with another's way to read the answer."""
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    for first, second in itertools.product(QUESTIONS, repeat=2):
        async with AsyncRegistry.from_url(server.url, namespace, near_cache=near_cache) as registry:
            pair = QUESTIONS[first], QUESTIONS[second]
            got = await asyncio.gather(*(ask(registry) for ask, _ in pair))
            for (_, told), answer in zip(pair, got, strict=True):
                assert told(answer) in (ModelStatus.DOWNLOADED, True), (first, second, answer)


def test_operations_that_may_share_a_request_are_decoded_alike() -> None:
    ops = Ops("namespace", None, ())
    (target,) = ops.targets("model", "S3", None, None)
    model = ("model", "S3", None, None)
    made: list[Any] = [
        ops.get_status(*model),
        ops.get_record(*model),
        ops.touch_model(*model),
        ops.read([target]),
        ops.look_up([target]),
        ops.stored([target]),
    ]
    assert len({op.same for op in made}) == len(made), "each decodes in a way of its own"
    again: list[Any] = [ops.read([target]), ops.look_up([target]), ops.stored([target])]
    assert [op.same for op in again] == [op.same for op in made[3:]]


# What it spares


async def test_what_is_known_is_not_asked_for(
    registry: AsyncRegistry, other: Registry, raw: redis.Redis
) -> None:
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    for _ in range(100):
        assert await registry.is_downloaded("model")
        assert await registry.is_downloaded("model", "S3")
        assert not await registry.is_downloaded("model", "Gcs")
        assert await registry.get_status("model", "S3") is ModelStatus.DOWNLOADED
        assert not await registry.is_downloaded("unknown", "S3", revision="r", subset="s")
    # All providers at first; the rest follows from that. The unknown model in turn is one question.
    assert asked(raw, "mget") == 2
    assert asked(raw, "client|caching") == 2


async def test_records_come_from_memory_with_the_last_use_as_of_then(
    registry: AsyncRegistry, other: Registry, raw: redis.Redis
) -> None:
    other.set_status("model", "S3", ModelStatus.DOWNLOADED, "a message")
    first = await registry.get_model_record("model", "S3")
    assert first == other.get_model_record("model", "S3")
    other.touch_model("model", "S3")
    before = asked(raw, "mget", "evalsha")
    assert await registry.get_model_record("model", "S3") == first
    assert await registry.get_status("model", "S3") is ModelStatus.DOWNLOADED
    assert await registry.get_model_record("nothing", "S3") is None
    assert asked(raw, "mget", "evalsha") == before + 2
    assert await registry.get_model_record("nothing", "S3") is None
    assert asked(raw, "mget", "evalsha") == before + 2
    other.set_status("model", "S3", ModelStatus.ERROR, "another")
    while await registry.get_status("model", "S3") is not ModelStatus.ERROR:
        pass
    second = await registry.get_model_record("model", "S3")
    assert second == other.get_model_record("model", "S3")


async def test_what_changes_costs_what_others_know_no_command(
    registry: AsyncRegistry, other: Registry, raw: redis.Redis
) -> None:
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    other.set_status("another", "S3", ModelStatus.DOWNLOADED)
    record = await registry.get_model_record("model", "S3")
    for wanted in (ModelStatus.ERROR, ModelStatus.DOWNLOADED) * 5:
        assert await registry.get_status("model", "S3") is ModelStatus.DOWNLOADED
        await registry.get_status("another", "S3")
        other.set_status("another", "S3", wanted)
        while await registry.get_status("another", "S3") is not wanted:
            pass
        before = asked(raw, "mget", "evalsha")
        assert await registry.get_status("model", "S3") is ModelStatus.DOWNLOADED
        assert await registry.get_model_record("model", "S3") == record
        assert await registry.is_downloaded("model", "S3")
        assert asked(raw, "mget", "evalsha") == before


async def test_touches_invalidate_nothing(registry: AsyncRegistry, other: Registry, raw: redis.Redis) -> None:
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    assert await registry.is_downloaded("model", "S3")
    await registry.get_model_record("model", "S3")
    before = asked(raw, "mget")
    for _ in range(200):
        assert other.touch_model("model", "S3")
        assert await registry.touch_model("model", "S3")
        assert await registry.is_downloaded("model", "S3")
        assert await registry.get_model_record("model", "S3") is not None
    assert asked(raw, "mget") == before


async def test_it_is_off_by_default(
    server: EmbeddedServer, namespace: str, raw: redis.Redis, from_url: Callable[..., AsyncRegistry]
) -> None:
    async with from_url(server.url, namespace) as registry:
        for _ in range(5):
            assert not await registry.is_downloaded("model", "S3")
        assert asked(raw, "mget") == 5
        assert asked(raw, "client|tracking", "client|caching") == 0


async def test_it_is_bounded(
    registry: AsyncRegistry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_cache, "MOST", 10)
    for at in range(50):
        assert await registry.get_status(f"m{at}", "S3") is None
        assert not await registry.is_downloaded(f"m{at}", "S3")
        assert len(near_of(registry)._known) <= 10
        assert len(near_of(registry).answers) <= 10
    other.set_status("m0", "S3", ModelStatus.DOWNLOADED)
    assert await registry.is_downloaded("m0", "S3")


# What others do


@pytest.mark.parametrize("way", ["set_status", "claim", "delete", "DEL", "FLUSHALL", "FLUSHDB ASYNC", "SET"])
async def test_whatever_changes_it_is_heard(
    registry: AsyncRegistry, other: Registry, raw: redis.Redis, way: str
) -> None:
    key = ops_of(other).keys.record("S3:model")
    if way != "claim":
        other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    first = await registry.get_status("model", "S3")
    record = await registry.get_model_record("model", "S3")
    assert (record and record.status) == first
    changes: dict[str, Callable[[], object]] = {
        "set_status": lambda: other.set_status("model", "S3", ModelStatus.ERROR),
        "claim": lambda: other.try_claim_for_download("model", "S3", lease=30.0),
        "delete": lambda: other.delete_model("model", "S3"),
        "DEL": lambda: raw.delete(key),
        "FLUSHALL": raw.flushall,
        "FLUSHDB ASYNC": lambda: raw.flushdb(asynchronous=True),
        "SET": lambda: raw.set(key, b"\x91\xa5ERROR"),
    }
    changes[way]()
    # A tight loop, which nothing but the hits themselves interrupts.
    for _ in range(HITS):
        if await registry.get_status("model", "S3") is not first:
            break
    else:
        pytest.fail("the news is never let in")
    expected = other.get_model_record("model", "S3")
    assert await registry.get_model_record("model", "S3") == expected
    assert await registry.is_downloaded("model", "S3") == (other.get_status("model", "S3") == "DOWNLOADED")


async def test_a_tight_loop_of_hits_lets_the_news_in(registry: AsyncRegistry, other: Registry) -> None:
    assert not await registry.is_downloaded("model")
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    for _ in range(HITS):
        if await registry.is_downloaded("model"):
            return
    pytest.fail("the news is never let in")


async def test_what_is_read_is_never_older_than_what_was_read_before(
    registry: AsyncRegistry, other: Registry
) -> None:
    # The record is made anew all the time, and read all the time, from memory and not.
    over = asyncio.Event()

    def change() -> None:
        for _ in range(300):
            result = other.try_claim_for_download("model", "S3", lease=30.0)
            assert isinstance(result, Claimed)
            other.finish_download_claim(result.claim, ModelStatus.DOWNLOADED)
            other.delete_model("model", "S3")

    async def read() -> int:
        last = hits = 0
        while not over.is_set():
            record = await registry.get_model_record("model", "S3")
            if record is not None:
                assert record.token >= last
                hits += record.token == last
                last = record.token
            await registry.get_status("model", "S3")
            await asyncio.sleep(0)
        assert last > 0
        return hits

    readers = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.to_thread(change)
    over.set()
    await asyncio.gather(*readers)
    for _ in range(HITS):
        if await registry.get_status("model", "S3") is None:
            return
    pytest.fail("what was deleted is there for ever")


async def test_who_waited_finds_what_he_waited_for(asyncio_registry: AsyncRegistry, other: Registry) -> None:
    # The event comes on the same connection, after the invalidation.
    registry = asyncio_registry
    for at in range(50):
        result = other.try_claim_for_download(f"m{at}", "S3", lease=30.0)
        assert isinstance(result, Claimed)
        assert await registry.get_status(f"m{at}", "S3") is ModelStatus.DOWNLOADING
        assert not await registry.is_downloaded(f"m{at}", "S3")
        waits = asyncio.create_task(registry.ensure(f"m{at}", "S3", print, touch=False))
        entry = f"S3:m{at}"
        await comes(lambda entry=entry: told(registry, entry), "it waits")  # type: ignore[misc]  # entry
        assert not await registry.is_downloaded(f"m{at}", "S3")
        await asyncio.to_thread(other.finish_download_claim, result.claim, ModelStatus.DOWNLOADED)
        record = await waits
        assert await registry.is_downloaded(f"m{at}", "S3")
        assert await registry.get_model_record(f"m{at}", "S3") == record


def told(registry: AsyncRegistry, entry: str) -> bool:
    seat = subscriber_of(registry).hub._seats.get(entry)
    return seat is not None and seat.view is not None and seat.view.until > now()


# One's own writes


async def test_ones_own_writes_are_seen_at_once(registry: AsyncRegistry) -> None:
    for at in range(100):
        for wanted in (ModelStatus.ERROR, ModelStatus.DOWNLOADED):
            await registry.set_status("model", "S3", wanted)
            assert await registry.get_status("model", "S3") is wanted
            assert await registry.is_downloaded("model", "S3") == (wanted is ModelStatus.DOWNLOADED)
            record = await registry.get_model_record("model", "S3")
            assert record is not None
            assert record.status is wanted
        assert await registry.delete_model("model") == 1
        assert await registry.get_status("model", "S3") is None
        result = await registry.try_claim_for_download("model", "S3", lease=30.0)
        assert isinstance(result, Claimed)
        assert await registry.get_status("model", "S3") is ModelStatus.DOWNLOADING, at
        assert await registry.finish_download_claim(result.claim, ModelStatus.ERROR)
        assert await registry.get_status("model", "S3") is ModelStatus.ERROR


async def test_ones_own_writes_among_many_reads(registry: AsyncRegistry) -> None:
    async def read() -> None:
        while not over.is_set():
            await registry.is_downloaded("model", "S3")
            await asyncio.sleep(0)

    over = asyncio.Event()
    readers = [asyncio.create_task(read()) for _ in range(20)]
    for at in range(200):
        wanted = ModelStatus.DOWNLOADED if at % 2 else ModelStatus.ERROR
        await registry.set_status("model", "S3", wanted)
        assert await registry.is_downloaded("model", "S3") == (wanted is ModelStatus.DOWNLOADED)
    over.set()
    await asyncio.gather(*readers)


def test_nothing_is_kept_of_what_is_being_written() -> None:
    near = ClientCache()
    near.learn(["a", "b"], [b"1", None])
    assert near.values(["a", "b"]) == [b"1", None]
    near.writes(["a"])
    assert near.values(["a"]) is None
    near.writes(["a"])
    near.wrote(["a"])
    near.learn(["a", "b"], [b"2", b"3"])  # the other call is not answered yet
    assert near.values(["a"]) is None
    assert near.values(["b"]) == [b"3"]
    near.wrote(["a"])
    near.learn(["a"], [b"4"])
    assert near.values(["a"]) == [b"4"]
    near.writes(["a"])
    near.invalidate([b"invalidate", None])
    near.learn(["a"], [b"5"])
    assert near.values(["a", "b"]) is None
    assert near.values(["a"]) is None
    near.wrote(["a"])
    assert not near._writing


def test_a_last_use_belongs_to_the_record_that_it_was_read_with() -> None:
    near = ClientCache()
    near.learn(["a"], [b"1"])
    assert near.last_uses(["a"]) is None
    near.used("a", b"2", 7)
    assert near.last_uses(["a"]) is None
    near.used("a", b"1", 7)
    assert near.last_uses(["a"]) == [7]
    near.learn(["b"], [None])
    assert near.last_uses(["a", "b"]) == [7, 0]
    near.invalidate([b"invalidate", [b"a"]])
    near.used("a", b"1", 8)
    assert near.last_uses(["a"]) is None


# Connections that end, or seem to live


async def test_a_broken_connection_empties_it(
    server: EmbeddedServer, namespace: str, other: Registry, from_url: Callable[..., AsyncRegistry]
) -> None:
    with Cutter(server.url) as cutter:
        async with from_url(cutter.url, namespace, near_cache=True) as registry:
            for at in range(20):
                wanted = ModelStatus.DOWNLOADED if at % 2 else ModelStatus.ERROR
                await asyncio.to_thread(other.set_status, "model", "S3", wanted)
                for _ in range(HITS):
                    if await registry.get_status("model", "S3") is wanted:
                        break
                assert await registry.get_status("other", "S3") is None
                cutter.cut()
                if listens(registry):
                    await comes(lambda: not near_of(registry)._known, "it is empty")
                    assert not near_of(registry).answers
                else:
                    await asyncio.to_thread(other.set_status, "other", "S3", ModelStatus.DOWNLOADED)
                    for _ in range(HITS):
                        if await registry.is_downloaded("other", "S3"):
                            break
                    else:
                        pytest.fail("nobody has noticed")
                    assert await asyncio.to_thread(other.delete_model, "other", "S3")


async def test_what_a_connection_brings_after_it_was_left_is_not_kept(
    asyncio_registry: AsyncRegistry, raw: redis.Redis
) -> None:
    registry = asyncio_registry
    transport: Any = transport_of(registry)
    read = asyncio.create_task(registry.get_status("model", "S3"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it is written
    transport._retire(transport._pipe)
    assert await read is None
    assert not near_of(registry)._known
    assert await registry.get_status("model", "S3") is None
    assert near_of(registry)._known


async def test_silence_ends_it(
    server: EmbeddedServer,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    from_url: Callable[..., AsyncRegistry],
) -> None:
    # The server stops, and its end of the connection stays open: nobody will say what changes.
    monkeypatch.setattr(client_cache, "SILENCE", 0.3)
    monkeypatch.setattr(tracking_async, "PING_EVERY", 1000.0)
    monkeypatch.setattr(tracking_sync, "PING_EVERY", 0.3)
    assert server.pid is not None
    async with from_url(server.url, namespace, near_cache=True, timeout=0.2) as registry:
        assert not await registry.is_downloaded("model", "S3")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for question in (registry.is_downloaded, registry.get_status, registry.get_model_record):
                for _ in range(HITS):
                    try:
                        await question("model", "S3")
                    except RegistryUnavailable:
                        break
                else:
                    pytest.fail("it answers for ever")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert not await registry.is_downloaded("model", "S3")


async def test_the_answer_to_a_ping_keeps_it(
    server: EmbeddedServer, namespace: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_cache, "SILENCE", 0.4)
    monkeypatch.setattr(tracking_async, "PING_EVERY", 0.1)
    async with AsyncRegistry.from_url(server.url, namespace, near_cache=True) as registry:
        assert not await registry.is_downloaded("model", "S3")
        await comes(lambda: asked(raw, "ping") >= 10, "a second without anything else")
        for _ in range(100):
            assert not await registry.is_downloaded("model", "S3")
        assert asked(raw, "mget") == 1


async def test_a_loop_that_stood_still_lets_the_news_in_first(
    registry: AsyncRegistry, other: Registry
) -> None:
    for at in range(20):
        wanted = ModelStatus.DOWNLOADED if at % 2 else ModelStatus.ERROR
        other.set_status("model", "S3", wanted)  # blocks: the loop can't have heard of it
        with redis.Redis.from_url(transport_of(registry)._source._url) as raw:
            raw.ping()  # it was said before this is answered
        near_of(registry).epoch.until = 0.0  # longer than a turn ago
        assert await registry.get_status("model", "S3") is wanted
        assert await registry.is_downloaded("model", "S3") == (wanted is ModelStatus.DOWNLOADED)


# Errors


async def test_bad_names_are_told(registry: AsyncRegistry) -> None:
    assert not await registry.is_downloaded("m", "S3")  # nor is this answered by what is kept of that
    for wrong in (["a"], "", 7, None, "\ud800", ("m", "S3", None, None), ("m", ModelProvider.S3, None, None)):
        with pytest.raises(InvalidModelName):
            await registry.is_downloaded(wrong)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InvalidArgument):
        await registry.is_downloaded("m", ["S3"])  # type: ignore[arg-type]  # on purpose


async def test_after_the_end_nothing_is_answered(
    server: EmbeddedServer, namespace: str, from_url: Callable[..., AsyncRegistry]
) -> None:
    registry = from_url(server.url, namespace, near_cache=True)
    assert not await registry.is_downloaded("model", "S3")
    await registry.close()
    for question in (registry.is_downloaded, registry.get_status, registry.get_model_record):
        with pytest.raises(RegistryClosed):
            await question("model", "S3")


def test_it_needs_the_one_connection() -> None:
    with pytest.raises(InvalidArgument, match="multiplexed"):
        AsyncRegistry.from_url("redis://localhost", near_cache=True, transport="redis-py")


async def test_who_may_not_have_the_server_track_is_told(
    server: EmbeddedServer, namespace: str, raw: redis.Redis, from_url: Callable[..., AsyncRegistry]
) -> None:
    raw.acl_setuser(
        "limited", True, passwords=["+secret"], keys=["*"], channels=["*"], categories=["+@all"],
        commands=["-client|tracking"],
    )  # fmt: skip
    url = server.url.replace("://", "://limited:secret@")
    async with from_url(url, namespace) as registry:
        assert not await registry.is_downloaded("model", "S3")
    refused = from_url(url, namespace, near_cache=True)
    for call in (refused.__aenter__, lambda: refused.is_downloaded("model"), lambda: refused.get_status("m")):
        with pytest.raises(AccessDenied) as raised:
            await call()
        assert "secret" not in str(raised.value)
    await refused.close()


async def test_what_the_server_does_not_track_is_not_remembered(
    server: EmbeddedServer,
    namespace: str,
    raw: redis.Redis,
    other: Registry,
    from_url: Callable[..., AsyncRegistry],
) -> None:
    raw.acl_setuser(
        "limited", True, passwords=["+secret"], keys=["*"], channels=["*"], categories=["+@all"],
        commands=["-client|caching"],
    )  # fmt: skip
    async with from_url(
        server.url.replace("://", "://limited:secret@"), namespace, near_cache=True
    ) as registry:
        for at in range(20):
            wanted = ModelStatus.DOWNLOADED if at % 2 else ModelStatus.ERROR
            other.set_status("model", "S3", wanted)
            assert await registry.get_status("model", "S3") is wanted
            assert await registry.is_downloaded("model", "S3") == (wanted is ModelStatus.DOWNLOADED)
            record = await registry.get_model_record("model", "S3")
            assert record is not None
            assert record.status is wanted


async def test_a_damaged_record_is_told_from_memory_too(
    registry: AsyncRegistry, other: Registry, raw: redis.Redis
) -> None:
    raw.set(ops_of(other).keys.record("S3:model"), b"x")
    for _ in range(3):
        for question in (registry.is_downloaded, registry.get_status, registry.get_model_record):
            with pytest.raises(DamagedRecord):
                await question("model", "S3")


@left_open
def test_another_event_loop_has_a_memory_of_its_own(server: EmbeddedServer, other: Registry) -> None:
    registry = AsyncRegistry.from_url(server.url, other.namespace, near_cache=True)
    for at in range(6):
        # Nobody has read what the server has said to the loop that has ended.
        wanted = ModelStatus.DOWNLOADED if at % 2 else ModelStatus.ERROR
        other.set_status("model", "S3", wanted)

        async def ask() -> tuple[bool, ModelStatus | None]:
            near_of(registry).epoch.until = 0.0  # longer than a turn ago
            there = await registry.is_downloaded("model", "S3")
            assert await registry.is_downloaded("model", "S3") == there
            return there, await registry.get_status("model", "S3")

        assert asyncio.run(ask()) == (wanted is ModelStatus.DOWNLOADED, wanted)
    asyncio.run(registry.close())
    gc.collect()  # here, where it is no news that they were left open


async def test_a_forked_child_has_a_memory_of_its_own(
    registry: AsyncRegistry, other: Registry, server: EmbeddedServer, namespace: str
) -> None:
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    assert await registry.is_downloaded("model", "S3")
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writes, b"%d %d" % (len(near_of(registry)._known), len(near_of(registry).answers)))
        finally:
            os._exit(0)
    os.close(writes)
    said = await asyncio.to_thread(os.read, reads, 100)
    os.close(reads)
    await asyncio.to_thread(os.waitpid, child, 0)
    assert said == b"0 0"
    assert await registry.is_downloaded("model", "S3")
    assert isinstance(await registry.get_model_record("model", "S3"), ModelRecord)


def test_the_loop_has_its_turn_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(client_cache, "now", lambda: clock[0])
    near = ClientCache()
    turns: list[Callable[[], None]] = []
    assert near.vouch(100.0, turns.append)
    until = near.epoch.until
    assert until == 100.0 + client_cache.TURN
    clock[0] = until
    # The next ones get their one answer, and wait again; the loop has not turned in between.
    for _ in range(3):
        assert near.vouch(100.0, turns.append)
        assert near.epoch.until == until
    (turn,) = turns
    turn()
    assert near.vouch(100.0, turns.append)
    assert near.epoch.until == until + client_cache.TURN
    turns.pop()()
    # Nobody is let in by a connection that is silent.
    clock[0] = 100.0 + client_cache.SILENCE
    assert not near.vouch(100.0, turns.append)
    assert near.epoch.until <= clock[0]


# The blocking client: what is remembered, and what else is asked, go over connections that know nothing of each other


@pytest.fixture
def looks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears what it must hear, and nothing by chance."""
    for setting in ("TURN", "PING_EVERY"):
        monkeypatch.setattr(tracking_sync, setting, 1000.0)


@pytest.mark.usefixtures("looks_no_more")
@pytest.mark.parametrize(
    "heard",
    ["claim", "claims", "records", "list", "iterator", "counts", "touch", "touches", "delete", "set_status",
     "failed", "event", "ensure"],
)  # fmt: skip
def test_nothing_is_older_than_what_was_heard_elsewhere(
    blocking: Registry, other: Registry, raw: redis.Redis, heard: str
) -> None:
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    other.set_status("there", "S3", ModelStatus.DOWNLOADED)
    assert blocking.is_downloaded("model")
    assert blocking.get_status("model", "S3") is ModelStatus.DOWNLOADED
    assert blocking.get_model_record("model", "S3") == other.get_model_record("model", "S3")
    iterator = blocking.iter_models_by_last_used()
    raw.set(ops_of(other).keys.record("S3:damaged"), b"x")

    def fails() -> None:
        with pytest.raises(DamagedRecord):
            blocking.touch_model("damaged")

    with blocking.watch() as events:
        ways: dict[str, Callable[[], object]] = {
            "claim": lambda: blocking.try_claim_for_download("model", "S3"),
            "claims": lambda: blocking.try_claim_many([("model", "S3")]),
            "records": lambda: blocking.get_model_records(["model"]),
            "list": blocking.get_models_by_last_used,
            "iterator": lambda: next(iterator),
            "counts": blocking.get_status_counts,
            "touch": lambda: blocking.touch_model("model"),
            "touches": lambda: blocking.touch_models(["model"]),
            "delete": lambda: blocking.delete_model("another"),
            "set_status": lambda: blocking.set_status("another", "S3", ModelStatus.ERROR),
            "failed": fails,
            "event": lambda: next(events),
            "ensure": lambda: blocking.ensure("there", "S3", print),
        }
        if heard != "event":
            events.close()
        assert blocking.is_downloaded("model")
        other.set_status("model", "S3", ModelStatus.ERROR)
        if heard != "event":
            assert blocking.is_downloaded("model"), "else this shows nothing"
        ways[heard]()
        assert not blocking.is_downloaded("model")
        assert blocking.get_status("model", "S3") is ModelStatus.ERROR
        assert blocking.get_model_record("model", "S3") == other.get_model_record("model", "S3")


@pytest.mark.usefixtures("looks_no_more")
def test_no_thread_sees_less_than_another_has_seen(blocking: Registry, other: Registry) -> None:
    # One thread writes, and says when it has; whoever asks after that must not see less.
    begun = done = token = 0
    over = False

    def ask_whether() -> int:
        sure = 0
        while not over:
            before = done
            there = blocking.is_downloaded("model", "S3")
            if before == begun:  # nothing was written meanwhile
                assert there == bool(before % 2)
                sure += 1
        return sure

    def ask_for_it() -> int:
        last = 0
        while not over:
            least = max(token, last)
            record = blocking.get_model_record("model", "S3")
            last = 0 if record is None else record.token
            assert last >= least
        return last

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # between any two steps
    try:
        with ThreadPoolExecutor(4) as pool:
            sure = [pool.submit(ask_whether) for _ in range(2)]
            seen = [pool.submit(ask_for_it) for _ in range(2)]
            try:
                for at in range(1, 301):
                    begun = at
                    wanted = ModelStatus.DOWNLOADED if at % 2 else ModelStatus.ERROR
                    blocking.set_status("model", "S3", wanted)
                    done = at
                    assert blocking.is_downloaded("model", "S3") == (at % 2)
                    record = other.get_model_record("model", "S3")
                    assert record is not None
                    token = record.token
            finally:
                over = True
            assert all(each.result() > 0 for each in sure)
            assert all(0 < each.result() <= token for each in seen)
    finally:
        sys.setswitchinterval(interval)


def test_scripts_that_are_gone_are_asked_for_elsewhere(
    blocking: Registry, other: Registry, raw: redis.Redis
) -> None:
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    raw.script_flush()
    for _ in range(3):
        assert blocking.get_model_record("model", "S3") == other.get_model_record("model", "S3")
    before = asked(raw, "mget", "evalsha")
    assert blocking.get_model_record("model", "S3") is not None
    assert asked(raw, "mget", "evalsha") == before


def test_an_interrupted_answer_is_nobody_elses(
    blocking: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    assert blocking.get_status("nothing", "S3") is None
    line = tracked(blocking)._line
    assert line is not None

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(line, "reply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        blocking.get_status("model", "S3")
    assert tracked(blocking)._line is None
    assert blocking.get_status("model", "S3") is ModelStatus.DOWNLOADED
    assert blocking.get_status("nothing", "S3") is None


def test_an_error_while_the_news_is_taken_in_is_told_and_costs_no_news(
    blocking: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a signal's handler may raise one, anywhere.
    class Alarm(Exception):
        pass

    def rings(_push: object) -> None:
        raise Alarm

    assert not blocking.is_downloaded("model", "S3")
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    other.get_status_counts()  # it was said before this was answered
    tracked(blocking).doubt()
    with monkeypatch.context() as patched:
        patched.setattr(near_of(blocking), "invalidate", rings)
        with pytest.raises(Alarm):
            blocking.is_downloaded("model", "S3")
    assert blocking.is_downloaded("model", "S3")


def test_an_interrupted_end_of_the_connection_is_its_end(
    blocking: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    assert not blocking.is_downloaded("nothing", "S3")

    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tracked(blocking)._line, "reply", interrupted)
        patched.setattr(tracked(blocking), "_hang_up", interrupted)
        with pytest.raises(KeyboardInterrupt):
            blocking.is_downloaded("model", "S3")
    for name in ("another", "model", "nothing"):
        assert blocking.is_downloaded(name, "S3") == (name == "model"), (
            "it is not the answer to another question"
        )


def test_it_follows_to_another_server(
    make_server: MakeServer, server: EmbeddedServer, namespace: str, raw: redis.Redis
) -> None:
    # What was the primary goes on by itself, and nobody closes the connections to it.
    with Cutter(server.url) as cutter, Registry.from_url(cutter.url, namespace, near_cache=True) as blocking:
        blocking.set_status("model", "S3", ModelStatus.DOWNLOADED)
        assert blocking.is_downloaded("model", "S3")
        cutter.leads_to(make_server().url)
        for each in raw.client_list():
            if "t" not in each["flags"] and each["id"] != str(raw.client_id()):
                raw.client_kill_filter(_id=each["id"])
        blocking.touch_model("model", "S3")  # whether it has heard of that end or not
        blocking.set_status("model", "S3", ModelStatus.ERROR)
        assert not blocking.is_downloaded("model", "S3")
        assert blocking.get_status("model", "S3") is ModelStatus.ERROR
        assert [each for each in raw.client_list() if "t" in each["flags"]] == []


def test_more_news_than_one_can_be_called_for(
    server: EmbeddedServer, namespace: str, raw: redis.Redis
) -> None:
    # On a connection that redis-py's methods read, of which one calls itself for each.
    with Registry.from_url(server.url, namespace, near_cache=True, health_check_interval=1000) as blocking:
        names = [f"m{at}" for at in range(2 * sys.getrecursionlimit())]
        for name in names:
            assert not blocking.is_downloaded(name, "S3")
        for name in names:
            raw.set(ops_of(blocking).keys.record(f"S3:{name}"), b"\x91\xaaDOWNLOADED")
        tracked(blocking).doubt()
        assert all(blocking.is_downloaded(name, "S3") for name in names)
        assert type(tracked(blocking)._line) is Line


def test_who_closes_it_waits_for_nobody(blocking: Registry) -> None:
    assert not blocking.is_downloaded("model", "S3")
    with tracked(blocking)._held(1.0) as held:  # as another thread does, which waits for the server
        assert held
        blocking.close()
        assert tracked(blocking)._line is not None
    assert tracked(blocking)._line is None
    with pytest.raises(RegistryClosed):
        blocking.is_downloaded("model", "S3")


def test_who_can_not_have_the_connection_asks_by_the_others(
    blocking: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a signal's handler, while what it interrupts waits there.
    monkeypatch.setattr(tracking_sync, "_PATIENCE", 0.01)
    assert not blocking.is_downloaded("model", "S3")
    with tracked(blocking)._held(1.0):
        other.set_status("model", "S3", ModelStatus.DOWNLOADED)
        tracked(blocking).doubt()
        assert blocking.is_downloaded("model", "S3")
        assert blocking.get_model_record("model", "S3") == other.get_model_record("model", "S3")
    assert blocking.is_downloaded("model", "S3")


def test_a_server_that_takes_no_writes_is_read_by_the_others(
    blocking: Registry, other: Registry, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    assert not blocking.is_downloaded("another", "S3")
    raw.config_set("min-replicas-to-write", "1")
    monkeypatch.setattr(tracked(blocking), "_sound", False)
    for _ in range(3):
        assert blocking.is_downloaded("model", "S3")
        assert blocking.get_status("model", "S3") is ModelStatus.DOWNLOADED


def test_without_its_connection_it_asks_by_the_others_and_has_one_again(
    blocking: Registry, other: Registry, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not blocking.is_downloaded("model", "S3")
    (ours,) = [each for each in raw.client_list() if "t" in each["flags"]]
    assert raw.client_kill_filter(_id=ours["id"]) == 1
    tracked(blocking).doubt()
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    for _ in range(3):
        assert blocking.is_downloaded("model", "S3")
        assert blocking.get_model_record("model", "S3") == other.get_model_record("model", "S3")
    assert not near_of(blocking)._known
    assert not [each for each in raw.client_list() if "t" in each["flags"]]
    monkeypatch.setattr(tracked(blocking), "_not_before", 0.0)
    assert blocking.is_downloaded("model", "S3")
    before = asked(raw, "mget")
    assert blocking.is_downloaded("model", "S3")
    assert asked(raw, "mget") == before


@pytest.mark.usefixtures("looks_no_more")
@pytest.mark.parametrize(
    "way", ["unix", "health check", pytest.param("tls", marks=pytest.mark.server("debian"))]
)
def test_whatever_the_connection_is_like(
    make_server: MakeServer, namespace: str, tmp_path: Path, way: str
) -> None:
    port = free_port()
    settings: dict[str, Any] = {"unixsocket": str(tmp_path / "s")}
    options: dict[str, Any] = {}
    if way == "tls":
        key, certificate = self_signed(tmp_path)
        settings |= {
            "tls_port": str(port), "tls_cert_file": str(certificate), "tls_key_file": str(key),
            "tls_ca_cert_file": str(certificate), "tls_auth_clients": "no",
        }  # fmt: skip
        options = {"ssl_ca_certs": str(certificate)}
    elif way == "health check":
        options = {"health_check_interval": 1}
    server = make_server(**settings)
    urls = {"unix": f"unix://{tmp_path / 's'}", "tls": f"rediss://127.0.0.1:{port}"}
    with (
        Registry.from_url(urls.get(way, server.url), namespace, near_cache=True, **options) as blocking,
        Registry.from_url(server.url, namespace) as other,
    ):
        for at in range(50):
            # Long names: what is said of them comes in pieces.
            names = [f"{'m' * 900}{each}" for each in range(at % 7 + 1)]
            wanted = ModelStatus.DOWNLOADED if at % 2 else ModelStatus.ERROR
            for name in names:
                blocking.is_downloaded(name, "S3")
            for name in names:
                other.set_status(name, "S3", wanted)
            other.get_status_counts()  # it was said before this was answered
            near_of(blocking).epoch.until = 0.0  # longer than a turn ago
            for name in names:
                assert blocking.is_downloaded(name, "S3") == (wanted is ModelStatus.DOWNLOADED)
        line = tracked(blocking)._line
        assert line is not None
        assert type(line) is (Line if way == "health check" else FastLine)


def test_a_conclusion_is_drawn_before_what_it_rests_on_is_forgotten() -> None:
    near = SharedClientCache()
    near.learn(["a"], [b"1"])
    news = threading.Thread(target=near.invalidate, args=([b"invalidate", [b"a"]],))

    def follow(values: Sequence[Any]) -> bool:
        news.start()
        news.join(0.1)  # it ends in that time only if nothing keeps it from forgetting
        return values == [b"1"]

    near.answer("question", ["a"], follow)
    news.join()
    assert not near.answers


def test_a_forked_child_of_threads_has_a_memory_of_its_own(blocking: Registry, other: Registry) -> None:
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    assert blocking.is_downloaded("model", "S3")
    reads, writes = os.pipe()
    with tracked(blocking)._hearing:  # as if another thread did: nobody lets go of it in the child
        child = os.fork()
        if child == 0:
            try:
                known = len(near_of(blocking)._known), len(near_of(blocking).answers)
                there = blocking.is_downloaded("model", "S3")
                os.write(writes, b"%d %d %d %d" % (*known, there, blocking.is_downloaded("model", "S3")))
            finally:
                os._exit(0)
    os.close(writes)
    said = os.read(reads, 100)
    os.close(reads)
    os.waitpid(child, 0)
    assert said == b"0 0 1 1"
    other.set_status("model", "S3", ModelStatus.ERROR)
    for _ in range(HITS):
        if not blocking.is_downloaded("model", "S3"):
            return
    pytest.fail("the parent hears nothing any more")
