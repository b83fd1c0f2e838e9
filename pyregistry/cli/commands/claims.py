"""Commands for claims of a shell script: claim, retry, renew, finish, release."""

from __future__ import annotations

from typing import Annotated

import typer

from pyregistry._core.values import Default
from pyregistry.cli.choices import ENDINGS, status_of
from pyregistry.cli.claim_token import Ticket, shell_failure
from pyregistry.cli.command import command
from pyregistry.cli.context import Cli
from pyregistry.cli.exit_codes import Exit
from pyregistry.cli.formatting import name_of, printable, state_of
from pyregistry.cli.options import (
    FOREVER,
    HUGGING_FACE,
    ClaimArgument,
    EndingArgument,
    ExpectedBytesOption,
    LeaseOption,
    MaxAttemptsOption,
    MessageOption,
    ModelArgument,
    OwnerOption,
    ProviderOption,
    RevisionOption,
    ShowWordOption,
    SizeBytesOption,
    SubsetOption,
)
from pyregistry.cli.output import Answer, Said
from pyregistry.cli.units import length, size
from pyregistry.errors import InvalidArgument
from pyregistry.models import Claim, Claimed, ModelRef

# Seconds. The download runs in the shell and outlives the process of this command, so no keepalive thread can renew the
# lease. The script renews it instead, and needs a lease of some minutes.
LEASE = "300"
_HIDDEN = (
    "The claim's word is a secret, and not shown on a terminal. "
    'eval "$(pyregistry claim MODEL)" has the shell take it, and '
    "--show-word shows it.\nNobody has this one: the claim ends with its lease, or by pyregistry rm MODEL."
)


@command(shell=True)
def claim(
    cli: Cli,
    model: ModelArgument,
    provider: ProviderOption = HUGGING_FACE,
    revision: RevisionOption = None,
    subset: SubsetOption = None,
    lease: LeaseOption = LEASE,
    owner: OwnerOption = None,
    max_attempts: MaxAttemptsOption = None,
    expected_bytes: ExpectedBytesOption = None,
    show_word: ShowWordOption = False,
) -> Answer:
    """Claim the download of a model: exactly one caller gets it.

    Prints a line for the shell, which sets PYREGISTRY_CLAIM for renew, finish and release,
    PYREGISTRY_TOKEN (the fencing token) and PYREGISTRY_ATTEMPT:

    \b
        if eval "$(pyregistry claim org/model)"; then ...
    """
    result = cli.registry.try_claim_for_download(
        model,
        provider,
        revision=revision,
        subset=subset,
        lease=_lease(lease),
        owner=owner,
        max_attempts=max_attempts,
        expected_bytes=expected_bytes,
    )
    won = result.claim if isinstance(result, Claimed) else None
    return _claim_answer(cli, won, ModelRef(model, provider, revision, subset), show_word=show_word)


@command(shell=True)
def retry(
    cli: Cli,
    model: ModelArgument,
    provider: ProviderOption = HUGGING_FACE,
    revision: RevisionOption = None,
    subset: SubsetOption = None,
    lease: LeaseOption = LEASE,
    owner: OwnerOption = None,
    max_attempts: MaxAttemptsOption = None,
    show_word: ShowWordOption = False,
) -> Answer:
    """Claim a model again whose download ended in an error. Prints what claim prints."""
    won = cli.registry.try_reset_error_for_retry(
        model,
        provider,
        revision=revision,
        subset=subset,
        lease=_lease(lease),
        owner=owner,
        max_attempts=max_attempts,
    )
    return _claim_answer(cli, won, ModelRef(model, provider, revision, subset), show_word=show_word)


def _lease(text: str) -> float | None:
    if text == FOREVER:
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidArgument("lease", f"must be a number of seconds, or {FOREVER}, not {text!r}") from None


