"""The commands. Each asks the registry, and says what the answer means."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from pyregistry import __version__, doctor
from pyregistry import _checks as checks
from pyregistry._ops import KEPT_LEASE, Default
from pyregistry._wish import VISIBILITY_TIMEOUT
from pyregistry.cli.answers import Answer, Counts, Findings, OneRecord, Records, Said
from pyregistry.cli.command import Cli, Given, command, complain, fail_shell
from pyregistry.cli.events import watch_events
from pyregistry.cli.exits import MEANINGS, Exit
from pyregistry.cli.options import (
    FOREVER,
    AnyProviderOption,
    ClaimArgument,
    CommandArgument,
    ExpectedBytesOption,
    JsonOption,
    LeaseOption,
    MaxAttemptsOption,
    MessageOption,
    ModelArgument,
    NamespaceOption,
    OnUnavailableWord,
    OnUnprovenWord,
    OwnerOption,
    OwnLeaseOption,
    ProviderOption,
    PublishOption,
    PublishWord,
    RetryDelayOption,
    RetryOption,
    RevisionOption,
    StallOption,
    StatusArgument,
    StoreOption,
    SubsetOption,
    TimeoutOption,
    UnavailableOption,
    UnprovenOption,
    UrlOption,
    VerboseOption,
    VerifyOption,
    VisibilityOption,
    WaitOption,
)
from pyregistry.cli.overview import top as show_top
from pyregistry.cli.running import run_command
from pyregistry.cli.ticket import Ticket, shell_failure
from pyregistry.cli.units import length, size
from pyregistry.cli.words import name_of, printable, state_of
from pyregistry.errors import InvalidArgument
from pyregistry.models import Claim, Claimed, ModelProvider, ModelRef
from pyregistry.policy import DEFAULT_RETRY, RetryPolicy

_SHELL_COMMANDS = ("claim", "retry")

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"{code:>5}  {words}" for code, words in MEANINGS.items())

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    rich_markup_mode=None,  # plain help: it also reads well in a pipe, and [cli] is no markup
    pretty_exceptions_enable=False,  # they show variables, and these may hold a password
)

HUGGING_FACE = ModelProvider.HUGGING_FACE.value
# A command's process is not the download's: the shell is, as long as the script runs. So a lease of some
# minutes that the script renews, not one that a thread keeps.
LEASE = "300"


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


# What there is


@command(app)
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


@command(app)
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


@command(app)
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


@command(app)
def counts(cli: Cli) -> Answer:
    """Count the models by status."""
    return Answer(Counts(cli.registry.get_status_counts()))


@command(app)
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


@command(app)
def top(
    cli: Cli,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
) -> Answer | int:
    """Show who downloads what, and what is stuck, until Ctrl-C.

    In a pipe and with --json it is shown once.
    """
    return show_top(cli, once)


# Claims


@command(app, shell=True)
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
    return _claim_answer(cli, won, ModelRef(model, provider, revision, subset))


@command(app, shell=True)
def retry(
    cli: Cli,
    model: ModelArgument,
    provider: ProviderOption = HUGGING_FACE,
    revision: RevisionOption = None,
    subset: SubsetOption = None,
    lease: LeaseOption = LEASE,
    owner: OwnerOption = None,
    max_attempts: MaxAttemptsOption = None,
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
    return _claim_answer(cli, won, ModelRef(model, provider, revision, subset))


def _lease(text: str) -> float | None:
    if text == FOREVER:
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidArgument("lease", f"must be a number of seconds, or {FOREVER}, not {text!r}") from None


def _claim_answer(cli: Cli, won: Claim | None, ref: ModelRef) -> Answer:
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
    return Answer(Said({"claimed": True, "word": ticket.word, "claim": won}, ticket.shell_line), note)


def _no(cli: Cli, asked: str, ref: ModelRef, words: str = "") -> Answer:
    """The answer is no, and what is true instead."""
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


@command(app, warns=False)
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


@command(app, warns=False)
def finish(
    cli: Cli,
    status: Annotated[str, typer.Argument(metavar="STATUS", help="DOWNLOADED or ERROR.", show_default=False)],
    claim: ClaimArgument,
    message: MessageOption = None,
    size_bytes: Annotated[
        int | None, typer.Option("--size-bytes", metavar="N", help="DOWNLOADED: how large the files are.")
    ] = None,
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
    mine = _claimed(cli, claim)
    done = cli.registry.finish_download_claim(
        mine,
        status.upper(),
        message,
        size_bytes=size_bytes,
        location=location,
        resolved_revision=resolved_revision,
        retry_in=retry_in,
        permanent=permanent,
    )
    return Answer(Said({"finished": True})) if done else _no(cli, "finished", mine.ref)


@command(app, warns=False)
def release(cli: Cli, claim: ClaimArgument) -> Answer:
    """Give a claim back.

    Another can go on at once, and the attempt does not count.
    """
    mine = _claimed(cli, claim)
    done = cli.registry.release_download_claim(mine)
    return Answer(Said({"released": True})) if done else _no(cli, "released", mine.ref)


@command(app, "run")
def ensure(
    cli: Cli,
    model: ModelArgument,
    command_line: CommandArgument,
    provider: ProviderOption = HUGGING_FACE,
    revision: RevisionOption = None,
    subset: SubsetOption = None,
    store: StoreOption = None,
    publish: PublishOption = PublishWord.RENAME,
    verify: VerifyOption = None,
    timeout: WaitOption = None,
    retry_attempts: RetryOption = DEFAULT_RETRY.attempts,
    retry_delay: RetryDelayOption = DEFAULT_RETRY.first_delay,
    stall_timeout: StallOption = None,
    lease: OwnLeaseOption = KEPT_LEASE,
    expected_bytes: ExpectedBytesOption = None,
    owner: Annotated[
        str | None,
        typer.Option(
            "--owner",
            metavar="NAME",
            help="Who downloads, for people. [default: host and process]",
            show_default=False,
        ),
    ] = None,
    visibility_timeout: VisibilityOption = VISIBILITY_TIMEOUT,
    on_unavailable: UnavailableOption = OnUnavailableWord.RAISE,
    on_unproven: UnprovenOption = OnUnprovenWord.CANCEL,
) -> Answer | int:
    """Run COMMAND once in a fleet; the others wait for it.

    \b
        pyregistry run org/model --store /models -- sh -c 'fetch org/model "$PYREGISTRY_FOLDER"'

    COMMAND finds PYREGISTRY_MODEL, _PROVIDER, _REVISION, _SUBSET, _TOKEN, _CLAIM_ID, _ATTEMPT and, with --store,
    _FOLDER in its environment; that of --verify has _LOCATION, _SIZE_BYTES and _RESOLVED_REVISION too. When the
    claim is lost, COMMAND and all that it has started is ended.
    """
    return run_command(
        cli,
        ModelRef(model, provider, revision, subset),
        command_line,
        owner=owner,
        store=store,
        publish=publish.value,
        verify=verify,
        retry=RetryPolicy(retry_attempts, retry_delay, max_delay=max(retry_delay, DEFAULT_RETRY.max_delay)),
        lease=lease,
        expected_bytes=expected_bytes,
        timeout=timeout,
        stall_timeout=stall_timeout,
        visibility_timeout=visibility_timeout,
        on_unavailable=on_unavailable.value,
        on_unproven=on_unproven.value,
    )


# What anybody may do


@command(app, "set-status")
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
    cli.registry.set_status(model, provider, status.upper(), message, revision=revision, subset=subset)
    return Answer(Said({"set": True}))


@command(app)
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
        return Answer(Said({"touched": False}), f"{printable(model)} is unknown", Exit.NO)
    return Answer(Said({"touched": True}))


@command(app)
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
    document = {"deleted": gone}
    if not gone:
        why = "is unknown" if token is None else f"is unknown, or has another token than {token}"
        return Answer(Said(document), f"{printable(model)} {why}", Exit.NO)
    return Answer(Said(document))


# Servers


@command(app, name="doctor")
def examine(
    cli: Cli,
    records: Annotated[
        bool, typer.Option(help="Read all records too, in pages (SCAN); else look at the server only.")
    ] = True,
) -> Answer:
    """Look for what is wrong with the server and the namespace."""
    config = cli.config
    found = doctor.examine(config.url, config.namespace, records=records, **config.options)
    wrong = any(finding.is_wrong for finding in found)
    return Answer(Findings(found), code=Exit.NO if wrong else Exit.DONE)


@command(app, common=False)
def serve(
    cli: Cli,
    port: Annotated[
        int | None,
        typer.Option(
            help="A TCP port of 127.0.0.1 too, which every user of this machine can reach.",
            min=1,
            max=65535,
            show_default=False,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Its data folder. [default: the user's]", show_default=False)
    ] = None,
) -> int:
    """Run the embedded server in the foreground.

    All processes of this user find it by the URL embedded:// (with --data-dir: embedded:///path). It takes
    this process's place: Ctrl-C ends it in good order, and the exit code is the server's.
    """
    if cli.given.url is not None or cli.given.namespace is not None or cli.given.as_json:
        raise InvalidArgument("serve", "takes no --url, --namespace or --json")
    from pyregistry.embedded import run_foreground

    where = "embedded://" if data_dir is None else f"embedded://{quote(str(data_dir.resolve()))}"
    print(f"pyregistry: starting the server of {printable(where)}; Ctrl-C ends it", file=sys.stderr)
    run_foreground(data_dir, port=port)


@command(app, common=False)
def demo(
    cli: Cli,
    processes: Annotated[int, typer.Option(help="How many want the models.")] = 8,
    models: Annotated[int, typer.Option(help="How many models they want.")] = 6,
    url: Annotated[
        str | None, typer.Option(help="A server. [default: a private embedded one]", show_default=False)
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="An empty namespace there. [default: a new one]", show_default=False)
    ] = None,
) -> int:
    """Show what this is for, on this machine.

    Some processes want the same models at the same time, and each model is downloaded once.
    """
    if cli.given.as_json:
        raise InvalidArgument("demo", "takes no --json")
    from pyregistry.demo import run as run_demo

    return run_demo(
        processes=processes,
        models=models,
        url=cli.given.url if url is None else url,
        namespace=cli.given.namespace if namespace is None else namespace,
    )


def run(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: its arguments.

    Returns:
        The exit code, an `Exit` (or what a server or the demo ended with).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Whatever the terminal can't show is no reason to fail.
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
    if context is not None and not wants_json:
        words += f"\nTry '{context.command_path} --help'."
    code = complain("UsageError", words, Exit.WRONG_CALL, json=wants_json)
    if context is not None and context.info_name in _SHELL_COMMANDS:
        fail_shell(code, json=wants_json)
    return code
