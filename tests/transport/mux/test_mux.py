"""The one connection of an `AsyncRegistry`: what is gathered, who joins whom, what breaks it, its bounds."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio

from pyregistry import (
    AlreadyExists,
    AsyncRegistry,
    Claimed,
    DamagedRecord,
    InvalidArgument,
    ModelStatus,
    OutcomeUnknown,
    Registry,
    RegistryClosed,
)
from pyregistry._redis.protocol.request import CommandTemplate, PlainRequest
from pyregistry._redis.protocol.scripts import BATCH
from tests.support.faults.proxy import SECONDS, Proxy, until
from tests.support.internals import ops_of, transport_of, under_way
from tests.support.tasks import LEASE, arrived, cancelled, claim, comes, record_of, start, turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Result = Claimed | AlreadyExists

# Gathering


async def test_what_is_asked_in_one_turn_shares_calls(registry: AsyncRegistry, proxy: Proxy) -> None:
    """The first goes out at once, as a call alone does, and the rest as one; then halves of all."""
    names = [f"m{at}" for at in range(50)]
    won = await asyncio.gather(*(claim(registry, name) for name in names))
    assert [result.claim.model_name for result in won if isinstance(result, Claimed)] == names
    tokens = [result.claim.token for result in won if isinstance(result, Claimed)]
    assert tokens == sorted(set(tokens)), "they were run in the order in which they were asked"
    assert await asyncio.gather(*(registry.get_status(name, "S3") for name in names)) == ["DOWNLOADING"] * 50
    assert await asyncio.gather(*(registry.touch_model(name, "S3") for name in names)) == [True] * 50
    records = await asyncio.gather(*(registry.get_model_record(name, "S3") for name in names))
    assert [record.model_name for record in records if record] == names
    ended = await asyncio.gather(
        *(
            registry.finish_download_claim(result.claim, "ERROR", f"at {at}")
            for at, result in enumerate(won)
            if isinstance(result, Claimed)
        )
    )
    assert ended == [True] * 50
    await asyncio.gather(*(registry.set_status(name, "S3", "DOWNLOADED", name) for name in names))
    assert sum(await asyncio.gather(*(registry.delete_model(name, "S3") for name in names))) == 50
    calls = ["claim", "MGET", "touch", "read", "finish", "set_status", "delete"]
    assert {name: proxy.sent[name] for name in calls} == dict.fromkeys(calls, 2)
    assert len(proxy.connections_of()) == 1


async def test_a_call_takes_64_items_and_no_more(registry: AsyncRegistry, proxy: Proxy) -> None:
    """A script call carries at most 64 items and never splits a batch of the caller."""
    results = await asyncio.gather(*(claim(registry, f"m{at}") for at in range(150)))
    assert all(isinstance(result, Claimed) for result in results)
    assert proxy.sent["claim"] == 4, "the first alone"
    many = [
        registry.try_claim_many([(f"n{of}.{at}", "S3") for at in range(40)], lease=LEASE) for of in range(3)
    ]
    assert sum(isinstance(result, Claimed) for each in await asyncio.gather(*many) for result in each) == 120
    assert proxy.sent["claim"] == 7, "what is asked for as one is not torn apart"


async def test_a_call_alone_is_written_at_once(registry: AsyncRegistry) -> None:
    """Not at the end of the turn. What comes in the same turn after it is gathered as ever."""
    assert isinstance(await claim(registry, "first"), Claimed)
    transport: Any = transport_of(registry)
    ops = ops_of(registry)
    calls = [transport.call(ops.touch_model(f"m{at}", "S3", None, None)) for at in range(5)]
    assert under_way(registry) == [1]
    await turns(1)
    assert under_way(registry) == [1, 4]
    assert await asyncio.gather(*calls) == [False] * 5


async def test_those_who_ask_again_and_again_share_two_calls(registry: AsyncRegistry, proxy: Proxy) -> None:
    """The server works on one half, while the callers of the other ask."""
    in_a_turn: list[list[int]] = []

    async def ask(name: str) -> None:
        for at in range(4):
            await claim(registry, f"{name} {at}")
            in_a_turn.append(under_way(registry))

    await asyncio.gather(*(ask(f"m{at}") for at in range(50)))
    # The first was written at once, and may stay apart: each turn is two calls, or three.
    assert 4 * 2 <= proxy.sent["claim"] <= 4 * 3
    assert max(items for seen in in_a_turn[50:] for items in seen) <= 25


async def test_a_batch_that_is_written_before_its_turn_ends_can_be_cancelled(
    registry: AsyncRegistry, proxy: Proxy, other: Registry
) -> None:
    """Claims of a batch that is written early are released when their tasks are cancelled."""
    await asyncio.gather(*(claim(registry, f"first {at}") for at in range(20)))
    (held,) = proxy.pause("claim")
    tasks = [start(claim(registry, f"m{at}")) for at in range(10)]
    seen: list[list[int]] = []

    async def cancel() -> None:
        seen.append(under_way(registry))
        for task in tasks[:5]:
            task.cancel()

    cancelling = start(cancel())  # after the first ten have asked, and before the others do
    tasks += [start(claim(registry, f"m{at}")) for at in range(10, 20)]
    await cancelling
    await arrived(held)
    assert seen == [[10]], "the first half has gone out"
    held.let_go()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in done[:5]] == [True] * 5
    won = [each for each in done if isinstance(each, Claimed)]
    assert len(won) == 15, "those who were not cancelled"
    await registry.close()  # waits for what is given back
    freed = [other.try_claim_for_download(f"m{at}", "S3", lease=LEASE) for at in range(20)]
    assert [isinstance(each, Claimed) for each in freed] == [True] * 5 + [False] * 15


async def test_a_cut_between_two_batches_of_one_turn(
    registry: AsyncRegistry, proxy: Proxy, other: Registry
) -> None:
    """The first half was run and answered, the second never arrived: both are asked for again, and once won."""
    await asyncio.gather(*(claim(registry, f"first {at}") for at in range(20)))
    first, second = proxy.pause("claim", times=2)
    tasks = [start(claim(registry, f"m{at}")) for at in range(20)]
    await arrived(first)
    assert under_way(registry) == [10, 10]
    proxy.lose_replies("claim")
    first.let_go()
    second.let_go()
    won = await asyncio.gather(*tasks)
    assert [type(each) for each in won] == [Claimed] * 20
    tokens = {each.claim.model_name: each.claim.token for each in won if isinstance(each, Claimed)}
    assert tokens == {name: record_of(other, name).token for name in tokens}, "each is its owner's"


async def test_many_kinds_of_calls_at_once(registry: AsyncRegistry, other: Registry) -> None:
    """Concurrent calls of many kinds get their own replies."""
    other.set_status("there", "S3", "DOWNLOADED", "by hand")
    calls: list[tuple[Awaitable[Any], object]] = []
    for at in range(100):
        calls += [
            (registry.get_status("there"), ModelStatus.DOWNLOADED),
            (registry.touch_model(f"absent {at}"), False),
            (registry.get_model_record(f"absent {at}", "S3"), None),
            (claim(registry, "there"), AlreadyExists(ModelStatus.DOWNLOADED)),
            (registry.get_status_counts(), (0, 1, 0)),
            (registry.delete_model(f"absent {at}", "S3", expected_token=at), 0),
        ]
    assert await asyncio.gather(*(call for call, _ in calls)) == [answer for _, answer in calls]


async def test_one_damaged_record_fails_its_own_call_alone(
    registry: AsyncRegistry, other: Registry, server_url: str, namespace: str
) -> None:
    """A damaged record fails its own calls alone, each with an error of its own."""
    for name in ("a", "b", "c"):
        other.set_status(name, "S3", "DOWNLOADED")
    with redis.Redis.from_url(server_url) as raw:
        raw.set(f"pyregistry:{{{namespace}}}:model:S3:b", "nonsense")
    calls = [registry.get_model_record(name, "S3") for name in ("a", "b", "c", "b")]
    a, b, c, same = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(each, "model_name", None) for each in (a, b, c)] == ["a", "b", "c"]
    assert isinstance(b, Exception)
    assert isinstance(same, Exception)
    assert b is not same, "each has an error of his own"


async def test_what_is_no_text_in_a_record_fails_its_own_claim_alone(
    registry: AsyncRegistry, other: Registry, server_url: str
) -> None:
    """The reply names the owner before, and somebody has put other bytes there."""
    before = other.try_claim_for_download("broken", "S3", lease=LEASE, owner="an owner")
    assert isinstance(before, Claimed)
    assert other.release_download_claim(before.claim)
    key = f"pyregistry:{{{registry.namespace}}}:model:S3:broken"
    with redis.Redis.from_url(server_url) as raw:
        stored: Any = raw.get(key)
        raw.set(key, stored.replace(b"an owner", b"an \xff\xfe\xfd\xfc\xfb"))
    calls = [claim(registry, name) for name in ("first", "broken", "last")]
    results: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [Claimed, DamagedRecord, Claimed]
    assert await registry.get_status("first") is ModelStatus.DOWNLOADING, "on the same connection"


async def test_what_may_be_sent_again_shares_nothing_with_what_may_not(
    registry: AsyncRegistry, proxy: Proxy, other: Registry
) -> None:
    """Idempotent and other requests are sent in separate commands."""
    proxy.lose_replies("claim")
    endless, leased, status, touch = await asyncio.gather(
        claim(registry, "endless", lease=None),
        claim(registry, "leased"),
        registry.set_status("set", "S3", "ERROR"),
        registry.touch_model("set", "S3"),
        return_exceptions=True,
    )
    # The first in the pipe was run, and its reply lost; what was behind it was lost with the connection.
    assert isinstance(endless, OutcomeUnknown)
    assert record_of(other, "endless").token
    assert isinstance(leased, Claimed)
    assert isinstance(status, OutcomeUnknown)
    assert touch is False
    assert proxy.sent["claim"] == 2
    assert proxy.sent["set_status"] == 0


async def test_what_cannot_travel_fails_alone(registry: AsyncRegistry) -> None:
    """A request that can not be encoded fails alone."""
    transport: Any = transport_of(registry)
    unfit: Any = object()
    call = transport.call(
        PlainRequest(CommandTemplate("unfit", None, verb="ECHO"), lambda replies: replies[0], argv=[unfit])
    )
    told: Any = await asyncio.gather(call, registry.get_status("model"), return_exceptions=True)
    assert isinstance(told[0], TypeError)
    assert told[1] is None


# Who asks the same


def keep_from_being_alone(registry: AsyncRegistry) -> asyncio.Task[Any]:
    """What is asked after this in the same turn is gathered: this is written at once."""
    return start(registry.get_status("another", "S3"))


async def test_claims_of_one_model_are_one_request(registry: AsyncRegistry, proxy: Proxy) -> None:
    """Equal claims of one model are one request with one winner."""
    keep_from_being_alone(registry)
    results = await asyncio.gather(*(claim(registry) for _ in range(200)))
    (winner,) = [result.claim for result in results if isinstance(result, Claimed)]
    lost = [result for result in results if isinstance(result, AlreadyExists)]
    assert lost == [AlreadyExists(ModelStatus.DOWNLOADING, winner.lease_expires_at, LEASE)] * 199
    assert proxy.sent["claim"] == 1
    assert await registry.release_download_claim(winner)


@pytest.mark.parametrize(
    "difference",
    [{"lease": 31.0}, {"owner": "x"}, {"max_attempts": 2}, {"expected_bytes": 5}, {"claim_id": "x"}],
)
async def test_claims_that_differ_are_asked_for_each(
    registry: AsyncRegistry, proxy: Proxy, difference: dict[str, Any]
) -> None:
    """Claims of one model with different options are requests of their own."""
    (held,) = proxy.pause("claim")
    both = [start(claim(registry)), start(claim(registry, **difference))]
    await arrived(held)
    in_one = held.raw.count(b":model:")
    held.let_go()
    first, second = await asyncio.gather(*both)
    assert max(in_one, proxy.log_of("claim")) == 2, "in one batch, or in two"
    assert isinstance(first, Claimed)
    assert isinstance(second, AlreadyExists)
    assert second.lease_left == pytest.approx(LEASE, abs=SECONDS), "the lease of the first"


@pytest.mark.parametrize(
    "wrong",
    [
        {"lease": True},
        {"lease": "1.0"},
        {"expected_bytes": False},
        {"max_attempts": True},
        {"max_attempts": 1.0},
        {"claim_id": ""},
        {"owner": ""},
        {"revision": ""},
    ],
    ids=str,
)
async def test_bad_arguments_join_nobody(
    registry: AsyncRegistry, proxy: Proxy, wrong: dict[str, Any]
) -> None:
    """Some are equal to good ones that somebody asks with."""
    options: dict[str, Any] = {"lease": 1.0} | ({"max_attempts": 1} if "max_attempts" in wrong else {})
    good = start(claim(registry, **options))
    await turns(1)
    with pytest.raises(InvalidArgument):
        await claim(registry, **{**options, **wrong})
    assert isinstance(await good, Claimed)
    assert proxy.log_of("claim") == 1


async def test_many_kinds_of_claims_join_all_the_same(registry: AsyncRegistry, proxy: Proxy) -> None:
    """A revision for each model: as many kinds of claims as models."""
    models = range(BATCH - 1)
    keep_from_being_alone(registry)
    calls = [start(claim(registry, f"model-{at}", revision=f"r{at}")) for _ in range(2) for at in models]
    results = await asyncio.gather(*calls)
    assert [type(result) for result in results] == [Claimed] * len(models) + [AlreadyExists] * len(models)
    assert proxy.log_of("claim") == 1


async def test_one_claim_of_many_is_told_apart(registry: AsyncRegistry) -> None:
    """Of two equal batches of claims, one wins every model."""
    # Two calls for the same models, in one batch: the script judges the second after the first.
    models = [("a", "S3"), ("b", "S3")]
    first, second = await asyncio.gather(*(registry.try_claim_many(models, lease=LEASE) for _ in range(2)))
    assert [type(result) for result in first] == [Claimed] * 2
    assert [type(result) for result in second] == [AlreadyExists] * 2


@pytest.mark.parametrize("how", ["nothing", "taken over", "set_status", "deleted"])
async def test_a_claim_is_not_told_of_what_ended_before_it(
    registry: AsyncRegistry, proxy: Proxy, other: Registry, how: str
) -> None:
    """The answer to the first is on its way; meanwhile another client changes the model, and a second task asks."""
    lease = 0.05 if how == "taken over" else LEASE
    (held,) = proxy.pause("claim", reply=True)
    first = start(claim(registry, lease=lease))
    await arrived(held)
    if how == "taken over":
        theirs = await asyncio.to_thread(until, lambda: won_by(other), "its lease is over")
        assert isinstance(theirs, Claimed)
        other.finish_download_claim(theirs.claim, ModelStatus.DOWNLOADED)
    elif how == "set_status":
        other.set_status("model", "S3", ModelStatus.DOWNLOADED)
    elif how == "deleted":
        other.delete_model("model", "S3")
    second = start(claim(registry, lease=lease))
    await turns()
    held.let_go()
    won, later = await asyncio.gather(first, second)
    assert isinstance(won, Claimed)
    assert proxy.sent["claim"] == 2
    if how == "deleted":
        assert isinstance(later, Claimed)
        assert later.claim.token > won.claim.token
    else:
        assert isinstance(later, AlreadyExists)
        assert later.status == ("DOWNLOADING" if how == "nothing" else "DOWNLOADED")


def won_by(other: Registry) -> Claimed | None:
    result = other.try_claim_for_download("model", "S3", lease=LEASE)
    return result if isinstance(result, Claimed) else None


async def test_an_answer_is_never_older_than_its_question(
    registry: AsyncRegistry, proxy: Proxy, other: Registry
) -> None:
    """A call does not share the reply to a request sent before it."""
    theirs = other.try_claim_for_download("model", "S3", lease=LEASE)
    assert isinstance(theirs, Claimed)
    calls: list[tuple[str, Callable[[], Coroutine[Any, Any, Any]]]] = [
        ("claim", lambda: claim(registry)),
        ("MGET", lambda: registry.get_status("model", "S3")),
    ]
    asked = []
    for name, call in calls:
        (held,) = proxy.pause(name, reply=True)
        asked.append(start(call()))
        await arrived(held)
        # The server has answered this one already. Who asks from now on must hear what comes now.
        if name == "MGET":
            other.finish_download_claim(theirs.claim, ModelStatus.DOWNLOADED)
            asked += [start(call()) for _, call in calls]
            await turns()
        held.let_go()
        if name == "claim":
            assert (await asked[0]).status is ModelStatus.DOWNLOADING
    _, early, late_claim, late_read = await asyncio.gather(*asked)
    assert early is ModelStatus.DOWNLOADING
    assert late_claim == AlreadyExists(ModelStatus.DOWNLOADED)
    assert late_read is ModelStatus.DOWNLOADED


async def test_later_claims_are_asked_for_together(
    registry: AsyncRegistry, proxy: Proxy, other: Registry
) -> None:
    """Claims made while an equal one is in flight share the next request."""
    theirs = other.try_claim_for_download("model", "S3", lease=LEASE)
    assert isinstance(theirs, Claimed)
    (held,) = proxy.pause("claim", reply=True)
    early = start(claim(registry))
    await arrived(held)
    other.finish_download_claim(theirs.claim, ModelStatus.DOWNLOADED)
    late = [start(claim(registry)) for _ in range(10)]
    await turns()
    held.let_go()
    assert (await early).status is ModelStatus.DOWNLOADING
    assert await asyncio.gather(*late) == [AlreadyExists(ModelStatus.DOWNLOADED)] * 10
    assert proxy.sent["claim"] == 2


# Cancellation


async def test_cancelled_before_it_is_written(registry: AsyncRegistry, proxy: Proxy, other: Registry) -> None:
    """A claim cancelled before it is written is not sent."""
    another = start(registry.get_status("another", "S3"))
    task = start(claim(registry))
    await asyncio.sleep(0)
    await cancelled(task)
    await another
    assert proxy.sent["claim"] == 0
    assert other.get_status("model") is None


@pytest.mark.parametrize("reply", [False, True], ids=["before it is run", "after it was run"])
@pytest.mark.parametrize("how", ["claim", "retry", "many"])
async def test_a_claim_that_nobody_waits_for_is_released(
    registry: AsyncRegistry, proxy: Proxy, other: Registry, reply: bool, how: str
) -> None:
    """A claim whose task is cancelled in flight is released."""
    calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "claim": lambda: claim(registry),
        "retry": lambda: registry.try_reset_error_for_retry("model", "S3"),
        "many": lambda: registry.try_claim_many([("model", "S3"), ("b", "S3")]),
    }
    if how == "retry":
        other.set_status("model", "S3", "ERROR")
    script = "retry" if how == "retry" else "claim"
    (held,) = proxy.pause(script, reply=reply)
    task = start(calls[how]())
    await arrived(held)
    await cancelled(task)
    held.let_go()
    await comes(lambda: proxy.sent["release"], "it is released")
    assert proxy.connections_of("release") == proxy.connections_of(script)
    again = await claim(registry)
    assert isinstance(again, Claimed)
    assert again.claim.taken_over, "it was given back, and is free at once"
    if how == "many":
        assert isinstance(other.try_claim_for_download("b", "S3", lease=LEASE), Claimed)


async def test_a_claim_with_a_name_of_its_own_stays(
    registry: AsyncRegistry, proxy: Proxy, other: Registry
) -> None:
    """A cancelled claim with a claim_id is not released."""
    # Who named it may ask for it again by that name.
    (held,) = proxy.pause("claim", reply=True)
    task = start(claim(registry, claim_id="ours"))
    await arrived(held)
    await cancelled(task)
    held.let_go()
    again = await claim(registry, claim_id="ours")
    assert isinstance(again, Claimed)
    assert again.claim.token == record_of(other).token
    assert proxy.sent["release"] == 0


async def test_the_next_who_waits_gets_the_claim(
    registry: AsyncRegistry, proxy: Proxy, other: Registry
) -> None:
    """A claim whose first waiter is cancelled goes to the next waiter."""
    (held,) = proxy.pause("claim", reply=True)
    keep_from_being_alone(registry)
    tasks = [start(claim(registry)) for _ in range(3)]
    await arrived(held)
    await cancelled(tasks[0])
    held.let_go()
    won, lost = await asyncio.gather(*tasks[1:])
    assert isinstance(won, Claimed)
    assert isinstance(lost, AlreadyExists)
    assert won.claim.token == record_of(other).token
    assert (proxy.sent["claim"], proxy.sent["release"]) == (1, 0)


@pytest.mark.parametrize("own_name", [False, True])
async def test_cancelled_between_the_answer_and_its_turn(
    registry: AsyncRegistry, proxy: Proxy, own_name: bool
) -> None:
    """A claim cancelled after its reply arrived is released unless it has a claim_id."""

    async def cancel_the_second() -> None:
        await claim(registry, "first")
        # Its answer came in the same reply: it has been told, and has not had its turn yet.
        second.cancel()

    first = start(cancel_the_second())
    second = start(claim(registry, "second", claim_id="ours" if own_name else None))
    await first
    await asyncio.wait({second})
    assert second.cancelled()
    if own_name:  # who named it may ask for it again by that name
        again = await claim(registry, "second", claim_id="ours")
        assert isinstance(again, Claimed)
        assert not again.claim.taken_over
        assert proxy.sent["release"] == 0
        return
    await comes(lambda: proxy.sent["release"], "it is released")
    again = await claim(registry, "second")
    assert isinstance(again, Claimed)
    assert again.claim.taken_over


async def test_what_is_in_doubt_and_not_wanted_is_found_and_released(
    registry: AsyncRegistry, proxy: Proxy
) -> None:
    """A cancelled claim whose reply is lost is sent again and released."""
    # The claim was run, its reply is lost, and its caller is gone: it is asked for again, to be given back.
    (held,) = proxy.pause("claim", reply=True)
    task = start(claim(registry))
    await arrived(held)
    await cancelled(task)
    proxy.cut()
    held.let_go()
    await comes(lambda: proxy.sent["release"], "it is released")
    assert proxy.sent["claim"] == 2


async def test_a_cancelled_call_moves_nobody_elses_answer(registry: AsyncRegistry, proxy: Proxy) -> None:
    """Cancelled calls leave the others their own replies."""
    names = [f"m{at}" for at in range(60)]
    await asyncio.gather(*(registry.set_status(name, "S3", "ERROR", name) for name in names))
    (held,) = proxy.pause("read", reply=True)
    tasks = [start(registry.get_model_record(name, "S3")) for name in names]
    await arrived(held)
    for task in tasks[::3]:
        await cancelled(task)
    held.let_go()
    for at, task in enumerate(tasks):
        if at % 3:
            assert (await task).message == f"m{at}"


async def test_a_storm_of_cancellations(registry: AsyncRegistry, other: Registry) -> None:
    """Of many claims with random cancellations, every completed one is held and every other released."""
    chance = random.Random(7)
    tasks = {f"m{at}": start(claim(registry, f"m{at}")) for at in range(1000)}
    for at, name in enumerate(chance.sample(sorted(tasks), 700)):
        tasks[name].cancel()
        if at % 20 == 0:
            await turns(chance.randrange(5))
    await asyncio.wait(tasks.values())
    won = {name: task.result() for name, task in tasks.items() if not task.cancelled()}
    assert len(won) >= 300
    for name, result in won.items():
        assert isinstance(result, Claimed)
        assert result.claim.model_name == name, "nobody has another's answer"
    # Whatever was won for those who are gone is given back.
    lost = {name for name in tasks if name not in won}

    def given_back() -> bool:
        for each in other.try_claim_many([(name, "S3") for name in lost], lease=LEASE):
            if isinstance(each, Claimed):
                lost.discard(each.claim.model_name)
        return not lost

    await comes(given_back, "they are free")
    for name, result in list(won.items())[::50]:
        assert isinstance(result, Claimed)
        assert record_of(other, name).token == result.claim.token


async def test_closing_waits_for_what_is_given_back(proxy: Proxy, namespace: str, other: Registry) -> None:
    """close waits for the release of cancelled claims."""
    registry = AsyncRegistry.from_url(proxy.url, namespace)
    (held,) = proxy.pause("claim")
    task = start(claim(registry))
    await arrived(held)
    await cancelled(task)
    closing = start(registry.close())
    await turns()
    held.let_go()
    await closing
    await comes(lambda: not proxy.open, "the connection ends")
    assert proxy.sent["release"] == 1
    with pytest.raises(RegistryClosed):
        await claim(registry)
    again = other.try_claim_for_download("model", "S3", lease=LEASE)
    assert isinstance(again, Claimed)
