"""gunicorn, as its users run it: with gevent, and ended while a worker downloads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pyregistry import Claimed, ModelStatus, Registry
from tests.support.faults.proxy import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.server("embedded", "debian")  # not about the server; two Pythons
SECONDS = 60.0  # a worker that is frozen does not answer in that time
PATCH = "from gevent import monkey; monkey.patch_all()\n"
APPLICATION = """
import os, time
import pyregistry

registry = pyregistry.Registry.from_url(os.environ["PYREGISTRY_URL"], os.environ["PYREGISTRY_NAMESPACE"])

def download(claim):
    if claim.model_name == "/endless":
        claim.lost.wait()
    for _ in range(10):
        time.sleep(0.02)

def app(environ, start_response):
    try:
        answer = registry.ensure(environ["PATH_INFO"], "S3", download, lease=600).status
    except pyregistry.RegistryError as error:
        answer = f"{type(error).__name__}: {error}"
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer.encode()]
"""
RELEASE = """
def post_worker_init(worker):
    import application, pyregistry
    pyregistry.release_on_signal(application.registry)
"""


@contextmanager
def serving(
    server_url: str, namespace: str, folder: Path, settings: str, *options: str
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[str], str]]]:
    """gunicorn with one worker, and what asks it."""
    (folder / "application.py").write_text(APPLICATION)
    (folder / "gunicorn.conf.py").write_text(settings)
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:0", *options, "application:app"],
            cwd=folder,
            stdout=file,
            stderr=file,
            env={**os.environ, "PYREGISTRY_URL": server_url, "PYREGISTRY_NAMESPACE": namespace},
        )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(path: str) -> str:
        url = log.read_text().partition("Listening at: ")[2].split()[0]
        with opener.open(url + path, timeout=SECONDS) as reply:
            return str(reply.read().decode())

    try:
        until(lambda: "Listening at: http" in log.read_text(), "it listens", SECONDS)
        yield process, ask
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        finally:
            process.kill()
            process.wait()
            print(log.read_text())  # for the report of a test that failed


@pytest.mark.parametrize(
    ("options", "settings", "answer"),
    [
        ([], "", "DOWNLOADED"),
        (["--preload"], PATCH, "DOWNLOADED"),
        (["--preload"], "", "ConfigurationError: gevent has patched the standard library after pyregistry"),
    ],
    ids=["each worker imports it", "patched by the configuration", "patched after the import"],
)
def test_greenlets(
    server_url: str, namespace: str, tmp_path: Path, options: list[str], settings: str, answer: str
) -> None:
    """A gunicorn server with gevent workers answers concurrent requests."""
    served = serving(server_url, namespace, tmp_path, settings, "-k", "gevent", *options)
    with served as (_, ask), ThreadPoolExecutor() as pool:
        for said in pool.map(ask, ["/m0", "/m1", "/m0", "/m1", "/m0"]):
            assert said.startswith(answer)


@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])
def test_a_worker_that_is_ended_gives_back(
    server_url: str, namespace: str, tmp_path: Path, other: Registry, worker: str
) -> None:
    """A gunicorn worker that is terminated releases its claims without an attempt used."""
    served = serving(server_url, namespace, tmp_path, RELEASE, "-k", worker, "--threads", "4")
    with served as (process, ask), ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, "/endless")
        until(lambda: other.get_status("/endless") is ModelStatus.DOWNLOADING, "it downloads", SECONDS)
        process.send_signal(signal.SIGTERM)
        assert answer.result(SECONDS).startswith("RegistryClosed")
        process.wait(SECONDS)
    result = other.try_claim_for_download("/endless", "S3")
    assert isinstance(result, Claimed)
    assert result.claim.attempts == 1
