"""Refusals that pass: no finished download is thrown away for them, waiters go on waiting, and reads work."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis

from pyregistry import AsyncRegistry, Claimed, FolderStore, ModelStatus, NotNow, Registry, RegistryUnavailable
from pyregistry._redis.protocol.outcomes import ATTEMPTS
from tests.support.faults.proxy import SECONDS, Proxy, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyregistry import OwnedClaim
    from pyregistry.embedded import EmbeddedServer
    from tests.conftest import MakeServer

MODEL: Final = ("model", "S3")
BRIEF = 1.0  # seconds for which a call goes out again while it is refused


class Refusal:
    """A server that refuses for some time: by itself, as it does in the field."""

    def __init__(self, word: str, url: str, folder: Path) -> None:
        self.word = word
        self._url, self._folder = url, folder
        self._raw: Any = redis.Redis.from_url(url)
        self._busy: threading.Thread | None = None

    def begin(self) -> None:
        if self.word == "NOREPLICAS":
            self._raw.config_set("min-replicas-to-write", 1)
        elif self.word == "MISCONF":
            gone = self._folder / "gone"
            gone.mkdir()
            self._raw.config_set("save", "3600 1")
            self._raw.config_set("dir", str(gone))
            gone.rmdir()
            self._save("err")
        else:
            self._raw.config_set("busy-reply-threshold", 1)
            self._busy = threading.Thread(target=self._run_for_ever)
            self._busy.start()
            until(self._is_busy, "another program's script runs")

    def end(self) -> None:
        if self.word == "NOREPLICAS":
            self._raw.config_set("min-replicas-to-write", 0)
        elif self.word == "MISCONF":
            self._raw.config_set("dir", str(self._folder))
            self._save("ok")
        elif self._busy is not None:
            self._raw.script_kill()
            self._busy.join()
            self._busy = None

    def seen(self) -> int:
        """How often it has refused."""
        found = self._raw.info("errorstats").get(f"errorstat_{self.word}", {})
        return int(found.get("count", 0)) if isinstance(found, dict) else 0

    def close(self) -> None:
        with suppress(redis.ResponseError):
            self.end()
        self._raw.close()

    def _save(self, expected: str) -> None:
        def saved() -> bool:
            with suppress(redis.ResponseError):  # one is under way
                self._raw.bgsave()
            return bool(self._raw.info("persistence")["rdb_last_bgsave_status"] == expected)

        until(saved, f"a snapshot ends with {expected}")

    def _run_for_ever(self) -> None:
        with redis.Redis.from_url(self._url, socket_timeout=None) as other, suppress(redis.ResponseError):
            other.eval("while true do end", 0)

    def _is_busy(self) -> bool:
        try:
            self._raw.get("x")
        except redis.ResponseError as error:
            return str(error).startswith("BUSY")
        return False


@pytest.fixture
def server(make_server: MakeServer) -> EmbeddedServer:
    return make_server(enable_protected_configs="yes")  # MISCONF needs a folder that is gone


@pytest.fixture(params=["NOREPLICAS", "MISCONF", "BUSY"])
def refusal(request: pytest.FixtureRequest, server: EmbeddedServer, tmp_path: Path) -> Iterator[Refusal]:
    refusal = Refusal(request.param, server.url, tmp_path)
    yield refusal
    refusal.close()


@pytest.fixture(params=["blocking", "asyncio", "asyncio, pool"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ensure(kind: str, url: str, namespace: str, download: Any, **options: Any) -> Any:
    """`ensure`, by either client, with a connection of its own."""
    if kind == "blocking":
        with Registry.from_url(url, namespace) as registry:
            return registry.ensure(*MODEL, download, **options)

    async def main() -> Any:
        transport = "redis-py" if "pool" in kind else "multiplexed"
        async with AsyncRegistry.from_url(url, namespace, transport=transport) as registry:
            return await registry.ensure(*MODEL, download, **options)

    return asyncio.run(main())


def test_an_owner_keeps_what_it_has_finished(
    kind: str,
    refusal: Refusal,
    server: EmbeddedServer,
    namespace: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A finished download is recorded once a temporary refusal is over."""
    caplog.set_level(logging.WARNING, "pyregistry")
    (tmp_path / "cache").mkdir()
    store, calls = FolderStore(tmp_path / "cache"), []

    def download(claim: OwnedClaim, folder: Path) -> None:
        calls.append(claim.token)
        (folder / "weights").write_bytes(b"x" * 14)
        refusal.begin()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(ensure, kind, server.url, namespace, download, store=store, retry=None)
        until(lambda: " yet: " in caplog.text or future.done(), "the owner tries to tell of it")
        refusal.end()
        record = future.result()
    assert refusal.word in caplog.text
    assert record.status is ModelStatus.DOWNLOADED
    assert (store.path(record) / "weights").read_bytes() == b"x" * 14
    assert calls == [record.token]


