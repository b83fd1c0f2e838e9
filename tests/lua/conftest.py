from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lua.harness import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeServer


@pytest.fixture
def lab(server_url: str, namespace: str) -> Iterator[Lab]:
    """A clean namespace, and its scripts."""
    lab = Lab(server_url, namespace)
    yield lab
    lab.close()


@pytest.fixture
def own_lab(make_server: MakeServer) -> Iterator[Lab]:
    """The same on a server that is the test's alone, and may be reconfigured."""
    lab = Lab(make_server().url, "test")
    yield lab
    lab.close()
