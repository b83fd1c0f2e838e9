"""Commands that read records: ls, show, status, counts, namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer

from pyregistry._core import validation as checks
from pyregistry.cli import namespaces as spaces
from pyregistry.cli.choices import status_of
from pyregistry.cli.command import command
from pyregistry.cli.context import Cli
from pyregistry.cli.listeners import listeners_of
from pyregistry.cli.namesakes import unknown
from pyregistry.cli.options import (
    AnyProviderOption,
    ModelArgument,
    RevisionOption,
    StatusOption,
    SubsetOption,
)
from pyregistry.cli.output import Answer, Counts, OneRecord, Records, Said
from pyregistry.cli.selection import Order, latest, matching, ordered
from pyregistry.models import ModelRecord


@command()
def ls(
    cli: Cli,
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATTERN]",
            help="Only models whose name holds this, or fits it, if it has *, ? or [...] in it.",
            show_default=False,
        ),
    ] = None,
    status: StatusOption = None,
    provider: AnyProviderOption = None,
    sort: Annotated[
        Order,
        typer.Option(
            "--sort", help="By last use (the longest unused first), size (largest), age (oldest) or name."
        ),
    ] = Order.USED,
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help="In the opposite order.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", metavar="N", help="No more than that.")
    ] = None,
) -> Answer:
    """List models, the longest unused first."""
    wanted = None if status is None else status_of(status)
    batch = 500 if limit is None else max(1, min(checks.whole("limit", limit), 500))
    by_use = sort is Order.USED and not reverse
    if not by_use or pattern is not None or provider is not None:
        batch = 500  # an unknown share of the records matches
    found = matching(cli.registry.iter_models_by_last_used(batch, wanted), pattern, provider)
    listed = False

    def seen() -> Iterator[ModelRecord]:
        nonlocal listed
        for record in islice(found, limit):
            listed = True
            yield record

    if not by_use:
        records = ordered(found, sort, limit, reverse=reverse)
        return Answer(Records(records), lambda: "" if records else _why_nothing(cli))
    if cli.on_screen:
        records = latest(found, limit)
        return Answer(Records(records), lambda: "" if records else _why_nothing(cli))
    # Lazy: neither the server nor this process holds all records in memory.
    return Answer(Records(seen()), lambda: "" if listed else _why_nothing(cli))


def _why_nothing(cli: Cli) -> str:
    if cli.wants_json or any(True for _ in islice(cli.registry.iter_models_by_last_used(1), 1)):
        return ""
    return spaces.elsewhere(cli.config)


@command()
def show(
    cli: Cli,
    model: ModelArgument,
    provider: AnyProviderOption = None,
    revision: RevisionOption = None,
    subset: SubsetOption = None,
) -> Answer:
    """Show all that is known of a model.

    Where it is unknown: what there is under its name.
    """
    record = cli.registry.get_model_record(model, provider, revision=revision, subset=subset)
    if record is None:
        return unknown(cli, model, {"status": None})
    return Answer(OneRecord(record, listeners_of(cli.registry)))


@command()
def status(
    cli: Cli,
    model: ModelArgument,
    provider: AnyProviderOption = None,
    revision: RevisionOption = None,
    subset: SubsetOption = None,
) -> Answer:
    """Show the status of a model, in one word.

    Where it is unknown: what there is under its name.
    """
    found = cli.registry.get_status(model, provider, revision=revision, subset=subset)
    if found is None:
        return unknown(cli, model, {"status": None})
    return Answer(Said({"status": found}, found))


@command()
def counts(cli: Cli) -> Answer:
    """Count the models by status."""
    found = cli.registry.get_status_counts()
    return Answer(Counts(found), lambda: "" if any(found) else _why_nothing(cli))


@command()
def namespaces(cli: Cli) -> Answer:
    """List the namespaces of the server that have records.

    Needs SCAN, which goes over all keys of the server's database, in pages.
    """
    found, _ = spaces.find(cli.config)
    return Answer(spaces.Namespaces(found))
