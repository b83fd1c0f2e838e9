"""`pyregistry run`: real processes, of which one runs the command and nothing is left."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pyregistry import Claimed, ModelRecord, ModelStatus, Registry
from pyregistry.cli.exit_codes import Exit
from tests.support.cli import COMMAND, ROOT, SECONDS
from tests.support.commands import FILL, TRACE, WAIT, Start, has_begun, record_of, sh, traces
from tests.support.faults import mounts
from tests.support.faults.proxy import Proxy, until

if TYPE_CHECKING:
    from tests.conftest import MakeServer


# One does it


def test_of_many_one_runs_the_command(
    start: Start, store: Path, gate: Path, tmp_path: Path, registry: Registry
) -> None:
    """Of several `run` of one model one runs the command, and the others wait for its result."""
    runs = [start("run", "m", "--store", store, *sh(TRACE, WAIT, FILL)) for _ in range(5)]
    has_begun(tmp_path)
    for run in runs:
        until(lambda run=run: "downloads it" in run.err or "runs here" in run.err, "it waits", SECONDS)  # type: ignore[misc]  # run
    gate.touch()
    ended = [run.end() for run in runs]
    assert [each.code for each in ended] == [Exit.DONE] * 5, ended
    assert traces(tmp_path) == ["1"]
    assert sum("m is there: downloaded here, 8 B, " in each.err for each in ended) == 1
    assert sum("m is there: downloaded by " in each.err for each in ended) == 4
    record = record_of(registry)
    assert record.location is not None
    assert (record.status, record.size_bytes) == (ModelStatus.DOWNLOADED, 8)
    assert (store / record.location / "file").read_text() == "weights\n"
    again = start("run", "m", "--store", store, *sh(TRACE)).end()
    assert (again.code, again.out) == (Exit.DONE, "")
    assert traces(tmp_path) == ["1"]


def test_a_store_that_can_not_rename_folders(
    start: Start, store: Path, registry: Registry, tmp_path: Path
) -> None:
    """`run --publish manifest` works without renames of folders."""
    mount = mounts.environment(store, RENAME=errno.EXDEV)
    settings = {name: value for name, value in mount.items() if name.startswith(("MOUNT_", "LD_"))}
    words = ("run", "m", "--store", store, "--publish", "manifest", *sh(TRACE, FILL))
    for _ in range(2):
        ended = start(*words, **settings).end()
        assert ended.code == Exit.DONE, ended.err
    record = record_of(registry)
    assert record.location is not None
    assert record.location.endswith(f"/{record.token}.files")
    assert (store / record.location / "file").read_text() == "weights\n"
    assert traces(tmp_path) == ["1"]


def test_what_the_command_finds_in_its_environment(start: Start, store: Path, registry: Registry) -> None:
    """The command gets the model, its claim and its folder in variables."""
    run = start(
        "run", "org/m", "-p", "S3", "--revision", "v1", "--store", store,
        *sh('env > "$TRACES/env"; ', FILL, 'echo "its output"'),
        PYREGISTRY_CLAIM="outer", PYREGISTRY_LOCATION="outer", PYREGISTRY_SUBSET="outer",
    )  # fmt: skip
    ended = run.end()
    assert (ended.code, ended.out) == (0, "its output\n"), ended.err
    record = registry.get_model_record("org/m", "S3", revision="v1")
    assert record is not None
    lines = (store.parent / "env").read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines if line.startswith("PYREGISTRY_"))
    found = {name: value for name, value in found.items() if name not in os.environ}  # the test's own
    claim_id, folder = found.pop("PYREGISTRY_CLAIM_ID"), found.pop("PYREGISTRY_FOLDER")
    assert claim_id
    assert claim_id not in ended.err
    assert Path(folder).name == str(record.token)
    assert not Path(folder).exists(), "it was published"
    for name in ("PYREGISTRY_URL", "PYREGISTRY_NAMESPACE"):
        found.pop(name)
    assert found == {
        "PYREGISTRY_MODEL": "org/m",
        "PYREGISTRY_PROVIDER": "S3",
        "PYREGISTRY_REVISION": "v1",
        "PYREGISTRY_SUBSET": "",
        "PYREGISTRY_TOKEN": str(record.token),
        "PYREGISTRY_ATTEMPT": "1",
    }


def test_as_json(start: Start, store: Path, registry: Registry) -> None:
    """`run --json` prints one document, and the command's output goes to standard error."""
    words = ("run", "m", "--json", "--store", store, *sh(FILL, "echo its output"))
    ended = start(*words).end()
    record = record_of(registry)
    assert ended.err == "its output\n", "standard output is for the document alone"
    assert ended.json["downloaded_here"] is True
    assert ended.json["path"] == str(store / str(record.location))
    assert ended.json["record"]["token"] == record.token
    assert start(*words).end().json == {**ended.json, "downloaded_here": False}


