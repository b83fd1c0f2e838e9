"""Fixtures of the command line."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyregistry.cli import main
from pyregistry.embedded import stop_shared
from tests.support.cli import NAMES_A_SERVER, SECONDS, Ended, Run
from tests.support.commands import Start, Started

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, server_url: str, namespace: str) -> None:
    """The environment names the test's server and namespace."""
    for name in (*NAMES_A_SERVER, "PYREGISTRY_CLAIM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYREGISTRY_URL", server_url)
    monkeypatch.setenv("PYREGISTRY_NAMESPACE", namespace)


@pytest.fixture
def run(environment: None, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process, its output in a pipe."""

    def run(*words: object) -> Ended:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run


@pytest.fixture
def own_folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folders, away from the real ones, with paths short enough for sockets."""
    for name in (*NAMES_A_SERVER, "PYREGISTRY_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    root = Path(tempfile.mkdtemp(prefix="pyr-")).resolve()
    (root / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_DATA_HOME", str(root / "share"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(root / "run"))
    yield root
    for lock in root.rglob("server.lock"):
        stop_shared(lock.parent)
    shutil.rmtree(root)


@pytest.fixture
def env(server_url: str, namespace: str, tmp_path: Path) -> dict[str, str]:
    """The environment names the test's server and namespace, and a folder for the command's traces."""
    ours = {"PYREGISTRY_URL": server_url, "PYREGISTRY_NAMESPACE": namespace, "TRACES": str(tmp_path)}
    return {**{name: value for name, value in os.environ.items() if name not in NAMES_A_SERVER}, **ours}


@pytest.fixture
def start(env: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts commands, and ends what a failed test leaves of them."""
    started: list[Started] = []

    def start(*words: object, **more: str) -> Started:
        log = tmp_path / f"stderr-{len(started)}"
        started.append(Started(words, {**env, **more}, log))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate(timeout=SECONDS)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file for which `WAIT` waits."""
    return tmp_path / "gate"
