"""Each of `examples/` runs, as a user would run it: on real servers, in processes of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from pyregistry import ModelStatus, Registry
from tests.support.faults.proxy import until
from tests.support.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., subprocess.Popen[str]]

pytestmark = pytest.mark.server("embedded")  # not about the server
SECONDS = 90.0  # for what must come, on a machine that is busy
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Where the models come from."""
    with Hub() as hub:
        yield hub


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that the fleet shares."""
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture
def environment(hub: Hub, server_url: str, namespace: str, tmp_path: Path) -> dict[str, str]:
    """A user's: with the commands of this Python's environment, and nothing of this machine's hub settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "PYREGISTRY_")) and not name.lower().endswith("_proxy")
    }
    return {
        **inherited,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYREGISTRY_URL": server_url,
        "PYREGISTRY_NAMESPACE": namespace,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Starts a command in the checkout; what a failed test leaves of it is ended."""
    with ExitStack() as stack:

        def run(*command: str | Path, **more: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**environment, **more},
                cwd=ROOT,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield run


def ended(process: subprocess.Popen[str]) -> str:
    """What it has written, once it has ended in good order."""
    out, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    return out


def test_the_server(hub: Hub, root: Path, start: Start, registry: Registry) -> None:
    """The example server downloads each model once for two replicas and serves both."""
    hub.push("acme/small", {"model.bin": b"s" * 1000})
    hub.push("acme/large", {"model.bin": b"l" * 900_000})
    given = {
        "MODELS": "acme/small acme/large",
        "MODELS_ROOT": str(root),
        "MODEL_URL": f"{hub.url}/{{name}}/resolve/main/model.bin",
    }
    command = ["uvicorn", "--app-dir", "examples", "--port", "0", "fastapi_server:app"]
    replicas = [start(*command, **given) for _ in range(2)]
    for replica in replicas:
        url = _url_of(replica)
        with httpx.Client(base_url=url, trust_env=False, timeout=SECONDS) as http:
            assert http.get("/models/acme/large").json() == {"model": "acme/large", "bytes": 900_000}
            assert http.get("/models/acme/small").json() == {"model": "acme/small", "bytes": 1000}
            until(lambda: used(http, registry), "they are touched")
            assert http.get("/models/acme/none").status_code == 404
    assert set(hub.fetched.values()) == set(hub.begun.values()) == {1}
    for replica in replicas:
        replica.send_signal(signal.SIGTERM)
        replica.communicate(timeout=SECONDS)
        assert replica.returncode in (0, -signal.SIGTERM)
    assert registry.get_status_counts() == (0, 2, 0)


def used(http: httpx.Client, registry: Registry) -> bool:
    """Whether the registry has them in the order in which they are used.

    Touches are told of when the second after the next begins, at the latest. Those of two models that are told of
    apart may change places, until both are used again.
    """
    for name in ("acme/large", "acme/small"):
        http.get(f"/models/{name}").raise_for_status()
    return order(registry) == ["acme/large", "acme/small"]


def order(registry: Registry) -> list[str]:
    return [record.model_name for record in registry.get_models_by_last_used()]


def _url_of(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    said = ""
    for line in server.stderr:
        said += line
        if found := re.search(r"running on (http://\S+)", line):
            return found[1]
    pytest.fail(f"the server has ended:\n{said}")


def test_the_init_container(
    hub: Hub,
    root: Path,
    start: Start,
    environment: dict[str, str],
    registry: Registry,
    tmp_path: Path,
) -> None:
    """The example init container downloads once for three pods and links the files."""
    files = {"config.json": b"{}", "model.safetensors": b"m" * 700_000}
    commit = hub.push("acme/model", files)
    pod = yaml.safe_load((EXAMPLES / "init_container.yaml").read_text("utf-8"))
    (container,) = pod["spec"]["initContainers"]
    values = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert values.keys() == {"PYREGISTRY_NAMESPACE", "MODEL", "REVISION"}
    assert values["MODEL"] == "acme/model"
    values = {**values, "REVISION": commit, "PYREGISTRY_NAMESPACE": environment["PYREGISTRY_NAMESPACE"]}
    folders, pods = [], []
    for number in range(3):
        folders.append(tmp_path / f"pod-{number}")
        folders[-1].mkdir()
        mounts = {"models": root, "pod": folders[-1]}
        command = [*container["command"], *container["args"]]
        for mount in container["volumeMounts"]:
            here = str(mounts[mount["name"]])
            command = [word.replace(mount["mountPath"], here) for word in command]
        pods.append(start(*command, **values))
    for each in pods:
        ended(each)
    record = registry.get_model_record("acme/model", "HuggingFace", revision=commit)
    assert record is not None
    assert record.status is ModelStatus.DOWNLOADED
    for folder in folders:
        model = folder / "model"
        assert {name: (model / name).read_bytes() for name in files} == files
        assert model.resolve() == (root / str(record.location)).resolve()
    assert hub.fetched == {("acme/model", commit, name): 1 for name in files}


@pytest.mark.slow
def test_the_prefetch(hub: Hub, root: Path, start: Start, registry: Registry, tmp_path: Path) -> None:
    """The example prefetch job downloads each model of a list once, and reports missing ones."""
    names = [f"acme/model-{number}" for number in range(200)]
    for name in names:
        hub.push(name, {"model.bin": name.encode() * 100})
    listed = tmp_path / "models.txt"
    listed.write_text("\n".join(names))
    url = f"{hub.url}/{{name}}/resolve/main/model.bin"
    command: list[Any] = [sys.executable, EXAMPLES / "prefetch.py", listed, "--store", root, "--url", url]
    jobs = [start(*command) for _ in range(2)]
    downloaded = [re.findall(r"^downloaded (.*)$", ended(job), re.MULTILINE) for job in jobs]
    assert sorted(downloaded[0] + downloaded[1]) == sorted(names)
    assert {repo_id for repo_id, _, _ in hub.fetched} == set(names)
    assert set(hub.fetched.values()) == set(hub.begun.values()) == {1}
    assert hub.most_at_once <= 16
    records = registry.get_models_by_last_used()
    assert {record.model_name: record.size_bytes for record in records} == {
        name: len(name) * 100 for name in names
    }
    # One that can't be had is told, and the others are there.
    listed.write_text("acme/model-1\nacme/none")
    job = start(*command)
    _, errors = job.communicate(timeout=SECONDS)
    assert job.returncode == 1
    assert "acme/none" in errors
    assert errors.endswith("1 models are missing\n")


def test_the_hugging_face_model(hub: Hub, root: Path, start: Start, registry: Registry) -> None:
    """The Hugging Face example downloads once for two jobs, and reports a missing model."""
    commit = hub.push("acme/model", {"config.json": b"{}", "model.bin": b"old", "model.safetensors": b"new"})
    command: list[Any] = [sys.executable, EXAMPLES / "hugging_face.py", "--store", root]
    only = ["--only", "*.safetensors", "--only", "*.json"]
    jobs = [start(*command, "acme/model", *only) for _ in range(2)]
    (path,) = {ended(job).strip() for job in jobs}
    assert sorted(file.name for file in Path(path).iterdir()) == ["config.json", "model.safetensors"]
    assert set(hub.fetched.values()) == {1}
    (record,) = registry.get_models_by_last_used()
    assert record.resolved_revision == commit
    job = start(*command, "acme/none")
    _, errors = job.communicate(timeout=SECONDS)
    assert job.returncode == 1
    assert errors.startswith("SnapshotRefused: acme/none@main can't be resolved")


def test_every_example_is_here() -> None:
    """Every example has a test."""
    tested = {"fastapi_server.py", "hugging_face.py", "init_container.yaml", "prefetch.py"}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {*tested, "README.md"}
