"""The state table in a small scope, whole: all that a model can come to, and what must never be.

Every request that was ever possible may arrive in every state: late, twice, or not at all. So the exploration keeps no
messages in flight. The walks (`test_model`) show that the scripts do what this model does.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.records import StoredRecord
from pyregistry.backend.values import Cancelled, StatusSet
from tests.lua.harness import Item, item
from tests.lua.model import Model

pytestmark = pytest.mark.server("embedded")  # a model alone
MODEL = "m"
STEP, LEASE, BACK_OFF, COOL_DOWN = 100, 50, 50, 150  # ticks lie in between
MOST = 2  # attempts that everybody allows
TICKS = 2  # that so many requests at one time get


class Scene(NamedTuple):
    """A state, and what the promises need to know of how it came to be.

    Attributes:
        record: the record, or nothing.
        now: lease time.
        clock: the last tick.
        given: every claim id with the tokens that it was given.
        ended: tokens of claims that have ended, by whatever.
        told: the largest order of progress that was stored for the claim that runs.
    """

    record: StoredRecord | None
    now: int
    clock: int
    given: frozenset[tuple[str, int]]
    ended: frozenset[int]
    told: int


def requests(scene: Scene, ids: tuple[str, ...]) -> list[tuple[str, Item]]:
    """What may arrive."""
    limits = {"max_attempts": MOST, "cooldown": COOL_DOWN}
    found: list[tuple[str, Item]] = []
    for claim_id in ids:
        wanted = item(MODEL, claim_id=claim_id, owner="o", lease=LEASE, **limits)
        found += [("claim", wanted), ("retry", wanted)]
    for claim_id, token in scene.given:
        owner = {"claim_id": claim_id, "token": token}
        found += [
            ("renew", item(MODEL, **owner, lease=LEASE, bytes_done=order, order=order)) for order in (1, 2)
        ]
        found += [
            ("finish", item(MODEL, **owner, status="DOWNLOADED")),
            ("finish", item(MODEL, **owner, status="ERROR", retry_in=BACK_OFF, **limits)),
            ("finish", item(MODEL, **owner, status="ERROR", permanent=1, **limits)),
            ("release", item(MODEL, **owner)),
            ("cancel", item(MODEL, token=token, retry_in=COOL_DOWN)),
            ("cancel", item(MODEL, token=token, permanent=1)),
            ("delete", item(MODEL, token=token)),
        ]
    found.append(("set_status", item(MODEL, status="ERROR")))
    return found


def after(scene: Scene, name: str, it: Item) -> tuple[Scene, Any]:
    """What a request makes of a state, and its reply."""
    model = Model()
    model.now, model.clock = scene.now, scene.clock
    if scene.record is not None:
        model.records[MODEL], model.used[MODEL] = scene.record, 0
    reply, _ = getattr(model, name)(it)
    record = model.records.get(MODEL)
    given, ended, told = scene.given, scene.ended, scene.told
    if isinstance(reply, wire.ClaimGiven):
        if scene.record is not None:
            ended |= {scene.record.token}
        given, told = given | {(it["claim_id"], reply.token)}, 0
    elif name in ("finish", "release") and isinstance(reply, wire.Done):
        ended |= {it["token"]}
    elif isinstance(reply, (Cancelled, StatusSet, wire.Deleted)) and scene.record is not None:
        ended |= {scene.record.token}
    elif isinstance(reply, wire.Exists) and scene.record is not None and record != scene.record:
        ended |= {scene.record.token}  # abandoned
    elif isinstance(reply, wire.Renewed):
        told = max(told, it["order"])
    return Scene(record, scene.now, model.clock, given, ended, told), reply


def check(before: Scene, name: str, it: Item, then: Scene, reply: Any) -> None:
    """What the table is for, said without it."""
    was, record = before.record, then.record
    if isinstance(reply, wire.ClaimGiven):
        assert all(reply.token > token for _, token in before.given), "a token that does not grow"
        if was is not None and was.status == "DOWNLOADING":
            live = was.claim_id and was.lease_end > before.now
            assert not live, "taken from an owner whose lease holds"
        if was is not None and was.status == "ERROR":
            assert not was.permanent, "a permanent error was retried"
            assert was.retry_at <= before.now, "a back-off or a cool-down was cut short"
    if name in ("renew", "finish", "release") and isinstance(reply, (wire.Renewed, wire.Done)):
        assert it["token"] not in before.ended, "a claim that had ended did something"
        assert was is not None
        assert was.token == it["token"]
    if record is not None:
        assert record.attempts <= MOST, "more attempts than anybody allows"
        if record.status == "DOWNLOADING" and record.claim_id:
            assert record.bytes_done == then.told, "older progress took the place of newer"
        if record.status == "ERROR" and not record.permanent:
            waited = then._replace(now=max(then.now, record.retry_at))
            retried = after(waited, "retry", item(MODEL, claim_id="fresh", owner="o", max_attempts=MOST))[1]
            assert isinstance(retried, wire.ClaimGiven), "nobody can try again, ever"
            used_up = 0 < record.max_attempts <= record.attempts
            assert retried.attempts == (1 if used_up else record.attempts + 1)
    if was is not None and record is not None and isinstance(reply, (wire.Again, wire.Lost, wire.Ended)):
        assert record == was, "what was answered with no has changed something"


def explore(ids: tuple[str, ...], steps: int, most_claims: int) -> int:
    """Go through all that there is within so many steps of time and so many claims; how many states that is."""
    first = Scene(None, STEP, 0, frozenset(), frozenset(), 0)
    seen, waiting = {first}, deque([first])
    while waiting:
        scene = waiting.popleft()
        reached = []
        for name, it in requests(scene, ids):
            then, reply = after(scene, name, it)
            check(scene, name, it, then, reply)
            reached.append(then)
        if scene.now < steps * STEP:
            reached.append(scene._replace(now=scene.now + STEP))
        for then in reached:
            # Ticks run ahead of the clock by one for each request: without a limit there is no end.
            if then not in seen and len(then.given) <= most_claims and then.clock <= then.now + TICKS:
                seen.add(then)
                waiting.append(then)
    return len(seen)


@pytest.mark.timeout(600)  # seconds; 20 on an idle machine, more than 120 beside other processes
def test_nothing_that_must_not_be_can_come_to_be() -> None:
    """No sequence of operations and faults of the model reaches a forbidden state."""
    assert explore(("a", "b"), steps=3, most_claims=2) > 100_000


def test_the_exploration_can_fail(monkeypatch: Any) -> None:
    """A table without the row that keeps late renewals out."""

    def renew(self: Model, it: Item) -> Any:
        return sound(self, item(it.model, **{**it.args, "order": 0}))

    sound = Model.renew
    monkeypatch.setattr(Model, "renew", renew)
    with pytest.raises(AssertionError, match="older progress"):
        explore(("a",), steps=2, most_claims=1)
