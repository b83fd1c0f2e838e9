"""Requests that are sent twice, or arrive late: what the server did stays done, once.

A proxy loses the reply after the server has run the script, or keeps a request back and delivers it later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyregistry import (
    AlreadyExists,
    AsyncRegistry,
    Claim,
    Claimed,
    EventKind,
    ModelRef,
    ModelStatus,
    OutcomeUnknown,
    Registry,
)
from pyregistry._redis.protocol.events import decode_events
from pyregistry._redis.protocol.keys import Keyspace
from tests.support.faults.proxy import Held, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.clients import Connect

NAME: Final = "acme/model"
PROVIDER: Final = "S3"


@pytest.fixture
def registry(connect_any: Connect, proxy: Proxy) -> Registry:
    """The client under test, behind the proxy."""
    return connect_any(url=proxy.url)


@pytest.fixture
def server(server_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server_url) as server:
        yield server


class Events:
    """What was published since the last look."""

    def __init__(self, server: redis.Redis, namespace: str) -> None:
        self._server = server
        self._channel = Keyspace(namespace).channel
        self._pubsub: Any = server.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # in redis-py
        self._pubsub.ssubscribe(self._channel)
        self.kinds()

    def kinds(self) -> list[EventKind]:
        """Their kinds, in order."""
        # What comes before this message is all there is.
        self._server.spublish(self._channel, b"that is all")
        kinds: list[EventKind] = []
        while True:
            message = self._pubsub.get_message(timeout=20.0)
            if message is None or message["type"] != "smessage":
                continue
            if message["data"] == b"that is all":
                return kinds
            kinds += [event.kind for event in decode_events(message["data"])]

    def close(self) -> None:
        self._pubsub.close()


@pytest.fixture
def events(server: redis.Redis, namespace: str) -> Iterator[Events]:
    events = Events(server, namespace)
    yield events
    events.close()


def claimed(registry: Registry, name: str = NAME, **options: Any) -> Claim:
    result = registry.try_claim_for_download(name, PROVIDER, **{"lease": 30.0, **options})
    assert isinstance(result, Claimed)
    return result.claim


def failed(registry: Registry, name: str = NAME) -> Claim:
    claim = claimed(registry, name)
    assert registry.finish_download_claim(claim, ModelStatus.ERROR, "the disk is full")
    return claim


def stored(server: redis.Redis, namespace: str) -> dict[str, object]:
    """Every key of the namespace and what it holds."""
    found: dict[str, object] = {}
    for raw in server.scan_iter(match=f"pyregistry:{{{namespace}}}:*"):
        key = raw.decode()
        kind = server.type(key)
        if kind == b"zset":
            found[key] = server.zrange(key, 0, -1, withscores=True)
        else:
            found[key] = server.hgetall(key) if kind == b"hash" else server.get(key)
    return found


# The reply is lost


def test_a_claim_gets_the_same_token(
    registry: Registry, proxy: Proxy, other: Registry, events: Events
) -> None:
    """A claim sent again returns the claim of the first request and publishes one event."""
    proxy.lose_replies("claim")
    claim = claimed(registry)
    record = other.get_model_record(NAME, PROVIDER)
    assert record is not None
    assert (record.token, record.attempts) == (claim.token, 1)
    assert not claim.taken_over
    assert proxy.sent["claim"] == 2
    assert events.kinds() == [EventKind.CLAIMED]


def test_a_claim_of_many_gets_the_same_tokens(
    registry: Registry, proxy: Proxy, other: Registry, events: Events
) -> None:
    """A batch of claims sent again returns the claims of the first request."""
    claimed(other, "m3")
    proxy.lose_replies("claim")
    results = registry.try_claim_many([(f"m{at}", PROVIDER) for at in range(6)], lease=30.0)
    assert [isinstance(result, Claimed) for result in results] == [at != 3 for at in range(6)]
    for result in results:
        if isinstance(result, Claimed):
            record = other.get_model_record(result.claim.model_name, PROVIDER)
            assert record is not None
            assert (record.token, record.attempts) == (result.claim.token, 1)
    assert proxy.sent["claim"] == 2
    assert events.kinds() == [EventKind.CLAIMED] * 6


def test_a_claim_that_is_kept_alive_gets_the_same_token(
    registry: Registry, proxy: Proxy, other: Registry
) -> None:
    """A kept claim sent again returns the claim of the first request."""
    proxy.lose_replies("claim")
    result = registry.try_claim_for_download(NAME, PROVIDER)
    assert isinstance(result, Claimed)
    record = other.get_model_record(NAME, PROVIDER)
    assert record is not None
    assert record.token == result.claim.token
    assert registry.release_download_claim(result.claim)


def test_a_claim_that_is_lost_to_another_stays_lost(
    registry: Registry, proxy: Proxy, other: Registry
) -> None:
    """A failed claim sent again fails again."""
    theirs = claimed(other)
    proxy.lose_replies("claim", times=2)
    result = registry.try_claim_for_download(NAME, PROVIDER, lease=30.0)
    assert isinstance(result, AlreadyExists)
    assert other.refresh_download_claim(theirs) is not None


def test_a_takeover_tells_the_previous_owner_again(
    registry: Registry, proxy: Proxy, other: Registry, events: Events
) -> None:
    """A takeover sent again returns the former owner again."""
    theirs = claimed(other)
    assert other.refresh_download_claim(theirs, bytes_done=700)
    assert other.release_download_claim(theirs)
    events.kinds()
    proxy.lose_replies("claim")
    claim = claimed(registry)
    assert claim.taken_over
    assert (claim.previous_owner, claim.previous_bytes_done) == ("other", 700)
    assert events.kinds() == [EventKind.TAKEN_OVER]


def test_a_retry_gets_the_same_token(
    registry: Registry, proxy: Proxy, other: Registry, events: Events
) -> None:
    """A retry sent again returns the claim of the first request."""
    failed(other)
    events.kinds()
    proxy.lose_replies("retry")
    claim = registry.try_reset_error_for_retry(NAME, PROVIDER, lease=30.0)
    record = other.get_model_record(NAME, PROVIDER)
    assert claim is not None
    assert record is not None
    assert (record.token, record.attempts) == (claim.token, 2)
    assert proxy.sent["retry"] == 2
    assert events.kinds() == [EventKind.RETRIED]


def test_a_renewal_is_stored(registry: Registry, proxy: Proxy, other: Registry) -> None:
    """A renewal sent again is stored once and succeeds."""
    claim = claimed(registry)
    proxy.lose_replies("renew")
    renewed = registry.refresh_download_claim(claim, lease=60.0, bytes_done=5, message="half")
    record = other.get_model_record(NAME, PROVIDER)
    assert renewed is not None
    assert record is not None
    assert record.lease_expires_at == renewed.lease_expires_at
    assert (record.token, record.bytes_done, record.message) == (claim.token, 5, "half")
    assert proxy.sent["renew"] == 2


@pytest.mark.parametrize(
    ("status", "kind"), [("DOWNLOADED", EventKind.DOWNLOADED), ("ERROR", EventKind.FAILED)]
)
def test_a_finish_is_true(
    registry: Registry, proxy: Proxy, other: Registry, events: Events, status: str, kind: EventKind
) -> None:
    """A finish sent again succeeds and publishes one event."""
    claim = claimed(registry)
    events.kinds()
    proxy.lose_replies("finish")
    assert registry.finish_download_claim(claim, status, "so it ended") is True
    record = other.get_model_record(NAME, PROVIDER)
    assert record is not None
    assert (record.status, record.token, record.message) == (status, claim.token, "so it ended")
    assert proxy.sent["finish"] == 2
    assert events.kinds() == [kind]


def test_a_finish_is_true_even_when_somebody_has_retried_since(
    registry: Registry, proxy: Proxy, other: Registry, events: Events
) -> None:
    """A finish sent again succeeds after another client's retry, and does not end it."""
    claim = claimed(registry)
    events.kinds()
    retries: list[Claim | None] = []
    proxy.lose_replies(
        "finish",
        then=lambda: retries.append(other.try_reset_error_for_retry(NAME, PROVIDER, lease=30.0)),
    )
    assert registry.finish_download_claim(claim, ModelStatus.ERROR, "the disk is full") is True
    (retry,) = retries
    assert retry is not None
    assert retry.token > claim.token
    assert events.kinds() == [EventKind.FAILED, EventKind.RETRIED]
    assert other.finish_download_claim(retry, ModelStatus.DOWNLOADED) is True


