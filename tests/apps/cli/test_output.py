"""The command line: the form of its output, in a pipe and on a terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyregistry import ModelRecord, ModelRef, ModelStatus, Registry
from pyregistry.cli.exit_codes import Exit
from pyregistry.cli.formatting import name_of, printable, state_of
from pyregistry.cli.units import ago, length, percent, size
from tests.support.cli import (
    ESCAPE,
    ROOT,
    SECONDS,
    exported,
    fill,
    namesakes,
    on_terminal,
    spawn,
    without_colours,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    """Output into a pipe has no escape codes."""
    fill(registry)
    for options in ([], ["--json"]):
        done = spawn(*command, *options, env={"TERM": "xterm-256color", "FORCE_COLOR": "1"})
        assert ESCAPE not in done.out + done.err
        assert done.out


def test_an_output_that_is_not_utf_8(environment: None, registry: Registry) -> None:
    """Characters that the output can not encode are escaped, and JSON stays exact."""
    fill(registry)
    env = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    plain = spawn("ls", env=env)
    assert plain.code == 0
    assert r"org/\u6a21\u578b" in plain.out
    assert "org/模型 [bold]x[/bold]" in {each["model_name"] for each in spawn("ls", "--json", env=env).json}


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_ls_on_a_terminal(environment: None, registry: Registry, columns: int) -> None:
    """`ls` on a terminal fits its width, loses no text, and escapes control characters."""
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
    """`show`, `counts`, `doctor` and `claim` on a terminal have their readable form."""
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
    """`claim` and `retry` on a terminal show the claim word with --show-word alone."""
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
    """Completion offers statuses, providers and model names, and nothing without a server."""
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
    """Completion starts no embedded server."""
    assert completed("pyregistry show acme/", {}) == []
    assert not list(own_folders.rglob("server.pid"))
    registry_of_ones_own = spawn("set-status", "acme/m", "ERROR")
    assert registry_of_ones_own.code == 0
    assert completed("pyregistry show acme/", {}) == ["acme/m"]


def test_colours_can_be_refused(environment: None, registry: Registry) -> None:
    """NO_COLOR turns colours off."""
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
    """Durations have a readable form."""
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
    """Sizes have a readable form."""
    assert size(count) == text


def test_percents() -> None:
    """A percentage below the whole is never 100."""
    assert percent(0, 10) == "0 %"
    assert percent(999, 1000) == "99 %"
    assert percent(1000, 1000) == "100 %"
    assert percent(1200, 1000) == "100 %"


def test_words() -> None:
    """Names, states and control characters have their readable form."""
    assert printable("org/模型 [x]") == "org/模型 [x]"
    assert printable("a\nb\x1b[0m\u202e") == r"a\nb\x1b[0m\u202e"
    assert name_of(ModelRef("m", "S3", "r", "s")) == "m @r #s"
    assert state_of(None) == "unknown"
    record = ModelRecord("m", "S3", ModelStatus.ERROR, NOW, NOW, retry_at=NOW, message="why")
    assert state_of(record) == "ERROR (why)", "the back-off is over"
