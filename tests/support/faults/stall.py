"""A TCP forwarder that stands still: connections stay open, and nothing comes through any more."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from pyregistry._redis.protocol.transitions import SCRIPTS
from tests.support.faults.truncate import Cutter, _end

if TYPE_CHECKING:
    import socket
    from types import TracebackType

_SHAS = {script.name: script.sha.encode() for script in SCRIPTS}


class Valve(Cutter):
    """Forwards bytes until it is shut; a context manager.

    A connection that is shut is read no more, by neither side, and not closed: its client's writes back up.

    Attributes:
        shut: how many connections were shut.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.shut = 0
        self._sha = b""
        self._times = 0
        self._over = threading.Event()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        super().__exit__(kind, error, trace)

    def shut_at(self, script: str, times: int) -> None:
        """The next connections that bring this script are shut; the server never hears of it."""
        self._sha, self._times = _SHAS[script], times

    def _ask(self, client: socket.socket, server: socket.socket, left: list[int]) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self._times and self._sha in data:
                    self._times -= 1
                    left.append(0)
                    self.shut += 1
                    self._over.wait()
                    break
                server.sendall(data)
        _end(server)

    def _answer(self, client: socket.socket, server: socket.socket, left: list[int]) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if left:
                    self._over.wait()
                    break
                client.sendall(data)
        _end(client)
