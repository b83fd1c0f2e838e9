"""Commands that change a record and need no claim: set-status, cancel, touch, rm."""

from __future__ import annotations

from typing import Annotated

import typer

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
    SizeBytesOption,
    StatusArgument,
    SubsetOption,
)
from pyregistry.cli.output import Answer, Said


@command("set-status")
def set_status(
    cli: Cli,
    model: ModelArgument,
    status: StatusArgument,
    provider: ProviderOption = HUGGING_FACE,
    revision: RevisionOption = None,
    subset: SubsetOption = None,
    message: MessageOption = None,
    retry_in: Annotated[
        float | None,
        typer.Option("--retry-in", metavar="SECONDS", help="ERROR: nobody retries it before."),
    ] = None,
    permanent: Annotated[bool, typer.Option("--permanent", help="ERROR: nobody retries it.")] = False,
    location: Annotated[
        str | None,
        typer.Option("--location", metavar="PATH", help="DOWNLOADED: where the files are, below the root."),
    ] = None,
    size_bytes: SizeBytesOption = None,
) -> Answer:
    """Say what is true of a model, whoever owns it.

    A claim of it ends, unless DOWNLOADING stays.
    """
    cli.registry.set_status(
        model, provider, status_of(status, SETTABLE), message, revision=revision, subset=subset,
        retry_in=retry_in, permanent=permanent, location=location, size_bytes=size_bytes,
    )  # fmt: skip
    return Answer(Said({"set": True}))


@command()
def cancel(
    cli: Cli,
    model: ModelArgument,
    provider: ProviderOption = HUGGING_FACE,
    revision: RevisionOption = None,
    subset: SubsetOption = None,
    message: MessageOption = None,
    retry_in: Annotated[
        float | None,
        typer.Option(
            "--retry-in", metavar="SECONDS", help="Nobody begins it again before. [default: 300]", min=0
        ),
    ] = None,
    permanent: Annotated[bool, typer.Option("--permanent", help="Nobody begins it again by itself.")] = False,
    token: Annotated[
        int | None, typer.Option("--token", metavar="N", help="Only the download that has this token.")
    ] = None,
) -> Answer:
    """End the download of a model, on whatever host it runs.

    Its owner stops at once and says why; what waits for it ends with the reason. `pyregistry rm` clears the error.
    """
    ended = cli.registry.cancel_download(
        model, provider, message, revision=revision, subset=subset,
        expected_token=token, retry_in=retry_in, permanent=permanent,
    )  # fmt: skip
    if not ended:
        which = "" if token is None else f" with token {token}"
        return unknown(cli, model, {"cancelled": False}, why=f"is not being downloaded{which}")
    return Answer(Said({"cancelled": True}))


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
