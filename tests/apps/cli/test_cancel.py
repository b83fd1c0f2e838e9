"""What an operator does to another host's download, and reads of one that failed or was given back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pyregistry import Claimed, ModelStatus, Registry
from pyregistry.cli.exit_codes import Exit
from tests.support.faults.proxy import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.server("embedded")  # not about the server


@pytest.fixture
def run(server_url: str, namespace: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pyregistry", "--url", server_url, "--namespace", namespace]
        return subprocess.run(
            [*command, *map(str, words)], capture_output=True, text=True, timeout=SECONDS, check=False
        )

    return run


def fail(registry: Registry, **how: Any) -> None:
    won = registry.try_claim_for_download("m", "S3", owner="host-7:1")
    assert isinstance(won, Claimed)
    assert registry.finish_download_claim(won.claim, ModelStatus.ERROR, "no space", **how)


def test_a_download_of_another_host_is_ended(run: Any, registry: Registry) -> None:
    """`cancel` ends a download of any host, by its token or not, and says when there is none."""
    none = run("cancel", "m", "--provider", "s3")
    assert none.returncode == Exit.NO
    assert "m is not being downloaded" in none.stderr
    won = registry.try_claim_for_download("m", "S3", owner="host-7:1")
    assert isinstance(won, Claimed)
    token = won.claim.token
    other = run("cancel", "m", "-p", "s3", "--token", token + 1)
    assert (other.returncode, f"with token {token + 1}" in other.stderr) == (Exit.NO, True)
    ended = run("--json", "cancel", "m", "-p", "s3", "-m", "the wrong model", "--permanent")
    assert (ended.returncode, json.loads(ended.stdout)) == (0, {"cancelled": True})
    record = registry.get_model_record("m", "S3")
    assert record is not None
    assert (record.status, record.permanent) == (ModelStatus.ERROR, True)
    assert record.message is not None
    assert record.message.endswith(": the wrong model")
    wrong = run("cancel", "m", "-p", "s3", "--permanent", "--retry-in", 5)
    assert wrong.returncode == Exit.WRONG_CALL


def test_waiting_for_a_cancelled_download_tells_why(run: Any, registry: Registry) -> None:
    """`run` of a cancelled model fails with the reason, the next try, and the way out."""
    won = registry.try_claim_for_download("m", "S3")
    assert isinstance(won, Claimed)
    assert run("cancel", "m", "-p", "s3", "-m", "the wrong model").returncode == 0
    refused = run("run", "m", "-p", "s3", "--", "true")
    assert refused.returncode == Exit.DOWNLOAD_FAILED
    assert "the wrong model" in refused.stderr
    assert "next try: not before" in refused.stderr
    assert "pyregistry rm" in refused.stderr


def test_a_status_with_what_is_said_of_it(run: Any, registry: Registry) -> None:
    """`set-status` passes on permanence, back-off, location and size, and refuses contradictions."""
    assert run("set-status", "m", "ERROR", "-p", "s3", "--permanent", "-m", "gated").returncode == 0
    record = registry.get_model_record("m", "S3")
    assert record is not None
    assert record.permanent
    assert run("set-status", "m", "ERROR", "-p", "s3", "--retry-in", 60).returncode == 0
    record = registry.get_model_record("m", "S3")
    assert record is not None
    assert record.retry_at is not None
    words = ["--location", "there/1", "--size-bytes", 70]
    assert run("set-status", "m", "DOWNLOADED", "-p", "s3", *words).returncode == 0
    record = registry.get_model_record("m", "S3")
    assert record is not None
    assert (record.location, record.size_bytes) == ("there/1", 70)
    assert run("set-status", "m", "ERROR", "-p", "s3", *words).returncode == Exit.WRONG_CALL


def on_a_terminal(server_url: str, namespace: str, *words: str) -> str:
    command = f"{sys.executable} -m pyregistry --url {server_url} --namespace {namespace} {' '.join(words)}"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        capture_output=True, text=True, timeout=SECONDS, check=True, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    return done.stdout


def test_an_error_says_when_where_and_what_comes_next(
    registry: Registry, server_url: str, namespace: str
) -> None:
    """`show` and `top` say where a download failed and when it is retried."""
    fail(registry, retry_in=3600.0)
    shown = on_a_terminal(server_url, namespace, "show", "m", "-p", "s3")
    for part in ("failed", "host-7:1", "attempts", "next try: not before", "`pyregistry rm` clears it"):
        assert part in shown
    top = on_a_terminal(server_url, namespace, "top", "--once")
    assert "failed" in top
    assert "on host-7:1" in top
    registry.delete_model("m", "S3")
    fail(registry, permanent=True)
    assert "it is not tried again by itself" in on_a_terminal(server_url, namespace, "show", "m", "-p", "s3")
    assert "never" in on_a_terminal(server_url, namespace, "top", "--once")


def test_a_released_download_waits_for_an_owner(
    run: Any, registry: Registry, server_url: str, namespace: str
) -> None:
    """`show`, `ls`, `top` and `doctor` tell a released download from a lost one."""
    won = registry.try_claim_for_download("m", "S3", owner="host-7:1")
    assert isinstance(won, Claimed)
    assert registry.release_download_claim(won.claim)
    for words in (["show", "m", "-p", "s3"], ["ls"], ["top", "--once"]):
        assert "released, waits for an owner for" in on_a_terminal(server_url, namespace, *words)
    found = run("doctor")
    assert "given back by its owner" in found.stdout
    assert "lease that is over" not in found.stdout
