"""Scenarios of claims and retries."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from pyregistry._core.values import KEPT, KEPT_LEASE, ProgressUpdate
from pyregistry.backend.conformance.scenario import Context, scenario
from pyregistry.backend.conformance.steps import (
    DOWNLOADED,
    DOWNLOADING,
    ERROR,
    HF,
    LONG_S,
    SHORT_S,
    at_once,
    finish,
    lease_end,
    model_key,
    model_keys,
    not_won,
    record_of,
    rejected,
    renewed_claim,
    report,
    try_claim,
    unchanged,
    wait_for,
    won_claim,
    won_retry,
)
from pyregistry.backend.values import Cancellation, Ending, StatusChange
from pyregistry.models import (
    AlreadyExists,
    Claim,
    Claimed,
    ModelRecord,
)

# Claims


@scenario
def a_claim_is_won_once(context: Context) -> None:
    """Of many threads of several clients that claim a model at once, one gets it, and the others learn of its lease."""
    clients = [context.client(f"client {number}") for number in range(4)]
    key = model_key()
    results = at_once([partial(try_claim, clients[number % 4], key) for number in range(16)])
    wins = [result.claim for result in results if isinstance(result, Claimed)]
    assert len(wins) == 1, f"{len(wins)} threads have won"
    for result in results:
        if not isinstance(result, Claimed):
            exists = not_won(result, DOWNLOADING)
            assert exists.lease_left is not None
            assert 0 < exists.lease_left <= LONG_S
            assert exists.lease_expires_at == wins[0].lease_expires_at
    assert record_of(clients[0], key).token == wins[0].token


@scenario
def a_claim_tells_what_was_claimed(context: Context) -> None:
    """A first claim has the arguments, the first attempt, and no earlier owner; the record shows the same."""
    backend = context.client()
    key = model_key("org/model", "Elsewhere", "a@b#c", "x:y/%")
    before = backend.lease_time()
    claim = won_claim(backend, key, expected_bytes=9)
    after = backend.lease_time()
    assert claim.ref == key.ref
    assert (claim.owner, claim.lease, claim.attempts) == ("one", LONG_S, 1)
    assert (claim.taken_over, claim.previous_owner, claim.previous_bytes_done) == (False, None, None)
    lease = timedelta(seconds=LONG_S)
    assert before <= lease_end(claim) - lease <= after
    record = record_of(backend, key)
    assert (record.model_name, record.provider, record.revision, record.subset) == key.ref
    assert (record.status, record.owner, record.token) == (DOWNLOADING, "one", claim.token)
    assert (record.attempts, record.bytes_total, record.bytes_done) == (1, 9, None)
    assert record.lease_expires_at == claim.lease_expires_at
    assert before <= record.created_at <= after
    assert record.last_used_at >= record.created_at
    assert (record.finished_at, record.retry_at, record.permanent, record.released) == (
        None,
        None,
        False,
        False,
    )
    assert record.message == "Starting download..."


@scenario
def a_claim_may_name_its_owner(context: Context) -> None:
    """The owner of a claim is the argument, cut at 64 bytes, or else the client; `KEPT` stands for 30 s."""
    backend = context.client()
    assert won_claim(backend, model_key("a"), owner="another").owner == "another"
    assert won_claim(backend, model_key("b"), owner="x" * 100).owner == "x" * 64
    kept = won_claim(backend, model_key("c"), lease=KEPT)
    assert (kept.owner, kept.lease) == ("one", KEPT_LEASE)
    assert won_claim(backend, model_key("d"), lease=7).lease == 7.0


@scenario
def tokens_grow(context: Context) -> None:
    """Every later claim of any client has a larger token, and so has a status that is set."""
    one, two = context.client(), context.client("two")
    key = model_key("again")
    tokens = [won_claim((one, two)[number % 2], model_key(f"m{number}")).token for number in range(6)]
    for each in (one, two):
        claim = won_claim(each, key)
        tokens.append(claim.token)
        each.set_status(key, StatusChange(ERROR))
        tokens.append(record_of(one, key).token)
        each.delete([key], expected_token=None, force=False)
    assert tokens == sorted(set(tokens)), tokens


@scenario
def revisions_and_subsets_are_models_of_their_own(context: Context) -> None:
    """Models that differ in provider, revision or subset alone are claimed and read apart."""
    backend = context.client()
    keys = [
        model_key("m", provider, revision, subset)
        for provider in (HF, "S3")
        for revision in (None, "main", "a#b")
        for subset in (None, "b", "b@main")
    ]
    claims = [won_claim(backend, key) for key in keys]
    finish(backend, claims[0])
    found = backend.read(keys)
    assert [each.token for each in found if isinstance(each, ModelRecord)] == [each.token for each in claims]
    assert [each.status for each in found if isinstance(each, ModelRecord)].count(DOWNLOADED) == 1


@scenario
def the_same_claim_id_is_the_same_claim(context: Context) -> None:
    """A claim that is asked for again by its id is the same claim, with a lease that only grows."""
    backend = context.client()
    key = model_key()
    first = won_claim(backend, key, claim_id="mine")
    again = won_claim(backend, key, claim_id="mine", lease=LONG_S / 2)
    assert (again.token, again.attempts) == (first.token, 1)
    assert again.lease_expires_at == first.lease_expires_at, "a lease was shortened"
    longer = won_claim(backend, key, claim_id="mine", lease=LONG_S * 2)
    assert lease_end(longer) > lease_end(first)
    not_won(try_claim(backend, key, claim_id="another"), DOWNLOADING)
    assert record_of(backend, key).token == first.token


@scenario
def a_claim_id_that_has_ended_wins_nothing(context: Context) -> None:
    """A late copy of the claim that ended last wins nothing, by `claim` or by `retry`, and changes nothing."""
    backend = context.client()
    failed, released, done = keys = model_keys(3)
    finish(backend, won_claim(backend, failed, claim_id="mine"), ERROR)
    assert backend.release(won_claim(backend, released, claim_id="mine")) == ""
    finish(backend, won_claim(backend, done, claim_id="mine"))
    for key, status in ((failed, ERROR), (released, DOWNLOADING), (done, DOWNLOADED)):
        late = partial(try_claim, backend, key, claim_id="mine")
        not_won(unchanged(backend, keys, late), status)
        rejected(unchanged(backend, keys, partial(backend.retry, key, lease=LONG_S, claim_id="mine")))


@scenario
def a_lost_owner_is_replaced(context: Context) -> None:
    """After the end of a lease another owner takes over, learns of the earlier one, and the latter can do nothing."""
    one, two = context.client(), context.client("two")
    key = model_key()
    lost = won_claim(one, key, lease=SHORT_S, expected_bytes=100)
    report(one, lost, bytes_done=60)
    not_won(try_claim(two, key), DOWNLOADING)
    wait_for(two, record_of(two, key).lease_expires_at)
    claim = won_claim(two, key)
    assert claim.token > lost.token
    assert claim.attempts == 2
    assert (claim.taken_over, claim.previous_owner, claim.previous_bytes_done) == (True, "one", 60)
    record = record_of(two, key)
    assert (record.bytes_done, record.bytes_total, record.previous_owner) == (None, 100, "one")

    def stale() -> None:
        (renewal,) = one.renew([lost], updates=[ProgressUpdate("late", 99)])
        assert rejected(renewal).lost
        assert one.finish(lost, Ending(DOWNLOADED))
        assert one.finish(lost, Ending(ERROR, "late"))
        assert one.release(lost)
        assert one.cancel(key, Cancellation(expected_token=lost.token)) is None
        assert one.delete([key], expected_token=lost.token, force=False) == 0

    unchanged(two, [key], stale)
    finish(two, claim)


@scenario
def an_owner_without_a_successor_may_go_on(context: Context) -> None:
    """A claim whose lease has ended still renews and finishes, as long as no other owner took over."""
    backend = context.client()
    claim = won_claim(backend, model_key(), lease=0.001)
    wait_for(backend, claim.lease_expires_at)
    renewed = renewed_claim(backend, claim)
    assert renewed.token == claim.token
    wait_for(backend, renewed.lease_expires_at)
    finish(backend, renewed)


@scenario
def a_claim_without_a_lease_never_ends(context: Context) -> None:
    """A claim with the lease None never ends, and is told so."""
    backend = context.client()
    claim = won_claim(backend, model_key(), lease=None)
    assert (claim.lease, claim.lease_expires_at) == (None, None)
    exists = not_won(try_claim(backend, model_key()), DOWNLOADING)
    assert (exists.lease_left, exists.lease_expires_at) == (None, None)
    assert record_of(backend, model_key()).lease_expires_at is None
    renewed = renewed_claim(backend, claim)
    assert renewed.lease_expires_at is None


@scenario
def lost_owners_use_up_the_attempts(context: Context) -> None:
    """A model whose owners were lost `max_attempts` times is in ERROR: for good, or until a cool-down ends."""
    backend = context.client()
    keys = model_keys(2)
    for key in keys:
        claim = won_claim(backend, key, lease=0.001, max_attempts=1)
        wait_for(backend, claim.lease_expires_at)
    not_won(try_claim(backend, keys[0], max_attempts=1), ERROR)
    record = record_of(backend, keys[0])
    assert (record.status, record.attempts, record.max_attempts) == (ERROR, 1, 1)
    assert record.permanent
    assert record.used_up
    assert record.message is not None
    assert "one" in record.message, "the message names the lost owner"
    rejected(backend.retry(keys[0], lease=1.0))
    not_won(try_claim(backend, keys[1], max_attempts=1, cooldown=SHORT_S), ERROR)
    record = record_of(backend, keys[1])
    assert not record.permanent
    assert record.retry_at is not None
    assert 0 < rejected(backend.retry(keys[1], lease=1.0, max_attempts=1)).retry_left <= SHORT_S
    wait_for(backend, record.retry_at)
    assert won_retry(backend, keys[1], max_attempts=1).attempts == 1, "a cool-down counts the attempts anew"


@scenario
def a_claim_of_what_is_over_tells_how(context: Context) -> None:
    """A claim of a DOWNLOADED or failed model wins nothing, tells its status and no lease, and changes nothing."""
    backend = context.client()
    done, failed = model_keys(2)
    finish(backend, won_claim(backend, done))
    finish(backend, won_claim(backend, failed), ERROR)
    for key, status in ((done, DOWNLOADED), (failed, ERROR)):
        result = unchanged(backend, [key], partial(try_claim, backend, key))
        assert result == AlreadyExists(status), result


@scenario
def many_models_are_claimed_in_order(context: Context) -> None:
    """`claim_many` takes any number of models, tells each batch, and gives one result for each, in order."""
    backend, other = context.client(), context.client("two")
    keys = model_keys(backend.max_batch * 2 + 3)
    taken = won_claim(other, keys[1])
    told: list[object] = []
    results = backend.claim_many(keys, lease=LONG_S, owner="many", tell=told.extend)
    assert len(results) == len(keys)
    assert told == results
    for place, (key, result) in enumerate(zip(keys, results, strict=True)):
        if place == 1:
            assert not_won(result, DOWNLOADING).lease_expires_at == taken.lease_expires_at
        else:
            assert isinstance(result, Claimed), result
            assert (result.claim.ref, result.claim.owner) == (key.ref, "many")
    assert [type(each) for each in backend.claim_many(keys, lease=LONG_S)] == [AlreadyExists] * len(keys)
    one, two = backend.claim_many([model_key("twice"), model_key("twice")], lease=LONG_S)
    assert isinstance(one, Claimed)
    not_won(two, DOWNLOADING)
    assert backend.claim_many([], lease=LONG_S) == []


# Retries


@scenario
def only_an_error_is_retried(context: Context) -> None:
    """`retry` rejects what is absent, DOWNLOADING or DOWNLOADED, without a change."""
    backend = context.client()
    absent, running, done = keys = model_keys(3)
    won_claim(backend, running)
    finish(backend, won_claim(backend, done))
    for key in (absent, running, done):
        rejection = rejected(unchanged(backend, keys, partial(backend.retry, key, lease=LONG_S)))
        assert rejection.why
        assert rejection.retry_left == 0


@scenario
def a_retry_waits_for_the_back_off(context: Context) -> None:
    """An ERROR is retried after its back-off, as the next attempt; before, the rest of the back-off is told."""
    backend = context.client()
    key = model_key()
    finish(backend, won_claim(backend, key), ERROR, message="no", retry_in=SHORT_S)
    record = record_of(backend, key)
    assert record.retry_at is not None
    rejection = rejected(unchanged(backend, [key], partial(backend.retry, key, lease=LONG_S)))
    assert 0 < rejection.retry_left <= SHORT_S
    wait_for(backend, record.retry_at)
    claim = won_retry(backend, key, owner="again")
    assert (claim.attempts, claim.owner, claim.lease) == (2, "again", LONG_S)
    assert claim.token > record.token
    again = record_of(backend, key)
    assert (again.status, again.token, again.retry_at) == (DOWNLOADING, claim.token, None)
    assert again.message == "Retrying download..."


@scenario
def a_retry_is_won_once(context: Context) -> None:
    """Of many threads that retry a model at once, one gets it."""
    clients = [context.client(), context.client("two")]
    key = model_key()
    finish(clients[0], won_claim(clients[0], key), ERROR)
    results = at_once([partial(clients[number % 2].retry, key, lease=LONG_S) for number in range(12)])
    assert [type(each) for each in results].count(Claim) == 1, results


@scenario
def the_same_retry_is_the_same_claim(context: Context) -> None:
    """A retry that is asked for again by its claim id is the same claim."""
    backend = context.client()
    key = model_key()
    finish(backend, won_claim(backend, key), ERROR)
    first = won_retry(backend, key, claim_id="mine")
    again = won_retry(backend, key, claim_id="mine")
    assert (again.token, again.attempts) == (first.token, first.attempts) == (first.token, 2)


@scenario
def a_retry_respects_the_limits(context: Context) -> None:
    """A permanent ERROR is not retried, nor one whose attempts have reached the caller's `max_attempts`."""
    backend = context.client()
    permanent, used_up = model_keys(2)
    finish(backend, won_claim(backend, permanent), ERROR, permanent=True)
    finish(backend, won_claim(backend, used_up), ERROR)
    assert record_of(backend, permanent).permanent
    rejected(backend.retry(permanent, lease=LONG_S))
    rejected(backend.retry(used_up, lease=LONG_S, max_attempts=1))
    assert won_retry(backend, used_up, max_attempts=2).attempts == 2


@scenario
def a_cool_down_counts_anew(context: Context) -> None:
    """Once the attempts are used up, `cooldown` takes the place of `retry_in`, and then they are counted anew."""
    backend = context.client()
    key = model_key()
    limits: dict[str, Any] = {"retry_in": LONG_S, "max_attempts": 1, "cooldown": SHORT_S}
    finish(backend, won_claim(backend, key), ERROR, **limits)
    record = record_of(backend, key)
    assert record.used_up
    assert 0 < rejected(backend.retry(key, lease=LONG_S, max_attempts=1)).retry_left <= SHORT_S
    wait_for(backend, record.retry_at)
    assert won_retry(backend, key, max_attempts=1).attempts == 1
