"""Scenarios of a client, and of what a registry knows beside its records."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from pyregistry._core.values import Default, ProgressUpdate
from pyregistry.backend.conformance.scenario import Context, scenario
from pyregistry.backend.conformance.steps import (
    DOWNLOADED,
    ERROR,
    HF,
    LONG_S,
    at_once,
    finish,
    lease_end,
    model_key,
    raised,
    record_of,
    renewed_claim,
    try_claim,
    unchanged,
    wait_until,
    won_claim,
)
from pyregistry.backend.values import Cancellation, Ending, StatusChange
from pyregistry.errors import (
    InvalidArgument,
    InvalidModelName,
    RegistryClosed,
)
from pyregistry.models import (
    Claim,
    ModelProvider,
)

# A client


@scenario
def connect_tells_the_server(context: Context) -> None:
    """`connect` may be repeated, changes nothing, and tells product and version."""
    backend = context.client()
    key = model_key()
    won_claim(backend, key)
    first = backend.connect()
    assert unchanged(backend, [key], backend.connect) == first
    assert backend.server_version == first.version
    assert first.version
    assert backend.namespace
    assert backend.display_name
    assert backend.owner == "one"
    assert backend.max_batch >= len(ModelProvider), "a request about all providers is one batch"


@scenario
def a_closed_backend_says_so(context: Context) -> None:
    """`close` is idempotent, and later calls raise `RegistryClosed`, on the copies of `within` too."""
    backend, other = context.client(), context.client("two")
    key = model_key()
    claim, copy = won_claim(backend, key), backend.within(0.1)
    backend.close()
    backend.close()
    for each in (backend, copy):
        calls: dict[str, Callable[[], object]] = {
            "connect": each.connect,
            "claim": partial(try_claim, each, key),
            "retry": partial(each.retry, key, lease=LONG_S),
            "renew": partial(each.renew, [claim]),
            "finish": partial(each.finish, claim, Ending(DOWNLOADED)),
            "release": partial(each.release, claim),
            "set_status": partial(each.set_status, key, StatusChange(ERROR)),
            "cancel": partial(each.cancel, key, Cancellation()),
            "touch": partial(each.touch, [key]),
            "touch_model": partial(each.touch_model, *key.ref),
            "delete": partial(each.delete, [key], expected_token=None, force=False),
            "read": partial(each.read, [key]),
            "get_status": partial(each.get_status, *key.ref),
            "get_record": partial(each.get_record, *key.ref),
            "scan": partial(lambda of: list(of.scan(10, None)), each),
            "counts": each.counts,
            "totals": each.totals,
            "lease_time": each.lease_time,
            "cache_id": each.cache_id,
            "branch": partial(each.branch, key),
            "set_branch": partial(each.set_branch, key, "c", "n", 1),
            "listeners": each.listeners,
            "events": each.events().open,
        }
        for name, call in calls.items():
            raised(RegistryClosed, call, f"{name} of a closed backend")
    assert all(isinstance(result, RegistryClosed) for result in backend.read_many([key, key]))
    assert all(isinstance(result, RegistryClosed) for result in backend.release_many([claim]))
    assert record_of(other, key).token == claim.token, "another client goes on"


@scenario
def within_bounds_patience(context: Context) -> None:
    """`within` gives the same registry with less patience, never with more."""
    backend = context.client()
    less = backend.within(backend.patience / 2)
    assert less.patience == backend.patience / 2
    assert backend.within(backend.patience * 2).patience == backend.patience
    assert less.within(backend.patience).patience == less.patience
    assert backend.within(-1.0).patience == 0.0
    for each in (less, backend.within(0.0)):
        key = model_key(f"m{each.patience}")
        claim = won_claim(each, key)
        assert record_of(backend, key) == record_of(each, key)
        finish(each, claim)


@scenario
def the_keepalive_is_apart(context: Context) -> None:
    """A backend of `for_keepalive` renews and ends the client's claims, and each can be closed without the other."""
    backend, other = context.client(), context.client("two")
    first, second = won_claim(backend, model_key("a")), won_claim(backend, model_key("b"))
    keepalive = backend.for_keepalive(1.0)
    assert keepalive.max_batch == backend.max_batch
    keepalive.connect()
    renewed_claim(keepalive, first)
    keepalive.close()
    renewed_claim(backend, first)
    keepalive = backend.for_keepalive(1.0)
    try:
        keepalive.connect()
        backend.close()
        finish(keepalive, first)
        assert keepalive.release_many([second]) == [""]
    finally:
        keepalive.close()
    assert record_of(other, model_key("a")).status is DOWNLOADED
    assert record_of(other, model_key("b")).released


