"""`ensure` of a model that is there counts as a use of it, and neither waits for that nor fails because of it."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pyregistry import (
    AsyncRegistry,
    FolderStore,
    InvalidArgument,
    ModelRecord,
    ModelStatus,
    OwnedClaim,
    Registry,
)
from pyregistry._redis.transport import pubsub_async, pubsub_sync
from pyregistry.huggingface import ensure_snapshot, ensure_snapshot_async
from tests.support.faults.proxy import SECONDS, Proxy, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeServer
    from tests.support.clients import Connect

LONG = 3600.0  # an interval that does not end within a test
NAMES = ["m0", "m1", "m2"]


@pytest.fixture
def other(other: Registry) -> Registry:
    """Another client; three models are there, `m0` is the oldest."""
    for name in NAMES:
        other.set_status(name, "S3", ModelStatus.DOWNLOADED)
    return other


def order(other: Registry) -> list[str]:
    return [record.model_name for record in other.get_models_by_last_used()]


def never(_claim: OwnedClaim) -> None:
    raise AssertionError("it is there")


def test_a_model_that_is_there_is_used(connect_any: Connect, other: Registry) -> None:
    """ensure of a downloaded model touches it, at the latest on close."""
    registry = connect_any()
    assert registry.ensure("m0", "S3", never).status is ModelStatus.DOWNLOADED
    until(lambda: order(other) == ["m1", "m2", "m0"], "the server is told")
    registry.ensure("m1", "S3", never)
    registry.close()  # what is still to be told is told then
    assert order(other) == ["m2", "m0", "m1"]


def test_a_caller_that_only_looks_does_not_use_it(
    connect_any: Connect, proxy: Proxy, other: Registry
) -> None:
    """ensure with touch=False sends no touch."""
    registry = connect_any(url=proxy.url)
    registry.ensure("m0", "S3", never, touch=False)
    registry.close()
    assert order(other) == NAMES
    assert proxy.sent["touch"] == 0


def test_a_block_uses_it_too(server_url: str, namespace: str, other: Registry) -> None:
    """The block form touches a downloaded model unless touch is False."""
    with Registry.from_url(server_url, namespace) as registry:
        with registry.download("m0", "S3") as got:
            assert isinstance(got, ModelRecord)
        with registry.download("m1", "S3", touch=False):
            pass
    assert order(other) == ["m1", "m2", "m0"]


async def test_an_async_block_uses_it_too(server_url: str, namespace: str, other: Registry) -> None:
    """The asynchronous block form touches a downloaded model unless touch is False."""
    async with AsyncRegistry.from_url(server_url, namespace) as registry:
        async with registry.download("m0", "S3") as got:
            assert isinstance(got, ModelRecord)
        async with registry.download("m1", "S3", touch=False):
            pass
    assert order(other) == ["m1", "m2", "m0"]


def test_a_waiter_uses_it_and_its_owner_has_done_so(
    connect_any: Connect, proxy: Proxy, server_url: str, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiter touches the model once, and its owner not at all."""
    # The proxy hands on what comes unasked with the next reply: that of a PING.
    for module in (pubsub_async, pubsub_sync):
        monkeypatch.setattr(module, "PING_INTERVAL_S", 0.2)
    owner = connect_any(url=proxy.url)
    other.delete_model("m0", "S3")

    def download(claim: OwnedClaim) -> None:
        until(lambda: waits(server_url, owner.namespace), "the other waits")

    with Proxy(server_url) as of_waiter, ThreadPoolExecutor() as pool:
        waiter = connect_any(url=of_waiter.url)
        first = pool.submit(owner.ensure, "m0", "S3", download)
        until(lambda: other.get_status("m0", "S3") is ModelStatus.DOWNLOADING, "it is claimed")
        second = pool.submit(waiter.ensure, "m0", "S3", never)
        record = first.result(SECONDS)
        assert second.result(SECONDS).token == record.token
        waiter.close()
        assert of_waiter.sent["touch"] == 1
        # Before it listened, and after; then the event told it, or its claim met what it has to read once more.
        assert of_waiter.sent["read"] in (2, 3)
    owner.close()
    assert proxy.sent["finish"] == 1
    assert proxy.sent["touch"] == 0  # the finish has said it


def waits(server_url: str, namespace: str) -> bool:
    with redis.Redis.from_url(server_url) as client:
        channel = f"pyregistry:{{{namespace}}}:events"
        return bool(
            dict(client.pubsub_shardnumsub(channel))[channel.encode()] == 2
        )  # the owner listens as well


