"""Commands that show changes live: watch, top."""

from __future__ import annotations

from typing import Annotated

import typer

from pyregistry.cli.command import command
from pyregistry.cli.context import Cli
from pyregistry.cli.events import watch_events
from pyregistry.cli.options import AnyProviderOption
from pyregistry.cli.output import Answer
from pyregistry.cli.overview import top as show_top


@command()
def watch(
    cli: Cli,
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Only of this model. [default: of all]", show_default=False),
    ] = None,
    provider: AnyProviderOption = None,
    seconds: Annotated[
        float | None,
        typer.Option("--for", metavar="SECONDS", min=0, help="End after so long.", show_default=False),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count", "-n", metavar="N", min=0, help="End after so many events.", show_default=False
        ),
    ] = None,
) -> int:
    """Show what happens to the models, as it happens.

    Where events may be missing there is a line that says so.
    """
    return watch_events(cli, model, provider, seconds, count)


@command()
def top(
    cli: Cli,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
) -> Answer | int:
    """Show who downloads what, and what is stuck, until Ctrl-C.

    In a pipe and with --json it is shown once.
    """
    return show_top(cli, once)
