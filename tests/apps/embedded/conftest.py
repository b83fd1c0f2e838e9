"""Folders of a user, away from the real ones."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyregistry.embedded import stop_shared

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    root = Path(tempfile.mkdtemp(prefix="pyr-")).resolve()
    yield root
    shutil.rmtree(root)


@pytest.fixture
def folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folders, away from the real ones; the shared server of any of them is stopped."""
    (root / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_DATA_HOME", str(root / "share"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(root / "run"))
    yield root
    for lock in root.rglob("server.lock"):
        stop_shared(lock.parent)
