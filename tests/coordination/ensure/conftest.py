"""Fixtures of `ensure` and `download`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyregistry import FolderStore
from pyregistry._coordination import store_identity_async, store_identity_sync
from tests.support.downloads import Downloads

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def downloads() -> Downloads:
    return Downloads()


@pytest.fixture(autouse=True)  # the clients are closed before it waits for its threads, also if a test fails
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPoolExecutor]:
    monkeypatch.setattr(store_identity_async, "_MARK_PATIENCE", 0.3)
    monkeypatch.setattr(store_identity_sync, "_MARK_PATIENCE", 0.3)
    with ThreadPoolExecutor(64) as pool:
        yield pool


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    root = tmp_path / "cache"
    root.mkdir()
    return FolderStore(root)
