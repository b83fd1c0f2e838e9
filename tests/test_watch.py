"""watch: what happens, as it happens, as typed events."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from pyregistry import (
    AsyncRegistry,
    Claimed,
    EventGap,
    EventKind,
    ModelStatus,
    Registry,
    RegistryEvent,
    _listen_sync,
)
from tests.proxy import SECONDS, until

if TYPE_CHECKING:
    pass


def life_of_a_model(other: Registry) -> None:
    result = other.try_claim_for_download("a", "S3", lease=60.0, expected_bytes=10)
    assert isinstance(result, Claimed)
    other.refresh_download_claim(result.claim, bytes_done=5)
    other.release_download_claim(result.claim)
    result = other.try_claim_for_download("a", "S3", lease=60.0)
    assert isinstance(result, Claimed)
    other.finish_download_claim(result.claim, ModelStatus.ERROR, "no")
    claim = other.try_reset_error_for_retry("a", "S3", lease=60.0)
    assert claim is not None
    other.finish_download_claim(claim, ModelStatus.DOWNLOADED, size_bytes=10)
    other.touch_model("a")
    other.set_status("a", "S3", ModelStatus.ERROR)
    other.delete_model("a")


KINDS = ["claimed", "renewed", "released", "taken_over", "failed", "retried", "downloaded", "set", "deleted"]


def of_event(item: object) -> RegistryEvent:
    assert isinstance(item, RegistryEvent)
    return item


def test_all_that_happens_is_told(server_url: str, namespace: str, other: Registry) -> None:
    with Registry.from_url(server_url, namespace) as registry, registry.watch() as events:
        life_of_a_model(other)
        seen = [of_event(next(events)) for _ in KINDS]
    assert [event.kind for event in seen] == KINDS
    assert {event.record.model_name for event in seen} == {"a"}
    assert seen[1].record.bytes_done == 5
    assert seen[6].record.size_bytes == 10
    assert seen[7].by == "other"
    assert seen[6].record.last_used_at <= seen[7].record.last_used_at


async def test_all_that_happens_is_told_on_a_loop(server_url: str, namespace: str, other: Registry) -> None:
    async with AsyncRegistry.from_url(server_url, namespace) as registry, registry.watch() as events:
        await asyncio.to_thread(life_of_a_model, other)
        seen = [of_event(await anext(events)) for _ in KINDS]
    assert [event.kind for event in seen] == KINDS


@pytest.mark.parametrize(
    ("wanted", "count"),
    [({"name": "a"}, 2), ({"provider": "Ngc"}, 2), ({"name": "a", "provider": "Ngc"}, 1), ({}, 4)],
    ids=str,
)
def test_only_what_is_wanted_is_told(
    server_url: str, namespace: str, other: Registry, wanted: dict[str, Any], count: int
) -> None:
    with Registry.from_url(server_url, namespace) as registry, registry.watch(**wanted) as events:
        with registry.watch("the end", "S3") as end:
            for name in ("a", "b"):
                for provider in ("S3", "Ngc"):
                    other.set_status(name, provider, ModelStatus.DOWNLOADED)
            other.set_status("the end", "S3", ModelStatus.DOWNLOADED)
            of_event(next(end))
        seen = []
        while (event := events._watcher.take()) is not None:
            seen.append(of_event(event).record)
    seen = [record for record in seen if record.model_name != "the end"]
    assert len(seen) == count


def test_a_break_is_a_gap(server_url: str, namespace: str, other: Registry) -> None:
    with Registry.from_url(server_url, namespace) as registry, registry.watch() as events:
        other.set_status("before", "S3", ModelStatus.DOWNLOADED)
        assert of_event(next(events)).record.model_name == "before"
        registry._listener._beside.connection._sock.shutdown(2)  # type: ignore[union-attr]  # it listens
        assert isinstance(next(events), EventGap)
        other.set_status("after", "S3", ModelStatus.DOWNLOADED)
        assert of_event(next(events)).record.model_name == "after"


def test_who_does_not_keep_up_is_told(
    server_url: str, namespace: str, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_listen_sync, "MOST", 3)
    with Registry.from_url(server_url, namespace) as registry, registry.watch() as events:
        with registry.watch("m9") as last:
            for at in range(10):
                other.set_status(f"m{at}", "S3", ModelStatus.DOWNLOADED)
            of_event(next(last))
        first = next(events)
        assert isinstance(first, EventGap)
        assert of_event(next(events)).kind is EventKind.SET


def test_it_ends_with_its_client(server_url: str, namespace: str) -> None:
    registry = Registry.from_url(server_url, namespace)
    with ThreadPoolExecutor(1) as pool:
        wanted = pool.submit(lambda: list(registry.watch()))
        until(lambda: registry._listener.is_up, "it listens")
        registry.close()
        assert wanted.result(SECONDS) == []


async def test_it_ends_with_its_client_on_a_loop(server_url: str, namespace: str) -> None:
    registry = AsyncRegistry.from_url(server_url, namespace)

    async def watch() -> list[Any]:
        return [event async for event in registry.watch()]

    task = asyncio.create_task(watch())
    await asyncio.to_thread(until, lambda: registry._listener.is_up, "it listens")
    await registry.close()
    assert await asyncio.wait_for(task, SECONDS) == []
