"""The servers that are measured: started here, on a port of their own, which every client can use."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from pyregistry.embedded import EmbeddedServer


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        name: product and version, for the tables.
        url: how clients reach it.
        unix_url: how else they do.
        pid: its process, for its CPU time.
        binary: what runs there (`serve`).
    """

    name: str
    url: str
    unix_url: str
    pid: int
    binary: Path | None

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return int(self.url.rpartition(":")[2].partition("/")[0])


def binaries(wanted: str | None) -> list[Path | None]:
    """The servers to measure: the one that was asked for; else Redis if there is one, and the embedded."""
    if wanted is not None:
        return [None if wanted == "embedded" else Path(wanted)]
    found = shutil.which("redis-server")
    return [None] if found is None else [Path(found), None]


@contextmanager
def serve(binary: Path | None) -> Iterator[Server]:
    """A server, empty and without persistence; ``None``: the embedded Valkey."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(binary=binary, port=0, config={"unixsocket": f"{folder}/socket"}) as server,
    ):
        assert server.pid is not None
        with redis.Redis.from_url(server.url) as client:
            facts = client.info("server")
        valkey = facts.get("valkey_version")
        name = f"Valkey {valkey}" if valkey else f"Redis {facts['redis_version']}"
        yield Server(name, server.url, f"unix://{folder}/socket", server.pid, binary)