@scenario
def keys_name_one_model_or_all_copies(context: Context) -> None:
    """`keys_of` gives the model, or one of each known provider, without repeats and in a fixed order."""
    backend = context.client()
    assert backend.keys_of("m", HF, "main", "part") == [model_key("m", HF, "main", "part")]
    copies = backend.keys_of("m", None, None, None)
    assert [key.provider for key in copies[: len(ModelProvider)]] == list(ModelProvider)
    assert len(set(copies)) == len(copies) <= backend.max_batch
    assert copies == backend.keys_of("m", None, None, None)


@scenario
def claim_ids_are_unique(context: Context) -> None:
    """The claim ids of two clients differ, and each client knows its own."""
    one, two = context.client(), context.client("two")
    first, second = won_claim(one, model_key("a")), won_claim(two, model_key("b"))
    assert first.claim_id != second.claim_id
    assert one.ids.made(first.claim_id)
    assert not two.ids.made(first.claim_id)


@scenario
def bad_arguments_change_nothing(context: Context) -> None:
    """A bad argument raises `InvalidArgument` (a bad name `InvalidModelName`), and nothing is changed."""
    backend = context.client()
    key, free = model_key(), model_key("free")
    claim = won_claim(backend, key)

    def replaced(**fields: Any) -> Claim:
        values = {name: getattr(claim, name) for name in claim.__struct_fields__}
        return Claim(**{**values, **fields})

    anything: Any = object()
    bad: list[tuple[str, Callable[[], object]]] = [
        ("provider", lambda: backend.claim("m", "9 no", None, None, lease=1.0)),
        ("provider", lambda: backend.claim("m", anything, None, None, lease=1.0)),
        ("revision", lambda: backend.claim("m", HF, "", None, lease=1.0)),
        ("subset", lambda: backend.claim("m", HF, None, "x" * 300, lease=1.0)),
        ("lease", lambda: try_claim(backend, free, lease=0.0)),
        ("lease", lambda: try_claim(backend, free, lease=-1.0)),
        ("lease", lambda: try_claim(backend, free, lease=math.nan)),
        ("lease", lambda: try_claim(backend, free, lease=math.inf)),
        ("lease", lambda: try_claim(backend, free, lease=True)),
        ("lease", lambda: try_claim(backend, free, lease=Default.ITS_OWN)),
        ("owner", lambda: try_claim(backend, free, owner="")),
        ("owner", lambda: try_claim(backend, free, owner="a\nb")),
        ("claim_id", lambda: try_claim(backend, free, claim_id="")),
        ("claim_id", lambda: try_claim(backend, free, claim_id="x" * 65)),
        ("max_attempts", lambda: try_claim(backend, free, max_attempts=0)),
        ("max_attempts", lambda: try_claim(backend, free, max_attempts=1.5)),
        ("cooldown", lambda: try_claim(backend, free, cooldown=0.0)),
        ("expected_bytes", lambda: try_claim(backend, free, expected_bytes=-1)),
        ("expected_bytes", lambda: try_claim(backend, free, expected_bytes=2**53)),
        ("lease", lambda: backend.claim_many([free], lease=0.0)),
        ("owner", lambda: backend.claim_many([free], lease=1.0, owner="")),
        ("max_attempts", lambda: backend.claim_many([free], lease=1.0, max_attempts=0)),
        ("lease", lambda: backend.retry(free, lease=0.0)),
        ("claim_id", lambda: backend.retry(free, lease=1.0, claim_id="")),
        ("max_attempts", lambda: backend.retry(free, lease=1.0, max_attempts=-1)),
        ("claim", lambda: backend.renew([anything])),
        ("claim_id", lambda: backend.renew([replaced(claim_id="")])),
        ("token", lambda: backend.renew([replaced(token=-1)])),
        ("lease", lambda: backend.renew([claim], lease=0.0)),
        ("message", lambda: backend.renew([claim], updates=[ProgressUpdate("x" * 4097)])),
        ("bytes_done", lambda: backend.renew([claim], updates=[ProgressUpdate(bytes_done=-1)])),
        ("bytes_total", lambda: backend.renew([claim], updates=[ProgressUpdate(bytes_total=2**53)])),
        ("claim", lambda: backend.renew_many([anything])),
        ("claim", lambda: backend.finish(anything, Ending(DOWNLOADED))),
        ("token", lambda: backend.finish(replaced(token=-1), Ending(DOWNLOADED))),
        ("claim", lambda: backend.release(anything)),
        ("claim", lambda: backend.release_many([anything])),
        ("message", lambda: backend.cancel(key, Cancellation("x" * 4096))),
        ("expected_token", lambda: backend.delete([key], expected_token=-1, force=False)),
        ("cache_id", lambda: backend.cache_id("x" * 65)),
        ("provider", lambda: backend.get_status("m", "9 no", None, None)),
        ("revision", lambda: backend.get_record("m", HF, "\0", None)),
        ("subset", lambda: backend.touch_model("m", HF, None, "")),
        ("provider", lambda: backend.keys_of("m", "9 no", None, None)),
    ]
    bad_names: list[Callable[[], object]] = [
        lambda: backend.claim("", HF, None, None, lease=1.0),
        lambda: backend.claim("x" * 1025, HF, None, None, lease=1.0),
        lambda: backend.claim(anything, HF, None, None, lease=1.0),
        lambda: backend.get_status("", HF, None, None),
        lambda: backend.get_record("a\x07", HF, None, None),
        lambda: backend.touch_model("\ud800", HF, None, None),
        lambda: backend.keys_of(anything, None, None, None),
        lambda: backend.renew([replaced(model_name="")]),
    ]

    def all_of_them() -> None:
        for place, (argument, call) in enumerate(bad):
            error = raised(InvalidArgument, call, f"bad call {place} ({argument})")
            assert error.argument == argument, f"bad call {place} blames {error.argument}, not {argument}"
        for place, call in enumerate(bad_names):
            raised(InvalidModelName, call, f"bad name {place}")

    unchanged(backend, [key, free], all_of_them)
    assert tuple(backend.counts()) == (1, 0, 0)