def test_progress_is_the_size_of_the_folder(
    start: Start, store: Path, gate: Path, registry: Registry
) -> None:
    """The size of the folder is the progress of the download."""
    fill = 'mkdir "$PYREGISTRY_FOLDER/sub"; head -c 5000 /dev/zero > "$PYREGISTRY_FOLDER/sub/file"; '
    run = start("run", "m", "--expected-bytes", 9000, "--store", store, *sh(fill, WAIT))
    until(lambda: registry.get_status("m") and record_of(registry).bytes_done == 5000, "it is told", SECONDS)
    assert record_of(registry).bytes_total == 9000
    gate.touch()
    assert run.end().code == 0
    assert record_of(registry).size_bytes == 5000


# It fails


def test_a_command_that_fails(start: Start, tmp_path: Path, registry: Registry) -> None:
    """The exit code of a failed command is that of `run`, and is recorded."""
    failed = start("run", "m", "--retry", 1, *sh(TRACE, "exit 23")).end()
    assert failed.code == 23
    record = record_of(registry)
    assert (record.status, record.message) == (ModelStatus.ERROR, "CommandFailed: sh ended with exit code 23")
    elsewhere = start("run", "m", "--retry", 1, "--json", *sh(TRACE)).end()
    assert elsewhere.code == Exit.DOWNLOAD_FAILED
    told = json.loads(elsewhere.err)
    assert (told["type"], told["exit_code"]) == ("DownloadFailed", Exit.DOWNLOAD_FAILED)
    assert "exit code 23" in told["message"]
    assert traces(tmp_path) == ["1"]


def test_a_command_that_is_killed(start: Start, registry: Registry) -> None:
    """A command killed by a signal is a failure with code 128 plus the signal."""
    ended = start("run", "m", "--retry", 1, *sh("kill -KILL $$")).end()
    assert ended.code == 128 + signal.SIGKILL
    assert record_of(registry).status is ModelStatus.ERROR


def test_a_command_that_is_killed_with_its_warden(start: Start, registry: Registry) -> None:
    """A command that kills its process group is a failure with code 128 plus the signal."""
    ended = start("run", "m", "--retry", 1, *sh("kill -KILL 0")).end()
    assert ended.code == 128 + signal.SIGKILL
    assert record_of(registry).status is ModelStatus.ERROR


def test_a_program_that_cannot_be_run(start: Start, tmp_path: Path, registry: Registry) -> None:
    """A program that can not be run is a failure with code 127."""
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    assert start("run", "m", "--retry", 1, "--", program).end().code == 127
    assert "exit code 127" in (record_of(registry).message or "")


def test_a_failure_is_tried_again(start: Start, tmp_path: Path, registry: Registry) -> None:
    """`run --retry` runs the command until it succeeds."""
    command = sh(TRACE, '[ "$PYREGISTRY_ATTEMPT" = 3 ]')
    ended = start("run", "m", "--retry", 3, "--retry-delay", 0.1, *command).end()
    assert ended.code == 0, ended.err
    assert traces(tmp_path) == ["1", "2", "3"]
    assert record_of(registry).status is ModelStatus.DOWNLOADED


