"""Scenarios of changes from outside of a claim."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from pyregistry.backend.conformance.scenario import Context, scenario
from pyregistry.backend.conformance.steps import (
    DOWNLOADED,
    DOWNLOADING,
    ERROR,
    LONG_S,
    SHORT_S,
    delete_records,
    finish,
    model_key,
    model_keys,
    not_won,
    raised,
    record_of,
    rejected,
    renewed_claim,
    scanned,
    try_claim,
    unchanged,
    wait_for,
    won_claim,
    won_retry,
)
from pyregistry.backend.values import Cancellation, Ending, StatusChange, StatusSet
from pyregistry.errors import (
    DamagedRecord,
    EvictionInProgress,
    ModelHeld,
)
from pyregistry.models import (
    ModelProvider,
    ModelRecord,
    ModelStatus,
)


@scenario
def a_status_is_set(context: Context) -> None:
    """`set_status` makes the record that, with a new token and no attempts, and keeps what it does not say."""
    backend = context.client()
    key = model_key()
    assert backend.set_status(key, StatusChange(DOWNLOADED, size_bytes=7, location="a")) == StatusSet(
        "", "", 0
    )
    first = record_of(backend, key)
    assert (first.status, first.size_bytes, first.location, first.attempts) == (DOWNLOADED, 7, "a", 0)
    assert first.owner is None
    backend.set_status(key, StatusChange(DOWNLOADED, "by hand", size_bytes=8))
    second = record_of(backend, key)
    assert (second.size_bytes, second.location, second.message) == (8, "a", "by hand")
    assert second.token > first.token
    assert second.created_at == first.created_at
    assert second.last_used_at > first.last_used_at
    backend.set_status(key, StatusChange(ERROR, "no", retry_in=LONG_S))
    third = record_of(backend, key)
    assert (third.status, third.message, third.permanent) == (ERROR, "no", False)
    assert third.retry_at is not None
    backend.set_status(key, StatusChange(ERROR, permanent=True))
    fourth = record_of(backend, key)
    assert (fourth.message, fourth.retry_at, fourth.permanent) == (None, None, True)
    backend.set_status(key, StatusChange(DOWNLOADING))
    fifth = record_of(backend, key)
    assert (fifth.status, fifth.lease_expires_at, fifth.released) == (DOWNLOADING, None, False)
    assert fifth.permanent is False
    assert not_won(try_claim(backend, key), DOWNLOADING).lease_left is None


@scenario
def a_status_that_is_set_ends_the_claim(context: Context) -> None:
    """`set_status` names the live claim that it ended, whose owner has lost it; DOWNLOADING leaves the claim."""
    one, two = context.client(), context.client("two")
    key = model_key()
    claim = won_claim(one, key)
    assert two.set_status(key, StatusChange(DOWNLOADING, "still")) == StatusSet("", "", 0)
    assert record_of(one, key).message == "still"
    renewed_claim(one, claim)
    assert two.set_status(key, StatusChange(DOWNLOADED)) == StatusSet("one", claim.claim_id, claim.token)
    (renewal,) = one.renew([claim])
    assert rejected(renewal).lost
    assert one.finish(claim, Ending(ERROR))
    assert record_of(one, key).status is DOWNLOADED
    assert two.set_status(key, StatusChange(ERROR)) == StatusSet("", "", 0)


@scenario
def a_download_is_cancelled(context: Context) -> None:
    """`cancel` ends a download with an ERROR that names the caller and the reason, and names the claim it ended."""
    one, two = context.client(), context.client("two")
    running, permanent, unowned = model_keys(3)
    claim = won_claim(one, running)
    cancelled = two.cancel(running, Cancellation("the reason", retry_in=LONG_S))
    assert cancelled is not None
    assert (cancelled.owner, cancelled.token) == ("one", claim.token)
    record = record_of(one, running)
    assert (record.status, record.permanent, record.token) == (ERROR, False, claim.token)
    assert record.retry_at is not None
    assert record.message is not None
    assert "two" in record.message
    assert "the reason" in record.message
    assert 0 < rejected(one.retry(running, lease=LONG_S)).retry_left <= LONG_S
    assert one.finish(claim, Ending(DOWNLOADED)), "a cancelled claim finished"
    won_claim(one, permanent)
    assert two.cancel(permanent, Cancellation(permanent=True)) is not None
    assert record_of(one, permanent).permanent
    one.set_status(unowned, StatusChange(DOWNLOADING))
    cancelled = two.cancel(unowned, Cancellation())
    assert cancelled is not None
    assert cancelled.owner == ""
    assert won_retry(one, unowned).attempts == 1


@scenario
def only_the_meant_download_is_cancelled(context: Context) -> None:
    """`cancel` by token spares another claim, succeeds again, and tells where there is no download."""
    backend = context.client()
    key, absent, done = keys = model_keys(3)
    claim = won_claim(backend, key)
    finish(backend, won_claim(backend, done))
    for name, cancellation in (
        (key, Cancellation(expected_token=claim.token + 1)),
        (absent, Cancellation()),
        (absent, Cancellation(expected_token=1)),
        (done, Cancellation()),
    ):
        assert unchanged(backend, keys, partial(backend.cancel, name, cancellation)) is None
    meant = Cancellation("why", claim.token)
    first = backend.cancel(key, meant)
    assert first is not None
    assert first.token == claim.token
    again = unchanged(backend, keys, partial(backend.cancel, key, meant))
    assert again is not None
    assert again.token == claim.token
    assert backend.cancel(key, Cancellation()) is None, "there is no download any more"


@scenario
def a_touch_is_a_use(context: Context) -> None:
    """A touch moves a model to the end of the order of use, changes nothing else, and tells which models are known."""
    backend = context.client()
    first, second, absent = model_keys(3)
    won_claim(backend, first)
    finish(backend, won_claim(backend, second))
    before = record_of(backend, first)
    assert backend.touch([first, absent, first]) == [True, False, True]
    after = record_of(backend, first)
    assert after.last_used_at > record_of(backend, second).last_used_at
    for name in ModelRecord.__struct_fields__:
        if name != "last_used_at":
            assert getattr(after, name) == getattr(before, name), name
    assert backend.read([absent]) == [None]


@scenario
def many_models_are_touched(context: Context) -> None:
    """`touch_many` takes any number of models; `touch_model` without a provider touches all copies."""
    backend = context.client()
    keys = model_keys(backend.max_batch + 3)
    backend.claim_many(keys[1:], lease=LONG_S)
    told: list[object] = []
    results = backend.touch_many(keys, told.extend)
    assert results == told == [False] + [True] * (len(keys) - 1)
    assert [record.model_name for record in scanned(backend)] == [key.name for key in keys[1:]]
    assert backend.touch_many([]) == []
    copies = [model_key("copy", provider) for provider in list(ModelProvider)[:2]]
    backend.claim_many(copies, lease=LONG_S)
    won_claim(backend, model_key("last"))
    assert backend.touch_model("copy", None, None, None)
    assert [record.model_name for record in scanned(backend)][-3:] == ["last", "copy", "copy"]
    assert backend.touch_model("copy", copies[0].provider, None, None)
    assert not backend.touch_model("copy", "Elsewhere", None, None)
    assert not backend.touch_model("absent", None, None, None)


@scenario
def a_deleted_record_is_gone(context: Context) -> None:
    """`delete` counts the records that it deletes; with a token it deletes that record alone."""
    backend = context.client()
    keys = model_keys(4)
    claims = [won_claim(backend, key) for key in keys[:3]]
    assert unchanged(backend, keys, lambda: delete_records(backend, keys[0], claims[1].token)) == 0
    assert delete_records(backend, keys[0], claims[0].token) == 1
    assert delete_records(backend, keys[0], claims[0].token) == 0
    assert delete_records(backend, *keys) == 2
    assert backend.read(keys) == [None] * 4
    (renewal,) = backend.renew([claims[1]])
    assert rejected(renewal).lost
    claim = won_claim(backend, keys[1])
    assert claim.attempts == 1
    assert claim.token > claims[2].token
    assert not claim.taken_over


@scenario
def held_files_are_not_forgotten(context: Context) -> None:
    """A record whose files are held is deleted by force alone, until the hold has ended."""
    backend = context.client()
    held, forced, later = keys = model_keys(3)
    for key in keys:
        finish(backend, won_claim(backend, key))
    context.hold(held, LONG_S)
    context.hold(forced, LONG_S)
    context.hold(later, SHORT_S)
    began = backend.lease_time()
    error = unchanged(backend, keys, lambda: raised(ModelHeld, lambda: delete_records(backend, held)))
    assert error.model_name == held.name
    assert delete_records(backend, forced, force=True) == 1
    wait_for(backend, began + timedelta(seconds=SHORT_S))
    assert delete_records(backend, later) == 1


@scenario
def an_eviction_is_not_disturbed(context: Context) -> None:
    """What is being evicted is neither set, deleted nor claimed while its lease lasts, and a touch is no use."""
    backend = context.client()
    key, forced = keys = model_keys(2)
    for each in keys:
        finish(backend, won_claim(backend, each))
        context.evict(each, LONG_S)
    record = record_of(backend, key)
    assert record.status is ModelStatus.EVICTING
    assert tuple(backend.counts()) == (0, 0, 0)
    assert backend.totals().records == (0, 0, 0, 2)

    def refused() -> None:
        error = raised(EvictionInProgress, lambda: backend.set_status(key, StatusChange(ERROR)))
        assert error.model_name == key.name
        raised(EvictionInProgress, lambda: delete_records(backend, key))
        exists = not_won(try_claim(backend, key), ModelStatus.EVICTING)
        assert exists.lease_left is not None
        assert 0 < exists.lease_left <= LONG_S
        assert backend.touch([key]) == [True]
        assert backend.cancel(key, Cancellation()) is None
        rejected(backend.retry(key, lease=LONG_S))

    unchanged(backend, keys, refused)
    assert delete_records(backend, forced, force=True) == 1


@scenario
def a_damaged_record_fails_alone(context: Context) -> None:
    """A record that can't be read fails its own item of a batch, raises `DamagedRecord`, and goes by force alone."""
    backend = context.client()
    keys = model_keys(2)
    bad = keys[1]
    claims = [won_claim(backend, key) for key in keys]
    context.damage(bad)

    def alone(results: Sequence[object]) -> None:
        assert not isinstance(results[0], Exception), results
        assert isinstance(results[1], DamagedRecord), results
        assert results[1].model_name == bad.name

    alone(backend.read(keys))
    alone(backend.read_many(keys))
    alone(backend.touch(keys))
    alone(backend.touch_many(keys))
    alone(backend.renew(claims))
    alone(backend.renew_many(claims))
    alone(backend.claim_many(keys, lease=LONG_S))
    for call in (
        lambda: try_claim(backend, bad),
        lambda: backend.retry(bad, lease=LONG_S),
        lambda: backend.finish(claims[1], Ending(DOWNLOADED)),
        lambda: backend.release(claims[1]),
        lambda: backend.set_status(bad, StatusChange(ERROR)),
        lambda: backend.cancel(bad, Cancellation()),
        lambda: backend.touch_model(*bad.ref),
        lambda: backend.get_status(*bad.ref),
        lambda: backend.get_record(*bad.ref),
        lambda: delete_records(backend, bad),
        lambda: delete_records(backend, bad, claims[1].token),
    ):
        raised(DamagedRecord, call)
    found = list(backend.scan(10, None))
    assert [type(each) for each in found] == [ModelRecord, DamagedRecord] or {type(each) for each in found} == {
        ModelRecord, DamagedRecord,
    }, found  # fmt: skip
    assert delete_records(backend, bad, force=True) == 1
    assert backend.read([bad]) == [None]
    won_claim(backend, bad)