def test_a_release_counts_once(registry: Registry, proxy: Proxy, other: Registry, events: Events) -> None:
    """A release sent again gives one attempt back."""
    failed(other)
    claim = registry.try_reset_error_for_retry(NAME, PROVIDER, lease=30.0)
    assert claim is not None
    assert claim.attempts == 2
    events.kinds()
    proxy.lose_replies("release")
    assert registry.release_download_claim(claim) is True
    record = other.get_model_record(NAME, PROVIDER)
    assert record is not None
    assert record.attempts == 1
    assert proxy.sent["release"] == 2
    assert events.kinds() == [EventKind.RELEASED]


def test_touches_are_known(registry: Registry, proxy: Proxy, other: Registry) -> None:
    """A touch sent again tells which models exist."""
    other.set_status("old", PROVIDER, ModelStatus.DOWNLOADED)
    other.set_status(NAME, PROVIDER, ModelStatus.DOWNLOADED)
    proxy.lose_replies("touch")
    assert registry.touch_models([ModelRef("old", PROVIDER), ModelRef("absent", PROVIDER)]) == [True, False]
    assert [record.model_name for record in other.get_models_by_last_used()] == [NAME, "old"]
    assert proxy.sent["touch"] == 2


def test_a_delete_by_token_is_done_once_and_may_count_nothing(
    registry: Registry, proxy: Proxy, other: Registry, events: Events
) -> None:
    """A delete by token sent again succeeds and may count nothing."""
    token = failed(other).token
    events.kinds()
    proxy.lose_replies("delete")
    assert registry.delete_model(NAME, PROVIDER, expected_token=token) == 0
    assert other.get_status(NAME, PROVIDER) is None
    assert proxy.sent["delete"] == 2
    assert events.kinds() == [EventKind.DELETED]


