"""The process of a server: its settings, its start, and its replies."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyregistry.errors import ConfigurationError, EmbeddedUnavailable

logger = logging.getLogger("pyregistry.embedded")

START_SECONDS = 30.0  # allowed for a start, including the load of the data
STOP_SECONDS = 10.0  # allowed for an orderly stop
POLL_SECONDS = 0.02
PORT_ATTEMPTS = 5
SETTINGS = {
    "bind": "127.0.0.1",
    "daemonize": "no",
    "maxmemory-policy": "noeviction",
    "port": "0",
    "save": '""',
    "unixsocketperm": "700",
}


def spawn(binary: Path, settings: Mapping[str, str], log: Path, lock: int) -> subprocess.Popen[bytes]:
    """Start the program, which inherits the lock. Raises `EmbeddedUnavailable` if it can't be run."""
    try:
        with config_file(settings) as config, log.open("ab") as output:
            return subprocess.Popen(
                [str(binary), "-"],
                stdin=config,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C goes to the user's program, which then stops the server
            )
    except OSError as error:
        raise EmbeddedUnavailable(f"{binary} can't be run: {error}") from error


def config_file(settings: Mapping[str, str]) -> IO[bytes]:
    """Return the settings as an open file for the server's standard input.

    Every user can read a command line, so the password must not be on it.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(config_text(settings))
    file.seek(0)
    return file


def config_text(settings: Mapping[str, str]) -> bytes:
    """Return the settings as the text of a configuration file.

    Raises:
        ConfigurationError: A setting contains a line break.
    """
    for name, value in settings.items():
        if not {"\n", "\r"}.isdisjoint(name + value):
            raise ConfigurationError(f"the server's setting {name!r} holds a line break")
    return b"".join(os.fsencode(f"{name} {value}\n") for name, value in settings.items())


def quoted(value: Path | str) -> str:
    """Return a value quoted for the configuration file."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def connect(url: str, timeout: float) -> redis.Redis:
    """Return a client that makes one attempt for each call."""
    once = Retry(NoBackoff(), 0)
    return redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=once)


def serving_pid(url: str) -> int | None:
    """Return the process id of the server at this URL. None: no server answers, or it still loads its data."""
    with connect(url, timeout=1.0) as client:
        try:
            # INFO instead of PING, because a server with a full disk refuses PING but answers INFO.
            info: Any = client.info()
        except (redis.ConnectionError, redis.TimeoutError):
            return None
    return None if info["loading"] else int(info["process_id"])


def shut_down(url: str) -> None:
    """Shut the server down. Raises `EmbeddedUnavailable` if it does not stop."""
    with connect(url, timeout=STOP_SECONDS) as client:
        try:
            # No snapshot, because the append-only file has the data.
            client.shutdown(nosave=True)
        except redis.RedisError as error:
            raise EmbeddedUnavailable(f"the server at {url} does not stop: {error}") from error


def pause(deadline: float, trouble: str) -> None:
    """Wait for the next poll. Raises `EmbeddedUnavailable` after the deadline."""
    if time.monotonic() > deadline:
        raise EmbeddedUnavailable(trouble)
    time.sleep(POLL_SECONDS)


def command_line(pid: int) -> str:
    """Return the command line of a process, or the title that it has set. Empty if it does not exist."""
    if Path("/proc/self/cmdline").exists():
        return read(Path(f"/proc/{pid}/cmdline"))
    ps = ["ps", "-o", "command=", "-p", str(pid)]
    return os.fsdecode(subprocess.run(ps, stdout=subprocess.PIPE, check=False).stdout)


def free_port() -> int:
    """Return a currently free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def size(file: Path) -> int:
    """Return the size of a file in bytes. 0 if it does not exist."""
    return file.stat().st_size if file.exists() else 0


def read(file: Path) -> str:
    """Return the text of a file. Empty if it does not exist."""
    try:
        return os.fsdecode(file.read_bytes())
    except FileNotFoundError:
        return ""


def tail(log: Path, start: int) -> str:
    """Return the last 15 lines that were logged after byte `start`, with a heading."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join([f"the end of {log}:", *lines[-15:]])