@pytest.mark.parametrize("interval", [None, LONG])
def test_many_uses_are_told_once(
    connect_any: Connect, proxy: Proxy, other: Registry, interval: float | None
) -> None:
    """Many calls of ensure for a downloaded model cause few touches."""
    registry = connect_any(url=proxy.url, touch_interval=interval)
    for _ in range(20):
        registry.ensure("m0", "S3", never)
    until(lambda: order(other)[-1] == "m0", "the server is told")
    assert proxy.sent["touch"] < 10
    if interval is not None:
        assert proxy.sent["touch"] == 1


@pytest.mark.server("embedded", "debian")
def test_it_does_not_wait_for_the_use_to_be_told(connect_any: Connect, make_server: MakeServer) -> None:
    """ensure returns while its touch gets no reply."""
    server = make_server()
    registry = connect_any(url=server.url)
    registry.set_status("m0", "S3", ModelStatus.DOWNLOADED)
    registry.set_status("m1", "S3", ModelStatus.DOWNLOADED)
    with redis.Redis.from_url(server.url) as client:
        # Reads go on; a touch gets no answer.
        client.client_pause(int(SECONDS * 1000 * 10), all=False)
        assert registry.ensure("m0", "S3", never).status is ModelStatus.DOWNLOADED
        client.client_unpause()
    until(lambda: order(registry) == ["m1", "m0"], "the server is told")


@pytest.mark.server("embedded", "debian")
def test_a_use_that_is_refused_is_no_failure(
    connect_any: Connect, make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A touch that the server refuses does not fail ensure."""
    server = make_server()
    registry = connect_any(url=server.url)
    registry.set_status("m0", "S3", ModelStatus.DOWNLOADED)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("min-replicas-to-write", 1)
        assert registry.ensure("m0", "S3", never).status is ModelStatus.DOWNLOADED
        until(lambda: "1 models could not be touched yet" in caplog.text, "it is told")
        client.config_set("min-replicas-to-write", 0)


def test_what_is_taken_from_disk_is_told_to_nobody(
    connect_any: Connect, make_server: MakeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model taken from disk while the server is away is not touched."""
    server = make_server()
    registry = connect_any(url=server.url)
    (tmp_path / "models").mkdir()
    store = FolderStore(tmp_path / "models")

    def download(_claim: OwnedClaim, folder: Path) -> None:
        (folder / "weights").write_text("w")

    registry.ensure("org/model", "S3", download, store=store)
    server.kill()
    record = registry.ensure("org/model", "S3", download, store=store, on_unavailable="verify")
    assert store.contains(record)
    registry.close()
    assert "touched" not in caplog.text


def test_touch_is_yes_or_no(connect_any: Connect) -> None:
    """A value of touch other than a bool raises InvalidArgument."""
    wrong: Any = "no"
    with pytest.raises(InvalidArgument, match="touch: must be True or False"):
        connect_any().ensure("m0", "S3", never, touch=wrong)


COMMIT = "c" * 40


async def test_a_snapshot_passes_it_on(
    server_url: str, namespace: str, other: Registry, tmp_path: Path
) -> None:
    """ensure_snapshot touches the model unless touch is False."""
    cached = tmp_path / "models--acme--model" / "snapshots" / COMMIT
    cached.mkdir(parents=True)
    (cached / "config.json").write_text("{}")

    def last_used() -> Any:
        record = other.get_model_record("acme/model", revision=COMMIT)
        return record and record.last_used_at

    other.set_status("acme/model", "HuggingFace", ModelStatus.DOWNLOADED, revision=COMMIT)
    at_first = last_used()
    with Registry.from_url(server_url, namespace) as registry:
        ensure_snapshot(registry, "acme/model", revision=COMMIT, cache_dir=tmp_path, touch=False)
    assert last_used() == at_first
    with Registry.from_url(server_url, namespace) as registry:
        ensure_snapshot(registry, "acme/model", revision=COMMIT, cache_dir=tmp_path)
    then = last_used()
    assert then > at_first
    async with AsyncRegistry.from_url(server_url, namespace) as client:
        await ensure_snapshot_async(client, "acme/model", revision=COMMIT, cache_dir=tmp_path)
    assert last_used() > then


def test_the_command_uses_it(server_url: str, namespace: str, other: Registry) -> None:
    """`pyregistry run` touches the model, and commands that read do not."""
    command = [sys.executable, "-m", "pyregistry", "run", "m0", "--provider", "S3", "--", "false"]
    names = {"PYREGISTRY_URL": server_url, "PYREGISTRY_NAMESPACE": namespace}
    subprocess.run(command, env={**os.environ, **names}, check=True, capture_output=True, timeout=60)
    assert order(other) == ["m1", "m2", "m0"]
    for words in (["ls"], ["show", "m0"], ["status", "m1"], ["counts"], ["doctor"], ["top", "--once"]):
        command = [sys.executable, "-m", "pyregistry", *words]
        subprocess.run(command, env={**os.environ, **names}, check=False, capture_output=True, timeout=60)
    assert order(other) == ["m1", "m2", "m0"]