def test_each_failed_attempt_is_told_once(start: Start, registry: Registry) -> None:
    """Each failed attempt is reported in one line."""
    words = ("--retry", 2, "--retry-delay", 1.5, "-p", "ngc", "--revision", "r", *sh("exit 3"))
    ended = start("run", "m", *words).end()
    assert ended.code == 3
    told = ended.err.splitlines()
    assert [line for line in told if "exit code 3" in line] == [
        "pyregistry: m @r: attempt 1 failed: sh ended with exit code 3",
        told[-1],
    ]
    assert [line.partition(", token")[0] for line in told if "runs here" in line] == [
        "pyregistry: m @r: attempt 1 runs here",
        "pyregistry: m @r: attempt 2 runs here",
    ]
    assert "WARNING" not in ended.err
    assert "ModelRef" not in start("run", "n", "-v", *words).end().err


def test_an_attempt_that_fails_otherwise_is_told(start: Start, store: Path, registry: Registry) -> None:
    """A command that writes no file is a wrong call."""
    ended = start("run", "m", "--store", store, *sh("true")).end()
    assert ended.code == Exit.WRONG_CALL
    assert "no file in it" in ended.err
    assert "ModelRef" not in ended.err


def test_the_fleet_counts_together(start: Start, tmp_path: Path) -> None:
    """Several `run` of one model share the attempts."""
    runs = [start("run", "m", "--retry", 3, "--retry-delay", 0.1, *sh(TRACE, "exit 5")) for _ in range(3)]
    codes = [run.end().code for run in runs]
    assert traces(tmp_path) == ["1", "2", "3"]
    assert sorted(codes) == [5, Exit.DOWNLOAD_FAILED, Exit.DOWNLOAD_FAILED], "the last attempt was one's own"


def test_a_command_that_publishes_nothing(start: Start, store: Path, registry: Registry) -> None:
    """A mistake in the command: one error, and the fleet is not told."""
    ended = start("run", "m", "--store", store, *sh("true")).end()
    assert ended.code == Exit.WRONG_CALL
    assert ended.err.count("there is no file in it") == 1
    assert ended.err.count("runs here") == 1
    record = record_of(registry)
    assert (record.released, record.attempts) == (True, 0)


def test_a_command_that_hangs(start: Start, store: Path, tmp_path: Path, registry: Registry) -> None:
    """`run --stall-timeout` ends a command without progress and removes its staging."""
    command = sh(TRACE, 'sleep 1000 & echo x > "$PYREGISTRY_FOLDER/file"; wait')
    run = start("run", "m", "--retry", 1, "--store", store, "--stall-timeout", 1, *command)
    ended = run.end()
    assert ended.code == Exit.DOWNLOAD_FAILED, ended.err
    record = record_of(registry)
    assert (record.status, record.message) == (ModelStatus.ERROR, "no progress for 1 s")
    assert list((store / ".pyregistry" / "staging").glob("*/*")) == []


def test_nobody_finishes_in_time(start: Start, registry: Registry) -> None:
    """`run --timeout` ends the waiting and leaves the owner alone."""
    registry.try_claim_for_download("m", "HuggingFace", lease=3600, owner="slow")
    late = start("run", "m", "--timeout", 0.5, "--json", *sh("true")).end()
    assert late.code == Exit.TIMED_OUT
    assert json.loads(late.err)["type"] == "WaitTimedOut"
    assert record_of(registry).owner == "slow"


# Nothing is left


def test_what_a_command_leaves_running_is_killed(start: Start) -> None:
    """Processes that the command leaves behind are killed."""
    ended = start("run", "m", *sh("sleep 1000 & (trap '' TERM HUP; sleep 1000) & exit 0")).end()
    assert ended.code == 0


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_lost_claim_ends_the_command(
    start: Start, tmp_path: Path, registry: Registry, stubborn: bool
) -> None:
    """A lost claim ends the command, also one that ignores SIGTERM."""
    trap = "trap '' TERM; " if stubborn else "trap 'echo told; exit 0' TERM; "
    run = start("run", "m", "--lease", 1, *sh(trap, "sleep 1000 & ", TRACE, "wait; sleep 1000"))
    has_begun(tmp_path)
    registry.set_status("m", "HuggingFace", "DOWNLOADED")
    ended = run.end()
    assert ended.out == ("" if stubborn else "told\n")
    assert ended.code == 0, "another says that it is there"
    assert "is lost" in ended.err


