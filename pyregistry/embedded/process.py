"""The process of a server: its settings, its start, and what it answers."""

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

START_SECONDS = 30.0  # for a start, with all the data that it may have to read
STOP_SECONDS = 10.0  # for a stop in good order
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
    """Start the program, which inherits the lock."""
    try:
        with config_file(settings) as config, log.open("ab") as output:
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


def config_file(settings: Mapping[str, str]) -> IO[bytes]:
    """For the server's standard input: on its command line everybody could read the password."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(config_text(settings))
    file.seek(0)
    return file


def config_text(settings: Mapping[str, str]) -> bytes:
    """Return the settings as the text of a configuration file."""
    for name, value in settings.items():
        if not {"\n", "\r"}.isdisjoint(name + value):
            raise ConfigurationError(f"the server's setting {name!r} holds a line break")
    return b"".join(os.fsencode(f"{name} {value}\n") for name, value in settings.items())


def quoted(value: Path | str) -> str:
    """Return a value as the configuration file has it."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def connect(url: str, timeout: float) -> redis.Redis:
    """Return a client of a server, which is tried once."""
    once = Retry(NoBackoff(), 0)
    return redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=once)


def serving_pid(url: str) -> int | None:
    """The process of the server at this URL; None if none answers or it still reads its data."""
    with connect(url, timeout=1.0) as client:
        try:
            # Not PING, which is refused while the disk is full: the server does answer then.
            info: Any = client.info()
        except (redis.ConnectionError, redis.TimeoutError):
            return None
    return None if info["loading"] else int(info["process_id"])


def shut_down(url: str) -> None:
    """Have the server end in good order."""
    with connect(url, timeout=STOP_SECONDS) as client:
        try:
            # No snapshot: what is in the append-only file stays.
            client.shutdown(nosave=True)
        except redis.RedisError as error:
            raise EmbeddedUnavailable(f"the server at {url} does not stop: {error}") from error


def pause(deadline: float, trouble: str) -> None:
    """Wait for the next look; raise `EmbeddedUnavailable` once the time is over."""
    if time.monotonic() > deadline:
        raise EmbeddedUnavailable(trouble)
    time.sleep(POLL_SECONDS)


def command_line(pid: int) -> str:
    """How the process was started, or what it calls itself; empty if there is none."""
    if Path("/proc/self/cmdline").exists():
        return read(Path(f"/proc/{pid}/cmdline"))
    ps = ["ps", "-o", "command=", "-p", str(pid)]
    return os.fsdecode(subprocess.run(ps, stdout=subprocess.PIPE, check=False).stdout)


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def size(file: Path) -> int:
    """Return the size of a file in bytes; 0 if there is none."""
    return file.stat().st_size if file.exists() else 0


def read(file: Path) -> str:
    """The text of the file; empty if there is none."""
    try:
        return os.fsdecode(file.read_bytes())
    except FileNotFoundError:
        return ""


def tail(log: Path, start: int) -> str:
    """The last lines of what was logged since the log was `start` bytes long."""
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join([f"the end of {log}:", *lines[-15:]])