# The registry itself


@scenario
def lease_time_never_falls(context: Context) -> None:
    """Lease time is aware, in UTC, the same for all clients, and never falls."""
    clients = [context.client(), context.client("two")]
    times = [clients[number % 2].lease_time() for number in range(40)]
    assert times == sorted(times)
    assert times[0].tzinfo is not None
    assert times[0].utcoffset() == timedelta(0)
    claim = won_claim(clients[0], model_key())
    assert times[-1] <= lease_end(claim) - timedelta(seconds=LONG_S) <= clients[1].lease_time()


@scenario
def the_first_cache_id_stays(context: Context) -> None:
    """Of all cache ids that are proposed the first one stays, and every caller learns of it."""
    clients = [context.client(), context.client("two")]
    assert clients[0].cache_id() is None
    calls = [partial(clients[number % 2].cache_id, f"cache {number}") for number in range(8)]
    ids = set(at_once(calls))
    assert len(ids) == 1
    (cache_id,) = ids
    assert cache_id is not None
    assert cache_id.startswith("cache ")
    assert clients[0].cache_id() == clients[1].cache_id("late") == cache_id


@scenario
def the_hubs_last_answer_stays(context: Context) -> None:
    """`branch` tells the hub's answer that was asked for last, in whatever order the answers arrive."""
    one, two = context.client(), context.client("two")
    key = model_key("org/model", HF, "main")
    unknown = one.branch(key)
    assert (unknown.commit, unknown.name) == (None, None)
    assert unknown.time > 0
    later = wait_until(lambda: (now := one.branch(key).time) > unknown.time and now, "time passes")
    two.set_branch(key, "newer", "Org/Model", later)
    one.set_branch(key, "older", "org/model", unknown.time)
    known = one.branch(key)
    assert known.commit is not None
    assert known.name is not None
    assert (known.commit.value, known.commit.at) == ("newer", later)
    assert (known.name.value, known.name.at) == ("Org/Model", later)
    one.set_branch(key, "future", "Org/Model", one.branch(key).time + 10**12)
    known = one.branch(key)
    assert known.commit is not None
    assert known.commit.value == "future"
    assert known.commit.at <= known.time, "an answer from the future"


@scenario
def branches_are_apart(context: Context) -> None:
    """Branches, subsets and providers have commits of their own; a repository has one name."""
    backend = context.client()
    key = model_key("org/model", HF, "main")
    asked = backend.branch(key).time
    backend.set_branch(key, "c1", "Org/Model", asked)
    for other in (model_key("org/model", HF, "dev"), model_key("org/model", HF, "main", "part")):
        found = backend.branch(other)
        assert found.commit is None
        assert found.name is not None
        assert found.name.value == "Org/Model"
    for stranger in (model_key("org/model", "S3", "main"), model_key("org/other", HF, "main")):
        found = backend.branch(stranger)
        assert (found.commit, found.name) == (None, None)
    bare = backend.branch(model_key("org/model"))
    assert bare.commit is None
    assert bare.name is not None
    backend.set_branch(model_key("org/bare"), "c2", "Org/Bare", asked)
    bare = backend.branch(model_key("org/bare"))
    assert bare.commit is None
    assert bare.name is not None
    assert bare.name.value == "Org/Bare"
    assert tuple(backend.counts()) == (0, 0, 0)
