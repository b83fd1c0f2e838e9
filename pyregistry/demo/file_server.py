"""The file server that the models come from: HTTP, at a pace that can be watched, and it counts."""

from __future__ import annotations

import hashlib
import itertools
import socketserver
import sysconfig
import threading
import time
from collections import Counter
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pyregistry.demo.ipc import File
from pyregistry.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

MANIFEST = "manifest.json"
REPLICA_HEADER = "X-Replica"
TOKEN_HEADER = "X-Fencing-Token"

_CHUNK = 32 * 1024
_STALL_SECONDS = 20.0
_SOCKET_SECONDS = 20.0


def real_contents(count: int, size: int) -> list[bytes]:
    """Contents made of this Python's standard library: its source files, end to end.

    Args:
        count: how many.
        size: how many bytes each has at least; some have up to half as many more.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    paths = [path for pattern in ("*.py", "*/*.py") for path in sorted(folder.glob(pattern))]
    if not any(path.stat().st_size for path in paths):
        raise ConfigurationError(f"the demo serves Python's source files, and there are none in {folder}")
    files = itertools.cycle(paths)
    contents = []
    for number in range(count):
        content, length = bytearray(), size * (4 + number % 3) // 4
        while len(content) < length:
            content += next(files).read_bytes()
        contents.append(bytes(content[:length]))  # the last may be larger than all the rest
    return contents


class FileServer:
    """Serves files over HTTP from 127.0.0.1, and counts; a context manager, which starts and ends it.

    Args:
        contents: what it serves, by path.
        rate: how fast, in bytes per second and download.
        stalls: the path whose first download by the owner of a claim stops half-way, until `resume`.
        on_stall: is then told which replica that is (by a thread of the server).
    """

    def __init__(
        self, contents: Mapping[str, bytes], *, rate: float, stalls: str, on_stall: Callable[[int], None]
    ) -> None:
        self._contents = contents
        self._rate = rate
        self._stalls: str | None = stalls
        self._on_stall = on_stall
        self._resumed = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self.manifest = {
            path: File(len(content), hashlib.sha256(content).hexdigest())
            for path, content in contents.items()
        }
        self.started = Counter[str]()
        self.completed = Counter[str]()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.files = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05], name="file server")

    @property
    def url(self) -> str:
        """Where the files are, without a slash at the end."""
        host, port = self._server.socket.getsockname()
        return f"http://{host}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._resumed.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()  # waits for its threads

    def resume(self) -> None:
        """Let the download go on that has stopped."""
        self._resumed.set()

    def answer(self, request: _Handler) -> None:
        """Answer one request."""
        path = request.path.removeprefix("/")
        if path == MANIFEST:
            manifest = msgspec.json.encode(self.manifest)
            _send_head(request, len(manifest))
            request.wfile.write(manifest)
        elif path in self._contents:
            self._send(request, path)
        else:
            request.send_error(HTTPStatus.NOT_FOUND)

    def _send(self, request: _Handler, path: str) -> None:
        content = self._contents[path]
        with self._lock:
            self.started[path] += 1
            stalls = path == self._stalls and TOKEN_HEADER in request.headers
            if stalls:
                self._stalls = None
        _send_head(request, len(content))
        began = time.monotonic()
        for start in range(0, len(content), _CHUNK):
            if stalls and start >= len(content) // 2:
                stalls = False
                self._on_stall(int(request.headers[REPLICA_HEADER]))
                self._resumed.wait(_STALL_SECONDS)
            chunk = content[start : start + _CHUNK]
            request.wfile.write(chunk)
            sent = start + len(chunk)
            due = began + sent / self._rate
            if self._closing.wait(max(0.0, due - time.monotonic())) and sent < len(content):
                return
        with self._lock:
            self.completed[path] += 1


def _send_head(request: _Handler, size: int) -> None:
    request.send_response(HTTPStatus.OK)
    request.send_header("Content-Type", "application/octet-stream")
    request.send_header("Content-Length", str(size))
    request.end_headers()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SOCKET_SECONDS

    def do_GET(self) -> None:
        try:
            self.server.files.answer(self)
        except ConnectionError:
            self.close_connection = True  # the client was killed; that it got no more is in the counts

    def log_message(self, *_: Any) -> None:
        """Nothing: the counts say it."""


# Not http.server.HTTPServer, which asks the name service for the machine's name; that can take seconds.
class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False  # so that closing waits for them
    request_queue_size = 128
    files: FileServer
