"""The file server of the demo: serves the models over HTTP at a limited rate, and counts downloads."""

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
    """Make file contents from the concatenated source files of this Python's standard library.

    Args:
        count: Number of contents.
        size: Minimum length of each, in bytes; some are up to half longer.

    Raises:
        ConfigurationError: The standard library has no source files.
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
        contents.append(bytes(content[:length]))  # the last source file may exceed the length by far
    return contents


class FileServer:
    """Serves files over HTTP from 127.0.0.1, and counts downloads. A context manager, which starts and stops it.

    Args:
        contents: Contents by path.
        rate: Bytes per second of each download.
        stalls: Path whose first download by the owner of a claim stalls half-way until `resume`, for at most 20 s.
        on_stall: Called with the number of the stalled replica, in a thread of the server.
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
        """Base URL of the files, without a trailing slash."""
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
        self._server.server_close()  # joins its request threads

    def resume(self) -> None:
        """Resume the stalled download."""
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
            self.close_connection = True  # the client was killed; `completed` does not count this download

    def log_message(self, *_: Any) -> None:
        """Log nothing: `started` and `completed` count the requests."""


# Not http.server.HTTPServer: it resolves the machine's name, which can take seconds.
class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False  # server_close() joins non-daemon threads only
    request_queue_size = 128
    files: FileServer
