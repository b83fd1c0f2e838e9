"""File systems that lack something, simulated by `mount.c` for processes that the tests start."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("mount.c")


@functools.cache
def library() -> Path:
    """The shared library, compiled once for each pytest process."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    folder = tempfile.mkdtemp(prefix="pyregistry-mount-")
    atexit.register(shutil.rmtree, folder)
    built = Path(folder) / "mount.so"
    subprocess.run([compiler, "-Wall", "-O1", "-shared", "-fPIC", "-o", built, _SOURCE, "-ldl"], check=True)
    return built


def on_mount(code: str, root: Path, *args: object, timeout: float = 90.0, **lacks: int) -> str:
    """Runs code in a process whose folder `root` is such a mount; what it prints.

    Args:
        code: what is run; `tests.support.stores` is imported, and `root` is known.
        root: the folder.
        args: `sys.argv[1:]`.
        timeout: seconds.
        lacks: what the mount lacks: ``RENAME``, ``RENAME_ALL``, ``FSYNC``, ``FLOCK`` with an errno, ``FOLDS=1``.
    """
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys\nfrom tests.support.stores import *\nroot = Path({str(root)!r})\n{code}",
            *map(str, args),
        ],
        cwd=Path(__file__).parents[3],
        env=environment(root, **lacks),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def environment(root: Path, **lacks: int) -> dict[str, str]:
    """That of a process which sees the mount."""
    settings = {f"MOUNT_{name}": str(value) for name, value in lacks.items()}
    return {**os.environ, "LD_PRELOAD": str(library()), "MOUNT_ROOT": str(root), **settings}