@pytest.mark.parametrize("name", ["MGET", "read", "page", "counts"])
def test_reads_are_sent_again(registry: Registry, proxy: Proxy, other: Registry, name: str) -> None:
    """A read is sent again after a lost request and a lost reply."""
    other.set_status(NAME, PROVIDER, ModelStatus.DOWNLOADED)
    reads: dict[str, Callable[[], object]] = {
        "MGET": lambda: registry.get_status(NAME),
        "read": lambda: registry.get_model_record(NAME),
        "page": registry.get_models_by_last_used,
        "counts": registry.get_status_counts,
    }
    undisturbed = reads[name]()
    proxy.lose_replies(name)
    proxy.lose_requests(name)
    assert reads[name]() == undisturbed
    assert proxy.sent[name] == 3


def test_a_reply_that_is_lost_again_and_again_is_an_unknown_outcome(
    registry: Registry, proxy: Proxy, other: Registry
) -> None:
    """A claim without any reply raises OutcomeUnknown, and its claim_id finds it."""
    proxy.lose_replies("claim", times=100)
    with pytest.raises(OutcomeUnknown) as caught:
        registry.try_claim_for_download(NAME, PROVIDER, lease=30.0, claim_id="ours")
    assert caught.value.operation == "claim"
    assert proxy.sent["claim"] == 4
    # The caller who named its claim finds it again by that name.
    record = other.get_model_record(NAME, PROVIDER)
    again = other.try_claim_for_download(NAME, PROVIDER, lease=30.0, claim_id="ours")
    assert record is not None
    assert isinstance(again, Claimed)
    assert again.claim.token == record.token


