"""The command `pyregistry`: its options before the commands, and its entry point."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

import pyregistry.cli.commands  # noqa: F401  # registers the commands
from pyregistry import __version__
from pyregistry.cli.command import app
from pyregistry.cli.context import Given, complain, fail_shell
from pyregistry.cli.exit_codes import MEANINGS, Exit
from pyregistry.cli.options import JsonOption, NamespaceOption, TimeoutOption, UrlOption, VerboseOption

_SHELL_COMMANDS = ("claim", "retry")

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"{code:>5}  {words}" for code, words in MEANINGS.items())


def _version(asked: bool) -> None:
    if asked:
        print(f"pyregistry {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog=_EPILOG)
def _start(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
    url: UrlOption = None,
    namespace: NamespaceOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """A registry of model downloads on Redis: one replica downloads, the others know.

    --url, --namespace, --timeout, --json and -v may stand before the command or after it.
    """
    ctx.obj = Given(url, namespace, timeout, as_json, verbose)
    if ctx.invoked_subcommand is None:
        print(ctx.get_help(), file=sys.stderr)
        raise typer.Exit(Exit.WRONG_CALL)


def run(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: The arguments.

    Returns:
        The exit code: an `Exit`, or the exit code of a server, of the demo, or of the command of `run`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character outside the terminal's encoding must not raise UnicodeEncodeError.
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(app(args=list(argv), prog_name="pyregistry", standalone_mode=False) or 0)
    except typer.TyperException as error:
        return _wrong_usage(error, argv)
    except Exception:
        traceback.print_exc()
        return Exit.FAILED


def _wrong_usage(error: typer.TyperException, argv: Sequence[str]) -> int:
    context = getattr(error, "ctx", None)
    wants_json = "--json" in argv
    words = error.format_message()
    name = None if context is None else context.info_name
    if name == "run" and "--" not in argv:
        words += "\nThe options of COMMAND stand behind --: pyregistry run MODEL -- COMMAND --ITS-OPTION"
    if context is not None and not wants_json:
        words += f"\nTry '{context.command_path} --help'."
    code = complain("UsageError", words, Exit.WRONG_CALL, json=wants_json)
    if name in _SHELL_COMMANDS:
        fail_shell(code, json=wants_json)
    return code
