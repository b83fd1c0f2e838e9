"""The embedded server of this user, shared by all its processes (``embedded://``)."""

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
"""Seconds for which a shared server runs without a client."""
_BIND_SECONDS = 5.0  # a server of this age without a socket has lost it


def shared_url(
    data_dir: Path | None = None,
    *,
    timeout: float = process.START_SECONDS,
    idle_timeout: float | None = IDLE_SECONDS,
) -> str:
    """Return the URL of this user's shared server. Starts the server if needed; it outlives its starter.

    Args:
        data_dir: Data folder. Each data folder has its own server. Defaults to the folder of the user.
        timeout: Seconds to wait for a reply. Defaults to 30 s.
        idle_timeout: Seconds without a client after which a server started by this call ends. Its data stay.
            Defaults to 5 minutes. None: never.

    Raises:
        EmbeddedUnavailable: The program is not installed, or the server does not start or answer.
        ConfigurationError: A folder can't be made, is not private, or has too long a path. Or the named
            program does not exist.
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
        data_dir: Data folder. Defaults to the folder of the user.

    Returns:
        Number of connections to the server. 0: none, and the server has been stopped. None: no server runs.

    Raises:
        EmbeddedUnavailable: The server does not answer or does not end.
        ConfigurationError: A folder can't be made, or is not private.
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
    """Stop this user's shared server and wait until it has ended. Its data stay. Idempotent.

    Args:
        data_dir: Data folder. Defaults to the folder of the user.
        timeout: Seconds to wait. Defaults to 30 s.

    Returns:
        Whether a server was running.

    Raises:
        EmbeddedUnavailable: The server does not answer or does not end.
        ConfigurationError: A folder can't be made, or is not private.
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
    """Become this user's shared server: the program replaces this process (``exec``) and never returns.

    Signals and the exit code are therefore the server's own; SIGINT and SIGTERM stop it in an orderly
    way. Its log goes to standard output. `shared_url` finds this server like one that it started.

    Args:
        data_dir: Data folder. Defaults to the folder of the user.
        port: TCP port on 127.0.0.1 in addition to the socket. Every user of this machine can reach it. Defaults
            to none.

    Raises:
        EmbeddedUnavailable: A shared server runs already, or the program can't be run.
        ConfigurationError: As for `shared_url`.
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
        # Resolved, because the socket's name is derived from the path.
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
        """Return the URL of the server that has the lock, or None if it does not answer."""
        path = self.socket()
        if path is None or not path.exists():
            return None
        folders.check_private(path.parent)  # another user with write access could replace the socket
        url = folders.unix_url(path)
        return None if process.serving_pid(url) is None else url

    def end_lost(self) -> bool:
        """End a running server that is unreachable because its socket was removed. Returns whether it did so.

        The system empties the runtime folder when a user's last session ends.
        """
        path, pid = self.socket(), self.pid()
        if path is None or pid is None or path.exists():
            return False
        if time.time() - (self.folder / "server.socket").stat().st_mtime < _BIND_SECONDS:
            return False
        # A server in another container or on another machine may have the lock. Then this process id
        # belongs to another process here.
        if str(path) not in process.command_line(pid):
            return False
        logger.warning("the shared server (process %d) has lost its socket: ending it", pid)
        os.kill(pid, signal.SIGTERM)
        return True

    def prepare(self) -> dict[str, str]:
        """Prepare the start of a server: end a server without the lock, write the address, return the settings.

        The caller holds the lock.
        """
        runtime = folders.runtime_folder()
        folders.make_private(runtime)
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()
        path = runtime / f"{digest[:16]}.sock"
        folders.check_length(path, "set XDG_RUNTIME_DIR or TMPDIR to a shorter path")
        if path.exists() and process.serving_pid(folders.unix_url(path)) is not None:
            # The lock was free, so this server holds a lock file that was deleted, with all its data.
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
        """Start the server in the background, as a daemon in its own session."""
        binary = find_binary()
        settings = {**self.prepare(), "daemonize": "yes", "logfile": process.quoted(self.log)}
        started = process.spawn(binary, settings, self.log, lock)
        try:
            # The program forks and ends at once. After a failure, the log has the cause and the lock is free.
            started.wait(process.STOP_SECONDS)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
            raise EmbeddedUnavailable(f"{binary} does not go into the background") from None
        logger.info("started %s for %s", binary, self.folder)

    def end_when_unused(self, seconds: float) -> None:
        """Start a process that ends the server after this many seconds without a client."""
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
            # The process daemonizes itself and inherits no open file.
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
        """Return the error message for a server that does not answer in time."""
        return (
            f"the shared server of {self.folder} does not answer at {self.socket()}: process "
            f"{self.pid() or '(unknown)'} may still be reading its data, hang, or be that of "
            f"another container or machine that uses this folder; its log is {self.log}"
        )