# What is not sent again


@pytest.mark.parametrize("lose", [Proxy.lose_replies, Proxy.lose_requests])
@pytest.mark.parametrize(
    "call",
    ["claim", "claim many", "delete", "delete many", "renew", "renew many", "retry", "set_status"],
)
def test_what_could_undo_others_is_sent_once(
    registry: Registry, proxy: Proxy, other: Registry, lose: Callable[[Proxy, str], None], call: str
) -> None:
    """A request that is not idempotent is sent once."""
    if call == "retry":
        failed(other)
    renewed = [claimed(registry, f"m{at}") for at in range(3)] if call.startswith("renew") else []
    # One claim that never ends is enough to make a batch unsafe.
    endless = msgspec.structs.replace(renewed[1], lease=None) if renewed else None
    calls: dict[str, Callable[[], object]] = {
        "claim": lambda: registry.try_claim_for_download(NAME, PROVIDER, lease=None),
        "claim many": lambda: registry.try_claim_many([(NAME, PROVIDER), ("b", PROVIDER)], lease=None),
        "delete": lambda: registry.delete_model(NAME, PROVIDER),
        "delete many": lambda: registry.delete_model(NAME),
        "renew": lambda: registry.refresh_download_claim(renewed[0], lease=None),
        "renew many": lambda: registry.refresh_many([renewed[0], endless or renewed[1], renewed[2]]),
        "retry": lambda: registry.try_reset_error_for_retry(NAME, PROVIDER, lease=None),
        "set_status": lambda: registry.set_status(NAME, PROVIDER, ModelStatus.ERROR, "by hand"),
    }
    script = call.partition(" ")[0]
    seen = proxy.sent[script]
    lose(proxy, script)
    with pytest.raises(OutcomeUnknown) as caught:
        calls[call]()
    assert caught.value.operation == script
    came = [name for _, name in proxy.log].count(script)
    assert came == seen + 1, "it came more than once"
    assert proxy.sent[script] - seen == (1 if lose is Proxy.lose_replies else 0)


def test_what_is_not_sent_again_may_go_out_on_another_connection_first(
    registry: Registry, proxy: Proxy, other: Registry
) -> None:
    """A write whose connection was closed before the request is sent on another one."""
    registry.get_status(NAME)
    proxy.cut()
    # The pool finds the connection closed before anything is sent: nothing can have run.
    registry.set_status(NAME, PROVIDER, ModelStatus.DOWNLOADED)
    assert other.get_status(NAME) is ModelStatus.DOWNLOADED


def test_a_batch_that_fails_says_what_was_won_before(registry: Registry, proxy: Proxy) -> None:
    """OutcomeUnknown of a batch has the results of the batches before it."""
    first = proxy.pause("claim")[0]
    first.let_go()
    proxy.lose_replies("claim", times=100)
    with pytest.raises(OutcomeUnknown) as caught:
        registry.try_claim_many([(f"m{at}", PROVIDER) for at in range(70)], lease=30.0)
    results = caught.value.results
    assert [isinstance(result, Claimed) for result in results] == [True] * 64 + [False] * 6
    assert results[64:] == [None] * 6


# Late copies


class Late:
    """A request of ours, answered on its second way; its first copy is still under way."""

    def __init__(
        self, registry: Registry, proxy: Proxy, other: Registry, server: redis.Redis, namespace: str
    ) -> None:
        self.registry, self.other = registry, other
        self._proxy, self._server, self._namespace = proxy, server, namespace

    def hold(self, script: str) -> Held:
        return self._proxy.hold(script)

    def changes_nothing(self, held: Held, answer: str) -> None:
        """The copy arrives now. ``answer``: the first word that the server says to it."""
        before = stored(self._server, self._namespace)
        (reply,) = msgspec.msgpack.decode(self._proxy.deliver(held))
        assert reply[0] == answer
        assert stored(self._server, self._namespace) == before


