"""The lock of a data folder. The starter of a server takes it, and the server inherits it."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyregistry.errors import ConfigurationError

logger = logging.getLogger("pyregistry.embedded")


# A fork waits until the lock is handed to the server, because a child that is forked while the lock is
# open here would share it for its whole life. A program that `subprocess` starts inherits no lock and
# does not run these hooks.
_forks = threading.RLock()
os.register_at_fork(before=_forks.acquire, after_in_parent=_forks.release, after_in_child=_forks.release)


@contextmanager
def locked(folder: Path) -> Iterator[int | None]:
    """Lock a folder. Yields the open lock file, or None if another process has the lock.

    The file is closed on exit. It stays locked by a server that has inherited it.

    Raises:
        ConfigurationError: The lock file can't be opened or locked.
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
