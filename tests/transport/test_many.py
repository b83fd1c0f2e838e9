"""Calls for many models, on all clients: what goes out together, and what is lost or refused in the middle."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pyregistry import AsyncRegistry, Claimed, OutcomeUnknown, Registry
from pyregistry._redis.backend_async import MOST_BATCHES
from tests.support.faults.proxy import SECONDS, Proxy, until
from tests.support.internals import transport_of
from tests.support.tasks import comes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.conftest import MakeServer
    from tests.support.clients import Connect


LEASE = 30.0


def many(number: int) -> list[tuple[str, str]]:
    return [(f"m{at}", "S3") for at in range(number)]


def test_what_is_for_many_goes_out_together(connect_any: Connect, proxy: Proxy) -> None:
    """The batches of one call are written before the first reply."""
    registry = connect_any(url=proxy.url)
    models = many(200)
    with ThreadPoolExecutor(1) as pool:

        def together(script: str, call: Callable[..., Any], asked: Sequence[Any], **options: Any) -> Any:
            paused = proxy.pause(script, times=4)
            result = pool.submit(call, asked, **options)
            for held in paused:
                held.wait_behind()
            assert proxy.sent[script] == 0, "all have come, and none has been answered"
            for held in paused:
                held.let_go()
            answers = result.result(SECONDS)
            assert proxy.sent[script] == 4
            return answers

        results = together("claim", registry.try_claim_many, models, lease=LEASE)
        claims = [result.claim for result in results]
        assert [claim.model_name for claim in claims] == [name for name, _ in models]
        tokens = [claim.token for claim in claims]
        assert tokens == sorted(set(tokens)), "they were run in order"
        assert together("touch", registry.touch_models, models) == [True] * 200
        records = together("read", registry.get_model_records, models)
        assert [record.token for record in records] == tokens
        assert [claim.token for claim in together("renew", registry.refresh_many, claims)] == tokens


def test_no_more_go_out_together_than_is_good(connect_any: Connect, proxy: Proxy) -> None:
    """At most MOST_BATCHES batches of one call are in flight."""
    registry = connect_any(url=proxy.url, timeout=SECONDS)
    paused = proxy.pause("touch", times=MOST_BATCHES + 3)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(registry.touch_models, many(64 * (MOST_BATCHES + 2) + 1))
        for held in paused[:MOST_BATCHES]:
            held.wait_behind()
        for held in paused[: MOST_BATCHES - 1]:
            held.let_go()
        paused[MOST_BATCHES - 1].wait()
        assert [name for _, name in proxy.log].count("touch") == MOST_BATCHES
        for held in paused[MOST_BATCHES - 1 :]:
            held.let_go()
        assert result.result(SECONDS) == [False] * (64 * (MOST_BATCHES + 2) + 1)


def test_a_reply_in_the_middle_that_is_lost(connect_any: Connect, proxy: Proxy, other: Registry) -> None:
    """After a lost reply only the batches without a reply are sent again."""
    registry = connect_any(url=proxy.url)
    for held in proxy.pause("claim"):
        held.let_go()
    proxy.lose_replies("claim")
    results = registry.try_claim_many(many(200), lease=LEASE)
    assert all(isinstance(result, Claimed) for result in results)
    records = other.get_model_records(many(200))
    tokens = [result.claim.token for result in results if isinstance(result, Claimed)]
    assert [(record.token, record.attempts) for record in records if record] == [
        (token, 1) for token in tokens
    ]
    # The first was answered, and is not asked again; the second was run, and the others were lost before that.
    assert proxy.sent["claim"] == 2 + 3


def test_what_is_not_sent_again_tells_what_the_others_got(
    connect_any: Connect, proxy: Proxy, other: Registry
) -> None:
    """OutcomeUnknown of a batch has the results of the batches before it."""
    registry = connect_any(url=proxy.url)
    for held in proxy.pause("claim"):
        held.let_go()
    proxy.lose_replies("claim")
    with pytest.raises(OutcomeUnknown) as caught:
        registry.try_claim_many(many(200), lease=None)
    won = [result for result in caught.value.results if isinstance(result, Claimed)]
    assert [result.claim.model_name for result in won] == [f"m{at}" for at in range(64)]
    assert list(caught.value.results[64:]) == [None] * 136
    assert proxy.sent["claim"] == 2
    assert other.get_status_counts().downloading == 128


def test_after_an_error_no_more_are_begun(connect_any: Connect, proxy: Proxy) -> None:
    """After a batch with an unknown outcome no further batch is sent."""
    registry = connect_any(url=proxy.url)
    proxy.lose_requests("claim")
    with pytest.raises(OutcomeUnknown) as caught:
        registry.try_claim_many(many(64 * (MOST_BATCHES + 1)), lease=None)
    assert list(caught.value.results) == [None] * (64 * (MOST_BATCHES + 1))
    assert proxy.sent["claim"] == 0


def test_scripts_that_are_gone_under_a_call_for_many(connect_any: Connect, make_server: MakeServer) -> None:
    """After a script flush the scripts are loaded once, and all batches are sent again."""
    server = make_server()
    with Proxy(server.url) as proxy, redis.Redis.from_url(server.url) as raw:
        registry = connect_any(url=proxy.url)
        raw.script_flush()
        start = len(proxy.log)
        results = registry.try_claim_many(many(200), lease=None)
        assert all(isinstance(result, Claimed) for result in results)
        names = [name for _, name in proxy.log[start:]]
        assert names[:6] == ["claim"] * 4 + ["SCRIPT", "open"]
        assert names[-4:] == ["claim"] * 4
        assert len(names) - 8 == names.count("SCRIPT") + 1
        assert len({number for number, _ in proxy.log[start:]}) == 1


def test_scripts_that_go_in_mid_pipeline(connect_any: Connect, make_server: MakeServer) -> None:
    """A script flush between two batches claims every model exactly once."""
    server = make_server()
    with ThreadPoolExecutor(1) as pool, Proxy(server.url) as proxy, redis.Redis.from_url(server.url) as raw:
        registry = connect_any(url=proxy.url)
        registry.get_status_counts()
        first, second = proxy.pause("claim", times=2)
        wanted = pool.submit(registry.try_claim_many, many(200), lease=LEASE)
        second.wait_behind()  # it is written, as the others are
        first.wait()
        first.let_go()
        second.wait()
        raw.script_flush()
        second.let_go()
        results = wanted.result(SECONDS)
        tokens = [result.claim.token for result in results if isinstance(result, Claimed)]
        assert len(set(tokens)) == 200
        assert registry.get_status_counts() == (200, 0, 0)
        assert proxy.sent["claim"] > 4


def test_one_that_is_damaged_among_many(connect_any: Connect, server_url: str, namespace: str) -> None:
    """A damaged record among many fails with the results of all others."""
    registry = connect_any()
    registry.try_claim_many(many(200), lease=LEASE)
    with redis.Redis.from_url(server_url) as raw:
        raw.set(f"pyregistry:{{{namespace}}}:model:S3:m100", "nonsense")
    for call in (registry.touch_models, registry.get_model_records):
        with pytest.raises(Exception, match="m100") as caught:
            call(many(200))
        results: Any = caught.value
        assert [at for at, result in enumerate(results.results) if result is None] == [100]


async def test_claims_for_many_that_nobody_waits_for_are_released(
    proxy: Proxy, namespace: str, other: Registry
) -> None:
    """A cancelled call for many claims releases all of them."""
    async with AsyncRegistry.from_url(proxy.url, namespace, timeout=2 * SECONDS) as registry:
        first, second, third = proxy.pause("claim", times=3, reply=True)
        first.let_go()
        task = asyncio.create_task(registry.try_claim_many(many(190)))
        await asyncio.to_thread(second.wait)
        # The answer to the first has come; it must be heard before the call is given up.
        transport: Any = transport_of(registry)
        await comes(lambda: len(transport._pipe._pending) == 2, "the first is answered")
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        second.let_go()
        third.let_go()
        await asyncio.to_thread(until, lambda: proxy.sent["release"] >= 3, "they are released")
        await registry.get_status("model")
    results = other.try_claim_many(many(190), lease=LEASE)
    assert all(isinstance(result, Claimed) and result.claim.taken_over for result in results)
