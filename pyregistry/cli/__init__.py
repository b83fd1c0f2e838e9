"""The command ``pyregistry``. What it needs comes with the extra ``cli``; without, it says so."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pyregistry.cli.exits import Exit

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; ``None``: those of the process.

    Returns:
        The exit code, an `Exit`.
    """
    try:
        import rich  # noqa: F401 - asked for here, so that nothing else can be what is missing
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        print(
            f"pyregistry: the command line needs {error.name}: pip install 'pyregistry-redis[cli]'",
            file=sys.stderr,
        )
        return Exit.WRONG_CALL
    from pyregistry.cli.app import run

    return run(sys.argv[1:] if argv is None else argv)
