"""The command line: claims, from `claim` to `finish`, and scripts that make them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pyregistry import Claimed, ModelStatus, Provider, Registry
from pyregistry.cli.claim_token import Ticket, shell_failure
from pyregistry.cli.exit_codes import Exit
from tests.support.cli import ROOT, SECONDS, Ended, Run, exported, spawn


def test_from_claim_to_finish(run: Run, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim made by `claim` is renewed and finished by the variable that it exports."""
    claimed = run("claim", "org/model", "--lease", 60, "--expected-bytes", 10, "--owner", "me")
    assert claimed.code == Exit.DONE
    assert "claimed org/model: attempt 1" in claimed.err
    variables = exported(claimed.out)
    record = registry.get_model_record("org/model")
    assert record is not None
    assert (record.owner, record.bytes_total) == ("me", 10)
    assert variables["PYREGISTRY_TOKEN"] == str(record.token)
    assert variables["PYREGISTRY_ATTEMPT"] == "1"
    monkeypatch.setenv("PYREGISTRY_CLAIM", variables["PYREGISTRY_CLAIM"])

    assert run("renew", "--bytes-done", 5, "--message", "half") == Ended(0, "", "")
    renewed = registry.get_model_record("org/model")
    assert renewed is not None
    assert (renewed.bytes_done, renewed.message) == (5, "half")
    assert record.lease_expires_at is not None
    assert renewed.lease_expires_at is not None
    assert record.lease_expires_at < renewed.lease_expires_at

    done = run("finish", "downloaded", "--size-bytes", 9, "--location", "models/1",
               "--resolved-revision", "abc", "-m", "well")  # fmt: skip
    assert done == Ended(0, "", "")
    ended = registry.get_model_record("org/model")
    assert ended is not None
    assert ended.status is ModelStatus.DOWNLOADED
    assert (ended.size_bytes, ended.location, ended.resolved_revision) == (9, "models/1", "abc")
    assert ended.message == "well"
    assert run("finish", "DOWNLOADED").code == Exit.DONE, "sent again"
    assert run("finish", "ERROR").code == Exit.NO


def test_the_calling_process_is_the_owner(environment: None, registry: Registry) -> None:
    """The owner of a claim is the process that called the command."""
    assert spawn("claim", "m").code == 0
    record = registry.get_model_record("m")
    assert record is not None
    assert record.owner == f"{socket.gethostname()}:{os.getpid()}"[:64]


def test_a_claim_that_is_not_won(run: Run, registry: Registry) -> None:
    """`claim` of a model with a live claim exits with NO and unsets its variables."""
    registry.try_claim_for_download("m", "HuggingFace", lease=60, owner="another")
    lost = run("claim", "m")
    assert lost.code == Exit.NO
    assert lost.out == "unset PYREGISTRY_CLAIM PYREGISTRY_TOKEN PYREGISTRY_ATTEMPT; (exit 1)\n"
    assert re.fullmatch(
        r"pyregistry: not claimed: m is DOWNLOADING \(another, lease ends in \d+ s\)\n", lost.err
    )
    lost = run("claim", "m", "--json")
    assert (lost.code, lost.err) == (Exit.NO, "")
    assert lost.json["claimed"] is False
    assert lost.json["record"]["owner"] == "another"


def test_a_takeover(run: Run, registry: Registry) -> None:
    """`claim` says whose download it takes over and how far it had got."""
    before = registry.try_claim_for_download("m", "HuggingFace", lease=0.000001, owner="lost")
    assert isinstance(before, Claimed)
    registry.refresh_download_claim(before.claim, lease=0.000001, bytes_done=2048)
    taken = run("claim", "m")
    assert "attempt 2" in taken.err
    assert "taken over from lost, which had got to 2.0 KiB" in taken.err
    late = run("renew", Ticket.of(before.claim, registry.namespace).word)
    assert late.code == Exit.NO
    assert late.err.count("\n") == 1, "it is said once"
    assert "not renewed: m is DOWNLOADING" in late.err


@pytest.mark.parametrize(("lease", "seconds"), [("300", 300.0), ("0.5", 0.5), ("none", None)])
def test_leases(run: Run, lease: str, seconds: float | None) -> None:
    """`claim --lease` takes seconds or "none"."""
    claimed = run("claim", "m", "--lease", lease, "--json").json
    assert claimed["claim"]["lease"] == seconds
    assert (claimed["claim"]["lease_expires_at"] is None) == (seconds is None)


def test_renew_with_another_lease(run: Run, registry: Registry) -> None:
    """`renew --lease` replaces the lease of the claim."""
    word = run("claim", "m", "--lease", 60, "--json").json["word"]
    ends = run("renew", word, "--lease", 7200, "--json").json["lease_expires_at"]
    assert datetime.fromisoformat(ends.replace("Z", "+00:00")) - datetime.now(timezone.utc) > timedelta(
        hours=1
    )
    assert run("renew", word, "--lease", "none", "--json").json == {"renewed": True, "lease_expires_at": None}


def test_release(run: Run, registry: Registry) -> None:
    """`release` gives the claim and its attempt back, and is idempotent."""
    word = run("claim", "m", "--json").json["word"]
    assert run("release", word, "--json").json == {"released": True}
    assert run("renew", word).code == Exit.NO
    again = run("claim", "m", "--json").json
    assert again["claim"]["attempts"] == 1, "the attempt did not count"
    late = run("release", word, "--json")
    assert late.code == Exit.DONE, "it was given back before"


