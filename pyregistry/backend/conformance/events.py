"""Scenarios of events."""

from __future__ import annotations

import math
import threading
import time
from functools import partial

from pyregistry.backend.conformance.scenario import Context, scenario
from pyregistry.backend.conformance.steps import (
    DOWNLOADED,
    DOWNLOADING,
    ERROR,
    LIMIT_S,
    LONG_S,
    at_once,
    delete_records,
    finish,
    model_key,
    model_keys,
    not_won,
    receive_events,
    record_of,
    renewed_claim,
    report,
    try_claim,
    wait_for,
    wait_until,
    won_claim,
    won_retry,
)
from pyregistry.backend.values import Cancellation, StatusChange
from pyregistry.errors import (
    RegistryError,
)
from pyregistry.models import (
    EventKind,
    ModelStatus,
)


@scenario
def every_transition_is_told(context: Context) -> None:
    """Each transition is one event, in order, with its kind, claim, caller, time, and the record as it then was."""
    one, two = context.client(), context.client("two")
    source = context.subscribe(two)
    key = model_key()
    first = won_claim(one, key, expected_bytes=10)
    renewed_claim(one, first)  # brings nothing, and is not told
    report(one, first, bytes_done=5)
    one.release(first)
    second = won_claim(one, key)
    finish(one, second, ERROR, message="no", retry_in=0.0)
    third = won_retry(one, key)
    two.cancel(key, Cancellation("why", retry_in=0.0))
    fourth = won_retry(one, key)
    one.touch([key])  # is not told
    finish(one, fourth, size_bytes=10)
    two.set_status(key, StatusChange(ERROR, "by hand"))
    delete_records(two, key)
    lost = won_claim(one, key, lease=0.001)
    wait_for(one, lost.lease_expires_at)
    not_won(try_claim(one, key, max_attempts=1), ERROR)
    wanted: list[tuple[EventKind, str | None, str | None, ModelStatus]] = [
        (EventKind.CLAIMED, first.claim_id, None, DOWNLOADING),
        (EventKind.RENEWED, first.claim_id, None, DOWNLOADING),
        (EventKind.RELEASED, first.claim_id, None, DOWNLOADING),
        (EventKind.TAKEN_OVER, second.claim_id, None, DOWNLOADING),
        (EventKind.FAILED, second.claim_id, None, ERROR),
        (EventKind.RETRIED, third.claim_id, None, DOWNLOADING),
        (EventKind.CANCELLED, third.claim_id, "two", ERROR),
        (EventKind.RETRIED, fourth.claim_id, None, DOWNLOADING),
        (EventKind.DOWNLOADED, fourth.claim_id, None, DOWNLOADED),
        (EventKind.SET, None, "two", ERROR),
        (EventKind.DELETED, None, "two", ERROR),
        (EventKind.CLAIMED, lost.claim_id, None, DOWNLOADING),
        (EventKind.ABANDONED, None, None, ERROR),
    ]
    received = receive_events(source, len(wanted))
    assert {(each.entry, each.ref) for each in received} == {(key.entry, key.ref)}
    events = [each.event() for each in received]
    told = [(each.kind, each.claim_id, each.by, each.record.status) for each in events]
    for place, (found, meant) in enumerate(zip(told, wanted, strict=True)):
        assert found == meant, f"event {place} is {found}, not {meant}"
    times = [each.at for each in events]
    assert times == sorted(times)
    assert events[1].record.bytes_done == 5
    assert events[4].record.message == "no"
    assert events[8].record.size_bytes == 10
    assert events[10].record.message == "by hand", "a deleted record is told as it was"


