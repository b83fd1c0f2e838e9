"""Ends the embedded server once nobody uses it: run as a program of its own, with the standard library alone.

``python idle.py SOCKET FOLDER SECONDS`` goes into the background, and ends with the server.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from contextlib import suppress

__all__ = ["end_unused"]

_LOOK_EVERY = 10.0  # seconds, or a fifth of the time without a client where that is shorter
_PATIENCE = 10.0  # seconds that the server may take for an answer, or to end


class _Link:
    """A connection to the server. Raises OSError where it does not answer."""

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
        """How many others are connected, and how many have been in all."""
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
        """End the server, and wait for that. No snapshot: what is in the append-only file stays."""
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

    The socket is taken out of the way first, so that no client can come between the look and the end; one that comes
    then waits until it is back, or starts the next server.

    Args:
        path: the socket.
        folder: the data folder.

    Returns:
        How many clients it has; 0: it has ended.

    Raises:
        OSError: it does not answer, or is ended by another process.
    """
    with _Link(path) as link:
        others, _ = link.clients()
        if others:
            return others
        # Else a client that finds no socket may take the server for one that has lost it for good.
        os.utime(os.path.join(folder, "server.socket"))  # noqa: PTH118 - as few imports as possible
        aside = f"{path}.{os.getpid()}"
        os.rename(path, aside)  # noqa: PTH104 - as above
        try:
            for _ in range(2):  # whoever connected just before is accepted by the second answer
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
    """Until nobody else has been connected for so long. It stays connected only to look: it is no client."""
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
        time.sleep(1.0)  # another process may have the socket out of the way while it looks
        with _Link(path) as link:
            return link.clients()


def main() -> None:
    """The program."""
    path, folder, seconds = sys.argv[1:]
    if os.fork():
        return  # whoever started it waits for this one
    with suppress(OSError):  # it has ended by itself
        _wait_unused(path, float(seconds))
        while end_unused(path, folder):
            _wait_unused(path, float(seconds))


if __name__ == "__main__":
    main()
