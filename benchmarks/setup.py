"""What jobs need before they begin, and the commands for other clients: the very ones that ours sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import redis

from pyregistry import Claim, Claimed, ModelStatus, Registry
from pyregistry._core.values import chunks
from pyregistry._redis.protocol.request import Request
from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.protocol.scripts import BATCH
from pyregistry._redis.protocol.transitions import FINISH
from pyregistry.backend.values import Ending, StatusChange

NAMESPACE = "bench"
PROVIDER: Final = "HuggingFace"
LEASE = 30.0

FRESH = ("claim_fresh", "retry", "renew", "finish", "release", "delete_model")
"""Jobs of which every call has a model of its own."""
CLAIMED = ("retry", "renew", "finish", "release", "delete_model")
"""Jobs that begin with claims."""
FILLED = ("get_status", "get_model_record", "touch_model", "set_status", "hot_path", "lru_head", "counts")
"""Jobs that begin with records that are DOWNLOADED."""

Command: TypeAlias = "tuple[str | int, ...]"


def model_name(tag: str, number: int) -> str:
    """The name of a model; about 40 characters, as real ones have."""
    return f"organisation/{tag}-{number:012d}"


def claims_of(registry: Registry, tag: str, count: int, lease: float = 600.0) -> list[Claim]:
    """So many models, claimed."""
    models = [(model_name(tag, number), PROVIDER) for number in range(count)]
    found: list[Claim] = []
    for part in chunks(models, 6400):
        results = registry.try_claim_many(part, lease=lease)
        found += [result.claim for result in results if isinstance(result, Claimed)]
    assert len(found) == count, "somebody else is here"
    return found


def end(url: str, claims: Sequence[Claim], status: str) -> None:
    """All these downloads end so, in full batches down one pipeline."""
    ops = RequestFactory(NAMESPACE, None, ())
    with redis.Redis.from_url(url) as client:
        client.script_load(FINISH.text)
        for part in chunks(claims, 6400):
            pipeline = client.pipeline(transaction=False)
            for batch in chunks(part, BATCH):
                pipeline.execute_command(*batched([finish_of(ops, claim, status) for claim in batch]))
            pipeline.execute()


def prepare(url: str, what: str, count: int, models: int, tag: str) -> list[Claim]:
    """What must be there before a job begins; returns the claims that it works on."""
    with Registry.from_url(url, NAMESPACE) as registry:
        if what in CLAIMED:
            claims = claims_of(registry, tag, count)
            if what == "retry":
                end(url, claims, "ERROR")
            return claims
        if what in FILLED and registry.get_status(model_name(tag, 0), PROVIDER) is None:
            end(url, claims_of(registry, tag, models), "DOWNLOADED")
    return []


def finish_of(ops: RequestFactory, claim: Claim, status: str = "DOWNLOADED") -> Request[str]:
    """The end of a download."""
    size = None if status == "ERROR" else 14_000_000_000
    return ops.finish(claim, Ending(ModelStatus(status), size_bytes=size))


def operation(
    ops: RequestFactory, what: str, name: str, claim: Claim | None = None, provider: str | None = None
) -> Request[Any]:
    """One call, as ours makes it; without a provider what may go without one looks at all four."""
    if what in ("claim_fresh", "claim_contended"):
        return ops.claiming(PROVIDER, None, None, LEASE, None, None).claim(name, None, None)
    if what == "get_status":
        return ops.get_status(name, provider, None, None)
    if what == "get_model_record":
        return ops.read(ops.targets(name, provider, None, None))
    if what == "touch_model":
        return ops.touch_model(name, provider, None, None)
    if what == "delete_model":
        return ops.delete(ops.targets(name, provider, None, None), expected_token=None, force=False)
    (target_of,) = ops.targets(name, PROVIDER, None, None)
    if what == "set_status":
        return ops.set_status(target_of, StatusChange(ModelStatus.DOWNLOADED))
    if what == "retry":
        return ops.retry(target_of, lease=LEASE, claim_id=None, owner=None, max_attempts=None)
    if what == "counts":
        return ops.counts()
    if what == "lru_head":
        return ops.page(None, 0, 10)
    assert claim is not None, what
    if what == "renew":
        return ops.renew([claim], lease=LEASE)
    return finish_of(ops, claim) if what == "finish" else ops.release(claim)


def operations(
    what: str, count: int, models: int, tag: str, claims: Sequence[Claim], provider: str | None = None
) -> list[Request[Any]]:
    """All calls of a job; a call of one kind to one model is the same object wherever it can be."""
    ops = RequestFactory(NAMESPACE, None, ())
    if what == "claim_contended" or what in FRESH:
        each = range(count)
        return [
            operation(
                ops, what, model_name(tag, number % models), claims[number] if claims else None, provider
            )
            for number in each
        ]
    same = [operation(ops, what, model_name(tag, number), None, provider) for number in range(models)]
    return [same[number % models] for number in range(count)]


def batched(ops: Sequence[Request[Any]]) -> Command:
    """One command for operations of one kind."""
    return ops[0].head.command(ops)
