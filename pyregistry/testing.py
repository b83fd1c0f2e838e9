"""Pytest fixtures for programs that use pyregistry: a real server and a clean namespace.

In the ``conftest.py`` at the top of the tests::

    pytest_plugins = ["pyregistry.testing"]

and then::

    def test_one_winner(registry):
        assert isinstance(registry.try_claim_for_download("acme/model", "HuggingFace"), Claimed)


    async def test_asyncio(pyregistry_url, pyregistry_namespace):
        async with AsyncRegistry.from_url(pyregistry_url, pyregistry_namespace) as registry: ...

Each pytest process starts its own private embedded server (extra ``embedded``). The environment
variable ``PYREGISTRY_TEST_URL`` names a running server instead. Tests on it are isolated by their
namespaces alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import redis

from .embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .registry import Registry

__all__ = ["pyregistry_namespace", "pyregistry_server", "pyregistry_url", "registry"]


@pytest.fixture(scope="session")
def pyregistry_server() -> Iterator[EmbeddedServer]:
    """Start a private server that runs until the end of the tests."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture(scope="session")
def pyregistry_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of the server: ``PYREGISTRY_TEST_URL``, else that of `pyregistry_server`."""
    given = os.environ.get("PYREGISTRY_TEST_URL")
    if given:
        return given
    server: EmbeddedServer = request.getfixturevalue("pyregistry_server")
    return server.url


@pytest.fixture
def pyregistry_namespace(pyregistry_url: str) -> Iterator[str]:
    """Create a unique namespace. All its keys are deleted after the test."""
    namespace = f"test-{os.urandom(8).hex()}"
    yield namespace
    with redis.Redis.from_url(pyregistry_url) as client:
        for key in client.scan_iter(match=f"pyregistry:{{{namespace}}}:*", count=1000):
            client.unlink(key)


@pytest.fixture
def registry(pyregistry_url: str, pyregistry_namespace: str) -> Iterator[Registry]:
    """Create a connected `pyregistry.Registry` of the namespace. It is closed after the test."""
    from .registry import Registry

    with Registry.from_url(pyregistry_url, namespace=pyregistry_namespace) as registry:
        yield registry
