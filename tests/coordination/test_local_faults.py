"""Machines that can't start what `ensure_snapshot` needs: real processes, and what becomes of the fleet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.snapshots import FILES, REPO, Replica, contents

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyregistry import Registry
    from tests.support.hub import Hub

pytestmark = pytest.mark.server("embedded")  # not about the server

# In every process that starts with it: as on a machine where nobody may write to /tmp, /var/tmp and the working folder.
NO_TEMPORARY_FOLDER = """
import tempfile

def none(*_args, **_options):
    raise FileNotFoundError(2, "No usable temporary directory found")

tempfile._get_default_tempdir = none
"""

# As many files as are open, and so many more, when the process that downloads is to be started.
FEW_LEFT = """
import os, resource, subprocess
import huggingface_hub.hf_api  # what it imports may start processes of its own
class Popen(subprocess.Popen):
    def __init__(self, *args, **options):
        most = max(map(int, os.listdir("/proc/self/fd"))) + 1
        held = []
        for _ in range(most):
            held.append(os.dup(0))
            if held[-1] >= most:
                break
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 2, most * 9))
        super().__init__(*args, **options)
subprocess.Popen = Popen
"""


@pytest.fixture(params=["sync", "asyncio"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which client."""
    return str(request.param)


def test_no_temporary_folder_is_needed(
    hub: Hub,
    replicas: Callable[..., Replica],
    environment: dict[str, str],
    tmp_path: Path,
    kind: str,
) -> None:
    """A snapshot is downloaded without a temporary folder."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_TEMPORARY_FOLDER)
    environment["PYTHONPATH"] = str(tmp_path / "site")
    hub.push(REPO, FILES)
    stored = replicas(hub, kind).answer()
    assert contents(Path(stored["path"])) == FILES
    cached = replicas(hub, kind, cache_dir=str(tmp_path / "cache"), allow_patterns="*.json").answer()
    assert contents(Path(cached["path"])).keys() == {"config.json"}


def test_a_path_in_sys_path(hub: Hub, replicas: Callable[..., Replica], tmp_path: Path, kind: str) -> None:
    """A snapshot is downloaded with a Path in sys.path."""
    hub.push(REPO, FILES)
    first = f"import pathlib; sys.path[:0] = [pathlib.Path({str(tmp_path)!r})]"
    assert contents(Path(replicas(hub, kind, first=first).answer()["path"])) == FILES


NO_PASSWD_ENTRY = """
import pwd

def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = getpwuid
"""


def test_a_user_without_a_home(
    hub: Hub,
    replicas: Callable[..., Replica],
    registry: Registry,
    environment: dict[str, str],
    tmp_path: Path,
    kind: str,
) -> None:
    """HOME is not set, and the user has no entry; a user that is really another may not run the tests' Python."""
    for name in ("HOME", "HF_HOME"):
        environment.pop(name, None)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_PASSWD_ENTRY)
    environment["PYTHONPATH"] = str(tmp_path / "site")
    (tmp_path / "open").mkdir()
    hub.push(REPO, FILES)
    # The default cache would be in a home that nobody has; nothing is claimed then.
    refused = replicas(hub, kind, cache_dir=None).answer()
    assert refused["error"] == "LocalFault"
    assert "HF_HOME" in refused["message"]
    assert registry.get_status_counts() == (0, 0, 0)
    for options in ({"root": str(tmp_path / "open")}, {"cache_dir": str(tmp_path / "cache")}):
        answer = replicas(hub, kind, **options).answer()
        assert contents(Path(answer["path"])) == FILES
        registry.delete_model(REPO, revision=hub.repositories[REPO].branches["main"])


@pytest.mark.parametrize(
    ("kind", "first", "why"),
    [
        ("sync", "sys.executable = '/bin/true'", "/bin/true, ended by itself (0)"),
        ("asyncio", "sys.executable = '/bin/echo'", "/bin/echo is no Python: it says"),
        ("sync", "sys.executable = '/nowhere/python'", "can't be started"),
        ("asyncio", "sys.executable = ''", "sys.executable is not set"),
        ("sync", "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))", "ulimit -n"),
        ("asyncio", FEW_LEFT, "can't be started: [Errno 24]|too few file descriptors"),
        ("sync", "import os; os.environ['PYTHONHOME'] = '/nowhere'", "ended by itself"),
    ],
    ids=["true", "echo", "missing", "empty", "limit", "parent's limit", "PYTHONHOME"],
)
def test_what_can_not_start_is_no_error_of_the_fleet(
    hub: Hub, replicas: Callable[..., Replica], registry: Registry, kind: str, first: str, why: str
) -> None:
    """A process that can not start raises LocalFault and leaves no record."""
    commit = hub.push(REPO, FILES)
    broken = replicas(hub, kind, first=first).answer()
    assert broken["error"] == "LocalFault", broken
    assert any(each in broken["message"] for each in why.split("|"))
    assert registry.get_status_counts() == (0, 0, 0)
    assert registry.get_model_record(REPO, "HuggingFace", revision=commit) is None
    healthy = replicas(hub, kind).answer()
    assert contents(Path(healthy["path"])) == FILES
    assert healthy["attempts"] == 1
    # What is there needs no process.
    assert replicas(hub, kind, first=first).answer()["path"] == healthy["path"]


def test_a_program_that_embeds_python_names_another(
    hub: Hub, replicas: Callable[..., Replica], kind: str
) -> None:
    """multiprocessing.set_executable chooses the program that downloads."""
    hub.push(REPO, FILES)
    first = (
        "import multiprocessing; multiprocessing.set_executable(sys.executable); sys.executable = '/bin/true'"
    )
    assert contents(Path(replicas(hub, kind, first=first).answer()["path"])) == FILES


def test_a_cache_that_can_not_be_written_to(
    hub: Hub, replicas: Callable[..., Replica], registry: Registry, tmp_path: Path, kind: str
) -> None:
    """A cache folder that can not be written to raises LocalFault and leaves no record."""
    hub.push(REPO, FILES)
    (tmp_path / "file").touch()
    refused = replicas(hub, kind, cache_dir=str(tmp_path / "file" / "cache")).answer()
    assert refused["error"] == "LocalFault"
    assert str(tmp_path / "file") in refused["message"]
    assert registry.get_status_counts() == (0, 0, 0)
