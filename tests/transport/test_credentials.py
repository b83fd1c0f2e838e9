"""Credentials that a provider gives too old while they are changed: it is asked again, and nothing finished is lost."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis
import redis.asyncio
from redis.credentials import CredentialProvider

from pyregistry import (
    AccessDenied,
    AsyncRegistry,
    FolderStore,
    ModelStatus,
    NotNow,
    Registry,
    StaleCredentials,
)
from pyregistry._redis.protocol.outcomes import ATTEMPTS
from tests.support.faults.proxy import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyregistry import OwnedClaim
    from pyregistry.embedded import EmbeddedServer
    from tests.conftest import MakeServer
    from tests.support.clients import Connect

MODEL: Final = ("model", "S3")
BRIEF = 0.6  # seconds


class Provider(CredentialProvider):
    """Gives what it was told last, and counts how often it was asked."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.asked = 0

    def get_credentials(self) -> tuple[str, str]:
        self.asked += 1
        return "fleet", self.word


@pytest.fixture
def server(make_server: MakeServer) -> EmbeddedServer:
    return make_server()


@pytest.fixture
def raw(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as raw:
        change(raw, "old")
        yield raw


def change(raw: redis.Redis, word: str) -> None:
    """Change the user's password, and end what was connected with the one before."""
    command: Any = raw.execute_command
    command("ACL", "SETUSER", "fleet", "on", "resetpass", f">{word}", "~*", "&*", "+@all")
    command("CLIENT", "KILL", "USER", "fleet")


def test_a_provider_is_asked_again(connect_any: Connect, server: EmbeddedServer, raw: redis.Redis) -> None:
    """A credential provider is asked again until the server accepts its credentials."""
    provider: Any = Provider("new")
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(connect_any, url=server.url, timeout=60.0, credential_provider=provider)
        until(lambda: provider.asked > 2 * ATTEMPTS, "it was asked so often")
        change(raw, "new")
        registry = opening.result()
    registry.set_status(*MODEL, ModelStatus.DOWNLOADED)
    assert registry.get_status(*MODEL) is ModelStatus.DOWNLOADED


def test_a_provider_that_is_wrong_is_told_in_the_end(
    connect_any: Connect, server: EmbeddedServer, raw: redis.Redis
) -> None:
    """A credential provider that stays wrong raises StaleCredentials at the timeout."""
    provider: Any = Provider("wrong")
    with pytest.raises(StaleCredentials, match="invalid username") as caught:
        connect_any(url=server.url, timeout=BRIEF, credential_provider=provider)
    assert isinstance(caught.value, AccessDenied)
    assert isinstance(caught.value, NotNow)
    assert provider.asked >= ATTEMPTS


def test_a_password_that_is_wrong_is_told_at_once(
    connect_any: Connect, server: EmbeddedServer, raw: redis.Redis
) -> None:
    """A wrong password without a provider raises AccessDenied at once."""
    with pytest.raises(AccessDenied) as caught:
        connect_any(url=server.url, username="fleet", password="wrong")
    assert not isinstance(caught.value, NotNow)


@pytest.mark.parametrize("kind", ["blocking", "multiplexed", "redis-py", "own", "own, asyncio"])
def test_an_owner_keeps_what_it_has_finished(
    kind: str,
    server: EmbeddedServer,
    raw: redis.Redis,
    namespace: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A finished download is recorded once the provider's credentials are accepted."""
    caplog.set_level(logging.WARNING, "pyregistry")
    provider = Provider("old")
    (tmp_path / "cache").mkdir()
    store, calls = FolderStore(tmp_path / "cache"), []

    def download(claim: OwnedClaim, folder: Path) -> None:
        calls.append(claim.token)
        (folder / "weights").write_bytes(b"x" * 14)
        change(raw, "new")

    async def run() -> Any:
        if kind.startswith("own"):
            async with (
                redis.asyncio.Redis.from_url(server.url, credential_provider=provider) as own,
                AsyncRegistry(own, namespace) as mine,
            ):
                return await mine.ensure(*MODEL, download, store=store, retry=None)
        async with AsyncRegistry.from_url(
            server.url, namespace, transport=kind, timeout=BRIEF, credential_provider=provider
        ) as client:
            return await client.ensure(*MODEL, download, store=store, retry=None)

    def ensure() -> Any:
        options: Any = {"credential_provider": provider}
        if kind == "blocking":
            with Registry.from_url(server.url, namespace, timeout=BRIEF, **options) as registry:
                return registry.ensure(*MODEL, download, store=store, retry=None)
        if kind == "own":
            with redis.Redis.from_url(server.url, **options) as mine, Registry(mine, namespace) as registry:
                return registry.ensure(*MODEL, download, store=store, retry=None)
        return asyncio.run(run())

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(ensure)
        until(lambda: " yet: " in caplog.text or future.done(), "the owner tries to tell of it")
        provider.word = "new"
        record = future.result()
    assert record.status is ModelStatus.DOWNLOADED
    assert (store.path(record) / "weights").read_bytes() == b"x" * 14
    assert calls == [record.token]
