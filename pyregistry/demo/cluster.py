"""Start, instruct, read and end the replica processes of the demo."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pyregistry.demo.ipc import Order, Report

if TYPE_CHECKING:
    from pathlib import Path
    from queue import SimpleQueue
    from typing import Any

    from typing_extensions import Self

    from pyregistry.demo.ipc import Job

_LOG_LINES = 15


@dataclass(frozen=True)
class Gone:
    """The process of a replica has ended."""

    exit_code: int


@dataclass(frozen=True)
class _Member:
    process: subprocess.Popen[bytes]
    listener: threading.Thread
    log: Path


class Fleet:
    """The replica processes. A context manager, which ends all of them at its end.

    Each runs in a session of its own, so Ctrl-C reaches the demo alone, which then ends them. If the demo is killed,
    their standard input is closed, and they exit.

    Args:
        inbox: Receives the number and report of each replica.
        logs: Folder for their standard error.
    """

    def __init__(self, inbox: SimpleQueue[tuple[int, Any]], logs: Path) -> None:
        self._inbox = inbox
        self._logs = logs
        self._members: dict[int, _Member] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members.values():
            member.process.kill()
        for number, member in self._members.items():
            member.listener.join()
            self._close_stdin(number)

    def start(self, job: Job) -> None:
        """Start the replica of a job."""
        log = self._logs / f"replica-{job.number}.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "pyregistry.demo.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        listener = threading.Thread(
            target=self._listen, args=(job.number, process), name=f"replica {job.number}"
        )
        self._members[job.number] = _Member(process, listener, log)
        listener.start()
        self._tell(job.number, job)

    def pid(self, number: int) -> int:
        """Return the process id of a replica."""
        return self._members[number].process.pid

    def order(self, number: int, order: Order) -> None:
        """Send an order to a replica."""
        self._tell(number, order)

    def kill(self, number: int) -> None:
        """Kill a replica with SIGKILL, like a crash, and wait for its end."""
        self._members[number].process.kill()
        self._members[number].process.wait()

    def last_words(self, number: int) -> str:
        """Return the last 15 lines of a replica's standard error."""
        lines = self._members[number].log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])

    def _tell(self, number: int, what: Job | Order) -> None:
        stdin = self._members[number].process.stdin
        assert stdin is not None, "it is a pipe"
        # A replica that ended by itself does not read; its listener reports the end to the inbox.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(msgspec.json.encode(what) + b"\n")
            stdin.flush()

    def _close_stdin(self, number: int) -> None:
        stdin = self._members[number].process.stdin
        assert stdin is not None, "it is a pipe"
        with contextlib.suppress(BrokenPipeError):  # unread input is lost with the process
            stdin.close()

    def _listen(self, number: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None, "it is a pipe"
        decoder = msgspec.json.Decoder(Report)
        with process.stdout:
            for line in process.stdout:
                self._inbox.put((number, decoder.decode(line)))
        self._inbox.put((number, Gone(process.wait())))
