"""A server that is away, models that are loaded: what was last known is told, where that was asked for."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest

from pyregistry import (
    BackendConfig,
    Claimed,
    InvalidArgument,
    ModelStatus,
    OutcomeUnknown,
    Registry,
    RegistryUnavailable,
    create_registry_backend,
)
from pyregistry._core.clock import now
from pyregistry._redis.cache.client_cache import ClientCache, SharedClientCache
from tests.support.faults.proxy import until
from tests.support.internals import ops_of

if TYPE_CHECKING:
    from pyregistry.embedded import EmbeddedServer
    from tests.conftest import MakeServer
    from tests.support.clients import Connect

pytestmark = pytest.mark.server("embedded", "debian", "stack")  # on servers of their own: not in containers
MODEL: Final = ("model", "S3")
BRIEF = 0.5  # seconds that an answer may take
STALE: dict[str, Any] = {"near_cache": True, "stale_for": 600.0, "timeout": BRIEF}

either = pytest.mark.parametrize("connect_any", ["sync", "asyncio"], indirect=True)


@pytest.fixture
def server(make_server: MakeServer) -> EmbeddedServer:
    return make_server(persistent=True, appendfsync="always")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pyregistry.near"]


def set_by_another(server: EmbeddedServer, registry: Registry, status: ModelStatus) -> None:
    with Registry.from_url(server.url, registry.namespace) as other:
        other.set_status(*MODEL, status)


def remembers(registry: Registry, name: str, status: ModelStatus | None) -> None:
    """It reads that until memory holds it. (After a loss the next tracked connection takes its time.)"""
    memory: Any = registry._cache
    key = ops_of(registry).keys.record(f"S3:{name}")

    def read() -> bool:
        return registry.get_status(name, "S3") is status and memory.known.values([key]) is not None

    until(read, f"{name} is remembered as {status}")


def is_asked_again(registry: Registry) -> bool:
    before = registry.stale_answers
    registry.is_downloaded(*MODEL)
    return registry.stale_answers == before


def is_refused(registry: Registry) -> bool:
    try:
        registry.is_downloaded(*MODEL)
    except RegistryUnavailable:
        return True
    return False


@either
def test_what_was_known_last_is_told(
    connect_any: Connect, server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """During an outage status reads return the last known value, with one warning; all other calls fail."""
    registry = connect_any(url=server.url, **STALE)
    for outage in (1, 2):
        set_by_another(server, registry, ModelStatus.DOWNLOADED)
        remembers(registry, "model", ModelStatus.DOWNLOADED)
        remembers(registry, "unknown", None)
        server.kill()
        until(lambda: not is_asked_again(registry), "it is told")
        before = registry.stale_answers
        for _ in range(3):
            assert registry.is_downloaded(*MODEL)
            assert registry.get_status(*MODEL) is ModelStatus.DOWNLOADED
            assert registry.get_status("unknown", "S3") is None
        assert registry.stale_answers == before + 9
        assert len(warnings(caplog)) == outage
        assert "600 s" in warnings(caplog)[-1]
        # What was not asked for before, and all that decides anything, is not told.
        with pytest.raises(RegistryUnavailable):
            registry.is_downloaded("another", "S3")
        with pytest.raises(RegistryUnavailable):
            registry.get_model_record(*MODEL)
        with pytest.raises(RegistryUnavailable):
            registry.try_claim_for_download("model", "S3", lease=5.0)
        with pytest.raises(RegistryUnavailable):
            registry.ensure(*MODEL, lambda _claim: pytest.fail("it is not claimed"))
        server.start()
        until(lambda: is_asked_again(registry), "the server is asked again")
        set_by_another(server, registry, ModelStatus.ERROR)
        until(lambda: registry.get_status(*MODEL) is ModelStatus.ERROR, "the news is told")
    assert len(warnings(caplog)) == 2


@either
def test_it_is_told_for_so_long(connect_any: Connect, server: EmbeddedServer) -> None:
    """Stale answers end after stale_for seconds."""
    registry = connect_any(url=server.url, **{**STALE, "stale_for": 4.0})
    set_by_another(server, registry, ModelStatus.DOWNLOADED)
    remembers(registry, "model", ModelStatus.DOWNLOADED)
    server.kill()
    assert registry.is_downloaded(*MODEL)
    until(lambda: is_refused(registry), "it is told no more")


@either
def test_nothing_is_told_that_is_older_than_what_was_seen(
    connect_any: Connect, server: EmbeddedServer
) -> None:
    """No stale answer is older than a result that the client has returned or written."""
    registry = connect_any(url=server.url, **STALE)
    for name in ("told", "written", "claimed", "unclear"):
        registry.set_status(name, "S3", ModelStatus.DOWNLOADED)
        remembers(registry, name, ModelStatus.DOWNLOADED)
    with Registry.from_url(server.url, registry.namespace) as other:
        other.set_status("told", "S3", ModelStatus.ERROR)
        other.delete_model("claimed", "S3", force=True)
    until(lambda: registry.get_status("told", "S3") is ModelStatus.ERROR, "it is told")
    registry.set_status("written", "S3", ModelStatus.ERROR)
    assert isinstance(registry.try_claim_for_download("claimed", "S3", lease=5.0), Claimed)
    server.kill()
    with pytest.raises((RegistryUnavailable, OutcomeUnknown)):
        registry.set_status("unclear", "S3", ModelStatus.ERROR)
    told = {}
    for name in ("told", "written", "claimed", "unclear"):
        with suppress(RegistryUnavailable):
            told[name] = registry.get_status(name, "S3")
    assert told.items() <= {"told": ModelStatus.ERROR, "unclear": ModelStatus.DOWNLOADED}.items()


@either
def test_a_server_that_falls_silent(connect_any: Connect, server: EmbeddedServer) -> None:
    """A silent server leads to stale answers, also for many threads."""
    registry = connect_any(url=server.url, **STALE)
    set_by_another(server, registry, ModelStatus.DOWNLOADED)
    remembers(registry, "model", ModelStatus.DOWNLOADED)
    assert server.pid
    os.kill(server.pid, signal.SIGSTOP)
    try:
        until(
            lambda: registry.is_downloaded(*MODEL) and registry.stale_answers,
            "it is told though nobody answers",
        )
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda _: registry.is_downloaded(*MODEL), range(100)))
    finally:
        os.kill(server.pid, signal.SIGCONT)
    until(lambda: is_asked_again(registry), "the server is asked again")


@either
def test_it_is_off_where_it_was_not_asked_for(connect_any: Connect, server: EmbeddedServer) -> None:
    """Without stale_for a read during an outage raises."""
    registry = connect_any(url=server.url, **{**STALE, "stale_for": None})
    set_by_another(server, registry, ModelStatus.DOWNLOADED)
    remembers(registry, "model", ModelStatus.DOWNLOADED)
    server.kill()
    until(lambda: is_refused(registry), "it is told no more")
    assert registry.stale_answers == 0


@either
def test_what_makes_no_sense(connect_any: Connect, server: EmbeddedServer) -> None:
    """stale_for needs a near cache and a positive number."""
    for options in (
        {"stale_for": 5.0},
        {"near_cache": True, "stale_for": 0.0},
        {"near_cache": True, "stale_for": "x"},
    ):
        made: Any = options
        with pytest.raises(InvalidArgument, match="stale_for"):
            connect_any(url=server.url, **made)


def test_a_backend_that_is_configured(server: EmbeddedServer, namespace: str) -> None:
    """BackendConfig passes stale_for on to the client."""
    with create_registry_backend(BackendConfig.redis(server.url, namespace, **STALE)) as registry:
        set_by_another(server, registry, ModelStatus.DOWNLOADED)
        remembers(registry, "model", ModelStatus.DOWNLOADED)
        server.kill()
        assert registry.is_downloaded(*MODEL)


@pytest.mark.parametrize("kind", [ClientCache, SharedClientCache])
def test_what_was_outrun_is_not_told(kind: type[ClientCache]) -> None:
    """Where a reply by another connection came through, and what the server says of it did not."""
    near = kind(600.0)
    near.learn(["a", "b"], [b"1", None])
    near.outrun(["a"])
    near.lose(now())
    assert near.stale(["b"]) == [None]
    assert near.stale(["a"]) is None
    assert near.stale(["a", "b"]) is None
    near.outrun(["b"])
    assert near.stale(["b"]) is None
    near.learn(["a", "b"], [b"2", b"2"])
    near.outrun(None)
    near.lose(now())
    assert near.stale(["a"]) is near.stale(["b"]) is None
    near.learn(["a", "b"], [b"3", b"3"])
    near.outrun(["a"])
    near.caught_up()
    near.lose(now())
    assert near.stale(["a", "b"]) == [b"3", b"3"]
    near.lose(now())  # there was nothing more to lose
    assert near.stale(["a"]) == [b"3"]
    near.learn(["b"], [b"4"])
    assert near.stale(["b"]) is None
    near.invalidate([b"invalidate", None])
    assert near.stale(["a"]) is None
