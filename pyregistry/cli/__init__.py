"""The command ``pyregistry``.

Its dependencies come with the extra ``cli``. Without the extra, the command names the missing package and ends with
`Exit.WRONG_CALL`.
"""

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
        argv: The arguments. Defaults to those of the process.

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
    if list(arguments) == ["--version"]:  # importing the full command line takes 0.3 s
        print(f"pyregistry {__version__}")
        return Exit.DONE
    from pyregistry.cli.app import run

    return run(arguments)


def _open_standard_streams() -> None:
    """Open the standard streams that the caller has closed (``>&-``) on the null device.

    Otherwise Python sets such a stream to None, and a print fails instead of the command's own result. The next
    socket would also get the free descriptor, and receive the printed text.
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
            os.set_inheritable(number, True)  # child processes inherit it too
        # Open a new descriptor: another file may have taken this number since Python started.
        setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