def _claim_answer(cli: Cli, won: Claim | None, ref: ModelRef, *, show_word: bool) -> Answer:
    if won is None:
        return _no(cli, "claimed", ref, "" if cli.on_screen else shell_failure(Exit.NO))
    ticket = Ticket.of(won, cli.registry.namespace)
    lease = "no lease" if won.lease is None else f"lease {length(won.lease)}"
    note = f"claimed {name_of(ref)}: attempt {won.attempts}, token {won.token}, {lease}"
    if won.taken_over:
        note += (
            f"; taken over from {printable(won.previous_owner or '')}, "
            f"which had got to {size(won.previous_bytes_done or 0)}"
        )
    line = ticket.shell_line
    if cli.on_screen and not show_word:
        # The word is a secret: any client can end the download with it. Others can see a terminal, or record it.
        line = ""
        note += f"\n{_HIDDEN}"
    return Answer(Said({"claimed": True, "word": ticket.word, "claim": won}, line), note)


def _no(cli: Cli, asked: str, ref: ModelRef, words: str = "") -> Answer:
    """Return a negative answer with the actual state of the model.

    Args:
        cli: The command line.
        asked: What the command should have done, in the past participle.
        ref: The model.
        words: Text for standard output. Defaults to none.
    """
    name, provider, revision, subset = ref
    record = cli.registry.get_model_record(name, provider, revision=revision, subset=subset)
    document = {asked: False, "record": record}
    return Answer(Said(document, words), f"not {asked}: {name_of(ref)} is {state_of(record)}", Exit.NO)


def _claimed(cli: Cli, word: str) -> Claim:
    ticket = Ticket.read(word)
    if ticket.namespace != cli.config.namespace:
        raise InvalidArgument(
            "claim", f"is of the namespace {ticket.namespace}, and this is {cli.config.namespace}"
        )
    return ticket.claim


@command(warns=False)
def renew(
    cli: Cli,
    claim: ClaimArgument,
    lease: Annotated[
        str | None,
        typer.Option(
            "--lease", metavar="SECONDS", help=f"From now; {FOREVER}: for ever. [default: as claimed]"
        ),
    ] = None,
    bytes_done: Annotated[
        int | None, typer.Option("--bytes-done", metavar="N", help="How much is done.")
    ] = None,
    bytes_total: Annotated[
        int | None, typer.Option("--bytes-total", metavar="N", help="How much there is.")
    ] = None,
    message: MessageOption = None,
) -> Answer:
    """Renew a claim, and say how far the download is."""
    mine = _claimed(cli, claim)
    renewed = cli.registry.refresh_download_claim(
        mine,
        lease=Default.ITS_OWN if lease is None else _lease(lease),
        message=Default.UNCHANGED if message is None else message,
        bytes_done=bytes_done,
        bytes_total=bytes_total,
    )
    if renewed is None:
        return _no(cli, "renewed", mine.ref)
    return Answer(Said({"renewed": True, "lease_expires_at": renewed.lease_expires_at}))


@command(warns=False)
def finish(
    cli: Cli,
    status: EndingArgument,
    claim: ClaimArgument,
    message: MessageOption = None,
    size_bytes: SizeBytesOption = None,
    location: Annotated[
        str | None,
        typer.Option("--location", metavar="PATH", help="DOWNLOADED: where they are, relative to the cache."),
    ] = None,
    resolved_revision: Annotated[
        str | None,
        typer.Option("--resolved-revision", metavar="WORD", help="DOWNLOADED: which commit it was."),
    ] = None,
    retry_in: Annotated[
        float | None, typer.Option("--retry-in", metavar="SECONDS", help="ERROR: nobody may retry before.")
    ] = None,
    permanent: Annotated[bool, typer.Option("--permanent", help="ERROR: nobody may retry.")] = False,
) -> Answer:
    """Say how a claimed download ended."""
    ended = status_of(status, ENDINGS)
    mine = _claimed(cli, claim)
    done = cli.registry.finish_download_claim(
        mine,
        ended,
        message,
        size_bytes=size_bytes,
        location=location,
        resolved_revision=resolved_revision,
        retry_in=retry_in,
        permanent=permanent,
    )
    return Answer(Said({"finished": True})) if done else _no(cli, "finished", mine.ref)


@command(warns=False)
def release(cli: Cli, claim: ClaimArgument) -> Answer:
    """Give a claim back.

    Another can go on at once, and the attempt does not count.
    """
    mine = _claimed(cli, claim)
    done = cli.registry.release_download_claim(mine)
    return Answer(Said({"released": True})) if done else _no(cli, "released", mine.ref)