@pytest.fixture
def late(registry: Registry, proxy: Proxy, other: Registry, server: redis.Redis, namespace: str) -> Late:
    return Late(registry, proxy, other, server, namespace)


def test_a_late_claim_after_somebody_retried(late: Late) -> None:
    """A delayed copy of a claim changes nothing after another client's retry."""
    held = late.hold("claim")
    failed(late.registry)
    assert late.other.try_reset_error_for_retry(NAME, PROVIDER, lease=30.0)
    late.changes_nothing(held, "exists")


@pytest.mark.parametrize("status", ["DOWNLOADED", "ERROR"])
def test_a_late_claim_after_its_own_finish(late: Late, status: str) -> None:
    """A delayed copy of a claim changes nothing after its own finish."""
    held = late.hold("claim")
    assert late.registry.finish_download_claim(claimed(late.registry), status)
    late.changes_nothing(held, "exists")


def test_a_late_claim_after_its_own_release(late: Late) -> None:
    """A delayed copy of a claim changes nothing after its own release."""
    held = late.hold("claim")
    assert late.registry.release_download_claim(claimed(late.registry))
    late.changes_nothing(held, "exists")


def test_a_late_claim_after_it_was_taken_over(late: Late) -> None:
    """A delayed copy of a claim changes nothing after a takeover."""
    held = late.hold("claim")
    assert late.registry.release_download_claim(claimed(late.registry))
    assert claimed(late.other).taken_over
    late.changes_nothing(held, "exists")


def test_a_late_retry_after_its_own_end_and_another_retry(late: Late) -> None:
    """A delayed copy of a retry changes nothing after its own failure."""
    failed(late.other)
    held = late.hold("retry")
    claim = late.registry.try_reset_error_for_retry(NAME, PROVIDER, lease=30.0)
    assert claim is not None
    assert late.registry.finish_download_claim(claim, ModelStatus.ERROR)
    late.changes_nothing(held, "refused")


def test_a_late_retry_after_another_retry(late: Late) -> None:
    """A delayed copy of a retry changes nothing after another client's retry."""
    failed(late.other)
    held = late.hold("retry")
    claim = late.registry.try_reset_error_for_retry(NAME, PROVIDER, lease=30.0)
    assert claim is not None
    assert late.registry.finish_download_claim(claim, ModelStatus.ERROR)
    assert late.other.try_reset_error_for_retry(NAME, PROVIDER, lease=30.0)
    late.changes_nothing(held, "refused")


def test_a_late_renewal_after_its_own_finish(late: Late) -> None:
    """A delayed copy of a renewal changes nothing after its own finish."""
    claim = claimed(late.registry)
    held = late.hold("renew")
    assert late.registry.refresh_download_claim(claim, lease=600.0, bytes_done=1)
    assert late.registry.finish_download_claim(claim, ModelStatus.ERROR)
    late.changes_nothing(held, "ended")


def test_a_late_renewal_after_somebody_retried(late: Late) -> None:
    """A delayed copy of a renewal changes nothing after another client's retry."""
    claim = claimed(late.registry)
    held = late.hold("renew")
    assert late.registry.refresh_download_claim(claim, lease=600.0, bytes_done=1)
    assert late.registry.finish_download_claim(claim, ModelStatus.ERROR)
    assert late.other.try_reset_error_for_retry(NAME, PROVIDER, lease=30.0)
    late.changes_nothing(held, "ended")


