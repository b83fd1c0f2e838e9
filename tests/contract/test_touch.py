"""Touches that take no time: how often the server is told, when, and what becomes of them when it is away."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
from typing import TYPE_CHECKING

import pytest
import redis

from pyregistry import AsyncRegistry, InvalidArgument, InvalidModelName, ModelStatus, Registry, RegistryClosed
from pyregistry._coordination import touch_buffer_async, touch_buffer_sync
from pyregistry._core.clock import now
from tests.support.faults.proxy import Proxy, until
from tests.support.internals import ops_of
from tests.support.marks import left_open

if TYPE_CHECKING:
    from tests.conftest import MakeServer
    from tests.support.clients import Connect

pytestmark = pytest.mark.server("embedded", "debian", "stack")  # on servers of their own: not in containers
LONG = 3600.0  # an interval that does not end within a test


@pytest.fixture
def other(other: Registry) -> Registry:
    """Somebody else, whose touches are told at once."""
    for at in range(100):
        other.set_status(f"m{at}", "S3", ModelStatus.DOWNLOADED)
    return other


def order(other: Registry, limit: int | None = None) -> list[str]:
    return [record.model_name for record in other.get_models_by_last_used(limit)]


def newest(other: Registry) -> str:
    return order(other)[-1]


def test_the_first_touch_goes_out_at_once(connect_any: Connect, proxy: Proxy, other: Registry) -> None:
    """The first touch of a model is sent at once, and repeated ones wait for the interval."""
    registry = connect_any(url=proxy.url, touch_interval=LONG)
    assert registry.touch_model("m5", "S3")
    until(lambda: newest(other) == "m5", "it is told")
    for _ in range(1000):
        assert registry.touch_model("m5", "S3")
    assert registry.touch_model("m7", "S3")
    until(lambda: newest(other) == "m7", "it is told")
    assert proxy.sent["touch"] == 2


def test_within_an_interval_each_model_goes_out_once(
    connect_any: Connect, proxy: Proxy, other: Registry
) -> None:
    """Within an interval each model is touched once, in batches."""
    interval = 1.0  # longer than a hundred touches may take
    registry = connect_any(url=proxy.url, touch_interval=interval)
    this = first = int(now() / interval)
    while this < first + 3:
        for at in range(100):
            assert registry.touch_model(f"m{at}", "S3")
        this = int(now() / interval)
    intervals = this - first + 1
    # A hundred models are two calls. The first ones may have gone out in more.
    assert 2 * 2 <= proxy.sent["touch"] <= 2 * intervals + 100


def test_those_of_an_interval_go_out_together(connect_any: Connect, proxy: Proxy, other: Registry) -> None:
    """Buffered touches are sent in batches, in the order of the last touch."""
    registry = connect_any(url=proxy.url, touch_interval=LONG)
    mixed = [f"m{at * 7 % 100}" for at in range(100)]
    for name in mixed:
        registry.touch_model(name, "S3")
    until(lambda: order(other) == mixed, "they are told, in order")
    before = proxy.sent["touch"]
    for at in reversed(range(100)):
        for _ in range(3):
            registry.touch_model(f"m{at}", "S3")
    assert proxy.sent["touch"] == before
    registry.close()
    assert proxy.sent["touch"] == before + 2
    assert order(other) == [f"m{at}" for at in reversed(range(100))]


def test_later_ones_go_out_when_an_interval_begins(
    connect_any: Connect, proxy: Proxy, other: Registry
) -> None:
    """A repeated touch is sent when the next interval begins."""
    registry = connect_any(url=proxy.url, touch_interval=0.2)
    registry.touch_model("m1", "S3")
    until(lambda: newest(other) == "m1", "it is told")
    registry.touch_model("m1", "S3")
    other.touch_model("m2", "S3")
    assert newest(other) == "m2"
    until(lambda: newest(other) == "m1", "it is told again")
    until(lambda: not toucher_of(registry)._allowed, "it is forgotten")
    until(lambda: toucher_of(registry)._beside is None, "nothing runs")
    assert proxy.sent["touch"] == 2
    registry.touch_model("m3", "S3")
    until(lambda: newest(other) == "m3", "it goes on")


def toucher_of(registry: Registry) -> touch_buffer_sync.TouchBuffer:
    toucher: touch_buffer_sync.TouchBuffer | None = registry._touches
    assert toucher is not None
    return toucher


def test_without_a_provider_all_copies_are_touched(connect_any: Connect, other: Registry) -> None:
    """A buffered touch without a provider touches the model at every provider."""
    other.set_status("m1", "Gcs", ModelStatus.DOWNLOADED)
    other.touch_model("m2", "S3")
    registry = connect_any(touch_interval=LONG)
    for _ in range(3):
        assert registry.touch_model("m1")
        assert registry.touch_model("nothing that is known")
    registry.close()
    last = other.get_models_by_last_used()[-2:]
    assert {(record.model_name, record.provider) for record in last} == {("m1", "S3"), ("m1", "Gcs")}
    assert len(order(other)) == 101


def test_when_the_server_is_away_nothing_is_lost_and_nothing_grows(
    connect_any: Connect,
    make_server: MakeServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An outage keeps the latest touches, bounds the buffer, and logs what is lost."""
    for module in (touch_buffer_async, touch_buffer_sync):
        monkeypatch.setattr(module, "MOST", 50)
    server = make_server(persistent=True, appendonly="yes", appendfsync="always")
    with Registry.from_url(server.url) as other:
        for at in range(10):
            other.set_status(f"m{at}", "S3", ModelStatus.DOWNLOADED)
    registry = connect_any(url=server.url, namespace="default", touch_interval=0.1, timeout=0.2)
    server.kill()
    with caplog.at_level(logging.WARNING, "pyregistry.touches"):
        for at in range(1000):
            assert registry.touch_model(f"unknown {at}", "S3")
        assert registry.touch_model("m3", "S3")
        toucher = toucher_of(registry)
        until(lambda: toucher._away, "it is told")
        assert len(toucher._waiting) + len(toucher._due) <= 50
        assert len(toucher.noted) <= 50
        for at in range(1000):
            assert registry.touch_model(f"unknown {at}", "S3")
        assert registry.touch_model("m3", "S3")
        until(lambda: "S3:m3" in toucher._allowed and not toucher._due, "it waits, or is being told")
        assert len(toucher._allowed) <= 50 + 64
        assert [record.levelname for record in caplog.records].count("WARNING") >= 1
        assert "are lost" not in caplog.text  # more may be
        server.start()
        with Registry.from_url(server.url) as other:
            until(lambda: newest(other) == "m3", "it is told at last")
        until(lambda: "are lost" in caplog.text, "what was not told of is said")
        registry.close()
    (lost,) = re.findall(r"(\d+) touches are lost", caplog.text)
    assert int(lost) >= 800  # of the first thousand, of which fifty may wait, and as many be on their way


