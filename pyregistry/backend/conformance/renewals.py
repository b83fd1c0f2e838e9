"""Scenarios of renewals and of the ends of claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial

from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import ProgressUpdate, Rejection, next_order
from pyregistry.backend.conformance.scenario import Context, scenario
from pyregistry.backend.conformance.steps import (
    DOWNLOADED,
    DOWNLOADING,
    ERROR,
    LONG_S,
    finish,
    lease_end,
    model_key,
    model_keys,
    record_of,
    rejected,
    renewed_claim,
    report,
    unchanged,
    won_claim,
    won_retry,
)
from pyregistry.backend.values import Cancellation, Ending, StatusChange
from pyregistry.models import (
    Claim,
    Claimed,
)

# Renewals


@scenario
def a_lease_is_never_shortened(context: Context) -> None:
    """`renew` extends a lease by the claim's own or by the one that is given, and never shortens it."""
    backend = context.client()
    key = model_key()
    claim = won_claim(backend, key)
    same = renewed_claim(backend, claim, lease=LONG_S / 2)
    assert same.lease_expires_at == claim.lease_expires_at
    assert same.lease == LONG_S / 2
    own = renewed_claim(backend, claim)
    assert lease_end(own) > lease_end(claim)
    assert (own.lease, own.token, own.claim_id) == (LONG_S, claim.token, claim.claim_id)
    longer = renewed_claim(backend, claim, lease=LONG_S * 3)
    assert lease_end(longer) > lease_end(own) + timedelta(seconds=LONG_S)
    assert record_of(backend, key).lease_expires_at == longer.lease_expires_at
    for_ever = renewed_claim(backend, claim, lease=None)
    assert (for_ever.lease, for_ever.lease_expires_at) == (None, None)
    assert renewed_claim(backend, claim).lease_expires_at is None, "what never ends was shortened"


@scenario
def progress_is_stored(context: Context) -> None:
    """An update stores what it says and leaves the rest; a renewal without one is no use of the model."""
    backend = context.client()
    key = model_key()
    claim = won_claim(backend, key)
    before = record_of(backend, key)
    renewed_claim(backend, claim)
    assert record_of(backend, key).message == before.message, "what was not said was changed"

    def shown() -> tuple[object, ...]:
        record = record_of(backend, key)
        assert (record.last_used_at, record.token) == (before.last_used_at, before.token)
        return record.message, record.bytes_done, record.bytes_total

    report(backend, claim, "half", 50, 100)
    assert shown() == ("half", 50, 100)
    report(backend, claim, bytes_done=60)
    assert shown() == ("half", 60, 100)
    report(backend, claim, None, None, 200)
    assert shown() == (None, 60, 200)
    report(backend, claim)
    assert shown() == (None, 60, 200)


@scenario
def late_progress_is_not_stored(context: Context) -> None:
    """Of two updates the one with the larger `order` stays, in whatever sequence they arrive; both extend the lease."""
    backend = context.client()
    key = model_key()
    claim = won_claim(backend, key)
    older, newer = next_order(), next_order()
    first = report(backend, claim, "new", 50, order=newer)
    late = report(backend, claim, "old", 10, order=older)
    assert lease_end(late) > lease_end(first)
    again = report(backend, claim, "same", 20, order=newer)
    assert lease_end(again) > lease_end(late)
    record = record_of(backend, key)
    assert (record.message, record.bytes_done) == ("new", 50)
    report(backend, claim, "newest", 70)
    assert record_of(backend, key).bytes_done == 70, "an update without an order is the newest"


@scenario
def a_batch_is_renewed_in_order(context: Context) -> None:
    """Each claim of a batch gets its own answer: renewed, lost, or ended by its owner."""
    backend = context.client()
    keys = model_keys(6)
    claims = [won_claim(backend, key) for key in keys]
    backend.set_status(keys[0], StatusChange(ERROR))
    backend.delete([keys[1]], expected_token=None, force=False)
    finish(backend, claims[2])
    assert backend.release(claims[3]) == ""
    backend.cancel(keys[4], Cancellation("the reason"))
    updates = [ProgressUpdate(bytes_done=number) for number in range(6)]
    results = backend.renew(claims, updates=updates)
    lost = [result.lost if isinstance(result, Rejection) else None for result in results]
    assert lost == [True, True, False, False, True, None], results
    assert all(result.why for result in results if isinstance(result, Rejection))
    assert "the reason" in rejected(results[4]).why, "a cancelled owner learns of the reason"
    assert isinstance(results[5], Claim)
    assert results[5].token == claims[5].token
    assert record_of(backend, keys[5]).bytes_done == 5