def test_a_waiter_goes_on_waiting(
    kind: str, refusal: Refusal, server: EmbeddedServer, namespace: str
) -> None:
    """The owner dies, and its successor can't claim yet."""
    with Registry.from_url(server.url, namespace) as other, ThreadPoolExecutor(1) as pool:
        assert isinstance(other.try_claim_for_download(*MODEL, lease=1.0), Claimed)
        future = pool.submit(ensure, kind, server.url, namespace, lambda claim: None)
        with redis.Redis.from_url(server.url) as raw:
            channel = f"pyregistry:{{{namespace}}}:events"
            numbered: Any = raw.execute_command
            until(lambda: numbered("PUBSUB", "SHARDNUMSUB", channel)[1], "it waits")
        before = refusal.seen()
        refusal.begin()
        if refusal.word != "BUSY":  # a busy server does not answer INFO
            until(lambda: refusal.seen() > before or future.done(), "it would like to claim")
        assert not future.done()
        refusal.end()
        record = future.result()
    assert record.status is ModelStatus.DOWNLOADED
    assert record.attempts == 2


def test_a_refusal_that_lasts_is_told_and_reads_go_on(
    refusal: Refusal, server: EmbeddedServer, namespace: str
) -> None:
    """A lasting refusal raises NotNow for writes, and reads work."""
    with Registry.from_url(server.url, namespace, timeout=BRIEF) as registry:
        registry.set_status(*MODEL, ModelStatus.DOWNLOADED)
        refusal.begin()
        with pytest.raises(NotNow, match=refusal.word) as caught:
            registry.try_claim_for_download("another", "S3", lease=5.0)
        assert isinstance(caught.value, RegistryUnavailable)
        if refusal.word != "BUSY":
            assert registry.get_status(*MODEL) is ModelStatus.DOWNLOADED
            assert registry.get_model_record(*MODEL) is not None
        refusal.end()
        assert isinstance(registry.try_claim_for_download("another", "S3", lease=5.0), Claimed)


async def test_calls_that_are_refused_now_hold_up_no_others(
    refusal: Refusal, server: EmbeddedServer, namespace: str
) -> None:
    """Refused calls do not delay other calls, and each has an error of its own."""
    async with AsyncRegistry.from_url(server.url, namespace, timeout=BRIEF) as registry:
        await registry.set_status(*MODEL, ModelStatus.DOWNLOADED)
        await asyncio.to_thread(refusal.begin)
        claims = [registry.try_claim_for_download(f"m{at}", "S3", lease=5.0) for at in range(100)]
        told: Any = await asyncio.gather(*claims, return_exceptions=True)
        assert {type(error) for error in told} == {NotNow}
        assert len({id(error) for error in told}) == 100, "each has an error of his own"
        if refusal.word != "BUSY":
            assert await registry.get_status(*MODEL) is ModelStatus.DOWNLOADED
        waits = asyncio.ensure_future(registry.try_claim_for_download("late", "S3", lease=5.0))
        await asyncio.sleep(0)
        await asyncio.to_thread(refusal.end)
        assert isinstance(await waits, Claimed), "it had passed before the last attempt"


async def test_closing_ends_when_what_is_given_back_is_refused(
    refusal: Refusal, server: EmbeddedServer, namespace: str
) -> None:
    """A claim is won for nobody, and its release is refused until it gives up: it ends with its lease."""
    with Proxy(server.url) as proxy:
        registry = AsyncRegistry.from_url(proxy.url, namespace)
        await registry.connect()
        (held,) = proxy.pause("claim", reply=True)
        task = asyncio.create_task(registry.try_claim_for_download(*MODEL, lease=5.0))
        await asyncio.to_thread(held.wait)
        await asyncio.to_thread(refusal.begin)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        held.let_go()
        await asyncio.to_thread(until, lambda: proxy.sent["release"], "it is given back")
        await asyncio.wait_for(registry.close(), SECONDS)
        assert proxy.sent["release"] == ATTEMPTS
