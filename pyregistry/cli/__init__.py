"""The command ``pyregistry``. What it needs comes with the extra ``cli``; without, it says so."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pyregistry import __version__
from pyregistry.cli.exit_codes import Exit

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; ``None``: those of the process.

    Returns:
        The exit code, an `Exit`.
    """
    _open_standard_streams()
    arguments = sys.argv[1:] if argv is None else argv
    for name in ("rich", "typer"):
        if find_spec(name) is None:
            print(
                f"pyregistry: the command line needs {name}: pip install 'pyregistry-redis[cli]'",
                file=sys.stderr,
            )
            return Exit.WRONG_CALL
    if list(arguments) == ["--version"]:  # the command line takes 0.3 s more
        print(f"pyregistry {__version__}")
        return Exit.DONE
    from pyregistry.cli.app import run

    return run(arguments)


def _open_standard_streams() -> None:
    """Open what the caller has closed (``>&-``), so that the exit code is that of what happened.

    Else Python has no such stream at all, and the next socket would get its descriptor, and what is printed.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)  # commands that are run have it too
        # Not the descriptor itself, which may be something else's by now.
        setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
