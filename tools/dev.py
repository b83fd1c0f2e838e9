"""The checkout's own commands, for a machine with nothing but git and Python 3.10 or newer.

    python3 tools/dev.py demo [option ...]    pyregistry demo: the whole thing at work
    python3 tools/dev.py test [option ...]    pytest, with every worker on a server of its own
    python3 tools/dev.py lint                 ruff, mypy, import contracts, and whether generated files are up to date
    python3 tools/dev.py generate             write all generated files anew
    python3 tools/dev.py docs [option ...]    mkdocs build --strict, into site/
    python3 tools/dev.py coverage [option ...]    branch coverage of the tests that run in one process

Each makes or refreshes the virtual environment that it needs, one for each Python, in `.venv` or
where PYREGISTRY_VENV says, and ends with the exit code of what it ran.
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

# Command: the extra that it needs, and what it runs; the last one gets the caller's options.
# Four workers on any machine: the tests wait more than they compute. Who has none left takes over another's.
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
    # The other folders start processes of their own, which a measurement would slow down and hardly see.
    "coverage": (
        "coverage",
        [
            ["pytest", "-n", "6", "--dist", "worksteal", "--cov", "--cov-report=term"]
            + [f"tests/{name}" for name in ("unit", "contract", "coordination", "stores", "transport")]
        ],
    ),
}


def main() -> None:
    if sys.version_info < (3, 10):  # noqa: UP036 - it is this file that older ones are told by
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
    """Have this checkout installed with that extra, and nobody changing it while it is used."""
    VENVS.mkdir(parents=True, exist_ok=True)
    lock = os.open(VENV.with_name(f"{VENV.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.flock(lock, fcntl.LOCK_SH)
    while not is_ready(extra):
        # What runs now holds the lock too, and must not lose its packages in the middle.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting for another run in {VENV} to end ...", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_ready(extra):
            install(extra)
        fcntl.flock(lock, fcntl.LOCK_SH)
    os.set_inheritable(lock, True)  # the command that takes this process's place keeps it


def install(extra: str) -> None:
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
    return stamp(extra).exists()


def stamp(extra: str) -> Path:
    """The file whose presence says: installed whole, by this Python, from this pyproject.toml."""
    return VENV / f"{extra}-{fingerprint()}"


def fingerprint() -> str:
    # An environment knows its Python and the checkout by their paths, so it can't move with them.
    facts = (sys.version, sys.base_prefix, str(ROOT), str(VENV))
    content = (ROOT / "pyproject.toml").read_bytes() + "\0".join(facts).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def run(*command: str | Path) -> None:
    if code := subprocess.call(command):
        sys.exit(code)


if __name__ == "__main__":
    main()
