"""The command line: errors, their messages, and exit codes."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from pyregistry import ModelStatus, Registry, errors
from pyregistry._core.model_key import entry_of
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry.cli.claim_token import shell_failure
from pyregistry.cli.exit_codes import MEANINGS, Exit, exit_of
from tests.support.cli import COMMAND, ESCAPE, ROOT, SECONDS, Ended, Run, spawn
from tests.support.faults.proxy import Proxy

if TYPE_CHECKING:
    from tests.conftest import MakeServer


def test_every_error_has_a_code() -> None:
    """Every error has an exit code of its kind."""
    kinds = [getattr(errors, name) for name in errors.__all__]
    for kind in kinds:
        if kind is not errors.RegistryError:
            assert exit_of(kind.__new__(kind)) in set(Exit) - {Exit.DONE, Exit.NO, Exit.FAILED}
    assert exit_of(errors.RegistryError()) is Exit.FAILED


def test_every_error_is_documented() -> None:
    """Every error is in the table of docs/reference/errors.md."""
    text = (ROOT / "docs" / "reference" / "errors.md").read_text("utf-8")
    table = text.partition("| error | means | do |\n")[2].partition("\n\n")[0]
    documented = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    roots = {"RegistryError", "RecordRefused"}  # the library raises only kinds of them
    assert set(errors.__all__) - documented == roots


def test_the_codes_are_documented(run: Run) -> None:
    """The exit codes of the docs and of --help are those of the program."""
    table = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8").partition("## Exit codes")[2]
    told = dict(re.findall(r"^\| (\d+) \| ([^|]*?) \|", table, re.MULTILINE))
    assert told == {str(int(code)): words for code, words in MEANINGS.items()}
    assert set(MEANINGS) == set(Exit)
    helped = run("--help")
    assert helped.code == 0
    for code, words in MEANINGS.items():
        assert f"{code:>5}  {words}" in helped.out


def test_every_command_is_documented_and_helps(run: Run) -> None:
    """Every command is in docs/reference/cli.md and has a help page."""
    table = (
        (ROOT / "docs" / "reference" / "cli.md")
        .read_text("utf-8")
        .partition("## Commands")[2]
        .partition("##")[0]
    )
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
    """Wrong usage exits with WRONG_CALL and a message."""
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
    """An invalid argument exits with WRONG_CALL, as text and as JSON."""
    wrong = run(*words)
    assert wrong.code == Exit.WRONG_CALL
    assert wrong.err.startswith("pyregistry: ")
    told = json.loads(run("--json", *words).err)
    assert set(told) == {"type", "message", "advice", "exit_code"}
    assert told["exit_code"] == Exit.WRONG_CALL


def test_usage_errors_as_json(run: Run) -> None:
    """A usage error with --json is JSON on standard error alone."""
    told = run("claim", "--json")
    assert told.out == "", "a JSON reader is no shell"
    assert json.loads(told.err)["type"] == "UsageError"


def test_nobody_answers(run: Run) -> None:
    """An unreachable server exits with UNAVAILABLE, as text and as JSON."""
    gone = run("--url", "redis://127.0.0.1:1", "counts")
    assert gone.code == Exit.UNAVAILABLE
    assert gone.out == ""
    assert gone.err.startswith("pyregistry: connect: redis://127.0.0.1:1")
    assert "Traceback" not in gone.err
    told = json.loads(run("--url", "redis://127.0.0.1:1", "counts", "--json").err)
    assert (told["type"], told["exit_code"]) == ("RegistryUnavailable", Exit.UNAVAILABLE)


def test_the_server_refuses_and_no_password_is_shown(run: Run, make_server: MakeServer) -> None:
    """Refused credentials exit with their code and are never shown."""
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
    """An error of the server names the server and an advice."""
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
    assert "-> docs/how-to/operate.md, Rights" in denied.err
    gone = run("--url", "redis://127.0.0.1:1", "counts")
    assert "-> look whether the server runs" in gone.err


def test_only_what_waits_is_told_that_it_may_not(run: Run, make_server: MakeServer) -> None:
    """A user without SSUBSCRIBE is told by commands that wait, and by doctor."""
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
    """A wrong call names what to write instead, without a password."""
    wrong = run(*words)
    assert wrong.code == Exit.WRONG_CALL
    assert message in wrong.err
    assert "secret" not in wrong.err


def test_the_record_forbids_it(run: Run, server_url: str, namespace: str) -> None:
    """A damaged record exits with RECORD_REFUSED, and `rm --force` removes it."""
    with redis.Redis.from_url(server_url) as client:
        client.set(Keyspace(namespace).record(entry_of("m", "S3", None, None)), b"x")
    for command in (["show", "m"], ["rm", "m"], ["claim", "m", "-p", "S3"], ["touch", "m"]):
        refused = run(*command)
        assert refused.code == Exit.RECORD_REFUSED
    assert json.loads(run("show", "m", "--json").err)["type"] == "DamagedRecord"
    assert run("rm", "m", "--force", "--json").json == {"deleted": 1}


def test_the_outcome_is_unknown(run: Run, server_url: str, registry: Registry) -> None:
    """A lost reply of a write exits with OUTCOME_UNKNOWN."""
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
    """A full standard output exits with FAILED and a message."""
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
    """A closed pipe exits with BROKEN_PIPE and no message."""
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
    """Closed standard streams change no exit code."""
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
    """SIGINT exits with INTERRUPTED and no traceback."""
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
    """Without the extra the command says what to install."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{missing!r}] = None\n")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    for words in (["--version"], ["ls", "--json"]):
        told = spawn(*words, env={"PYTHONPATH": path})
        assert told.code == Exit.WRONG_CALL
        assert told.out == ""
        assert "pip install 'pyregistry-redis[cli]'" in told.err
        assert "Traceback" not in told.err


def test_the_version(run: Run) -> None:
    """`--version` prints the version."""
    from pyregistry import __version__

    assert run("--version") == Ended(0, f"pyregistry {__version__}\n", "")


def test_the_log(run: Run) -> None:
    """`-v` and `-vv` set the level of the log."""
    assert run("claim", "quiet", "--json").err == ""
    assert "DEBUG: claimed loud" in run("-vv", "claim", "loud").err
    assert "DEBUG" not in run("-v", "claim", "info").err
