"""The command run: one download for the whole fleet."""

from __future__ import annotations

from typing import Annotated

import typer

from pyregistry._coordination.options import VISIBILITY_TIMEOUT
from pyregistry._core.values import KEPT_LEASE
from pyregistry.cli.command import command
from pyregistry.cli.context import Cli
from pyregistry.cli.options import (
    HUGGING_FACE,
    CommandArgument,
    ExpectedBytesOption,
    ModelArgument,
    OnUnavailableWord,
    OnUnprovenWord,
    OwnLeaseOption,
    ProviderOption,
    PublishOption,
    PublishWord,
    RetryDelayOption,
    RetryOption,
    RevisionOption,
    StallOption,
    StoreOption,
    SubsetOption,
    UnavailableOption,
    UnprovenOption,
    VerifyOption,
    VisibilityOption,
    WaitOption,
)
from pyregistry.cli.output import Answer
from pyregistry.cli.running import run_command
from pyregistry.models import ModelRef
from pyregistry.retry import DEFAULT_RETRY, RetryPolicy


# `said` hides the log's copy of COMMAND's failure, because this command reports it itself.
@command("run", said=r"the download of .* failed: CommandFailed: ")
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
