"""Turn functions into commands: add the common options, report errors, return the exit code."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from pyregistry.cli.choices import provider_of
from pyregistry.cli.context import Cli, Given, complain, fail_shell
from pyregistry.cli.exit_codes import Exit, exit_of
from pyregistry.cli.options import (
    JsonOption,
    NamespaceOption,
    ProviderWordOption,
    TimeoutOption,
    UrlOption,
    VerboseOption,
)
from pyregistry.cli.output import Answer
from pyregistry.errors import RegistryError

__all__ = ["COMMON", "app", "command"]

Command = TypeVar("Command", bound=Callable[..., Answer | int])

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    rich_markup_mode=None,  # plain help: it also reads well in a pipe, and [cli] is no markup
    pretty_exceptions_enable=False,  # such tracebacks show variables, which may hold a password
)


def _common(
    url: UrlOption = None,
    namespace: NamespaceOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Declare the options of every command. Only the signature is used."""


COMMON = tuple(
    parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    for parameter in inspect.signature(_common, eval_str=True).parameters.values()
)


def _with_provider(provider_word: ProviderWordOption = None) -> None:
    """Declare the option that accompanies ``--provider``. Only the signature is used."""


(_PROVIDER_WORD,) = inspect.signature(_with_provider, eval_str=True).parameters.values()


def command(
    name: str | None = None,
    *,
    common: bool = True,
    shell: bool = False,
    warns: bool = True,
    said: str = "",
) -> Callable[[Command], Command]:
    """Make a function a command.

    The function is called with a `Cli` and its own arguments. An argument ``provider`` is validated first, together
    with ``--provider-word``.

    Args:
        name: Name of the command. Defaults to the function's.
        common: Whether to add the common options. An own option of the same name replaces a common one. Defaults to
            True.
        shell: Whether a shell evaluates the output. Defaults to False.
        warns: Whether to show warnings of the log. Pass False if the answer repeats them. Defaults to True.
        said: Pattern of log messages to hide, because the command reports the same itself. Defaults to none.
    """

    def add(function: Command) -> Command:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()
        names = [parameter.name for parameter in own]
        has_provider = "provider" in names
        if has_provider:
            own.insert(names.index("provider") + 1, _PROVIDER_WORD)
        shared = [parameter for parameter in COMMON if common and parameter.name not in names]

        def run(ctx: typer.Context, **values: Any) -> int:
            given: Given = ctx.obj
            told = {parameter.name: values.pop(parameter.name) for parameter in shared}
            given = Given(**told).over(given)

            def do(cli: Cli) -> Answer | int:
                if has_provider:
                    values["provider"] = provider_of(values["provider"], values.pop(_PROVIDER_WORD.name))
                return function(cli, **values)

            return _run(Cli(given, warns=warns, said=said), do, shell)

        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # Typer reads the options from it
            [context, *parameters, *shared]
        )
        run.__doc__ = function.__doc__
        app.command(name or function.__name__)(run)
        return function

    return add


def _run(cli: Cli, function: Callable[[Cli], Answer | int], shell: bool) -> int:
    try:
        with cli:
            answer = function(cli)
            code = cli.give(answer) if isinstance(answer, Answer) else answer
    except RegistryError as error:
        code = complain(type(error).__name__, cli.told(error), exit_of(error), json=cli.wants_json)
        if shell:
            fail_shell(code, json=cli.wants_json)
    except OSError as error:
        # Discard the buffered output: otherwise Python's flush at exit fails a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            code = Exit.BROKEN_PIPE
        else:
            code = complain(type(error).__name__, str(error), Exit.FAILED, json=cli.wants_json)
    return code