def test_closing_says_what_is_lost(
    connect_any: Connect, make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """close logs the touches that can not be sent."""
    server = make_server()
    registry = connect_any(url=server.url, touch_interval=LONG, timeout=0.2)
    registry.touch_model("model", "S3")
    until(lambda: not toucher_of(registry)._due, "it is told")
    registry.touch_model("model", "S3")
    server.kill()
    with caplog.at_level(logging.WARNING, "pyregistry.touches"):
        registry.close()
    assert "1 models could not be touched: " in caplog.text
    registry.close()
    with pytest.raises(RegistryClosed):
        registry.touch_model("model", "S3")


def test_bad_arguments_are_told(connect_any: Connect) -> None:
    """Invalid arguments of a buffered touch raise at once and buffer nothing."""
    registry = connect_any(touch_interval=LONG)
    for wrong in (["a"], "", 7, None, "\ud800"):
        with pytest.raises(InvalidModelName):
            registry.touch_model(wrong)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InvalidArgument):
        registry.touch_model("m", ["S3"])  # type: ignore[arg-type]  # on purpose
    assert not toucher_of(registry)._allowed
    assert registry.touch_model("m", "S3")
    with pytest.raises(InvalidModelName):  # which is no touch of that model
        registry.touch_model(("m", "S3", None, None))  # type: ignore[arg-type]  # on purpose
    for interval in (0, -1.0, "1", float("nan"), float("inf")):
        with pytest.raises(InvalidArgument, match="touch_interval"):
            Registry.from_url("redis://localhost", touch_interval=interval)  # type: ignore[arg-type]  # on purpose


def test_a_damaged_record_is_told_in_the_log(
    connect_any: Connect, server_url: str, other: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """A touch of a damaged record is logged, and other touches are sent."""
    with redis.Redis.from_url(server_url) as raw:
        raw.set(ops_of(other).keys.record("S3:m4"), b"x")
    registry = connect_any(touch_interval=LONG)
    with caplog.at_level(logging.WARNING, "pyregistry.touches"):
        assert registry.touch_model("m4", "S3")
        assert registry.touch_model("m5", "S3")
        until(lambda: newest(other) == "m5", "the other is touched")
        until(lambda: "m4" in caplog.text, "it is told")
    other.delete_model("m4", "S3", force=True)


def test_a_forked_child_tells_nothing_of_its_parents(
    server_url: str, namespace: str, proxy: Proxy, other: Registry
) -> None:
    """A forked child sends its own touches and none of its parent's."""
    with Registry.from_url(proxy.url, namespace, touch_interval=LONG) as registry:
        registry.touch_model("m1", "S3")
        until(lambda: newest(other) == "m1", "it is told")
        registry.touch_model("m1", "S3")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                toucher = toucher_of(registry)
                if not toucher._waiting and not toucher.noted:
                    registry.touch_model("m2", "S3")
                    registry.close()
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert newest(other) == "m2"
    assert newest(other) == "m1"
    assert proxy.sent["touch"] == 3


@left_open
async def test_on_another_event_loop_it_begins_anew(server_url: str, namespace: str, other: Registry) -> None:
    """The touch buffer works again on a second event loop."""
    registry = AsyncRegistry.from_url(server_url, namespace, touch_interval=LONG)

    async def touch(name: str) -> None:
        await registry.touch_model(name, "S3")
        await asyncio.to_thread(until, lambda: newest(other) == name, "it is told")

    await asyncio.to_thread(asyncio.run, touch("m1"))
    await touch("m2")
    await registry.touch_model("m1", "S3")
    await registry.close()
    assert newest(other) == "m1"
    gc.collect()  # what was left on the other loop