@scenario
def many_claims_are_renewed(context: Context) -> None:
    """`renew_many` and `release_many` take any number of claims and answer each, in order."""
    backend = context.client()
    keys = model_keys(backend.max_batch + 3)
    claims = [
        result.claim for result in backend.claim_many(keys, lease=LONG_S) if isinstance(result, Claimed)
    ]
    finish(backend, claims[1])
    results = backend.renew_many(claims, lease=LONG_S * 2)
    assert [each.ref for each in results if isinstance(each, Claim)] == [
        key.ref for place, key in enumerate(keys) if place != 1
    ]
    assert isinstance(results[1], Rejection)
    answers = backend.release_many(claims)
    assert [bool(answer) for answer in answers] == [place == 1 for place in range(len(keys))]
    assert backend.renew_many([]) == []
    assert backend.release_many([]) == []


# Ends


@scenario
def a_finished_download_is_there(context: Context) -> None:
    """`finish` with DOWNLOADED stores size, location, revision and message, and ends the claim; it is a use."""
    backend = context.client()
    key = model_key()
    claim = won_claim(backend, key, expected_bytes=5)
    report(backend, claim, "half", 3)
    before = record_of(backend, key)
    finish(backend, claim, message="ok", size_bytes=7, location="a/b", resolved_revision="c0ffee")
    record = record_of(backend, key)
    assert (record.status, record.message, record.size_bytes) == (DOWNLOADED, "ok", 7)
    assert (record.location, record.resolved_revision) == ("a/b", "c0ffee")
    assert (record.owner, record.token, record.attempts) == ("one", claim.token, 1)
    assert (record.lease_expires_at, record.bytes_done, record.bytes_total) == (None, None, None)
    assert record.finished_at is not None
    assert before.last_used_at < record.last_used_at
    assert record.created_at == before.created_at
    assert abs(record.finished_at - record.last_used_at) < timedelta(seconds=LONG_S)


@scenario
def a_failed_download_is_an_error(context: Context) -> None:
    """`finish` with ERROR stores message, back-off and permanence, and ends the claim."""
    backend = context.client()
    plain, backed_off, permanent = keys = model_keys(3)
    claims = [won_claim(backend, key) for key in keys]
    finish(backend, claims[0], ERROR, message="boom")
    finish(backend, claims[1], ERROR, retry_in=LONG_S, max_attempts=3, cooldown=LONG_S)
    finish(backend, claims[2], ERROR, permanent=True)
    record = record_of(backend, plain)
    assert (record.status, record.message, record.retry_at, record.permanent) == (ERROR, "boom", None, False)
    assert record.finished_at is not None
    record = record_of(backend, backed_off)
    assert (record.max_attempts, record.used_up) == (3, False)
    assert record.retry_at is not None
    assert record.finished_at is not None
    assert record.retry_at - record.finished_at == timedelta(seconds=LONG_S)
    assert record_of(backend, permanent).permanent


@scenario
def an_end_that_is_sent_twice_counts_once(context: Context) -> None:
    """The same end of the same claim succeeds again without a change; another end of it does not count."""
    backend = context.client()
    done, failed, released = keys = model_keys(3)
    claims = [won_claim(backend, key) for key in keys]
    ends: list[tuple[ModelKey, Callable[[], str], Sequence[Callable[[], str]]]] = []
    for place, key in enumerate(keys):
        ways: list[Callable[[], str]] = [
            partial(backend.finish, claims[place], Ending(DOWNLOADED)),
            partial(backend.finish, claims[place], Ending(ERROR)),
            partial(backend.release, claims[place]),
        ]
        right = ways.pop(place)
        ends.append((key, right, ways))
    for key, right, others in ends:
        assert right() == ""
        assert unchanged(backend, [key], right) == "", "the same end again"
        for other in others:
            assert unchanged(backend, [key], other), "another end"
    # A later claim does not change how the one before has ended.
    won_claim(backend, released)
    assert unchanged(backend, keys, ends[2][1]) == ""
    won_retry(backend, failed)
    assert unchanged(backend, keys, ends[1][1]) == ""
    assert record_of(backend, done).status is DOWNLOADED


@scenario
def a_released_attempt_is_not_counted(context: Context) -> None:
    """A released model can be claimed at once, its attempt is not counted, and its progress is told."""
    one, two = context.client(), context.client("two")
    key = model_key()
    claim = won_claim(one, key, expected_bytes=100)
    report(one, claim, "so far", 40)
    used = record_of(one, key).last_used_at
    assert one.release(claim) == ""
    record = record_of(one, key)
    assert (record.status, record.attempts, record.released) == (DOWNLOADING, 0, True)
    assert record.bytes_done == 40
    assert record.last_used_at == used, "a release is no use"
    assert record.lease_expires_at is not None
    assert record.lease_expires_at <= one.lease_time()
    next_one = won_claim(two, key, max_attempts=1)
    assert (next_one.attempts, next_one.taken_over, next_one.previous_owner) == (1, True, "one")
    assert next_one.previous_bytes_done == 40
