"""`pyregistry.testing`, as somebody else's tests use it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import redis

import pyregistry
from pyregistry.embedded import EmbeddedServer

CONFTEST = 'pytest_plugins = ["pyregistry.testing"]\n'

TESTS = """
import asyncio
import os
import pathlib

import pytest

from pyregistry import AsyncRegistry, Claimed, ModelStatus, Registry

@pytest.mark.parametrize("time", [1, 2])
def test_each_test_has_a_clean_namespace(registry, pyregistry_url, time):
    assert registry.get_status("acme/model") is None
    assert isinstance(registry.try_claim_for_download("acme/model", "HuggingFace"), Claimed)
    assert registry.get_status("acme/model") is ModelStatus.DOWNLOADING
    pathlib.Path("url").write_text(pyregistry_url)

def test_another_client(registry, pyregistry_url, pyregistry_namespace):
    registry.set_status("acme/model", "S3", "DOWNLOADED", None)
    with Registry.from_url(pyregistry_url, namespace=pyregistry_namespace) as other:
        assert other.get_status("acme/model") is ModelStatus.DOWNLOADED

def test_asyncio(pyregistry_url, pyregistry_namespace):
    async def claim():
        async with AsyncRegistry.from_url(pyregistry_url, pyregistry_namespace) as registry:
            return await registry.try_claim_for_download("acme/model", "HuggingFace")

    assert isinstance(asyncio.run(claim()), Claimed)
"""


def run_tests(folder: Path, environment: dict[str, str]) -> str:
    """Run the tests above in this folder, and return the URL that they used."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_mine.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    result = subprocess.run(
        # No plugin is needed: pytest-asyncio is turned off to prove it.
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:valkey"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if "PYTEST" not in name}
        | {"PYREGISTRY_TEST_URL": "", "PYTHONPATH": str(Path(pyregistry.__file__).parents[1])}
        | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 passed" in result.stdout
    return (folder / "url").read_text()


def test_with_a_server_of_their_own(tmp_path: Path) -> None:
    """The fixtures start a private server."""
    url = run_tests(tmp_path, {})
    assert url.startswith("unix://")


def test_with_a_server_that_runs_already(tmp_path: Path) -> None:
    """The fixtures use the server of PYREGISTRY_TEST_URL and remove their keys."""
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:
        assert run_tests(tmp_path, {"PYREGISTRY_TEST_URL": server.url}) == server.url
        assert client.keys("*") == [], "every test has removed its keys"
