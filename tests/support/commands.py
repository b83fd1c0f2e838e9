"""Start `pyregistry` as a process, and shell commands for it to run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pyregistry import ModelRecord, Registry
from tests.support.cli import COMMAND, ROOT, SECONDS, Ended
from tests.support.faults.proxy import until

if TYPE_CHECKING:
    from collections.abc import Mapping


class Started:
    """A command that runs as a process of its own."""

    def __init__(self, words: tuple[object, ...], env: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*COMMAND, *map(str, words)],
                env=env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )

    @property
    def err(self) -> str:
        """What it has written to standard error so far."""
        return self._log.read_text("utf-8")

    def says(self, words: str) -> None:
        """Wait until it has written that to standard error."""
        until(lambda: words in self.err or self.process.poll() is not None, words, SECONDS)
        assert words in self.err

    def send(self, number: int) -> None:
        """A signal, to this process alone."""
        self.process.send_signal(number)

    def end(self) -> Ended:
        """Wait until it has ended, and every other process that has its standard output."""
        out, _ = self.process.communicate(timeout=SECONDS)
        return Ended(self.process.returncode, out.decode(), self.err)


class Start(Protocol):
    """Starts `pyregistry` with these words; an option's value may be a number."""

    def __call__(self, *words: object, **env: str) -> Started: ...


TRACE = 'echo "$PYREGISTRY_ATTEMPT" >> "$TRACES/trace"; '
WAIT = 'while [ ! -e "$TRACES/gate" ]; do sleep 0.05; done; '
FILL = 'echo weights > "$PYREGISTRY_FOLDER/file"; '


def sh(*parts: str) -> tuple[str, ...]:
    """The end of a command line: a shell that does that."""
    return ("--", "sh", "-c", "".join(parts))


def traces(folder: Path) -> list[str]:
    """What the commands have traced: the attempts that they were."""
    path = folder / "trace"
    return path.read_text().split() if path.exists() else []


def has_begun(folder: Path, attempts: int = 1) -> None:
    until(lambda: len(traces(folder)) >= attempts, f"attempt {attempts} begins", SECONDS)


def record_of(registry: Registry, name: str = "m") -> ModelRecord:
    record = registry.get_model_record(name, "HuggingFace")
    assert record is not None
    return record
