"""What there is: one model, all of them, how many."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from pyregistry import _checks as checks
from pyregistry.cli.answers import Answer, Counts, OneRecord, Records, Said
from pyregistry.cli.command import command
from pyregistry.cli.context import Cli
from pyregistry.cli.exits import Exit
from pyregistry.cli.options import AnyProviderOption, ModelArgument, RevisionOption, SubsetOption
from pyregistry.cli.words import printable


@command()
def ls(
    cli: Cli,
    status: Annotated[
        str | None,
        typer.Option("--status", "-s", metavar="STATUS", help="Only these: DOWNLOADING, DOWNLOADED, ..."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", metavar="N", help="No more than that.")
    ] = None,
) -> Answer:
    """List models, the longest unused first."""
    wanted = None if status is None else status.upper()
    if cli.on_screen:
        return Answer(Records(cli.registry.get_models_by_last_used(limit, wanted)))
    # Written while it is read: however many there are, neither side has to hold them all.
    batch = 500 if limit is None else max(1, min(checks.whole("limit", limit), 500))
    return Answer(Records(islice(cli.registry.iter_models_by_last_used(batch, wanted), limit)))


@command()
def show(
    cli: Cli,
    model: ModelArgument,
    provider: AnyProviderOption = None,
    revision: RevisionOption = None,
    subset: SubsetOption = None,
) -> Answer:
    """Show all that is known of a model."""
    record = cli.registry.get_model_record(model, provider, revision=revision, subset=subset)
    if record is None:
        return Answer(OneRecord(None), f"{printable(model)} is unknown", Exit.NO)
    return Answer(OneRecord(record))


@command()
def status(
    cli: Cli,
    model: ModelArgument,
    provider: AnyProviderOption = None,
    revision: RevisionOption = None,
    subset: SubsetOption = None,
) -> Answer:
    """Show the status of a model, in one word."""
    found = cli.registry.get_status(model, provider, revision=revision, subset=subset)
    if found is None:
        return Answer(Said({"status": None}), f"{printable(model)} is unknown", Exit.NO)
    return Answer(Said({"status": found}, found))


@command()
def counts(cli: Cli) -> Answer:
    """Count the models by status."""
    return Answer(Counts(cli.registry.get_status_counts()))