def test_an_error_and_its_retry(run: Run, registry: Registry) -> None:
    """`retry` is refused during the back-off and after a permanent error, and wins otherwise."""
    word = run("claim", "m", "--json").json["word"]
    assert run("finish", "ERROR", word, "-m", "no route", "--retry-in", 3600).code == 0
    early = run("retry", "m")
    assert early.code == Exit.NO
    assert "no retry for" in early.err
    assert early.out == shell_failure(1) + "\n"
    registry.set_status("m", "HuggingFace", "ERROR")
    variables = exported(run("retry", "m").out)
    assert run("finish", "ERROR", variables["PYREGISTRY_CLAIM"], "--permanent", "--json").json == {
        "finished": True
    }
    assert "permanent" in run("retry", "m").err
    assert run("retry", "m", "--json").json["claimed"] is False


def test_attempts_are_limited(run: Run) -> None:
    """`claim --max-attempts` refuses a model whose attempts are used up."""
    for _ in range(2):
        run("claim", "m", "--lease", 0.000001, "--max-attempts", 2)
    third = run("claim", "m", "--max-attempts", 2)
    assert third.code == Exit.NO
    assert "m is ERROR (permanent, Owner lost" in third.err


def test_a_claim_stays_in_its_namespace(run: Run) -> None:
    """A claim used with another namespace is a wrong call."""
    word = run("claim", "m", "--json").json["word"]
    for command in (("renew",), ("finish", "ERROR"), ("release",)):
        elsewhere = run(*command, word, "--namespace", "another")
        assert elsewhere.code == Exit.WRONG_CALL
        assert "namespace" in elsewhere.err


@pytest.mark.parametrize("word", ["x", "", "AAAA", "näh", "mqd" * 20])
def test_what_is_no_claim(run: Run, word: str) -> None:
    """A malformed claim word is a wrong call."""
    assert run("renew", word).code == Exit.WRONG_CALL


def test_a_ticket_is_one_plain_word(registry: Registry) -> None:
    """A claim word is one plain word, is read back, and its repr has no claim id."""
    result = registry.try_claim_for_download(
        "we'ird $(x) 模型", Provider("Own"), revision="a#b", subset="*", lease=60
    )
    assert isinstance(result, Claimed)
    ticket = Ticket.of(result.claim, "ns")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", ticket.word)
    assert Ticket.read(ticket.word) == ticket
    assert ticket.claim.ref == result.claim.ref
    assert result.claim.claim_id not in repr(ticket)


SCRIPT = """
set -u
pyregistry() { "$PYTHON" -m pyregistry "$@"; }
if eval "$(pyregistry claim org/model --lease 300)"; then
    pyregistry renew --bytes-done 5 --bytes-total 10 || exit 20
    if eval "$(pyregistry claim org/model 2>/dev/null)"; then exit 21; elif [ $? -ne 1 ]; then exit 22; fi
    echo "forgotten: ${PYREGISTRY_CLAIM-yes}"
fi
eval $(pyregistry claim org/other)  # without quotes it works too
pyregistry finish DOWNLOADED --location "models/$PYREGISTRY_TOKEN" --size-bytes 10 || exit 23
if line=$(pyregistry --url redis://127.0.0.1:1 claim org/third); then exit 24; else echo "code $?"; fi
eval "$(pyregistry --url redis://127.0.0.1:1 claim org/third)"; echo "code $?"
eval "$(pyregistry claim --no-such-option)"; echo "code $?"
set -e
eval "$(pyregistry claim org/other)"
echo "not reached"
"""


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_script(environment: None, registry: Registry, shell: str) -> None:
    """The variables and exit codes of the commands work in a shell script."""
    done = subprocess.run(
        [shell, "-c", SCRIPT],
        env={**os.environ, "PYTHON": sys.executable},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout == "forgotten: yes\ncode 3\ncode 3\ncode 2\n", done.stderr
    assert done.returncode == Exit.NO
    model, other = registry.get_model_records(["org/model", "org/other"])
    assert model is not None
    assert (model.status, model.bytes_done, model.bytes_total) == (ModelStatus.DOWNLOADING, 5, 10)
    assert other is not None
    assert (other.status, other.location) == (ModelStatus.DOWNLOADED, f"models/{other.token}")


@pytest.mark.parametrize("works", [True, False])
def test_the_script_in_the_docs(environment: None, registry: Registry, tmp_path: Path, works: bool) -> None:
    """The shell script of docs/how-to/use-the-command-line.md downloads, and records a failure."""
    text = (ROOT / "docs" / "how-to" / "use-the-command-line.md").read_text("utf-8")
    (script,) = re.findall(r"```sh\n(if eval.*?)```", text, re.DOTALL)
    (tmp_path / "staging").mkdir()
    (tmp_path / "models").mkdir()
    before = f"""
    pyregistry() {{ "$PYTHON" -m pyregistry "$@"; }}
    fetch() {{ echo "$1" > "$2"; {"true" if works else "false"}; }}
    """
    with (tmp_path / "output").open("w+") as output:
        process = subprocess.Popen(
            ["sh", "-c", before + script],
            env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = process.wait(SECONDS)
        finally:
            # The last `sleep` between two renewals is still there.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        assert code == 0, output.read()
    record = registry.get_model_record("org/model")
    assert record is not None
    if works:
        assert record.status is ModelStatus.DOWNLOADED
        assert record.location is not None
        assert (tmp_path / record.location).read_text() == "org/model\n"
    else:
        assert (record.status, record.message) == (ModelStatus.ERROR, "fetch failed")
        assert record.retry_at is not None
