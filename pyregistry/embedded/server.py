"""The private server of one process: `EmbeddedServer`."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from pyregistry.embedded import folders, process
from pyregistry.embedded.binary import find_binary
from pyregistry.embedded.locks import locked
from pyregistry.errors import ConfigurationError, EmbeddedUnavailable

__all__ = ["EmbeddedServer"]

logger = logging.getLogger("pyregistry.embedded")


class EmbeddedServer:
    """A private server for tests and demonstrations. A context manager that starts and stops it.

    The server ends with the process that made it, even if that process is killed. After a kill, it ends
    once all forked children of that process have ended, and a temporary folder remains. In a forked child
    `stop` and `kill` do nothing. After `stop` or `kill` the server can be started again at the same
    address. Not thread-safe.

    Args:
        data_dir: Folder of the data and log. Made if missing, and never removed. Defaults to a temporary
            folder, which `stop` removes.
        port: TCP port on 127.0.0.1, which every user of this machine can reach. 0: any free port. Defaults to
            None: only a unix socket, which only this user can reach.
        persistent: Whether to write an append-only file, which the next start on the same data folder
            loads. Defaults to False.
        binary: The server's program. Defaults to that of ``PYREGISTRY_SERVER_BINARY``, else to that of the
            extra.
        password: Password for clients. `url` contains it. Defaults to none.
        config: Further settings of the server. Values have the form of its configuration file:
            ``{"maxmemory": "10mb"}``.

    Raises:
        ConfigurationError: A setting contains a line break, or the temporary folder's path is too long for
            a socket.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None = None,
        port: int | None = None,
        persistent: bool = False,
        binary: Path | None = None,
        password: str | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self._maker = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._binary = binary
        self._password = password
        self._port = port
        # Named here instead of by mkdtemp, so that the address is known before the start and never changes.
        self._own_folder = Path(tempfile.gettempdir(), f"pyregistry-{os.urandom(6).hex()}")
        self._data = self._own_folder if data_dir is None else data_dir.resolve()
        self._socket = self._own_folder / "server.sock" if port is None else None
        self._settings = {
            **process.SETTINGS,
            "dir": process.quoted(self._data),
            "appendonly": "yes" if persistent else "no",
        }
        if self._socket is not None:
            folders.check_length(self._socket, "set TMPDIR to a shorter path, or use a port")
            self._settings["unixsocket"] = process.quoted(self._socket)
        if password is not None:
            self._settings["requirepass"] = process.quoted(password)
        self._settings.update(config or {})
        process.config_text(self._settings)

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        where = self._socket or f"127.0.0.1:{self._port}"
        return f"<EmbeddedServer {where} {'stopped' if self.pid is None else f'pid={self.pid}'}>"

    @property
    def url(self) -> str:
        """URL for clients in redis-py's form, with the password if one is set.

        Raises:
            ConfigurationError: `port` is 0, and the server was not started yet.
        """
        if self._socket is not None:
            return folders.unix_url(self._socket, self._password)
        if self._port == 0:
            raise ConfigurationError("the embedded server has no port before its first start")
        return f"redis://{folders.user_part(self._password)}127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """Process id of the server. None before `start` and after `stop` or `kill`."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers, at most 30 s. Idempotent.

        Raises:
            EmbeddedUnavailable: The program is not installed, the server did not start (the message has
                the end of its log), or another server uses the data folder.
            ConfigurationError: The named program does not exist, or a folder can't be made. Or this process
                is a forked child of the process that made this object.
        """
        if os.getpid() != self._maker:
            raise ConfigurationError(
                f"this embedded server belongs to process {self._maker}: make another one here"
            )
        if self._process is not None and self._process.poll() is None:
            return
        self._end(signal.SIGKILL)  # ends the watcher of a server that ended on its own
        binary = find_binary(self._binary)
        folders.make_private(self._own_folder)
        folders.make_folder(self._data)
        atexit.unregister(self.stop)
        atexit.register(self.stop)
        if self._port != 0:
            self._launch(binary)
            return
        for left in reversed(range(process.PORT_ATTEMPTS)):
            self._port = process.free_port()
            try:
                self._launch(binary)
                return
            except BaseException as error:
                self._port = 0
                if not left or "Address already in use" not in str(error):
                    raise

    def stop(self) -> None:
        """Stop the server (SIGTERM; SIGKILL after 10 s) and remove its temporary folder. Idempotent.

        Does nothing in a process other than the one that made this object.
        """
        if os.getpid() != self._maker:
            return
        self._end(signal.SIGTERM)
        atexit.unregister(self.stop)
        if self._own_folder.exists():
            shutil.rmtree(self._own_folder)

    def kill(self) -> None:
        """Kill the server with SIGKILL, like a crash. Its files stay until `stop`. Idempotent.

        Does nothing in a process other than the one that made this object.
        """
        if os.getpid() == self._maker:
            self._end(signal.SIGKILL)

    def _launch(self, binary: Path) -> None:
        deadline = time.monotonic() + process.START_SECONDS
        log = self._data / "server.log"
        start_of_log = process.size(log)
        settings = {**self._settings, "port": str(self._port or 0)}
        try:
            while True:
                with locked(self._data) as lock:
                    if lock is not None:
                        self._process = process.spawn(binary, settings, log, lock)
                        break
                # A forked child of a killed server, which rewrites the append-only file, may hold the lock briefly.
                process.pause(deadline, f"another server uses the data folder {self._data}")
            # The watcher ends the server if this process dies first, because that closes the unused pipe.
            self._watcher = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r _; kill -TERM "$0"', str(self._process.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            # The process ids are compared, because another server may have taken the port first.
            while process.serving_pid(self.url) != self._process.pid:
                end = process.tail(log, start_of_log)
                if self._process.poll() is not None:
                    raise EmbeddedUnavailable(f"the server {binary} did not start\n{end}")
                process.pause(deadline, f"the server {binary} does not answer\n{end}")
        except BaseException:
            self._end(signal.SIGKILL)
            raise
        logger.debug("started %r", self)

    def _end(self, how: signal.Signals) -> None:
        # The watcher ends first, so that it can't signal another process with the server's reused id.
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(process.STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("%r does not stop: killed", self)
                self._process.kill()
                self._process.wait()
            self._process = None
