"""What tests of `pyregistry.huggingface` have in common: a hub, members of a fleet, and what calls are made with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyregistry import FolderStore
from tests.support.faults.proxy import until
from tests.support.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 90.0  # for what must come, on a machine that is busy
REPO = "acme/model"
FILES = {"config.json": b'{"layers": 2}', "weights/one.bin": os.urandom(300_000), "weights/two.bin": b"2" * 9}

# One member of a fleet: a process that ensures one snapshot.
REPLICA = """
import json, sys
job = json.loads(sys.argv[1])
exec(job.pop("first", ""))
import asyncio, logging
import msgspec
from pyregistry import AsyncRegistry, FolderStore, Registry, RegistryError, RetryPolicy
from pyregistry._coordination import local_faults
from pyregistry.huggingface import ensure_snapshot, ensure_snapshot_async, snapshot_path

local_faults._FIRST_DELAY = 0.05  # seconds

def main(url, namespace, root, kind, repo_id, retry, **options):
    store = None if "cache_dir" in options else FolderStore(root)
    options |= {"store": store, "retry": None if retry is None else RetryPolicy(**retry)}
    async def on_a_loop():
        async with AsyncRegistry.from_url(url, namespace) as registry:
            return await ensure_snapshot_async(registry, repo_id, **options)
    try:
        if kind == "asyncio":
            record = asyncio.run(on_a_loop())
        else:
            with Registry.from_url(url, namespace) as registry:
                record = ensure_snapshot(registry, repo_id, **options)
        path = snapshot_path(record, store=store, cache_dir=options.get("cache_dir"))
        answer = {"path": str(path), "attempts": record.attempts}
    except RegistryError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer))

logging.basicConfig(level=logging.INFO)
main(**job)
"""


class Replica:
    """One that has been started."""

    def __init__(self, log: Path, environment: dict[str, str], **job: Any) -> None:
        self._log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", REPLICA, json.dumps(job)],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd=Path(__file__).parents[2],
                text=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def worker(self) -> int:
        """The process that downloads for it, once there is one."""
        return worker_of(lambda: self.log)

    def answer(self) -> dict[str, Any]:
        """What it came to."""
        said, _ = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, self.log
        answer: dict[str, Any] = json.loads(said)
        return answer


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What huggingface_hub is to know: no token, cache or setting of this machine."""
    for name in [name for name in os.environ if name.startswith("HF_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    return dict(os.environ)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    (tmp_path / "store").mkdir()
    return FolderStore(tmp_path / "store")


@pytest.fixture
def replicas(
    environment: dict[str, str], server_url: str, namespace: str, store: FolderStore, tmp_path: Path
) -> Iterator[Callable[..., Replica]]:
    """Starts members of a fleet; what a failed test leaves of them is ended."""
    started: list[Replica] = []

    def start(hub: Hub, kind: str = "sync", repo_id: str = REPO, **options: Any) -> Replica:
        job = {"url": server_url, "namespace": namespace, "root": str(store.root), "kind": kind}
        options = {**job, "retry": {}, **options}
        log = tmp_path / f"replica-{len(started)}.log"
        started.append(Replica(log, {**environment, "HF_ENDPOINT": hub.url}, repo_id=repo_id, **options))
        return started[-1]

    yield start
    for replica in started:
        replica.process.kill()
        replica.process.communicate()


@pytest.fixture
def asked(environment: dict[str, str], hub: Hub) -> Iterator[dict[str, Any]]:
    """What calls in this process are to be made with."""
    import huggingface_hub
    from huggingface_hub import utils

    close = getattr(huggingface_hub, "close_session", None)
    if close is None:  # before 1.0
        close = getattr(utils, "reset_sessions", None)
    assert close is not None
    yield {"endpoint": hub.url, "token": False, "lease": 9}
    close()  # it keeps its connections


def worker_of(log: Callable[[], str]) -> int:
    pids = until(lambda: re.findall(r"is downloaded by process (\d+)", log()), "a process downloads", SECONDS)
    return int(pids[0])


def contents(folder: Path) -> dict[str, bytes]:
    """All the files of a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