def test_an_owner_that_was_stopped_beyond_its_lease(
    start: Start, store: Path, gate: Path, tmp_path: Path, registry: Registry
) -> None:
    """A `run` stopped beyond its lease returns what another one published."""
    command = sh(TRACE, FILL, '[ "$PYREGISTRY_ATTEMPT" = 2 ] || ', WAIT)
    words = ("run", "m", "--lease", 1, "--store", store, *command)
    stopped = start(*words)
    has_begun(tmp_path)
    stopped.send(signal.SIGSTOP)
    other = start(*words).end()
    assert other.code == 0, other.err
    record = record_of(registry)
    assert record.attempts == 2
    stopped.send(signal.SIGCONT)
    ended = stopped.end()
    assert ended.code == 0, ended.err
    assert "is lost" in ended.err
    assert f"{record.token}" in ended.err, "it has found what the other published"
    assert record_of(registry).token == record.token


def test_an_owner_that_is_killed_is_replaced(
    start: Start, store: Path, gate: Path, tmp_path: Path, registry: Registry
) -> None:
    """A killed `run` takes its command along, and a waiting one takes over."""
    command = sh(TRACE, FILL, '[ "$PYREGISTRY_ATTEMPT" = 2 ] || { sleep 1000 & ', WAIT, "}")
    words = ("run", "m", "--lease", 1, "--store", store, *command)
    owner = start(*words)
    has_begun(tmp_path)
    waiting = start(*words)
    waiting.says("downloads it")
    owner.send(signal.SIGKILL)
    assert owner.end().code == -signal.SIGKILL, "the command and what it had started are gone too"
    ended = waiting.end()
    assert ended.code == 0, ended.err
    assert "taken over from" in ended.err
    assert traces(tmp_path) == ["1", "2"]
    assert (record_of(registry).status, record_of(registry).attempts) == (ModelStatus.DOWNLOADED, 2)


SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_passed_on(
    start: Start, tmp_path: Path, registry: Registry, number: signal.Signals
) -> None:
    """A signal is passed to the command, and the claim is released without an attempt used."""
    trap = f"trap 'echo told; exit 0' {number.name[3:]}; "
    run = start("run", "m", *sh(trap, "sleep 1000 & ", TRACE, "wait"))
    has_begun(tmp_path)
    run.send(number)
    ended = run.end()
    assert (ended.code, ended.out) == (128 + number, "told\n")
    assert f"stopped by {number.name}" in ended.err
    assert "Traceback" not in ended.err
    # It was given back: no lease is waited for, and the attempt does not count.
    again = registry.try_claim_for_download("m", "HuggingFace", lease=60)
    assert isinstance(again, Claimed)
    assert again.claim.attempts == 1


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_waiting(start: Start, registry: Registry, number: signal.Signals) -> None:
    """A signal ends a waiting `run` and leaves the owner alone."""
    registry.try_claim_for_download("m", "HuggingFace", lease=3600, owner="slow")
    run = start("run", "m", *sh("true"))
    run.says("slow downloads it")
    run.send(number)
    ended = run.end()
    assert (ended.code, "Traceback" in ended.err) == (128 + number, False)
    assert record_of(registry).owner == "slow"


def test_a_signal_that_is_ignored_stays_so(start: Start, gate: Path, tmp_path: Path, env: Any) -> None:
    """A signal ignored by the caller stays ignored."""
    line = f"trap '' HUP; exec {' '.join(COMMAND)} run m -- sh -c '{TRACE}{WAIT}'"
    with subprocess.Popen(["sh", "-c", line], env=env, cwd=ROOT) as run:
        has_begun(tmp_path)
        run.send_signal(signal.SIGHUP)
        gate.touch()
        assert run.wait(SECONDS) == 0


# The registry is away


def test_nobody_answers(start: Start) -> None:
    """`run` without a server exits with UNAVAILABLE, unless --verify finds the model on disk."""
    words = ("--url", "redis://127.0.0.1:1", "run", "m")
    assert start(*words, *sh("true")).end().code == Exit.UNAVAILABLE
    on_disk = start(*words, "--on-unavailable", "verify", "--verify", "true", *sh("false")).end()
    assert on_disk.code == Exit.DONE
    assert "taken as it is on disk" in on_disk.err
    not_there = start(*words, "--on-unavailable", "verify", "--verify", "false", *sh("true")).end()
    assert not_there.code == Exit.UNAVAILABLE


