"""This user's own server, which processes share (``embedded://``)."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pyregistry.embedded import folders, idle, process
from pyregistry.embedded.binary import find_binary
from pyregistry.embedded.idle import end_unused
from pyregistry.embedded.locks import locked
from pyregistry.errors import EmbeddedUnavailable

__all__ = ["IDLE_SECONDS", "run_foreground", "shared_url", "stop_shared", "stop_unused"]

logger = logging.getLogger("pyregistry.embedded")

IDLE_SECONDS = 300.0
"""How long a shared server goes on without a client."""
_BIND_SECONDS = 5.0  # a server this old that has no socket has lost it


def shared_url(
    data_dir: Path | None = None,
    *,
    timeout: float = process.START_SECONDS,
    idle_timeout: float | None = IDLE_SECONDS,
) -> str:
    """The URL of this user's shared server, which is started if it does not run, and outlives its caller.

    Args:
        data_dir: its data folder, which is what makes two servers two. None: the user's.
        timeout: how many seconds to wait until it answers.
        idle_timeout: if it is started: after how many seconds without a client it ends; its data stay.
            None: never. Defaults to 5 minutes.

    Raises:
        EmbeddedUnavailable: its program is not installed, or it does not start or answer.
        ConfigurationError: a folder can't be made, is not private, or its path is too long; or the
            program that was named does not exist.
    """
    shared = SharedServer.at(data_dir)
    deadline = time.monotonic() + timeout
    started = ended = False
    start_of_log = process.size(shared.log)
    while True:
        with locked(shared.folder) as lock:
            if lock is not None:
                if started:
                    end = process.tail(shared.log, start_of_log)
                    raise EmbeddedUnavailable(f"the shared server did not start\n{end}")
                shared.start(lock)
                started = True
        if (url := shared.url()) is not None:
            if started and idle_timeout is not None:
                shared.end_when_unused(idle_timeout)
            return url
        ended = ended or shared.end_lost()
        process.pause(deadline, shared.trouble())


def stop_unused(data_dir: Path | None = None) -> int | None:
    """Stop this user's shared server, unless it has clients.

    Args:
        data_dir: its data folder. None: the user's.

    Returns:
        How many connections use it; 0: none, and it has been stopped. None: no server runs.

    Raises:
        EmbeddedUnavailable: it does not answer, or does not end.
        ConfigurationError: a folder can't be made, or is not private.
    """
    shared = SharedServer.at(data_dir)
    if shared.url() is None:
        with locked(shared.folder) as lock:
            if lock is not None:
                return None
        raise EmbeddedUnavailable(shared.trouble())
    try:
        return end_unused(str(shared.socket()), str(shared.folder))
    except OSError as error:
        raise EmbeddedUnavailable(f"the shared server of {shared.folder} does not stop: {error}") from error


def stop_shared(data_dir: Path | None = None, *, timeout: float = process.START_SECONDS) -> bool:
    """Stop this user's shared server and wait until it has ended; its data stay.

    Args:
        data_dir: its data folder. None: the user's.
        timeout: how many seconds to wait.

    Returns:
        Whether one ran.

    Raises:
        EmbeddedUnavailable: it does not answer, or does not end.
        ConfigurationError: a folder can't be made, or is not private.
    """
    shared = SharedServer.at(data_dir)
    deadline = time.monotonic() + timeout
    ran = ended = False
    while True:
        with locked(shared.folder) as lock:
            if lock is not None:
                return ran
        ran = True
        if not ended and (url := shared.url()) is not None:
            process.shut_down(url)
            ended = True
        ended = ended or shared.end_lost()
        process.pause(deadline, shared.trouble())


def run_foreground(data_dir: Path | None = None, *, port: int | None = None) -> NoReturn:
    """Become this user's shared server: the program takes this process's place and never returns.

    So signals and the exit code are the server's own (SIGINT and SIGTERM end it in good order), and
    its log goes to standard output. `shared_url` finds it like one that it started itself.

    Args:
        data_dir: its data folder. None: the user's.
        port: a TCP port of 127.0.0.1, besides the socket; every user of this machine can reach it.

    Raises:
        EmbeddedUnavailable: a shared server runs already, or the program can't be run.
        ConfigurationError: as for `shared_url`.
    """
    shared = SharedServer.at(data_dir)
    binary = find_binary()
    with locked(shared.folder) as lock:
        if lock is None:
            raise EmbeddedUnavailable(
                f"a shared server of {shared.folder} runs already (process {shared.pid()})"
            )
        with process.config_file({**shared.prepare(), "port": str(port or 0)}) as config:
            os.dup2(config.fileno(), 0)
        os.set_inheritable(lock, True)
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            os.execv(binary, [str(binary), "-"])
        except OSError as error:
            raise EmbeddedUnavailable(f"{binary} can't be run: {error}") from error


@dataclass(frozen=True)
class SharedServer:
    """The files of a shared server."""

    folder: Path

    @classmethod
    def at(cls, data_dir: Path | None) -> SharedServer:
        # Resolved, because the socket's name is made from the path.
        folder = (data_dir or folders.data_folder()).resolve()
        folders.make_private(folder)
        return cls(folder)

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def socket(self) -> Path | None:
        text = process.read(self.folder / "server.socket")
        return Path(text) if text else None

    def pid(self) -> int | None:
        text = process.read(self.folder / "server.pid")
        return int(text) if text else None

    def url(self) -> str | None:
        """The URL of the server that has the lock, if it answers."""
        path = self.socket()
        if path is None or not path.exists():
            return None
        folders.check_private(path.parent)  # whoever can write to it could have put another socket there
        url = folders.unix_url(path)
        return None if process.serving_pid(url) is None else url

    def end_lost(self) -> bool:
        """End a server that runs but can't be reached, because somebody removed its socket.

        (When a user logs out for the last time, the system empties the runtime folder.)
        """
        path, pid = self.socket(), self.pid()
        if path is None or pid is None or path.exists():
            return False
        if time.time() - (self.folder / "server.socket").stat().st_mtime < _BIND_SECONDS:
            return False
        # A server in another container or on another machine may have the lock: then this number
        # is not its process here.
        if str(path) not in process.command_line(pid):
            return False
        logger.warning("the shared server (process %d) has lost its socket: ending it", pid)
        os.kill(pid, signal.SIGTERM)
        return True

    def prepare(self) -> dict[str, str]:
        """With the lock held: make way for a new server, write its address, return its settings."""
        runtime = folders.runtime_folder()
        folders.make_private(runtime)
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()
        path = runtime / f"{digest[:16]}.sock"
        folders.check_length(path, "set XDG_RUNTIME_DIR or TMPDIR to a shorter path")
        if path.exists() and process.serving_pid(folders.unix_url(path)) is not None:
            # The lock is free: this one has locked a file that was removed, with all its data.
            process.shut_down(folders.unix_url(path))
        (self.folder / "server.pid").unlink(missing_ok=True)
        new = self.folder / "server.socket.new"
        new.write_bytes(os.fsencode(path))
        new.replace(self.folder / "server.socket")
        return {
            **process.SETTINGS,
            "dir": process.quoted(self.folder),
            "appendonly": "yes",
            "unixsocket": process.quoted(path),
            "pidfile": process.quoted(self.folder / "server.pid"),
        }

    def start(self, lock: int) -> None:
        """Start the server in the background: nobody's child, in a session of its own."""
        binary = find_binary()
        settings = {**self.prepare(), "daemonize": "yes", "logfile": process.quoted(self.log)}
        started = process.spawn(binary, settings, self.log, lock)
        try:
            # It forks and ends at once. What went wrong is in the log, and the lock is free again.
            started.wait(process.STOP_SECONDS)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
            raise EmbeddedUnavailable(f"{binary} does not go into the background") from None
        logger.info("started %s for %s", binary, self.folder)

    def end_when_unused(self, seconds: float) -> None:
        """Have a process of its own end the server once it has had no client for so long."""
        program = [
            sys.executable,
            "-I",
            "-S",
            idle.__file__,
            str(self.socket()),
            str(self.folder),
            str(seconds),
        ]
        try:
            # It goes into the background by itself, and takes nothing along.
            subprocess.run(
                program,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                timeout=process.STOP_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            logger.info("the shared server goes on until it is stopped: %s", error)

    def trouble(self) -> str:
        """What is to be said if this server does not answer in time."""
        return (
            f"the shared server of {self.folder} does not answer at {self.socket()}: process "
            f"{self.pid() or '(unknown)'} may still be reading its data, hang, or be that of "
            f"another container or machine that uses this folder; its log is {self.log}"
        )
