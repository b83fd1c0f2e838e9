"""The folders of a server's data, socket and log, with their permissions."""

from __future__ import annotations

import logging
import os
import stat
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from pyregistry.errors import ConfigurationError

logger = logging.getLogger("pyregistry.embedded")

SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107


def data_folder() -> Path:
    """Return the data folder of this user's shared server."""
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    if base.is_absolute():  # the XDG specification requires that a relative path is ignored
        return base / "pyregistry"
    try:
        return Path.home() / ".local" / "share" / "pyregistry"
    except RuntimeError as error:
        raise ConfigurationError("no home folder: set XDG_DATA_HOME") from error


def runtime_folder() -> Path:
    """Return the folder of sockets. Its path is short, because a socket's path has a length limit."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if base.is_absolute() and base.is_dir():
        return base / "pyregistry"
    return Path(tempfile.gettempdir(), f"pyregistry-{os.geteuid()}")


def make_folder(path: Path) -> None:
    """Make a folder and its parents. Raises `ConfigurationError` if that fails."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder {path} can't be made: {error}") from error


def make_private(path: Path) -> None:
    """Make a folder that only this user can read."""
    make_folder(path)
    check_private(path)


def check_private(path: Path) -> None:
    """Raise `ConfigurationError` if another user can access a folder."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"{path} is not a folder, but a link or a file")
    if status.st_uid != os.geteuid():
        raise ConfigurationError(f"{path} belongs to another user (uid {status.st_uid})")
    if status.st_mode & 0o077:
        raise ConfigurationError(f"{path} is open to other users: chmod 700 {path}")


def check_length(path: Path, advice: str) -> None:
    """Raise `ConfigurationError` if a path is too long for a unix socket."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"{path} is too long for a unix socket (at most {SOCKET_PATH_BYTES} bytes): {advice}"
        )


def unix_url(path: Path, password: str | None = None) -> str:
    """Return the URL of a socket."""
    return f"unix://{user_part(password)}{quote(os.fsencode(path))}?db=0"


def user_part(password: str | None) -> str:
    """Return the part of a URL that contains the password, or an empty text."""
    return "" if password is None else f":{quote(password, safe='')}@"