def test_an_owner_that_cannot_prove_its_lease_stops(
    start: Start, tmp_path: Path, make_server: MakeServer
) -> None:
    """`run` that can not renew its lease ends its command."""
    server = make_server()
    run = start(
        "--url", server.url, "--timeout", 1, "run", "m", "--lease", 1, *sh("sleep 1000 & ", TRACE, "wait")
    )
    has_begun(tmp_path)
    server.stop()
    ended = run.end()
    assert ended.code == Exit.UNAVAILABLE, ended.err
    assert "could not be proved in time" in ended.err


def test_or_goes_on(
    start: Start, store: Path, gate: Path, tmp_path: Path, server_url: str, registry: Registry
) -> None:
    """`run --on-unproven continue` goes on through an outage and finishes."""
    with Proxy(server_url) as proxy:
        run = start(
            "--url", proxy.url, "--timeout", 1, "run", "m", "--lease", 1, "--on-unproven", "continue",
            "--store", store, *sh(TRACE, WAIT, FILL),
        )  # fmt: skip
        has_begun(tmp_path)
        server, proxy.upstream = proxy.upstream, ("127.0.0.1", 1)
        proxy.cut()
        run.says("1 of them beyond their lease")
        gate.touch()
        proxy.upstream = server
        ended = run.end()
    assert ended.code == 0, ended.err
    assert traces(tmp_path) == ["1"]
    assert record_of(registry).status is ModelStatus.DOWNLOADED


# Verify


def finished(registry: Registry, **more: Any) -> ModelRecord:
    result = registry.try_claim_for_download("m", "HuggingFace", lease=60)
    assert isinstance(result, Claimed)
    registry.finish_download_claim(result.claim, "DOWNLOADED", **more)
    return record_of(registry)


def test_verify_is_told_of_the_record(start: Start, tmp_path: Path, registry: Registry) -> None:
    """The verify command gets the record in variables."""
    record = finished(registry, location="models/1", size_bytes=7, resolved_revision="abc")
    look = 'echo "$PYREGISTRY_MODEL $PYREGISTRY_TOKEN $PYREGISTRY_LOCATION $PYREGISTRY_SIZE_BYTES'
    run = start("run", "m", "--verify", f'{look} $PYREGISTRY_RESOLVED_REVISION"', *sh(TRACE))
    ended = run.end()
    assert (ended.code, ended.out) == (0, "")
    assert f"m {record.token} models/1 7 abc\n" in ended.err
    assert traces(tmp_path) == []


def test_files_that_are_missing_are_downloaded_again(
    start: Start, tmp_path: Path, registry: Registry
) -> None:
    """Files that --verify does not find are downloaded again."""
    record = finished(registry, location="models/1")
    verify = ("--verify", '[ -e "$TRACES/file" ]', "--visibility-timeout", 0)
    ended = start("run", "m", *verify, *sh(TRACE, 'touch "$TRACES/file"')).end()
    assert ended.code == 0, ended.err
    assert traces(tmp_path) == ["1"]
    assert record_of(registry).token > record.token


@pytest.mark.parametrize("broken", ["no-such-command", "kill -KILL $$"])
def test_a_verify_that_is_broken_is_no_answer(
    start: Start, tmp_path: Path, registry: Registry, broken: str
) -> None:
    """A verify command that can not run fails `run` and changes no record."""
    record = finished(registry)
    ended = start("run", "m", "--verify", broken, "--visibility-timeout", 0, *sh(TRACE)).end()
    assert ended.code == Exit.FAILED
    assert "--verify" in ended.err
    assert "Traceback" not in ended.err
    assert record_of(registry) == record
    assert traces(tmp_path) == []


