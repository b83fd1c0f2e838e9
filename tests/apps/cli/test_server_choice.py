"""The command line: which server and namespace a command uses."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from pyregistry import Registry
from pyregistry.cli.exit_codes import Exit
from tests.support.cli import COMMAND, ROOT, SECONDS, Run, spawn


def test_options_stand_before_or_after(run: Run, registry: Registry) -> None:
    """Global options are accepted before and after the command, and the last one counts."""
    registry.set_status("m", "S3", "ERROR")
    assert run("counts", "--namespace", "empty", "--json").json["error"] == 0
    assert run("--namespace", "empty", "--json", "counts").json["error"] == 0
    assert (
        run("--namespace", "empty", "counts", "--namespace", registry.namespace, "--json").json["error"] == 1
    )
    assert run("--url", "redis://127.0.0.1:1", "counts").code == Exit.UNAVAILABLE


def test_the_variables_of_the_seed(run: Run, server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """REDIS_URL names the server if PYREGISTRY_URL does not."""
    monkeypatch.setenv("PYREGISTRY_URL", "redis://127.0.0.1:1")
    assert run("counts").code == Exit.UNAVAILABLE
    monkeypatch.delenv("PYREGISTRY_URL")
    monkeypatch.setenv("REDIS_URL", server_url)
    told = run("-v", "counts")
    assert told.code == 0
    assert "REDIS_URL" in told.err


@pytest.mark.parametrize(
    "half",
    [{"MX_METADATA_BACKEND": "redis"}, {"MX_METADATA_BACKEND": "kubernetes"}, {"MX_REDIS_PORT": "6379"},
     {"REDIS_URL": ""}, {"REDIS_URL": "redis://127.0.0.1", "MX_REDIS_HOST": "127.0.0.1"}],
)  # fmt: skip
def test_an_environment_that_is_half_set(
    run: Run, server_url: str, monkeypatch: pytest.MonkeyPatch, half: dict[str, str]
) -> None:
    """An incomplete environment is a wrong call, unless --url is given."""
    monkeypatch.delenv("PYREGISTRY_URL")
    for name, value in half.items():
        monkeypatch.setenv(name, value)
    assert run("counts").code == Exit.WRONG_CALL
    assert run("counts", "--url", server_url).code == Exit.DONE, "what is said counts"


def test_a_namespace_without_a_server_is_half_set(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYREGISTRY_NAMESPACE without a server is a wrong call."""
    monkeypatch.delenv("PYREGISTRY_URL")
    half = run("counts")
    assert half.code == Exit.WRONG_CALL
    assert "PYREGISTRY_NAMESPACE is set, but no server is named: set PYREGISTRY_URL too" in half.err


def test_without_a_server_it_is_ones_own(own_folders: Path) -> None:
    """Without a server the command uses the user's embedded one."""
    assert spawn("set-status", "m", "DOWNLOADED").code == 0
    assert spawn("status", "m").out == "DOWNLOADED\n"
    assert spawn("--url", "embedded://", "status", "m").out == "DOWNLOADED\n"
    assert (own_folders / "share" / "pyregistry" / "appendonlydir").is_dir()
    assert spawn("doctor").code == Exit.DONE


def test_serve(own_folders: Path) -> None:
    """`serve` runs the server of a data folder in the foreground."""
    data = own_folders / "data"
    url = f"embedded://{data}"
    with (own_folders / "log").open("w+") as log:
        server = subprocess.Popen(
            [*COMMAND, "serve", "--data-dir", str(data)], cwd=ROOT, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + SECONDS
            while not (data / "server.pid").exists():
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert spawn("--url", url, "counts").code == 0
            assert (data / "server.pid").read_text().strip() == str(server.pid), "it serves, and nobody else"
            second = spawn("serve", "--data-dir", data)
            assert second.code == Exit.UNAVAILABLE
            assert "runs already" in second.err
        finally:
            server.send_signal(signal.SIGINT)
            code = server.wait(SECONDS)
        log.seek(0)
        text = log.read()
    assert code == 0, text
    assert f"starting the server of {url}" in text
    assert spawn("--url", url, "serve").code == Exit.WRONG_CALL


def test_demo_gets_its_options(run: Run) -> None:
    """`demo` checks and passes on its options."""
    assert "processes" in run("demo", "--processes", 1).err
    assert "models" in run("demo", "--models", 0).err
    assert run("demo", "--models", 0).code == Exit.WRONG_CALL
    assert run("--json", "demo").code == Exit.WRONG_CALL
    taken = run("demo", "--url", "redis://127.0.0.1:1")
    assert taken.code == Exit.UNAVAILABLE