@scenario
def an_event_tells_the_state(context: Context) -> None:
    """The state of an event has the status, the rest of the lease or back-off, and of a use the whole record."""
    backend = context.client()
    source = context.subscribe(backend)
    key = model_key()
    claim = won_claim(backend, key)
    (claimed,) = [each.state() for each in receive_events(source, 1)]
    assert (claimed.status, claimed.seconds_left) == (DOWNLOADING, LONG_S)
    assert claimed.record == record_of(backend, key)
    report(backend, claim, bytes_done=1)
    (renewed,) = [each.state() for each in receive_events(source, 1)]
    assert renewed.status is DOWNLOADING
    assert renewed.seconds_left == LONG_S
    backend.release(claim)
    (released,) = [each.state() for each in receive_events(source, 1)]
    assert (released.status, released.seconds_left) == (DOWNLOADING, 0.0)
    claim = won_claim(backend, key, lease=None)
    (endless,) = [each.state() for each in receive_events(source, 1)]
    assert (endless.status, endless.seconds_left) == (DOWNLOADING, math.inf)
    finish(backend, claim, ERROR, retry_in=7.0)
    (failed,) = [each.state() for each in receive_events(source, 1)]
    assert (failed.status, failed.seconds_left) == (ERROR, 7.0)
    assert failed.record == record_of(backend, key)
    backend.set_status(key, StatusChange(DOWNLOADED))
    (done,) = [each.state() for each in receive_events(source, 1)]
    assert (done.status, done.seconds_left, done.record) == (DOWNLOADED, 0.0, record_of(backend, key))
    delete_records(backend, key)
    (deleted,) = [each.state() for each in receive_events(source, 1)]
    assert (deleted.status, deleted.seconds_left, deleted.record) == (None, 0.0, None)


@scenario
def no_event_is_missed(context: Context) -> None:
    """All that happens after `open` has returned is received, in the order of the registry, by every subscription."""
    clients = [context.client(f"client {number}") for number in range(4)]
    won_claim(clients[0], model_key("before"))
    sources = [context.subscribe(clients[0]), context.subscribe(clients[1])]

    def work(number: int) -> list[int]:
        backend = clients[number]
        tokens = []
        for turn in range(20):
            claim = won_claim(backend, model_key(f"m{number}-{turn}"))
            finish(backend, claim)
            tokens.append(claim.token)
        return tokens

    tokens = [token for some in at_once([partial(work, number) for number in range(4)]) for token in some]
    many = model_keys(clients[0].max_batch + 1)
    clients[0].claim_many(many, lease=LONG_S)
    count = len(tokens) * 2 + len(many)
    for source in sources:
        events = [each.event() for each in receive_events(source, count)]
        assert len(events) == count
        claimed = [each.record.token for each in events if each.kind is EventKind.CLAIMED]
        assert claimed == sorted(claimed), "events out of order"
        assert set(tokens) < set(claimed)
        ended: set[int] = set()
        for each in events:
            if each.kind is EventKind.DOWNLOADED:
                assert each.record.token in claimed
                ended.add(each.record.token)
        assert ended == set(tokens)


@scenario
def a_subscription_can_be_interrupted(context: Context) -> None:
    """`interrupt` ends a `receive` that another thread waits in; it and `close` are idempotent."""
    backend = context.client()
    source = backend.events()
    source.open()
    outcome: list[object] = []
    began = threading.Event()

    def receive() -> None:
        began.set()
        try:
            while not source.receive():
                pass
        except RegistryError as error:
            outcome.append(error)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    assert began.wait(LIMIT_S)
    time.sleep(0.02)  # makes it likely that `receive` waits already; the property holds in either case
    source.interrupt()
    source.interrupt()
    thread.join(LIMIT_S)
    assert not thread.is_alive(), "receive goes on"
    assert len(outcome) == 1, outcome
    source.close()
    source.close()


@scenario
def listeners_are_counted(context: Context) -> None:
    """`listeners` counts the open subscriptions of the registry, or tells that the user may not ask."""
    one, two = context.client(), context.client("two")
    if one.listeners() is None:
        return
    wait_until(lambda: one.listeners() == 0, "no subscription is open")
    first = context.subscribe(one)
    assert two.listeners() == 1
    context.subscribe(two)
    assert one.listeners() == 2
    first.close()
    wait_until(lambda: two.listeners() == 1, "the first one is gone")