def test_what_is_on_disk_is_registered_after_a_loss_of_data(
    start: Start, env: dict[str, str], tmp_path: Path, registry: Registry, server_url: str
) -> None:
    """The script of docs/how-to/operate.md registers the models on disk after a loss of data."""
    text = (ROOT / "docs" / "how-to" / "operate.md").read_text("utf-8")
    (script,) = re.findall(r"```sh\n(cd /models.*?)```", text, re.DOTALL)
    root = tmp_path / "models"
    root.mkdir()
    words = ("run", "org/model", "--store", root)
    assert start(*words, *sh(FILL)).end().code == 0
    before = record_of(registry, "org/model")
    with redis.Redis.from_url(server_url) as client:
        assert client.delete(*client.keys(f"pyregistry:{{{registry.namespace}}}:*")) > 0
    assert registry.get_model_record("org/model") is None
    done = subprocess.run(
        [
            "sh",
            "-c",
            'pyregistry() { "$PYTHON" -m pyregistry "$@"; }\n' + script.replace("/models", str(root), 1),
        ],
        env={**env, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    after = record_of(registry, "org/model")
    assert (after.status, after.location) == (ModelStatus.DOWNLOADED, before.location)
    assert after.size_bytes
    there = start(*words, "--json", *sh(TRACE)).end()
    assert (there.code, there.json["downloaded_here"]) == (0, False), there.err
    assert (Path(there.json["path"]) / "file").read_text() == "weights\n"
    assert traces(tmp_path) == [], "nothing is downloaded again"


# This machine


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root may write anywhere")
def test_too_few_descriptors_are_no_error_of_the_fleet(
    start: Start, env: dict[str, str], store: Path, registry: Registry
) -> None:
    """Too few file descriptors are a local fault and use no attempt."""
    program = " ".join(map(shlex.quote, [*COMMAND, "run", "m", "--store", str(store), *sh(FILL)]))
    done = subprocess.run(
        ["sh", "-c", f"ulimit -n 8; exec {program}"],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.UNAVAILABLE, done.stderr
    assert "too few file descriptors" in done.stderr
    assert "may write below --store" not in done.stderr
    assert registry.get_status("m") is None
    assert start("run", "m", "--store", store, *sh(FILL)).end().code == 0
    assert record_of(registry).attempts == 1


def test_a_store_that_cannot_be_written_to(start: Start, env: dict[str, str], tmp_path: Path) -> None:
    """A store that can not be written to is reported with an advice."""
    with tempfile.TemporaryDirectory(prefix="pyr-") as name:  # one that another user can get to
        root = Path(name)
        root.chmod(0o555)
        words = [*COMMAND, "run", "m", "--store", name, *sh(FILL)]
        if os.geteuid() == 0:
            # Another user may have no right to run this Python; without that capability root is as bound by modes.
            words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *words]
        done = subprocess.run(
            words,
            cwd=ROOT,
            env={**env, "HOME": name},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode in (Exit.UNAVAILABLE, Exit.RECORD_REFUSED), done.stderr
    assert "Permission denied" in done.stderr
    assert name in done.stderr
    assert "-> " in done.stderr
    assert "Traceback" not in done.stderr


# Wrong calls


@pytest.mark.parametrize(
    "words",
    [
        ["run", "m"],
        ["run", "m", "--", "no-such-program"],
        ["run", "m", "--stall-timeout", "1", "--", "true"],
        ["run", "m", "--publish", "manifest", "--", "true"],
        ["run", "m", "--store", ".", "--publish", "copy", "--", "true"],
        ["run", "m", "--store", "/no/such/folder", "--", "true"],
        ["run", "m", "--retry", "0", "--", "true"],
        ["run", "m", "--retry-delay", "-1", "--", "true"],
        ["run", "m", "--lease", "0", "--", "true"],
        ["run", "m", "--lease", "none", "--", "true"],
        ["run", "m", "--timeout", "-1", "--", "true"],
        ["run", "m", "--on-unproven", "hope", "--", "true"],
        ["run", "m", "--on-unavailable", "verify", "--", "true"],
        ["run", "", "--", "true"],
    ],
)
def test_wrong_calls(start: Start, registry: Registry, words: list[str]) -> None:
    """A wrong call of `run` exits with WRONG_CALL and claims nothing."""
    ended = start(*words).end()
    assert ended.code == Exit.WRONG_CALL, ended.err
    assert ended.err
    assert "Traceback" not in ended.err
    assert registry.get_models_by_last_used() == []
