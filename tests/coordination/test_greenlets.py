"""gevent and eventlet, in processes of their own: patched first it works, patched later or in part it is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyregistry import Claimed, Registry

pytestmark = pytest.mark.server("embedded", "debian")  # not about the server; two Pythons
SECONDS = 60.0  # a process that is frozen does not end in that time
ROOT = Path(__file__).parents[2]
PATCH = {
    "gevent": "from gevent import monkey; monkey.patch_all({})",
    "eventlet": "import eventlet; eventlet.monkey_patch({})",
}
SPAWN = {
    "gevent": "from gevent import spawn, joinall",
    "eventlet": "from eventlet import spawn\ndef joinall(them):\n    for each in them: each.wait()",
}
# Fifty greenlets want two models, beside reads on more connections at once than a client has.
PROGRAM = """
import sys, time
downloads, records, errors = [], [], []

def download(claim):
    downloads.append(claim.model_name)
    for at in range(5):
        time.sleep(0.02)
        claim.report(at, 5)
    claim.prove()

def want(registry, name):
    try:
        records.append(registry.ensure(name, "S3", download, lease=3))
        registry.get_status(name)
    except pyregistry.RegistryError as error:
        errors.append(error)

def go(registry):
    joinall([spawn(want, registry, f"m{at % 2}") for at in range(50)])
    joinall([spawn(registry.get_model_record, "m0") for at in range(200)])

def end():
    for error in errors:
        print(type(error).__name__, error, file=sys.stderr)
    print(sorted(downloads), len(records))
    sys.exit(bool(errors))
"""


def run(*lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=ROOT,
    )


@pytest.fixture(params=["gevent", "eventlet"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(url: str, namespace: str, **options: Any) -> str:
    return (
        f"registry = pyregistry.Registry.from_url({url!r}, {namespace!r}, **{options!r}); registry.connect()"
    )


@pytest.mark.parametrize("options", [{}, {"near_cache": True, "touch_interval": 0.1}], ids=str)
def test_patched_first_it_works(kind: str, server_url: str, namespace: str, options: Any) -> None:
    """A client in a process patched before the import serves many greenlets."""
    ended = run(
        PATCH[kind].format(""),
        SPAWN[kind],
        "import pyregistry",
        PROGRAM,
        opened(server_url, namespace, **options),
        "go(registry)",
        "registry.close()",
        "end()",
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "['m0', 'm1'] 50\n"


def test_a_claim_is_kept_and_given_back(kind: str, server_url: str, namespace: str, other: Registry) -> None:
    """A client in a patched process renews its claims and releases them on shutdown."""
    ended = run(
        PATCH[kind].format(""),
        "import pyregistry, time",
        opened(server_url, namespace),
        "claimed = registry.try_claim_for_download('m', 'S3')",
        "assert isinstance(claimed, pyregistry.Claimed)",
        "registry.shutdown()",
    )
    assert ended.returncode == 0, ended.stderr
    result = other.try_claim_for_download("m", "S3")
    assert isinstance(result, Claimed)
    assert result.claim.taken_over


@pytest.mark.parametrize("when", ["before the client", "after the client"])
def test_patched_later_it_is_refused(kind: str, server_url: str, namespace: str, when: str) -> None:
    """A patch after the import raises an error that names the patch."""
    patch, make = PATCH[kind].format(""), opened(server_url, namespace)
    ended = run(
        "import pyregistry",
        PROGRAM,
        *([patch, SPAWN[kind], make] if when == "before the client" else [make, patch, SPAWN[kind]]),
        "go(registry)",
        "end()",
    )
    assert ended.returncode == 1, ended.stderr
    assert f"{kind} has patched the standard library after pyregistry was imported" in ended.stderr
    assert PATCH[kind].format("") in ended.stderr


def test_patched_in_part_it_is_refused(kind: str, server_url: str, namespace: str) -> None:
    """A patch without threading raises an error that names the parts."""
    part = "thread=False" if kind == "gevent" else "thread=False, socket=True, select=True"
    ended = run(
        PATCH[kind].format(part),
        SPAWN[kind],
        "import pyregistry",
        PROGRAM,
        opened(server_url, namespace),
        "go(registry)",
        "end()",
    )
    assert ended.returncode == 1, ended.stderr
    assert f"{kind} has patched select, socket, but not threading" in ended.stderr


def test_imported_and_not_patched_it_works(kind: str, server_url: str, namespace: str) -> None:
    """gevent or eventlet imported without a patch does not affect a client."""
    ended = run(
        f"import {kind}, pyregistry",
        "spawn, joinall = lambda function, *args: function(*args), list",
        PROGRAM,
        opened(server_url, namespace),
        "want(registry, 'm0')",
        "registry.close()",
        "end()",
    )
    assert ended.returncode == 0, ended.stderr
