"""A hub as huggingface_hub sees it, on 127.0.0.1: repositories with branches, commits, files, tokens, and faults."""

from __future__ import annotations

import hashlib
import json
import select
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_PIECE = 16 * 1024


@dataclass
class Repository:
    """What is in one.

    Attributes:
        commits: the files of each commit.
        branches: the commit that each leads to.
        token: who has another one, or none, is refused.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None


class Hub:
    """A hub that runs as long as its context is open.

    Attributes:
        url: what HF_ENDPOINT is to be.
        fetched: how often each file was sent whole, by repository, commit and name.
        begun: how often it was begun.
        asked: how often the hub was asked for what a branch or commit is.
        most_at_once: how many files it was sending at a time, at most.
        sends_only: what it sends of the files of a download before it falls silent (bytes).
        pace: how fast it sends (bytes per second).
        status: it answers everything with this; ``None``: with what is asked for.
        renamed: repositories by their former names, in lower case: whoever asks for those is sent on. So is a name that
            differs in case only.
        requests: how many it has had.
        gated: files that it gives to nobody.
        breaks_after: it answers with 503 once it has had more requests than this.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.fetched: Counter[tuple[str, str, str]] = Counter()
        self.begun: Counter[tuple[str, str, str]] = Counter()
        self.asked: Counter[str] = Counter()
        self.most_at_once = self.sending = 0
        self.sends_only: int | None = None
        self.pace: float | None = None
        self.status: int | None = None
        self.renamed: dict[str, str] = {}
        self.requests = 0
        self.gated: set[str] = set()
        self.breaks_after: int | None = None
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.go_away()

    def go_away(self) -> None:
        """Refuse connections from now on, as a hub that can't be reached."""
        if not self.stopping.is_set():
            self.stopping.set()
            self._server.shutdown()
            self._server.server_close()  # waits for the answers that are under way

    def canonical(self, repo_id: str) -> str:
        """How the hub writes a name."""
        names = {name.lower(): name for name in self.repositories} | self.renamed
        return names.get(repo_id.lower(), repo_id)

    def push(
        self, repo_id: str, files: dict[str, bytes], *, branch: str = "main", token: str | None = None
    ) -> str:
        """A new commit on a branch; returns its hash."""
        repository = self.repositories.setdefault(repo_id, Repository())
        repository.token = token
        parts = [
            repo_id,
            branch,
            *(f"{name} {hashlib.sha1(data).hexdigest()}" for name, data in files.items()),
        ]
        commit = hashlib.sha1("\n".join(parts).encode()).hexdigest()
        repository.commits[commit] = files
        repository.branches[branch] = commit
        return commit


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients are killed in these tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30.0
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Not on standard error."""

    def handle(self) -> None:
        # An idle connection must not keep the hub from ending.
        self.close_connection = False
        while not self.close_connection and not self.server.hub.stopping.is_set():
            if select.select([self.connection], [], [], 0.1)[0]:
                self.handle_one_request()

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, *, head: bool) -> None:
        hub = self.server.hub
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        with hub.lock:
            hub.requests += 1
        if hub.status is not None:
            return self._refuse(hub.status, "")
        if hub.breaks_after is not None and hub.requests > hub.breaks_after:
            return self._refuse(503, "")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            repo_id, question = "/".join(parts[2:4]), parts[4:] or ["revision", "main"]
        elif len(parts) >= 5 and parts[2] == "resolve":
            repo_id, question = "/".join(parts[:2]), ["resolve", *parts[3:]]
        else:
            return self._refuse(404, "")
        if (canonical := hub.canonical(repo_id)) != repo_id:
            return self._send_on(self.path.replace(repo_id, canonical, 1))
        repository = hub.repositories.get(repo_id)
        if repository is None:
            # As the real one: it does not tell what is private.
            return self._refuse(401, "RepoNotFound")
        if repository.token is not None and self.headers["Authorization"] != f"Bearer {repository.token}":
            return self._refuse(403, "GatedRepo")
        revision = question[1]
        commit = repository.branches.get(revision, revision)
        files = repository.commits.get(commit)
        if files is None:
            return self._refuse(404, "RevisionNotFound")
        if question[0] == "revision":
            with hub.lock:
                hub.asked[repo_id] += 1
            return self._json(_info(repo_id, commit, files, sizes="blobs" in parse_qs(url.query)))
        if question[0] == "tree":
            return self._json([{"type": "file", "path": name, **_blob(data)} for name, data in files.items()])
        name = "/".join(question[2:])
        if name not in files:
            return self._refuse(404, "EntryNotFound")
        if name in hub.gated:
            return self._refuse(403, "GatedRepo")
        return self._file((repo_id, commit, name), files[name], head=head)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_on(self, path: str) -> None:
        self.send_response(307)
        self.send_header("Location", path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, key: tuple[str, str, str], data: bytes, *, head: bool) -> None:
        hub = self.server.hub
        asked = self.headers["Range"]
        begin = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{_blob(data)["oid"]}"')
        self.send_header("X-Repo-Commit", key[1])
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if head:
            return
        with hub.lock:
            hub.begun[key] += 1
            hub.sending += 1
            hub.most_at_once = max(hub.most_at_once, hub.sending)
        try:
            self._send(key, data, begin)
        finally:
            with hub.lock:
                hub.sending -= 1

    def _send(self, key: tuple[str, str, str], data: bytes, begin: int) -> None:
        hub = self.server.hub
        for at in range(begin, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            if hub.sends_only is not None and at + len(piece) > hub.sends_only:
                hub.stopping.wait()
            elif hub.pace is not None:
                hub.stopping.wait(len(piece) / hub.pace)
            if hub.stopping.is_set():
                self.close_connection = True
                return
            self.wfile.write(piece)
        with hub.lock:
            hub.fetched[key] += 1


def _blob(data: bytes) -> dict[str, Any]:
    return {"oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), "size": len(data)}


def _info(repo_id: str, commit: str, files: dict[str, bytes], *, sizes: bool) -> dict[str, Any]:
    siblings = []
    for name, data in files.items():
        blob = _blob(data)
        more = {"size": blob["size"], "blobId": blob["oid"]} if sizes else {}
        siblings.append({"rfilename": name, **more})
    return {"id": repo_id, "sha": commit, "siblings": siblings, "tags": [], "private": False}
