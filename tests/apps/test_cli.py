"""The command line: what it says, in which form, and with which exit code."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import redis

from pyregistry import Claimed, ModelRecord, ModelRef, ModelStatus, Provider, Registry, errors
from pyregistry._core.model_key import entry_of
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry.cli import main
from pyregistry.cli.claim_token import Ticket, shell_failure
from pyregistry.cli.context import NAMED_BY
from pyregistry.cli.exit_codes import MEANINGS, Exit, exit_of
from pyregistry.cli.formatting import name_of, printable, state_of
from pyregistry.cli.units import ago, length, percent, size
from pyregistry.embedded import stop_shared
from tests.support.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.conftest import MakeServer

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "pyregistry")
SECONDS = 60
NAMES_A_SERVER = NAMED_BY
ESCAPE = "\x1b"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Run(Protocol):
    """Runs a command; an option's value may be a number."""

    def __call__(self, *words: object) -> Ended: ...


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


def spawn(*words: object, env: Mapping[str, str] | None = None, **options: Any) -> Ended:
    """Runs a command as a process of its own."""
    done = subprocess.run(
        [*COMMAND, *map(str, words)],
        env={**os.environ, **(env or {})},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
        **options,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def exported(shell_line: str) -> dict[str, str]:
    """What a shell would take from the output of `claim`."""
    word, *assignments = shell_line.split()
    assert word == "export"
    return dict(each.split("=", 1) for each in assignments)


# Claims


def test_from_claim_to_finish(run: Run, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert spawn("claim", "m").code == 0
    record = registry.get_model_record("m")
    assert record is not None
    assert record.owner == f"{socket.gethostname()}:{os.getpid()}"[:64]


def test_a_claim_that_is_not_won(run: Run, registry: Registry) -> None:
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
    claimed = run("claim", "m", "--lease", lease, "--json").json
    assert claimed["claim"]["lease"] == seconds
    assert (claimed["claim"]["lease_expires_at"] is None) == (seconds is None)


def test_renew_with_another_lease(run: Run, registry: Registry) -> None:
    word = run("claim", "m", "--lease", 60, "--json").json["word"]
    ends = run("renew", word, "--lease", 7200, "--json").json["lease_expires_at"]
    assert datetime.fromisoformat(ends.replace("Z", "+00:00")) - datetime.now(timezone.utc) > timedelta(
        hours=1
    )
    assert run("renew", word, "--lease", "none", "--json").json == {"renewed": True, "lease_expires_at": None}


def test_release(run: Run, registry: Registry) -> None:
    word = run("claim", "m", "--json").json["word"]
    assert run("release", word, "--json").json == {"released": True}
    assert run("renew", word).code == Exit.NO
    again = run("claim", "m", "--json").json
    assert again["claim"]["attempts"] == 1, "the attempt did not count"
    late = run("release", word, "--json")
    assert late.code == Exit.DONE, "it was given back before"


def test_an_error_and_its_retry(run: Run, registry: Registry) -> None:
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
    for _ in range(2):
        run("claim", "m", "--lease", 0.000001, "--max-attempts", 2)
    third = run("claim", "m", "--max-attempts", 2)
    assert third.code == Exit.NO
    assert "m is ERROR (permanent, Owner lost" in third.err


def test_a_claim_stays_in_its_namespace(run: Run) -> None:
    word = run("claim", "m", "--json").json["word"]
    for command in (("renew",), ("finish", "ERROR"), ("release",)):
        elsewhere = run(*command, word, "--namespace", "another")
        assert elsewhere.code == Exit.WRONG_CALL
        assert "namespace" in elsewhere.err


@pytest.mark.parametrize("word", ["x", "", "AAAA", "näh", "mqd" * 20])
def test_what_is_no_claim(run: Run, word: str) -> None:
    assert run("renew", word).code == Exit.WRONG_CALL


def test_a_ticket_is_one_plain_word(registry: Registry) -> None:
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
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
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


# What there is


def fill(registry: Registry) -> None:
    """One model of each kind."""
    downloading = registry.try_claim_for_download("org/downloading", "HuggingFace", lease=60, owner="host:1")
    assert isinstance(downloading, Claimed)
    registry.refresh_download_claim(downloading.claim, bytes_done=512, bytes_total=2048)
    done = registry.try_claim_for_download(
        "org/模型 [bold]x[/bold]", "S3", revision="v1", subset="t", lease=60
    )
    assert isinstance(done, Claimed)
    registry.finish_download_claim(done.claim, "DOWNLOADED", size_bytes=5 * 2**30, location="models/1")
    failed = registry.try_claim_for_download("org/failed" + "-long" * 20, "Ngc", lease=60)
    assert isinstance(failed, Claimed)
    registry.finish_download_claim(failed.claim, "ERROR", "\x1b[31mred\nand\ttab")


def test_ls_in_a_pipe(run: Run, registry: Registry) -> None:
    fill(registry)
    listed = run("ls")
    assert (listed.code, listed.err) == (0, "")
    head, *rows = [line.split("\t") for line in listed.out.splitlines()]
    assert {len(row) for row in rows} == {len(head)}
    downloading, done, failed = [dict(zip(head, row, strict=True)) for row in rows]
    assert (downloading["MODEL_NAME"], downloading["BYTES_DONE"]) == ("org/downloading", "512")
    assert done["MODEL_NAME"] == "org/模型 [bold]x[/bold]"
    assert (done["REVISION"], done["SUBSET"], done["SIZE_BYTES"]) == ("v1", "t", str(5 * 2**30))
    assert failed["MODEL_NAME"] == "org/failed" + "-long" * 20
    assert failed["MESSAGE"] == r"\x1b[31mred\nand\ttab"
    used = datetime.fromisoformat(failed["LAST_USED_AT"].replace("Z", "+00:00"))
    record = registry.get_model_record(failed["MODEL_NAME"])
    assert record is not None
    assert used == record.last_used_at


def test_ls_as_json(run: Run, registry: Registry) -> None:
    assert run("ls", "--json").json == []
    fill(registry)
    listed = run("ls", "--json")
    assert len(listed.out.splitlines()) == 3, "one record on each line"
    assert [each["model_name"] for each in listed.json] == [
        each.model_name for each in registry.get_models_by_last_used()
    ]
    assert set(listed.json[0]) == set(ModelRecord.__struct_fields__)


def test_ls_of_some(run: Run, registry: Registry) -> None:
    fill(registry)

    def names(*options: object) -> list[str]:
        return [each["model_name"][:10] for each in run("ls", "--json", *options).json]

    assert names("--limit", 2) == ["org/downlo", "org/模型 [bo"]
    assert names("-n", 0) == []
    assert names("--status", "error") == ["org/failed"]
    assert names("-s", "DOWNLOADED", "-n", 5) == ["org/模型 [bo"]
    assert run("ls", "--limit", -1).code == Exit.WRONG_CALL
    assert run("ls", "--status", "GONE").code == Exit.WRONG_CALL


def test_ls_of_more_than_a_page(run: Run, registry: Registry) -> None:
    registry.try_claim_many([ModelRef(f"m{i}", "S3") for i in range(1100)], lease=60)
    assert [each["model_name"] for each in run("ls", "--json").json] == [f"m{i}" for i in range(1100)]
    assert len(run("ls").out.splitlines()) == 1101
    assert len(run("ls", "--limit", 700).out.splitlines()) == 701


def test_show(run: Run, registry: Registry) -> None:
    fill(registry)
    shown = run("show", "org/downloading", "--json").json
    assert shown["owner"] == "host:1"
    assert "claim_id" not in json.dumps(shown)
    lines = dict(line.split("\t") for line in run("show", "org/downloading").out.splitlines())
    assert set(lines) == set(shown) == {*ModelRecord.__struct_fields__, "listeners"}
    assert (lines["bytes_total"], lines["permanent"], lines["size_bytes"]) == ("2048", "false", "")
    assert run("show", "org/模型 [bold]x[/bold]").code == Exit.NO, "another revision"
    assert run("show", "org/模型 [bold]x[/bold]", "--revision", "v1", "--subset", "t").code == 0
    unknown = run("show", "nobody")
    assert unknown == Ended(Exit.NO, "", "pyregistry: nobody is unknown\n")
    unknown = run("show", "nobody", "--json")
    assert (unknown.code, unknown.err) == (Exit.NO, "")
    assert unknown.json == {"status": None, "others": [], "complete": True}


def test_status_and_counts(run: Run, registry: Registry) -> None:
    fill(registry)
    assert run("status", "org/downloading") == Ended(0, "DOWNLOADING\n", "")
    assert run("status", "org/downloading", "--json").json == {"status": "DOWNLOADING"}
    assert run("status", "org/downloading", "-p", "S3").code == Exit.NO
    assert run("status", "nobody", "--json").json == {"status": None, "others": [], "complete": True}
    assert run("counts").out == "DOWNLOADING\t1\nDOWNLOADED\t1\nERROR\t1\n"
    assert run("counts", "--json").json == {"downloading": 1, "downloaded": 1, "error": 1}


def test_what_anybody_may_do(run: Run, registry: Registry) -> None:
    assert run("set-status", "m", "downloaded", "--message", "by hand") == Ended(0, "", "")
    assert run("set-status", "n", "ERROR", "--provider-word", "Own", "--json").json == {"set": True}
    record = registry.get_model_record("m", "HuggingFace")
    assert record is not None
    assert (record.status, record.message) == (ModelStatus.DOWNLOADED, "by hand")
    assert run("touch", "m") == Ended(0, "", "")
    assert [each.model_name for each in registry.get_models_by_last_used()] == ["n", "m"]
    assert run("touch", "nobody", "--json").json == {"touched": False, "others": [], "complete": True}
    assert run("rm", "m", "--token", 1).code == Exit.NO
    assert run("rm", "m", "--token", record.token, "--json").json == {"deleted": 1}
    assert run("rm", "m") == Ended(Exit.NO, "", "pyregistry: m is unknown\n")
    assert run("rm", "n", "--provider-word", "Own") == Ended(0, "", "")


def test_a_live_claim_that_is_ended_is_told(run: Run, registry: Registry) -> None:
    registry.try_claim_for_download("m", "HuggingFace", lease=60, owner="somebody")
    ended = run("set-status", "m", "ERROR")
    assert ended.code == 0
    assert "WARNING" in ended.err
    assert "somebody" in ended.err


def test_doctor(run: Run, make_server: MakeServer) -> None:
    healthy = make_server(persistent=True)
    found = run("doctor", "--url", healthy.url)
    assert found.code == Exit.DONE
    head, *rows = [line.split("\t") for line in found.out.splitlines()]
    assert head == ["LEVEL", "CHECK", "MESSAGE", "ADVICE", "MODELS"]
    assert {row[0] for row in rows} == {"ok"}
    found = run("doctor", "--json", "--url", make_server().url)
    assert found.code == Exit.NO
    assert found.json["wrong"] is True
    assert ("warning", "persistence") in {(each["level"], each["check"]) for each in found.json["findings"]}


def test_doctor_names_the_models(run: Run, registry: Registry, server_url: str, namespace: str) -> None:
    with redis.Redis.from_url(server_url) as client:
        client.set(Keyspace(namespace).record(entry_of("[x] y", "S3", "v1", None)), b"x")
    assert "\tS3:[x] y @v1" in run("doctor").out
    findings = run("doctor", "--json").json["findings"]
    assert [each["models"] for each in findings if each["models"]] == [
        [{"name": "[x] y", "provider": "S3", "revision": "v1", "subset": None}]
    ]
    assert "[x] y" not in run("doctor", "--no-records").out


# What there is where the exact record is unknown


def namesakes(registry: Registry) -> None:
    """Four records of one name, the last with a provider of its own."""
    for provider, revision, subset in (
        ("HuggingFace", "v1", "tok"), ("HuggingFace", "main", None), ("Ngc", None, None), ("Own", None, "a b"),
    ):  # fmt: skip
        registry.set_status("acme/model", Provider(provider), "DOWNLOADED", revision=revision, subset=subset)
    registry.set_status("acme/model-2", "S3", "ERROR")


@pytest.mark.parametrize("command", ["show", "status", "touch", "rm"])
def test_an_unknown_record_names_what_there_is(run: Run, registry: Registry, command: str) -> None:
    namesakes(registry)
    unknown = run(command, "ACME/model", "--provider", "gcs")
    assert (unknown.code, unknown.out) == (Exit.NO, "")
    assert unknown.err.splitlines() == [
        "pyregistry: ACME/model is unknown; under that name there is:",
        "  DOWNLOADED   acme/model --provider HuggingFace --revision v1 --subset tok",
        "  DOWNLOADED   acme/model --provider HuggingFace --revision main",
        "  DOWNLOADED   acme/model --provider Ngc",
        "  DOWNLOADED   acme/model --provider-word Own --subset 'a b'",
    ]
    # What is named can be given as it stands.
    for line in unknown.err.splitlines()[1:]:
        assert run("status", *shlex.split(line)[1:]).code == Exit.DONE
    told = run(command, "acme/model", "-p", "hf", "--json")
    assert (told.code, told.err, told.json["complete"]) == (Exit.NO, "", True)
    assert [(each["revision"], each["status"]) for each in told.json["others"]] == [
        ("v1", "DOWNLOADED"), ("main", "DOWNLOADED"), (None, "DOWNLOADED"), (None, "DOWNLOADED"),
    ]  # fmt: skip
    assert len(registry.get_models_by_last_used()) == 5, "nothing was changed"


def test_many_of_one_name_are_counted(run: Run, registry: Registry) -> None:
    registry.try_claim_many([ModelRef("m", "S3", f"r{i}") for i in range(64)], lease=60)
    told = run("status", "m")
    assert len(told.err.splitlines()) == 12
    assert "and 54 more: pyregistry ls m" in told.err


def test_the_search_for_a_name_is_bounded(
    run: Run, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    namesakes(registry)
    monkeypatch.setattr("pyregistry.cli.namesakes.MOST", 2)
    told = run("status", "acme/model", "--revision", "none")
    assert len(told.err.splitlines()) == 4
    assert "only the 2 that were unused longest" in told.err
    assert run("status", "acme/model", "--revision", "none", "--json").json["complete"] is False


def test_an_empty_namespace_says_so(
    run: Run, make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server()
    monkeypatch.setenv("PYREGISTRY_URL", server.url)
    monkeypatch.setenv("PYREGISTRY_NAMESPACE", "mine")
    assert (
        run("ls").err == "pyregistry: the namespace mine has no records, nor has any other of this server\n"
    )
    for name in ("full-b", "full-a"):
        with Registry.from_url(server.url, name) as other:
            other.set_status("m", "S3", "DOWNLOADED")
    said = "the namespace mine has no records; others have: full-a (1), full-b (1) (--namespace NAME)\n"
    for command in (["ls"], ["counts"], ["status", "m"], ["ls", "--sort", "name"]):
        assert run(*command).err.endswith(said)
        assert run(*command, "--json").err == ""
    with Registry.from_url(server.url, "mine") as mine:
        mine.set_status("m", "S3", "DOWNLOADED")
    for command in (["ls"], ["ls", "no-such-name"], ["counts"], ["status", "m"], ["status", "n"]):
        assert "no records" not in run(*command).err
    assert run("namespaces").out == "NAMESPACE\tMODELS\nfull-a\t1\nfull-b\t1\nmine\t1\n"
    assert {"namespace": "mine", "models": 1} in run("namespaces", "--json").json


def test_namespaces_write_nothing_and_say_where_scan_is_forbidden(run: Run, make_server: MakeServer) -> None:
    server = make_server()
    assert run("namespaces", "--url", server.url) == Ended(0, "NAMESPACE\tMODELS\n", "")
    with redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 0
        client.execute_command(
            "ACL", "SETUSER", "a", "on", ">pw", "~pyregistry:{a}:*", "&pyregistry:{a}:*", "+@all", "-scan"
        )
    port = server.url.rpartition(":")[2]
    denied = run("--url", f"redis://a:pw@127.0.0.1:{port}", "namespaces")
    assert denied.code == Exit.SERVER_REFUSED
    assert "namespaces are found with SCAN, which is not allowed here" in denied.err
    # The hint of another command is left out then, and nothing else.
    told = run("--url", f"redis://a:pw@127.0.0.1:{port}", "--namespace", "a", "ls")
    assert (told.code, told.err) == (0, "pyregistry: the namespace a has no records\n")


def test_namespaces_of_others_are_not_counted(run: Run, make_server: MakeServer) -> None:
    server = make_server()
    with redis.Redis.from_url(server.url) as client:
        client.execute_command(
            "ACL", "SETUSER", "a", "on", ">pw", "~pyregistry:{a}:*", "&pyregistry:{a}:*", "+@all"
        )
        client.set("pyregistry:{c}:downloaded", "of another type")
        client.zadd("pyregistry:{d}:model:S3:}:downloaded", {"x": 1})
    for namespace in ("a", "b"):
        with Registry.from_url(server.url, namespace) as registry:
            registry.set_status("m", "S3", "DOWNLOADED")
    port = server.url.rpartition(":")[2]
    assert run("--url", f"redis://a:pw@127.0.0.1:{port}", "namespaces", "--json").json == [
        {"namespace": "a", "models": 1}, {"namespace": "b", "models": None},
    ]  # fmt: skip


def test_ls_by_name_and_provider(run: Run, registry: Registry) -> None:
    fill(registry)
    namesakes(registry)

    def names(*options: object) -> list[str]:
        return [each["model_name"] for each in run("ls", "--json", *options).json]

    assert names("ACME/*") == ["acme/model"] * 4 + ["acme/model-2"]
    assert names("model", "--limit", 2) == ["acme/model", "acme/model"]
    assert names("acme/mode?") == ["acme/model"] * 4
    assert names("[bold]x") == ["org/模型 [bold]x[/bold]"], (
        "what has signs of a pattern in it is found as it stands"
    )
    assert names("-p", "s3", "org") == ["org/模型 [bold]x[/bold]"]
    assert names("--provider-word", "Own") == ["acme/model"]
    assert names("-s", "error", "acme") == ["acme/model-2"]
    assert names("acme", "-s", "error", "-p", "ngc") == []


def test_ls_sorts(run: Run, registry: Registry) -> None:
    for name, size_bytes in (("b", 5), ("c", None), ("a", 7)):
        claimed = registry.try_claim_for_download(name, "S3", lease=60)
        assert isinstance(claimed, Claimed)
        registry.finish_download_claim(claimed.claim, "DOWNLOADED", size_bytes=size_bytes)
    registry.touch_model("b")

    def names(*options: object) -> str:
        return "".join(each["model_name"] for each in run("ls", "--json", *options).json)

    assert names() == "cab"
    assert names("--reverse") == "bac"
    assert names("--sort", "size") == "abc"
    assert names("--sort", "age") == "bca"
    assert names("--sort", "age", "-r", "-n", 2) == "ac"
    assert names("--sort", "name", "-n", 2) == "ab"
    assert [line.split("\t")[2] for line in run("ls", "--sort", "name").out.splitlines()[1:]] == [
        "a",
        "b",
        "c",
    ]
    assert run("ls", "--sort", "colour").code == Exit.WRONG_CALL


@pytest.mark.parametrize("word", ["hf", "HF", "huggingface", "hugging-face", "HuggingFace", "HUGGING_FACE"])
def test_providers_are_understood(run: Run, registry: Registry, word: str) -> None:
    assert run("set-status", "m", "downloading", "-p", word).code == Exit.DONE
    assert [each.provider for each in registry.get_models_by_last_used()] == ["HuggingFace"]


def test_other_providers_must_be_meant(run: Run, registry: Registry) -> None:
    for command in (["claim", "m"], ["set-status", "m", "ERROR"], ["show", "m"], ["ls"], ["watch", "m"]):
        wrong = run(*command, "-p", "Hugging")
        assert wrong.code == Exit.WRONG_CALL
        assert (
            "HuggingFace, Ngc, Gcs or S3, not 'Hugging'; another one is given with --provider-word"
            in wrong.err
        )
        for line in ("HuggingFace, Ngc, Gcs", "--provider-word NAME"):
            assert line in re.sub(r"\s+", " ", run(command[0], "--help").out)
    assert registry.get_models_by_last_used() == []
    assert run("set-status", "m", "ERROR", "--provider-word", "Hugging").code == Exit.DONE
    assert run("status", "m", "--provider-word", "Hugging").out == "ERROR\n"
    assert run("status", "m", "-p", "S3", "--provider-word", "Hugging").code == Exit.WRONG_CALL


# Which server


def test_options_stand_before_or_after(run: Run, registry: Registry) -> None:
    registry.set_status("m", "S3", "ERROR")
    assert run("counts", "--namespace", "empty", "--json").json["error"] == 0
    assert run("--namespace", "empty", "--json", "counts").json["error"] == 0
    assert (
        run("--namespace", "empty", "counts", "--namespace", registry.namespace, "--json").json["error"] == 1
    )
    assert run("--url", "redis://127.0.0.1:1", "counts").code == Exit.UNAVAILABLE


def test_the_variables_of_the_seed(run: Run, server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.delenv("PYREGISTRY_URL")
    for name, value in half.items():
        monkeypatch.setenv(name, value)
    assert run("counts").code == Exit.WRONG_CALL
    assert run("counts", "--url", server_url).code == Exit.DONE, "what is said counts"


def test_a_namespace_without_a_server_is_half_set(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYREGISTRY_URL")
    half = run("counts")
    assert half.code == Exit.WRONG_CALL
    assert "PYREGISTRY_NAMESPACE is set, but no server is named: set PYREGISTRY_URL too" in half.err


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


def test_without_a_server_it_is_ones_own(own_folders: Path) -> None:
    assert spawn("set-status", "m", "DOWNLOADED").code == 0
    assert spawn("status", "m").out == "DOWNLOADED\n"
    assert spawn("--url", "embedded://", "status", "m").out == "DOWNLOADED\n"
    assert (own_folders / "share" / "pyregistry" / "appendonlydir").is_dir()
    assert spawn("doctor").code == Exit.DONE


def test_serve(own_folders: Path) -> None:
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
    assert "processes" in run("demo", "--processes", 1).err
    assert "models" in run("demo", "--models", 0).err
    assert run("demo", "--models", 0).code == Exit.WRONG_CALL
    assert run("--json", "demo").code == Exit.WRONG_CALL
    taken = run("demo", "--url", "redis://127.0.0.1:1")
    assert taken.code == Exit.UNAVAILABLE


# Exit codes and errors


def test_every_error_has_a_code() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    for kind in kinds:
        if kind is not errors.RegistryError:
            assert exit_of(kind.__new__(kind)) in set(Exit) - {Exit.DONE, Exit.NO, Exit.FAILED}
    assert exit_of(errors.RegistryError()) is Exit.FAILED


def test_every_error_is_documented() -> None:
    text = (ROOT / "docs" / "operation.md").read_text("utf-8")
    table = text.partition("| error | means | do |\n")[2].partition("\n\n")[0]
    documented = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    roots = {"RegistryError", "RecordRefused"}  # the library raises only kinds of them
    assert set(errors.__all__) - documented == roots


def test_the_codes_are_documented(run: Run) -> None:
    table = (ROOT / "docs" / "cli.md").read_text("utf-8").partition("## Exit codes")[2]
    told = dict(re.findall(r"^\| (\d+) \| ([^|]*?) \|", table, re.MULTILINE))
    assert told == {str(int(code)): words for code, words in MEANINGS.items()}
    assert set(MEANINGS) == set(Exit)
    helped = run("--help")
    assert helped.code == 0
    for code, words in MEANINGS.items():
        assert f"{code:>5}  {words}" in helped.out


def test_every_command_is_documented_and_helps(run: Run) -> None:
    table = (ROOT / "docs" / "cli.md").read_text("utf-8").partition("## Commands")[2].partition("##")[0]
    documented = re.findall(r"^\| `([\w-]+)", table, re.MULTILINE)
    commands = run("--help").out.partition("Commands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in commands.splitlines()] == documented
    for name in documented:
        helped = run(name, "--help")
        assert helped.code == 0
        assert ESCAPE not in helped.out
        assert "..." not in commands


@pytest.mark.parametrize(
    "words",
    [["no-such-command"], ["ls", "--no-such-option"], ["show"], ["claim", "m", "n"], ["finish", "DOWNLOADED"],
     ["ls", "--limit", "many"], []],
)  # fmt: skip
def test_wrong_usage(run: Run, words: list[str]) -> None:
    wrong = run(*words)
    assert wrong.code == Exit.WRONG_CALL
    assert wrong.err
    assert "Traceback" not in wrong.err


@pytest.mark.parametrize(
    "words",
    [["show", ""], ["show", "a\tb"], ["claim", "m", "-p", "1x"], ["claim", "m", "--lease", "soon"],
     ["claim", "m", "--lease", "0"], ["set-status", "m", "EVICTING"], ["set-status", "m", "GONE"],
     ["counts", "--namespace", "a b"], ["counts", "--timeout", "0"], ["counts", "--url", "http://x"],
     ["counts", "--url", ""], ["status", "m", "--revision", ""]],
)  # fmt: skip
def test_wrong_arguments(run: Run, words: list[str]) -> None:
    wrong = run(*words)
    assert wrong.code == Exit.WRONG_CALL
    assert wrong.err.startswith("pyregistry: ")
    told = json.loads(run("--json", *words).err)
    assert set(told) == {"type", "message", "advice", "exit_code"}
    assert told["exit_code"] == Exit.WRONG_CALL


def test_usage_errors_as_json(run: Run) -> None:
    told = run("claim", "--json")
    assert told.out == "", "a JSON reader is no shell"
    assert json.loads(told.err)["type"] == "UsageError"


def test_nobody_answers(run: Run) -> None:
    gone = run("--url", "redis://127.0.0.1:1", "counts")
    assert gone.code == Exit.UNAVAILABLE
    assert gone.out == ""
    assert gone.err.startswith("pyregistry: connect: redis://127.0.0.1:1")
    assert "Traceback" not in gone.err
    told = json.loads(run("--url", "redis://127.0.0.1:1", "counts", "--json").err)
    assert (told["type"], told["exit_code"]) == ("RegistryUnavailable", Exit.UNAVAILABLE)


def test_the_server_refuses_and_no_password_is_shown(run: Run, make_server: MakeServer) -> None:
    port = make_server(password="right-word").url.rpartition(":")[2]
    url = f"redis://user-name:wrong-word@127.0.0.1:{port}"
    for options in ([], ["--json"], ["-vv"]):
        for command in (["counts"], ["claim", "m"], ["doctor"]):
            refused = run("--url", url, *options, *command)
            assert refused.code == (Exit.NO if command == ["doctor"] else Exit.SERVER_REFUSED)
            assert "word@" not in refused.out + refused.err
            assert "wrong-word" not in refused.out + refused.err
            assert "user-name" not in refused.out + refused.err
    bad = run("--url", "redis://user-name:wrong-word@127.0.0.1:port", "-vv", "counts")
    assert bad.code == Exit.WRONG_CALL
    assert "wrong-word" not in bad.err


def test_an_error_of_the_server_names_it_and_the_way_out(run: Run, make_server: MakeServer) -> None:
    server = make_server(password="secret-word")
    port = server.url.rpartition(":")[2].partition("/")[0]
    host = f"127.0.0.1:{port}"
    cases = {
        f"redis://{host}": ("wants a password, and the URL has none", "PYREGISTRY_URL=redis://"),
        f"redis://:torn-word@{host}": ("refuses this user and password", "%40 stands for @"),
        f"redis://:secret-word@{host}/99": ("no database with the number", "redis://HOST:PORT/0"),
        f"redis+sentinel://{host}/service?sentinel_password=secret-word": (
            "and no sentinel",
            "redis://HOST:PORT/0",
        ),
    }
    for url, (what, advice) in cases.items():
        refused = run("--url", url, "counts")
        assert refused.code == Exit.SERVER_REFUSED
        message, way_out = refused.err.splitlines()
        assert host in message
        assert what in message
        assert way_out.startswith("-> ")
        assert advice in way_out
        assert "word@" not in refused.err
        assert "secret-word" not in refused.err
        told = json.loads(run("--url", url, "counts", "--json").err)
        assert (what in told["message"], advice in told["advice"]) == (True, True)
    for command in (["doctor"], ["doctor", "--json"]):
        said = run("--url", f"redis://{host}", *command).out
        assert f"redis://{host}: the server wants a password, and the URL has none" in said
        assert "PYREGISTRY_URL=redis://" in said
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        full = run("--url", server.url, "claim", "m")
        assert full.code == Exit.SERVER_REFUSED
        assert host in full.err
        assert "memory is full" in full.err
        assert "-> raise its maxmemory" in full.err
        client.config_set("maxmemory", "0")
        client.config_set("min-replicas-to-write", "1")
        refused = run("--url", server.url, "claim", "m")
        assert refused.code == Exit.UNAVAILABLE
        assert "min-replicas-to-write" in refused.err
        client.config_set("min-replicas-to-write", "0")
        client.execute_command("ACL", "SETUSER", "a", "on", ">pw", "~*", "&*", "+@all", "-hset")
    denied = run("--url", f"redis://a:pw@{host}", "claim", "m")
    assert denied.code == Exit.SERVER_REFUSED
    assert host in denied.err
    assert "HSET" in denied.err
    assert "-> docs/operation.md, Rights" in denied.err
    gone = run("--url", "redis://127.0.0.1:1", "counts")
    assert "-> look whether the server runs" in gone.err


def test_only_what_waits_is_told_that_it_may_not(run: Run, make_server: MakeServer) -> None:
    server = make_server()
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "a", "on", ">pw", "~*", "&*", "+@all", "-ssubscribe")
    url = server.url.replace("redis://", "redis://a:pw@")
    assert run("--url", url, "set-status", "m", "ERROR") == Ended(0, "", "")
    assert "SSUBSCRIBE" in run("--url", url, "-v", "counts").err
    refused = run("--url", url, "watch", "--count", 0)
    assert refused.code == Exit.SERVER_REFUSED
    assert "ssubscribe" in refused.err.lower()
    assert "SSUBSCRIBE" in run("--url", url, "doctor").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--url", "127.0.0.1:6379", "counts"], "--url has no scheme: write redis://127.0.0.1:6379 "),
        (["--url", "http://127.0.0.1:6379", "counts"], "-> the schemes are redis:// or rediss://"),
        (["--url", ":secret@127.0.0.1:6379", "counts"], "--url has no scheme: write redis://HOST:PORT "),
        (["run", "m", "ls", "-la"], "pyregistry run MODEL -- COMMAND"),
        (["finish", "DONE", "abc"], "status: must be DOWNLOADED or ERROR, not 'DONE'"),
        (["finish", "ERROR", "abc"], 'eval "$(pyregistry claim MODEL)" sets it'),
        (["set-status", "m", "GONE"], "status: must be DOWNLOADING, DOWNLOADED or ERROR, not 'GONE'"),
        (["ls", "-s", "GONE"], "status: must be DOWNLOADING, DOWNLOADED, ERROR or EVICTING, not 'GONE'"),
    ],
)
def test_a_wrong_call_names_the_way_out(run: Run, words: list[str], message: str) -> None:
    wrong = run(*words)
    assert wrong.code == Exit.WRONG_CALL
    assert message in wrong.err
    assert "secret" not in wrong.err


def test_the_record_forbids_it(run: Run, server_url: str, namespace: str) -> None:
    with redis.Redis.from_url(server_url) as client:
        client.set(Keyspace(namespace).record(entry_of("m", "S3", None, None)), b"x")
    for command in (["show", "m"], ["rm", "m"], ["claim", "m", "-p", "S3"], ["touch", "m"]):
        refused = run(*command)
        assert refused.code == Exit.RECORD_REFUSED
    assert json.loads(run("show", "m", "--json").err)["type"] == "DamagedRecord"
    assert run("rm", "m", "--force", "--json").json == {"deleted": 1}


def test_the_outcome_is_unknown(run: Run, server_url: str, registry: Registry) -> None:
    with Proxy(server_url) as proxy:
        proxy.lose_replies("set_status")
        unknown = run("--url", proxy.url, "set-status", "m", "DOWNLOADED")
        assert unknown.code == Exit.OUTCOME_UNKNOWN
        proxy.lose_replies("claim")
        unknown = run("--url", proxy.url, "claim", "n", "--lease", "none")
        assert unknown.code == Exit.OUTCOME_UNKNOWN
        assert unknown.out == shell_failure(Exit.OUTCOME_UNKNOWN) + "\n"
    assert registry.get_status("m") is ModelStatus.DOWNLOADED


def test_an_answer_that_cannot_be_written(environment: None) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "counts"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == Exit.FAILED
    assert done.stderr == f"pyregistry: [Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}\n"


def test_a_reader_that_has_gone(environment: None) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*COMMAND, "ls"],
            cwd=ROOT,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (Exit.BROKEN_PIPE, "")


@pytest.mark.parametrize(
    ("words", "code"),
    [("counts", 0), ("ls --json", 0), ("show nobody", 1), ("claim m", 0), ("top", 0), ("watch --count 0", 0),
     ("set-status m ERROR", 0), ("run m -- echo words", 0), ("run n --retry 1 -- sh -c 'echo words; exit 3'", 3),
     ("--version", 0), ("counts --help", 0), ("no-such-command", 2), ("--url redis://127.0.0.1:1 counts", 3)],
)  # fmt: skip
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_exit_code(
    environment: None, registry: Registry, words: str, code: int, closed: str
) -> None:
    registry.set_status("m", "HuggingFace", "DOWNLOADED")
    if words == "claim m":
        registry.delete_model("m")
    line = f"{sys.executable} -m pyregistry {words} {closed}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt(environment: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(SECONDS)
        port = silent.getsockname()[1]
        process = subprocess.Popen(
            [*COMMAND, "--url", f"redis://127.0.0.1:{port}", "--timeout", "60", "counts"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (Exit.INTERRUPTED, "")
    assert "Traceback" not in err


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra(tmp_path: Path, missing: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{missing!r}] = None\n")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    for words in (["--version"], ["ls", "--json"]):
        told = spawn(*words, env={"PYTHONPATH": path})
        assert told.code == Exit.WRONG_CALL
        assert told.out == ""
        assert "pip install 'pyregistry-redis[cli]'" in told.err
        assert "Traceback" not in told.err


def test_the_version(run: Run) -> None:
    from pyregistry import __version__

    assert run("--version") == Ended(0, f"pyregistry {__version__}\n", "")


def test_the_log(run: Run) -> None:
    assert run("claim", "quiet", "--json").err == ""
    assert "DEBUG: claimed loud" in run("-vv", "claim", "loud").err
    assert "DEBUG" not in run("-v", "claim", "info").err


# Forms


READING = (
    ["ls"],
    ["show", "org/downloading"],
    ["status", "org/downloading"],
    ["counts"],
    ["doctor"],
    ["claim", "x"],
)


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_no_escape_codes_in_a_pipe(environment: None, registry: Registry, command: list[str]) -> None:
    fill(registry)
    for options in ([], ["--json"]):
        done = spawn(*command, *options, env={"TERM": "xterm-256color", "FORCE_COLOR": "1"})
        assert ESCAPE not in done.out + done.err
        assert done.out


def test_an_output_that_is_not_utf_8(environment: None, registry: Registry) -> None:
    fill(registry)
    env = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    plain = spawn("ls", env=env)
    assert plain.code == 0
    assert r"org/\u6a21\u578b" in plain.out
    assert "org/模型 [bold]x[/bold]" in {each["model_name"] for each in spawn("ls", "--json", env=env).json}


def on_terminal(*words: str, columns: int, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Runs a command on a terminal of that width; what it wrote there."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [*COMMAND, *words],
        env={**variables, "TERM": "xterm-256color", **(env or {})},
        cwd=ROOT,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        close_fds=True,
    )
    os.close(follower)
    chunks = []
    # Linux tells the end of a terminal by this error.
    with contextlib.suppress(OSError):
        while chunk := os.read(leader, 65536):
            chunks.append(chunk)
    os.close(leader)
    return process.wait(SECONDS), b"".join(chunks).decode().replace("\r\n", "\n")


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_ls_on_a_terminal(environment: None, registry: Registry, columns: int) -> None:
    fill(registry)
    code, text = on_terminal("ls", columns=columns)
    assert code == 0
    assert f"{ESCAPE}[" in text, "colours"
    plain = without_colours(text)
    assert ESCAPE not in plain, "the message's own codes are shown, not obeyed"
    assert r"\x1b[31mred" in plain
    assert "org/模型 [bold]x[/bold] @v1 #t" in plain
    assert "5.0 GiB" in plain
    assert "25 % done, host:1, lease ends in" in plain
    assert re.search(r"just now|\d+ s ago", plain)
    assert max(map(len, plain.splitlines())) <= columns
    # A name that is too long goes on in the next line; nothing of it is lost.
    first_column = "".join(line.split("  ")[0].strip() for line in plain.splitlines())
    assert "org/failed" + "-long" * 20 in first_column


def test_show_and_the_rest_on_a_terminal(environment: None, registry: Registry, namespace: str) -> None:
    fill(registry)
    code, text = on_terminal("show", "org/downloading", columns=100)
    plain = without_colours(text)
    assert code == 0
    assert re.search(r"^model +org/downloading", plain, re.MULTILINE)
    assert re.search(r"^lease +ends in \d+ s \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ\)", plain, re.MULTILINE)
    assert re.search(r"^size expected +2.0 KiB \(2,048 bytes\)", plain, re.MULTILINE)
    assert re.search(r"^progress +25 % done", plain, re.MULTILINE)
    assert re.search(r"^created +(just now|\d+ s ago) \(\d{4}-", plain, re.MULTILINE)
    _, text = on_terminal("show", "org/failed" + "-long" * 20, columns=100)
    assert re.search(r"^message +\\x1b\[31mred *\n +and\\ttab *$", without_colours(text), re.MULTILINE)
    code, text = on_terminal("counts", columns=80)
    assert re.search(r"^DOWNLOADED +1", without_colours(text), re.MULTILINE)
    code, text = on_terminal("doctor", columns=80)
    assert re.search(r"^ok +eviction +maxmemory-policy is noeviction", without_colours(text), re.MULTILINE)
    code, text = on_terminal("ls", "--status", "EVICTING", columns=80)
    assert without_colours(text) == "no models\n"
    code, text = on_terminal("claim", "org/downloading", columns=80)
    assert code == Exit.NO
    assert text.startswith("pyregistry: not claimed: org/downloading is DOWNLOADING")
    code, text = on_terminal("claim", "org/new", "--show-word", columns=80)
    assert exported(text.splitlines()[0])["PYREGISTRY_ATTEMPT"] == "1", "one line, to be copied"
    code, text = on_terminal("ls", "--json", columns=80)
    assert len(json.loads(text)) == 4


@pytest.mark.parametrize("command", ["claim", "retry"])
def test_a_terminal_shows_no_word_of_a_claim(environment: None, registry: Registry, command: str) -> None:
    if command == "retry":
        registry.set_status("m", "HuggingFace", "ERROR")
    code, text = on_terminal(command, "m", columns=80)
    assert code == 0
    assert "claimed m: attempt 1" in text
    assert "--show-word" in text
    record = registry.get_model_record("m")
    assert record is not None
    assert record.status is ModelStatus.DOWNLOADING
    words = [word for word in re.findall(r"[\w-]{40,}", text) if not word.startswith("-")]
    assert words == [], "nothing that could be a claim's word"
    assert "PYREGISTRY_CLAIM=" not in text


def completed(line: str, env: Mapping[str, str]) -> list[str]:
    """What a shell is offered for the last word of a line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from pyregistry.cli import main; sys.exit(main([]))"],
        env={**os.environ, **env, **words, "_PYREGISTRY_COMPLETE": "complete_bash"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_words_are_completed(environment: None, registry: Registry) -> None:
    fill(registry)
    namesakes(registry)
    assert completed("pyregistry set-status m DOWN", {}) == ["DOWNLOADING", "DOWNLOADED"]
    assert completed("pyregistry set-status m ", {}) == ["DOWNLOADING", "DOWNLOADED", "ERROR"]
    assert completed("pyregistry finish ", {}) == ["DOWNLOADED", "ERROR"]
    assert completed("pyregistry ls --status ev", {}) == ["evicting"]
    assert completed("pyregistry show m --provider h", {}) == ["huggingface"]
    assert completed("pyregistry show m --provider ", {}) == ["HuggingFace", "Ngc", "Gcs", "S3"]
    assert completed("pyregistry show acme/", {}) == ["acme/model", "acme/model-2"]
    assert completed("pyregistry --namespace empty show acme/", {}) == []
    assert completed("pyregistry show acme/", {"PYREGISTRY_URL": "redis://127.0.0.1:1"}) == []
    assert completed("pyregistry show acme/", {"PYREGISTRY_URL": "127.0.0.1"}) == []


def test_completion_starts_no_server(own_folders: Path) -> None:
    assert completed("pyregistry show acme/", {}) == []
    assert not list(own_folders.rglob("server.pid"))
    registry_of_ones_own = spawn("set-status", "acme/m", "ERROR")
    assert registry_of_ones_own.code == 0
    assert completed("pyregistry show acme/", {}) == ["acme/m"]


def test_colours_can_be_refused(environment: None, registry: Registry) -> None:
    fill(registry)
    _, text = on_terminal("ls", columns=120, env={"NO_COLOR": "1"})
    assert re.search(r"\x1b\[3\dm", text) is None


NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (1, "1 s"), (59, "59 s"), (119, "119 s"), (120, "2 min"), (3599, "59 min"),
     (7199, "119 min"), (7200, "2 h"), (172799, "47 h"), (172800, "2 days"), (400 * 86400, "400 days")],
)  # fmt: skip
def test_lengths(seconds: float, text: str) -> None:
    assert length(seconds) == text
    if seconds >= 1:
        assert ago(NOW - timedelta(seconds=seconds), NOW) == f"{text} ago"
        assert ago(NOW + timedelta(seconds=seconds), NOW) == "just now"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (2**20 - 1, "1.0 MiB"),
     (5 * 2**30, "5.0 GiB"), (3 * 2**50, "3.0 PiB"), (2**62, "4096.0 PiB")],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_percents() -> None:
    assert percent(0, 10) == "0 %"
    assert percent(999, 1000) == "99 %"
    assert percent(1000, 1000) == "100 %"
    assert percent(1200, 1000) == "100 %"


def test_words() -> None:
    assert printable("org/模型 [x]") == "org/模型 [x]"
    assert printable("a\nb\x1b[0m\u202e") == r"a\nb\x1b[0m\u202e"
    assert name_of(ModelRef("m", "S3", "r", "s")) == "m @r #s"
    assert state_of(None) == "unknown"
    record = ModelRecord("m", "S3", ModelStatus.ERROR, NOW, NOW, retry_at=NOW, message="why")
    assert state_of(record) == "ERROR (why)", "the back-off is over"
