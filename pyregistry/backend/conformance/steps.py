"""The steps and waits of which the scenarios are made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final, TypeVar, cast

from pyregistry._core import validation as checks
from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import ProgressUpdate, Rejection
from pyregistry.backend.common import BackendEvent
from pyregistry.backend.protocol_sync import Backend, EventSource
from pyregistry.backend.values import Ending
from pyregistry.models import (
    AlreadyExists,
    Claim,
    Claimed,
    ModelProvider,
    ModelRecord,
    ModelStatus,
)

T = TypeVar("T")

LIMIT_S: Final = 30.0
"""Seconds that a condition, or a call, may take."""

SHORT_S: Final = 0.15
"""Seconds of a lease, or a back-off, whose end a scenario waits for."""

LONG_S: Final = 60.0
"""Seconds of a lease that does not end while a scenario runs."""

HF: Final = ModelProvider.HUGGING_FACE
DOWNLOADING, DOWNLOADED, ERROR = ModelStatus.DOWNLOADING, ModelStatus.DOWNLOADED, ModelStatus.ERROR


def model_key(
    name: str = "org/model", provider: str = HF, revision: str | None = None, subset: str | None = None
) -> ModelKey:
    return checks.target(name, provider, revision, subset)


def model_keys(count: int) -> list[ModelKey]:
    return [model_key(f"m{number}") for number in range(count)]


def try_claim(backend: Backend, key: ModelKey, **options: Any) -> Claimed | AlreadyExists:
    return backend.claim(key.name, key.provider, key.revision, key.subset, **{"lease": LONG_S, **options})


def won_claim(backend: Backend, key: ModelKey, **options: Any) -> Claim:
    result = try_claim(backend, key, **options)
    assert isinstance(result, Claimed), f"{key.ref} was not claimed: {result}"
    return result.claim


def won_retry(backend: Backend, key: ModelKey, **options: Any) -> Claim:
    result = backend.retry(key, **{"lease": LONG_S, **options})
    assert isinstance(result, Claim), f"{key.ref} was not retried: {result}"
    return result


def rejected(result: object) -> Rejection:
    assert isinstance(result, Rejection), f"granted: {result}"
    return result


def not_won(result: object, status: ModelStatus) -> AlreadyExists:
    assert isinstance(result, AlreadyExists), f"claimed: {result}"
    assert result.status is status, result
    return result


def record_of(backend: Backend, key: ModelKey) -> ModelRecord:
    (record,) = backend.read([key])
    assert isinstance(record, ModelRecord), f"no record of {key.ref}: {record!r}"
    return record


def renewed_claim(backend: Backend, claim: Claim, **options: Any) -> Claim:
    (result,) = backend.renew([claim], **options)
    assert isinstance(result, Claim), f"not renewed: {result}"
    return result


def report(backend: Backend, claim: Claim, *update: Any, **options: Any) -> Claim:
    return renewed_claim(backend, claim, updates=[ProgressUpdate(*update, **options)])


def finish(backend: Backend, claim: Claim, status: ModelStatus = DOWNLOADED, **options: Any) -> None:
    why_not = backend.finish(claim, Ending(status, **options))
    assert why_not == "", f"not finished: {why_not}"


def lease_end(claim: Claim | ModelRecord) -> datetime:
    assert claim.lease_expires_at is not None, "it never ends"
    return claim.lease_expires_at


def wait_until(condition: Callable[[], T], what: str) -> T:
    """Wait until a condition holds; its value."""
    ends = time.monotonic() + LIMIT_S
    while not (value := condition()):
        assert time.monotonic() < ends, f"within {LIMIT_S:g} s it did not come true that {what}"
        time.sleep(0.005)
    return value


def wait_for(backend: Backend, moment: datetime | None) -> None:
    """Wait until lease time has passed a moment."""
    assert moment is not None, "there is no such moment"
    wait_until(lambda: backend.lease_time() > moment, f"it is after {moment}")


def unchanged(backend: Backend, keys: Sequence[ModelKey], act: Callable[[], T]) -> T:
    """Assert that the records are the same after an action as before; its result."""
    before = backend.read(keys)
    result = act()
    after = backend.read(keys)
    assert after == before, f"changed: {before} became {after}"
    return result


def raised(kind: type[T], act: Callable[[], object], what: str = "") -> T:
    try:
        result = act()
    except Exception as error:
        if not isinstance(error, kind):
            raise AssertionError(f"{what} raised {error!r}, not {kind.__name__}") from error
        return error
    raise AssertionError(f"{what} raised no {kind.__name__}, but gave {result!r}")


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """The results of calls that many threads begin at the same time."""
    barrier = threading.Barrier(len(calls), timeout=LIMIT_S)

    def run(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def receive_events(source: EventSource, count: int) -> list[BackendEvent]:
    """So many events."""
    events: list[BackendEvent] = []
    ends = time.monotonic() + LIMIT_S
    while len(events) < count:
        assert time.monotonic() < ends, f"{len(events)} of {count} events came: {events}"
        received = source.receive()
        assert not isinstance(received, str), received
        events += received
    assert len(events) == count, f"more than {count} events: {events}"
    return events


def scanned(backend: Backend, batch_size: int = 100, status: ModelStatus | None = None) -> list[ModelRecord]:
    records = list(backend.scan(batch_size, status))
    assert all(isinstance(record, ModelRecord) for record in records), records
    return cast("list[ModelRecord]", records)


def delete_records(backend: Backend, *keys_or_token: ModelKey | int, force: bool = False) -> int:
    """Delete records, or only the one with a token; how many this was."""
    keys = [each for each in keys_or_token if isinstance(each, ModelKey)]
    tokens = [each for each in keys_or_token if isinstance(each, int)]
    return backend.delete(keys, expected_token=tokens[0] if tokens else None, force=force)
