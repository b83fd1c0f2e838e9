"""How a function becomes a command: its common options, its errors, its exit code."""

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
    pretty_exceptions_enable=False,  # they show variables, and these may hold a password
)


def _common(
    url: UrlOption = None,
    namespace: NamespaceOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Only its signature is used: the options that every command has."""


COMMON = tuple(
    parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    for parameter in inspect.signature(_common, eval_str=True).parameters.values()
)


def _with_provider(provider_word: ProviderWordOption = None) -> None:
    """Only its signature is used: what comes with ``--provider``."""


(_PROVIDER_WORD,) = inspect.signature(_with_provider, eval_str=True).parameters.values()


def command(
    name: str | None = None,
    *,
    common: bool = True,
    shell: bool = False,
    warns: bool = True,
    said: str = "",
) -> Callable[[Command], Command]:
    """Make a function a command. It gets a `Cli`, then its own arguments. One with ``provider`` gets a checked one.

    Args:
        name: its name; left out: the function's.
        common: whether it takes the common options too; one of its own name takes a common one's place.
        shell: whether its output is for a shell to evaluate.
        warns: whether warnings of the log are shown; not where the answer says the same.
        said: a pattern of warnings that are not shown, since the command says the same itself.
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
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # how Typer is told
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
        # What is still buffered must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            code = Exit.BROKEN_PIPE
        else:
            code = complain(type(error).__name__, str(error), Exit.FAILED, json=cli.wants_json)
    return code
