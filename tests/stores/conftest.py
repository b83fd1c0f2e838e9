"""A store in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyregistry.store import FolderStore


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)
