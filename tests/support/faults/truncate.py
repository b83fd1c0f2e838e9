"""A TCP forwarder that cuts a connection in the middle of what the server says."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from tests.support.faults.proxy import SECONDS

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class Cutter:
    """Forwards bytes; a context manager.

    Attributes:
        url: what clients connect to.
        cut_after: how many bytes may follow the next SSUBSCRIBE before that connection is cut; ``None``: never.
        cuts: how many connections were cut.
        refuses: whether who connects is hung up on.
    """

    def __init__(self, url: str) -> None:
        self.leads_to(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = urlunsplit(urlsplit(url)._replace(netloc=f"127.0.0.1:{port}"))
        self.cut_after: int | None = None
        self.cuts = 0
        self.refuses = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in (self._listener, *self._sockets):
            _end(each)
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive(), "a connection does not end"
        for each in (self._listener, *self._sockets):
            each.close()

    def leads_to(self, url: str) -> None:
        """From now on who connects is connected to that."""
        parts = urlsplit(url)
        self._upstream = (str(parts.hostname), parts.port or 6379)

    def cut(self) -> None:
        """End all connections that there are."""
        for each in list(self._sockets):
            _end(each)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]  # it is one
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.refuses:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(self._upstream, SECONDS)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                self._sockets += [client, server]
                left: list[int] = []
                self._start(self._ask, client, server, left)
                self._start(self._answer, client, server, left)

    def _ask(self, client: socket.socket, server: socket.socket, left: list[int]) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if b"SSUBSCRIBE" in data and self.cut_after is not None:
                    left.append(self.cut_after)
                    self.cut_after = None
                server.sendall(data)
        _end(server)

    def _answer(self, client: socket.socket, server: socket.socket, left: list[int]) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if left:
                    data, left[0] = data[: left[0]], left[0] - len(data)
                client.sendall(data)
                if left and left[0] <= 0:
                    self.cuts += 1
                    _end(server)
                    break
        _end(client)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
