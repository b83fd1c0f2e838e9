"""Run `pyregistry` in this process or in one of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pyregistry import Claimed, Provider, Registry
from pyregistry.cli.context import NAMED_BY

if TYPE_CHECKING:
    from collections.abc import Mapping


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


def namesakes(registry: Registry) -> None:
    """Four records of one name, the last with a provider of its own."""
    for provider, revision, subset in (
        ("HuggingFace", "v1", "tok"), ("HuggingFace", "main", None), ("Ngc", None, None), ("Own", None, "a b"),
    ):  # fmt: skip
        registry.set_status("acme/model", Provider(provider), "DOWNLOADED", revision=revision, subset=subset)
    registry.set_status("acme/model-2", "S3", "ERROR")
