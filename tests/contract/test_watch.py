"""watch: what happens, as it happens, as typed events."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from pyregistry import (
    AsyncRegistry,
    Claimed,
    DownloadFailed,
    EventGap,
    EventKind,
    ModelStatus,
    Registry,
    RegistryClosed,
    RegistryEvent,
    RetryPolicy,
)
from pyregistry._coordination import subscriber_async, subscriber_sync
from pyregistry._coordination.lease import LossSignal
from pyregistry._core.clock import now
from tests.support.faults.interrupt import Interrupted, interrupt_from_elsewhere, interruptible
from tests.support.faults.proxy import SECONDS, until
from tests.support.faults.truncate import Cutter
from tests.support.internals import event_connection_of, subscriber_of

if TYPE_CHECKING:
    from tests.support.clients import Connect


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


def test_the_listener_alone_closes_its_connection(server_url: str, namespace: str) -> None:
    """A descriptor that another thread closes under a read may be another socket's at once."""
    with Registry.from_url(server_url, namespace) as registry:
        events = registry.watch()
        with events:
            beside: Any = subscriber_of(registry)._beside
            connection = until(lambda: event_connection_of(registry), "the listener is connected")
            closed_by: list[str] = []
            disconnect = connection.disconnect

            def spy(*args: Any, **options: Any) -> None:
                closed_by.append(threading.current_thread().name)
                disconnect(*args, **options)

            connection.disconnect = spy
        beside.ended()  # at once: its read has ended
        assert set(closed_by) == {"pyregistry-listener"}
        assert connection._sock is None


def test_all_that_happens_is_told(server_url: str, namespace: str, other: Registry) -> None:
    """A watch yields an event for each change of a record, in order."""
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
    """A watch of an AsyncRegistry yields an event for each change of a record, in order."""
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
    """A watch with a name or a provider yields matching events alone."""
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
    """A broken connection yields an EventGap, and later events follow."""
    with Registry.from_url(server_url, namespace) as registry, registry.watch() as events:
        other.set_status("before", "S3", ModelStatus.DOWNLOADED)
        assert of_event(next(events)).record.model_name == "before"
        event_connection_of(registry)._sock.shutdown(2)
        assert isinstance(next(events), EventGap)
        other.set_status("after", "S3", ModelStatus.DOWNLOADED)
        assert of_event(next(events)).record.model_name == "after"


