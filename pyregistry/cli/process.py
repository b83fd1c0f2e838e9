"""A command that is run, and ended, with all that it has started."""

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
"""Seconds that a command has between TERM and KILL."""

_PATIENCE = 2.0  # seconds longer than that, after which its supervisor is taken for stuck


class Child:
    """A command in a session of its own, under a `supervisor`. It does not outlive this process, nor its context.

    It has this process's standard input and error, and no terminal of its own: Ctrl-C reaches this process alone.

    Args:
        command: the program and its arguments.
        env: its environment.
        stdout: a descriptor for its standard output; ``None``: this process's.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], stdout: int | None = None) -> None:
        self._kill_at: float | None = None
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._warden = subprocess.Popen(
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
        """Send it, and what it has started, a signal."""
        # Nobody is left, or nobody who may be told (macOS).
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._warden.returncode is None:
                os.killpg(self._warden.pid, number)

    def end(self) -> None:
        """End it: TERM, and KILL after a while. Does not wait; may be called again."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + GRACE + _PATIENCE
            self._socket.shutdown(socket.SHUT_WR)

    def wait(self, seconds: float) -> int | None:
        """Wait so long for its end.

        Returns:
            Its exit code, 128 and the number of the signal that killed it; ``None``: it runs.
        """
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self.pass_on(signal.SIGKILL)
        if not select.select([self._socket], [], [], seconds)[0]:
            return None
        # The supervisor has written the code, and dies; or it was killed, and then the others must be.
        said = self._read()
        self.pass_on(signal.SIGKILL)
        self._warden.wait()
        self._socket.close()
        return int(said) if said else 128 + signal.SIGKILL

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pass_on(signal.SIGKILL)  # if it still runs
        self._warden.wait()
        self._socket.close()

    def _read(self) -> bytes:
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := self._socket.recv(16):
                said += chunk
        return said