def test_a_late_renewal_after_a_set_status(late: Late) -> None:
    """A delayed copy of a renewal changes nothing after a set_status."""
    claim = claimed(late.registry)
    held = late.hold("renew")
    assert late.registry.refresh_download_claim(claim, lease=600.0, bytes_done=1)
    late.other.set_status(NAME, PROVIDER, ModelStatus.ERROR)
    assert late.other.try_reset_error_for_retry(NAME, PROVIDER, lease=30.0)
    late.changes_nothing(held, "lost")


@pytest.mark.parametrize("status", ["DOWNLOADED", "ERROR"])
def test_a_late_finish_after_somebody_claimed_again(late: Late, status: str) -> None:
    """A delayed copy of a finish changes nothing after another client's claim."""
    claim = claimed(late.registry)
    held = late.hold("finish")
    assert late.registry.finish_download_claim(claim, status)
    if status == "ERROR":
        assert late.other.try_reset_error_for_retry(NAME, PROVIDER, lease=30.0)
    else:
        assert late.other.delete_model(NAME, PROVIDER) == 1
        claimed(late.other)
    late.changes_nothing(held, "again" if status == "ERROR" else "lost")


def test_a_late_release_after_somebody_claimed_again(late: Late) -> None:
    """A delayed copy of a release changes nothing after another client's claim."""
    claim = claimed(late.registry)
    held = late.hold("release")
    assert late.registry.release_download_claim(claim)
    assert claimed(late.other).taken_over
    late.changes_nothing(held, "again")


def test_a_late_delete_by_token_after_somebody_claimed_again(late: Late) -> None:
    """A delayed copy of a delete by token changes nothing after another client's claim."""
    token = failed(late.other).token
    held = late.hold("delete")
    assert late.registry.delete_model(NAME, PROVIDER, expected_token=token) == 1
    claimed(late.other)
    late.changes_nothing(held, "other")


# A user's own client, which would send again by itself


@pytest.mark.parametrize("lease", [None, 60.0])
def test_what_must_not_run_twice_does_not_in_a_users_client(
    proxy: Proxy, namespace: str, server: redis.Redis, lease: float | None
) -> None:
    """The retry policy of a user's client sends no write twice that is not idempotent."""
    with redis.Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 5)) as client:
        registry = Registry(client, namespace)
        proxy.lose_replies("claim")
        if lease is None:
            with pytest.raises(OutcomeUnknown):
                registry.try_claim_for_download(NAME, PROVIDER, lease=None)
        else:
            assert isinstance(registry.try_claim_for_download(NAME, PROVIDER, lease=lease), Claimed)
        assert proxy.sent["claim"] == (1 if lease is None else 2)
        proxy.lose_replies("set_status")
        with pytest.raises(OutcomeUnknown):
            registry.set_status(NAME, PROVIDER, ModelStatus.DOWNLOADED)
        assert proxy.sent["set_status"] == 1
        assert registry.get_status(NAME) is ModelStatus.DOWNLOADED
        registry.close()


async def test_what_must_not_run_twice_does_not_in_a_users_client_on_a_loop(
    proxy: Proxy, namespace: str, server: redis.Redis
) -> None:
    """The retry policy of a user's asyncio client sends no write twice that is not idempotent."""
    retry = AsyncRetry(NoBackoff(), 5)
    async with redis.asyncio.Redis.from_url(proxy.url, retry=retry) as client:
        registry = AsyncRegistry(client, namespace)
        proxy.lose_replies("claim")
        with pytest.raises(OutcomeUnknown):
            await registry.try_claim_for_download(NAME, PROVIDER, lease=None)
        proxy.lose_replies("set_status")
        with pytest.raises(OutcomeUnknown):
            await registry.set_status(NAME, PROVIDER, ModelStatus.DOWNLOADED)
        assert (proxy.sent["claim"], proxy.sent["set_status"]) == (1, 1)
        assert await registry.get_status(NAME) is ModelStatus.DOWNLOADED
        await registry.close()
