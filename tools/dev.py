"""Run the development commands of this checkout. Needs only git and Python 3.10 or newer.

    python3 tools/dev.py demo [option ...]    pyregistry demo
    python3 tools/dev.py test [option ...]    pytest, with a server for each worker
    python3 tools/dev.py lint                 ruff, mypy, import contracts, and a check of the generated files
    python3 tools/dev.py generate             regenerate all generated files
    python3 tools/dev.py docs [option ...]    mkdocs build --strict, into site/
    python3 tools/dev.py coverage [option ...]    branch coverage of the tests that run in one process

Each command creates or updates its virtual environment, one for each Python version, in `.venv` or in the folder that
PYREGISTRY_VENV names. It ends with the exit code of the program that it ran.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENVS = Path(os.environ.get("PYREGISTRY_VENV") or ROOT / ".venv").absolute()
VENV = VENVS / f"{sys.version_info.major}.{sys.version_info.minor}"

# By command: the extra that it needs, and the programs that it runs. The last program gets the caller's options.
# Four pytest workers on any machine, because the tests wait more than they compute. `worksteal` moves tests from busy
# workers to idle ones.
COMMANDS: dict[str, tuple[str, list[list[str]]]] = {
    "demo": ("all", [["pyregistry", "demo"]]),
    "test": ("test", [["pytest", "-n", "4", "--dist", "worksteal"]]),
    "lint": (
        "dev",
        [
            ["ruff", "check"],
            ["ruff", "format", "--check"],
            ["lint-imports", "--no-cache"],
            ["python", "-m", "tools.build_lua", "--check"],
            ["python", "-m", "tools.state_diagram", "--check"],
            ["python", "-m", "tools.cli_reference", "--check"],
            ["mypy"],
        ],
    ),
    "generate": (
        "dev",
        [
            ["python", "-m", f"tools.{name}"]
            for name in ("build_lua", "state_diagram", "cli_reference", "unasync")
        ],
    ),
    "docs": ("docs", [["mkdocs", "build", "--strict"]]),
    # Without the folders whose tests start processes: coverage slows such processes down and records little of them.
    "coverage": (
        "coverage",
        [
            ["pytest", "-n", "6", "--dist", "worksteal", "--cov", "--cov-report=term"]
            + [f"tests/{name}" for name in ("unit", "contract", "coordination", "stores", "transport")]
        ],
    ),
}


def main() -> None:
    """Run the command of `sys.argv`. Its last program replaces this process."""
    if sys.version_info < (3, 10):  # noqa: UP036 - this check reports older versions
        sys.exit(f"pyregistry needs Python 3.10 or newer, and this is {sys.version.split()[0]}")
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit((__doc__ or "").strip())
    extra, commands = COMMANDS[sys.argv[1]]
    prepare(extra)
    os.chdir(ROOT)
    os.environ["PATH"] = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ["VIRTUAL_ENV"] = str(VENV)
    for command in commands[:-1]:
        if code := subprocess.call(command):
            sys.exit(code)
    os.execvp(commands[-1][0], commands[-1] + sys.argv[2:])


def prepare(extra: str) -> None:
    """Install this checkout with an extra, and lock the environment for the lifetime of the command.

    The command keeps a shared lock on the environment, so that no other run changes its packages meanwhile.
    """
    VENVS.mkdir(parents=True, exist_ok=True)
    lock = os.open(VENV.with_name(f"{VENV.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.flock(lock, fcntl.LOCK_SH)
    while not is_ready(extra):
        # Running commands hold the shared lock. Wait for them, because an installation would replace their packages.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting for another run in {VENV} to end ...", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_ready(extra):
            install(extra)
        fcntl.flock(lock, fcntl.LOCK_SH)
    os.set_inheritable(lock, True)  # the program that replaces this process keeps the lock


def install(extra: str) -> None:
    """Install this checkout with an extra. Recreate the environment first if its fingerprint changed."""
    print(f"Preparing {VENV} (once; it may take a minute) ...", file=sys.stderr, flush=True)
    python = VENV / "bin" / "python"
    if not any(VENV.glob(f"*-{fingerprint()}")):
        if find_spec("ensurepip"):
            run(sys.executable, "-m", "venv", "--clear", VENV)
        elif find_spec("virtualenv"):
            run(sys.executable, "-m", "virtualenv", "--quiet", "--clear", VENV)
        else:
            sys.exit(
                "This Python can't make virtual environments: its module ensurepip is missing.\n"
                "On Debian and Ubuntu: apt install python3-venv; elsewhere: pip install virtualenv"
            )
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--editable", f"{ROOT}[{extra}]")
    stamp(extra).touch()


def is_ready(extra: str) -> bool:
    """Return whether this checkout is installed with an extra."""
    return stamp(extra).exists()


def stamp(extra: str) -> Path:
    """Return the path of the stamp file. It exists after a complete installation with the current fingerprint."""
    return VENV / f"{extra}-{fingerprint()}"


def fingerprint() -> str:
    """Return a hash of this Python, of pyproject.toml, and of the paths of the checkout and the environment."""
    # The paths are included, because an environment stores absolute paths and breaks when a folder is moved.
    facts = (sys.version, sys.base_prefix, str(ROOT), str(VENV))
    content = (ROOT / "pyproject.toml").read_bytes() + "\0".join(facts).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def run(*command: str | Path) -> None:
    """Run a program; exit with its exit code if it fails."""
    if code := subprocess.call(command):
        sys.exit(code)


if __name__ == "__main__":
    main()
