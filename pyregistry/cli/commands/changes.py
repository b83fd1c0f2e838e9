"""What anybody may do to a record, whoever owns it."""

from __future__ import annotations

from typing import Annotated

import typer

from pyregistry.cli.answers import Answer, Said
from pyregistry.cli.choices import SETTABLE, status_of
from pyregistry.cli.command import command
from pyregistry.cli.context import Cli
from pyregistry.cli.namesakes import unknown
from pyregistry.cli.options import (
    HUGGING_FACE,
    AnyProviderOption,
    MessageOption,
    ModelArgument,
    ProviderOption,
    RevisionOption,
    StatusArgument,
    SubsetOption,
)


@command("set-status")
def set_status(
    cli: Cli,
    model: ModelArgument,
    status: StatusArgument,
    provider: ProviderOption = HUGGING_FACE,
    revision: RevisionOption = None,
    subset: SubsetOption = None,
    message: MessageOption = None,
) -> Answer:
    """Say what is true of a model, whoever owns it.

    A claim of it ends, unless DOWNLOADING stays.
    """
    cli.registry.set_status(
        model, provider, status_of(status, SETTABLE), message, revision=revision, subset=subset
    )
    return Answer(Said({"set": True}))


@command()
def touch(
    cli: Cli,
    model: ModelArgument,
    provider: AnyProviderOption = None,
    revision: RevisionOption = None,
    subset: SubsetOption = None,
) -> Answer:
    """Say that a model is in use."""
    known = cli.registry.touch_model(model, provider, revision=revision, subset=subset)
    if not known:
        return unknown(cli, model, {"touched": False})
    return Answer(Said({"touched": True}))


@command()
def rm(
    cli: Cli,
    model: ModelArgument,
    provider: AnyProviderOption = None,
    revision: RevisionOption = None,
    subset: SubsetOption = None,
    token: Annotated[
        int | None, typer.Option("--token", metavar="N", help="Only the record that has this token.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also if it is held, being evicted, or damaged.")
    ] = False,
) -> Answer:
    """Forget a model. Its files are not touched."""
    gone = cli.registry.delete_model(
        model, provider, revision=revision, subset=subset, expected_token=token, force=force
    )
    if not gone:
        why = "is unknown" if token is None else f"is unknown, or has another token than {token}"
        return unknown(cli, model, {"deleted": 0}, why=why)
    return Answer(Said({"deleted": gone}))
