"""The near cache: what it spares, and that it never says what is not true any more."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
from typing import TYPE_CHECKING, Any

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
from pyregistry._redis.cache.client_cache import ClientCache
from pyregistry._redis.protocol.request_factory import RequestFactory
from tests.support.faults.truncate import Cutter
from tests.support.internals import ops_of, subscriber_of, transport_of
from tests.support.marks import left_open
from tests.support.near import HITS, asked, comes, listens, near_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyregistry.embedded import EmbeddedServer


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
    """Only requests with the same decoder share a coalesce key."""
    ops = RequestFactory("namespace", None, ())
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
    """A cached status costs no command, and answers follow from a lookup of all providers."""
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
    """A cached record keeps the last use of its first read, until the record changes."""
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
    """A change of one model invalidates no other model."""
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
    """A touch invalidates no cached record."""
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
    """A client without near_cache sends every read and tracks nothing."""
    async with from_url(server.url, namespace) as registry:
        for _ in range(5):
            assert not await registry.is_downloaded("model", "S3")
        assert asked(raw, "mget") == 5
        assert asked(raw, "client|tracking", "client|caching") == 0


async def test_it_is_bounded(
    registry: AsyncRegistry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache holds no more entries than its maximum."""
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
    """Any change of a record invalidates its cached reads, also a flush of the database."""
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
    """A loop of cached reads that never waits gets invalidations."""
    assert not await registry.is_downloaded("model")
    other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    for _ in range(HITS):
        if await registry.is_downloaded("model"):
            return
    pytest.fail("the news is never let in")


async def test_what_is_read_is_never_older_than_what_was_read_before(
    registry: AsyncRegistry, other: Registry
) -> None:
    """Successive reads under concurrent changes never go back in time."""
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
    """Cached reads after ensure agree with the record that ensure returned."""
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
    seat = subscriber_of(registry).waiters._entries.get(entry)
    return seat is not None and seat.view is not None and seat.view.until > now()


# One's own writes


async def test_ones_own_writes_are_seen_at_once(registry: AsyncRegistry) -> None:
    """A read after a write of the same client returns the written value."""
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
    """A read after a write returns the written value while other tasks read."""

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
    """The cache keeps no value of a key while a write of it has no reply."""
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
    """The cache returns a last use only with the record value it was read with."""
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
    """The end of the tracked connection empties the cache."""
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
    """A reply on a retired connection is not cached."""
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
    """The cache stops to answer once the server is silent for too long."""
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
    """Replies to pings keep the cache valid without other traffic."""
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
    """After a blocked event loop, pending invalidations come before the next cached answer."""
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
    """An invalid argument of a cached read raises."""
    assert not await registry.is_downloaded("m", "S3")  # nor is this answered by what is kept of that
    for wrong in (["a"], "", 7, None, "\ud800", ("m", "S3", None, None), ("m", ModelProvider.S3, None, None)):
        with pytest.raises(InvalidModelName):
            await registry.is_downloaded(wrong)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InvalidArgument):
        await registry.is_downloaded("m", ["S3"])  # type: ignore[arg-type]  # on purpose


async def test_after_the_end_nothing_is_answered(
    server: EmbeddedServer, namespace: str, from_url: Callable[..., AsyncRegistry]
) -> None:
    """A cached read on a closed client raises RegistryClosed."""
    registry = from_url(server.url, namespace, near_cache=True)
    assert not await registry.is_downloaded("model", "S3")
    await registry.close()
    for question in (registry.is_downloaded, registry.get_status, registry.get_model_record):
        with pytest.raises(RegistryClosed):
            await question("model", "S3")


def test_it_needs_the_one_connection() -> None:
    """near_cache with the transport of redis-py raises InvalidArgument."""
    with pytest.raises(InvalidArgument, match="multiplexed"):
        AsyncRegistry.from_url("redis://localhost", near_cache=True, transport="redis-py")


async def test_who_may_not_have_the_server_track_is_told(
    server: EmbeddedServer, namespace: str, raw: redis.Redis, from_url: Callable[..., AsyncRegistry]
) -> None:
    """A user without the right to CLIENT TRACKING gets AccessDenied with near_cache alone."""
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
    """A user without the right to CLIENT CACHING gets correct reads, uncached."""
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
    """Every read of a damaged record raises DamagedRecord."""
    raw.set(ops_of(other).keys.record("S3:model"), b"x")
    for _ in range(3):
        for question in (registry.is_downloaded, registry.get_status, registry.get_model_record):
            with pytest.raises(DamagedRecord):
                await question("model", "S3")


@left_open
def test_another_event_loop_has_a_memory_of_its_own(server: EmbeddedServer, other: Registry) -> None:
    """A second event loop starts with an empty cache."""
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
    """A forked child starts with an empty cache, and its parent keeps its own."""
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
    """Cached answers do not extend their epoch until the event loop has run."""
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
