"""A program that ends an unused embedded server. It imports only the standard library.

``python idle.py SOCKET FOLDER SECONDS`` runs in the background and ends with the server.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from contextlib import suppress

__all__ = ["end_unused"]

_LOOK_EVERY = 10.0  # seconds between checks, or a fifth of the idle timeout if that is shorter
_PATIENCE = 10.0  # seconds allowed to the server for a reply or for its end


class _Link:
    """A connection to the server. Its methods raise OSError if the server does not answer."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(_PATIENCE)
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> _Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def clients(self) -> tuple[int, int]:
        """Return the number of other clients now, and the number of all connections since the start."""
        self._socket.sendall(b"INFO\r\n")
        said = b""
        while (head := re.match(rb"\$(\d+)\r\n", said)) is None or len(said) < head.end() + int(head[1]) + 2:
            said += self._read()
        found = [
            re.search(rb"^%b:(\d+)" % name, said, re.MULTILINE)
            for name in (b"connected_clients", b"total_connections_received")
        ]
        if None in found:
            raise OSError("the server does not tell its clients")
        connected, total = (int(each[1]) for each in found if each is not None)
        return connected - 1, total

    def shut_down(self) -> None:
        """Shut the server down and wait for its end. No snapshot, because the append-only file has the data."""
        self._socket.sendall(b"SHUTDOWN NOSAVE\r\n")
        with suppress(ConnectionError):
            while self._socket.recv(4096):
                pass

    def _read(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the server has ended")
        return data


def end_unused(path: str, folder: str) -> int:
    """End the server at this socket, unless it has clients.

    The socket is renamed first, so that no client can connect between the check and the shutdown. A client that
    arrives meanwhile waits until the socket is back, or starts the next server.

    Args:
        path: Path of the socket.
        folder: Data folder of the server.

    Returns:
        Number of clients. 0: the server has ended.

    Raises:
        OSError: The server does not answer, or another process is ending it.
    """
    with _Link(path) as link:
        others, _ = link.clients()
        if others:
            return others
        # A fresh time stops clients without a socket from ending the server as lost (`SharedServer.end_lost`).
        os.utime(os.path.join(folder, "server.socket"))  # noqa: PTH118 - as few imports as possible
        aside = f"{path}.{os.getpid()}"
        os.rename(path, aside)  # noqa: PTH104 - as above
        try:
            for _ in range(2):  # the server accepts a client that connected just before by the second reply
                others, _ = link.clients()
            if not others:
                link.shut_down()
        finally:
            if others:
                os.rename(aside, path)  # noqa: PTH104 - as above
            else:
                os.unlink(aside)  # noqa: PTH108 - as above
    return others


def _wait_unused(path: str, seconds: float) -> None:
    """Wait until the server has had no other client for this many seconds.

    The connection is open only during each check, and does not count as a client.
    """
    known, since = -1, time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(min(_LOOK_EVERY, seconds / 5))
        others, total = _look(path)
        if others or total != known + 1:
            since = time.monotonic()
        known = total


def _look(path: str) -> tuple[int, int]:
    try:
        with _Link(path) as link:
            return link.clients()
    except OSError:
        time.sleep(1.0)  # another process may have renamed the socket for its own check
        with _Link(path) as link:
            return link.clients()


def main() -> None:
    """Run the program."""
    path, folder, seconds = sys.argv[1:]
    if os.fork():
        return  # the starter waits for this parent process only
    with suppress(OSError):  # the server has ended
        _wait_unused(path, float(seconds))
        while end_unused(path, folder):
            _wait_unused(path, float(seconds))


if __name__ == "__main__":
    main()