def test_who_does_not_keep_up_is_told(
    server_url: str, namespace: str, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that lets the buffer overflow gets an EventGap."""
    monkeypatch.setattr(subscriber_sync, "MOST", 3)
    with Registry.from_url(server_url, namespace) as registry, registry.watch() as events:
        with registry.watch("m9") as last:
            for at in range(10):
                other.set_status(f"m{at}", "S3", ModelStatus.DOWNLOADED)
            of_event(next(last))
        first = next(events)
        assert isinstance(first, EventGap)
        assert of_event(next(events)).kind is EventKind.SET


async def test_on_a_loop_only_what_is_wanted_is_told(
    server_url: str, namespace: str, other: Registry
) -> None:
    """A watch of an AsyncRegistry with a name and a provider yields matching events alone."""
    async with (
        AsyncRegistry.from_url(server_url, namespace) as registry,
        registry.watch("a", "Ngc") as events,
        registry.watch("the end") as end,
    ):
        for name in ("a", "b", "the end"):
            for provider in ("S3", "Ngc"):
                await asyncio.to_thread(other.set_status, name, provider, ModelStatus.DOWNLOADED)
        of_event(await anext(end))
        record = of_event(await anext(events)).record
        assert (record.model_name, record.provider) == ("a", "Ngc")
        assert events._watcher.take() is None


@pytest.mark.parametrize("transport", ["multiplexed", "redis-py"])
async def test_on_a_loop_a_break_is_a_gap(
    server_url: str, namespace: str, other: Registry, transport: str
) -> None:
    """A broken connection of an AsyncRegistry yields an EventGap, and later events follow."""
    with Cutter(server_url) as cutter:
        async with (
            AsyncRegistry.from_url(cutter.url, namespace, transport=transport) as registry,
            registry.watch() as events,
        ):
            await asyncio.to_thread(other.set_status, "before", "S3", ModelStatus.DOWNLOADED)
            assert of_event(await anext(events)).record.model_name == "before"
            cutter.cut()
            assert isinstance(await anext(events), EventGap)
            await asyncio.to_thread(other.set_status, "after", "S3", ModelStatus.DOWNLOADED)
            assert of_event(await anext(events)).record.model_name == "after"


async def test_on_a_loop_who_does_not_keep_up_is_told(
    server_url: str, namespace: str, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer of an AsyncRegistry that lets the buffer overflow gets an EventGap."""
    monkeypatch.setattr(subscriber_async, "MOST", 3)
    async with (
        AsyncRegistry.from_url(server_url, namespace) as registry,
        registry.watch() as events,
        registry.watch("m9") as last,
    ):
        for at in range(10):
            await asyncio.to_thread(other.set_status, f"m{at}", "S3", ModelStatus.DOWNLOADED)
        of_event(await anext(last))
        assert isinstance(await anext(events), EventGap)
        assert of_event(await anext(events)).kind is EventKind.SET


def test_a_model_that_is_given_up_is_told(connect_any: Connect, other: Registry) -> None:
    """A model whose attempts are used up yields an event of its own."""
    # Its owners are lost, as often as somebody allows: an event of its own, for who watches and who waits.
    other.try_claim_for_download("a", "S3", lease=0.05)
    with ThreadPoolExecutor(1) as pool, other.watch("a") as events:
        wanted = pool.submit(connect_any().ensure, "a", "S3", print, retry=RetryPolicy(attempts=1))
        with pytest.raises(DownloadFailed, match="Owner lost"):
            wanted.result(SECONDS)
        event = of_event(next(events))
        assert (event.kind, event.record.status) == (EventKind.ABANDONED, ModelStatus.ERROR)
        assert (event.record.permanent, event.record.max_attempts) == (False, 1)
        assert event.record.retry_at is not None


class Dead:
    """Takes connections, and hangs up at once; a context manager.

    Attributes:
        at: when each came (`now`).
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self.at: list[float] = []
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Dead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(SECONDS)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.at.append(now())
                client.close()


@pytest.mark.parametrize("kind", ["blocking", "multiplexed", "redis-py"])
def test_a_subscription_is_tried_again_with_back_off(kind: str) -> None:
    """A subscription that fails is retried with increasing delays."""
    # No sooner than that; how much later is not our business.
    least = 0.5 * (0.02 + 0.08 + 0.32)
    with Dead() as dead, ThreadPoolExecutor(1) as pool:
        if kind == "blocking":
            registry = Registry.from_url(dead.url, timeout=30.0)
            listening = pool.submit(lambda: list(registry.watch()))
            until(lambda: len(dead.at) >= 6, "it tries again and again")
            registry.close()
            assert isinstance(listening.exception(SECONDS), RegistryClosed)
        else:

            async def listen() -> None:
                registry = AsyncRegistry.from_url(dead.url, timeout=30.0, transport=kind)
                task = asyncio.create_task(anext(registry.watch(), None))
                await asyncio.to_thread(until, lambda: len(dead.at) >= 6, "it tries again and again")
                await registry.close()
                await asyncio.wait({task}, timeout=SECONDS)
                assert task.done()

            asyncio.run(listen())
    assert dead.at[5] - dead.at[0] >= least


def test_it_ends_with_its_client(server_url: str, namespace: str) -> None:
    """A watch ends without an error when its client is closed."""
    registry = Registry.from_url(server_url, namespace)
    with ThreadPoolExecutor(1) as pool:
        events = registry.watch()
        wanted = pool.submit(list, events)
        # Not only its listener: closed before it has begun, it would be told so.
        until(lambda: events._watcher.begun, "it listens")
        registry.close()
        assert wanted.result(SECONDS) == []


def test_a_signal_that_does_not_end_the_wait_is_seen(
    server_url: str, namespace: str, other: Registry
) -> None:
    """A signal handler that raises ends the wait for the next event."""
    with (
        interruptible() as came,
        Registry.from_url(server_url, namespace) as registry,
        ThreadPoolExecutor(1) as pool,
    ):
        with registry.watch() as events:
            sent = pool.submit(
                interrupt_from_elsewhere,
                threading.get_ident(),
                subscriber_sync.EventStream.__next__.__code__,
                came,
                lambda: other.set_status("model", "S3", ModelStatus.DOWNLOADED),
            )
            with pytest.raises(Interrupted):
                next(events)
        sent.result()


def test_a_signal_that_does_not_end_the_wait_for_a_loss_is_seen() -> None:
    """A signal handler that raises ends the wait for a lost claim."""
    lost = LossSignal()
    with interruptible() as came, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(
            interrupt_from_elsewhere,
            threading.get_ident(),
            LossSignal.wait.__code__,
            came,
            lambda: lost.set("the end"),
        )
        with pytest.raises(Interrupted):
            lost.wait()
        sent.result()


async def test_it_ends_with_its_client_on_a_loop(server_url: str, namespace: str) -> None:
    """A watch of an AsyncRegistry ends without an error when its client is closed."""
    registry = AsyncRegistry.from_url(server_url, namespace)

    events = registry.watch()

    async def watch() -> list[Any]:
        return [event async for event in events]

    task = asyncio.create_task(watch())
    await asyncio.to_thread(until, lambda: events._watcher.begun, "it listens")
    await registry.close()
    assert await asyncio.wait_for(task, SECONDS) == []
