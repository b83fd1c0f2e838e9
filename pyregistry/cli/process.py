"""Run a command as a child process, and end it with all of its descendants."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyregistry.cli import supervisor

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["GRACE", "Child"]

GRACE = 5.0
"""Seconds between TERM and KILL."""

_SUPERVISOR_MARGIN_S = 2.0  # after GRACE and this margin the supervisor counts as stuck, and is killed


class Child:
    """A command in a session of its own, under a `supervisor`. It ends with this process, and with its context.

    It inherits this process's standard input and error. Its session has no terminal, so Ctrl-C reaches this process
    alone.

    Args:
        command: The program and its arguments.
        env: Its environment.
        stdout: Descriptor of its standard output. Defaults to this process's.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], stdout: int | None = None) -> None:
        self._kill_at: float | None = None
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._supervisor = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    str(Path(supervisor.__file__)),
                    str(theirs.fileno()),
                    str(GRACE),
                    *command,
                ],
                env=env,
                stdout=stdout,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def pass_on(self, number: int) -> None:
        """Send a signal to the command's process group."""
        # The group has no process, or on macOS no process that accepts the signal.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._supervisor.returncode is None:
                os.killpg(self._supervisor.pid, number)

    def end(self) -> None:
        """End the command: TERM, and KILL after `GRACE` seconds. Returns at once. Idempotent."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + GRACE + _SUPERVISOR_MARGIN_S
            self._socket.shutdown(socket.SHUT_WR)

    def wait(self, seconds: float) -> int | None:
        """Wait for the end of the command.

        Args:
            seconds: The longest wait, in seconds.

        Returns:
            Its exit code; 128 plus the signal number if a signal killed it; None if it still runs.
        """
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self.pass_on(signal.SIGKILL)
        if not select.select([self._socket], [], [], seconds)[0]:
            return None
        # The supervisor has written the code and kills its group; or it was killed itself, and the rest of the group
        # must be killed here.
        said = self._read()
        self.pass_on(signal.SIGKILL)
        self._supervisor.wait()
        self._socket.close()
        return int(said) if said else 128 + signal.SIGKILL

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pass_on(signal.SIGKILL)  # if it still runs
        self._supervisor.wait()
        self._socket.close()

    def _read(self) -> bytes:
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := self._socket.recv(16):
                said += chunk
        return said
