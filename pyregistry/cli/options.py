"""Declarations of options and arguments that more than one command has, and of those of `run`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, cast

import typer

from pyregistry.cli.choices import PROVIDERS
from pyregistry.cli.claim_token import CLAIM_VARIABLE
from pyregistry.cli.completion import (
    complete_ending,
    complete_model,
    complete_provider,
    complete_settable,
    complete_status,
)
from pyregistry.models import ModelProvider

if TYPE_CHECKING:
    from pyregistry.models import Provider

FOREVER = "none"
HUGGING_FACE = cast("Provider", ModelProvider.HUGGING_FACE.value)


class OnUnavailableWord(str, Enum):
    """Behaviour of `run` when the registry does not answer."""

    RAISE = "raise"
    VERIFY = "verify"


class PublishWord(str, Enum):
    """How a store publishes files."""

    RENAME = "rename"
    MANIFEST = "manifest"


class OnUnprovenWord(str, Enum):
    """Behaviour of `run` when it can't prove its lease: end its command, or let it continue."""

    CANCEL = "cancel"
    CONTINUE = "continue"


# Every command

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The server: redis://, rediss:// (or valkey://, valkeys://), redis+sentinel://, unix:// or embedded://. "
        "[default: PYREGISTRY_URL, REDIS_URL, ...; else embedded://, your own server]",
        show_default=False,
    ),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        metavar="NAME",
        help="Which registry there. [default: PYREGISTRY_NAMESPACE; else default]",
        show_default=False,
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout", metavar="SECONDS", help="Seconds to wait for an answer. [default: 5]", show_default=False
    ),
]
JsonOption = Annotated[
    bool | None,
    typer.Option("--json", help="Write one JSON document; errors too.", show_default=False),
]
VerboseOption = Annotated[
    int,
    typer.Option(
        "--verbose", "-v", count=True, help="Log to standard error; twice: everything.", show_default=False
    ),
]

# Several commands

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="The model's name.", show_default=False, autocompletion=complete_model
    ),
]
_FOUR = ", ".join(PROVIDERS[:-1]) + f" or {PROVIDERS[-1]}"
if TYPE_CHECKING:  # Typer does not support NewType; `command` converts the word to a provider
    ProviderOption: TypeAlias = Provider
    AnyProviderOption: TypeAlias = Provider | None
else:
    ProviderOption = Annotated[
        str,
        typer.Option(
            "--provider",
            "-p",
            metavar="NAME",
            help=f"Where the model comes from: {_FOUR}, in any case; hf is HuggingFace.",
            autocompletion=complete_provider,
        ),
    ]
    AnyProviderOption = Annotated[
        str | None,
        typer.Option(
            "--provider",
            "-p",
            metavar="NAME",
            help=f"Where the model comes from: {_FOUR}, in any case; hf is HuggingFace. [default: any of the four]",
            show_default=False,
            autocompletion=complete_provider,
        ),
    ]
ProviderWordOption = Annotated[
    str | None,
    typer.Option(
        "--provider-word",
        metavar="NAME",
        help="The same for a provider that is none of the four.",
        show_default=False,
    ),
]
RevisionOption = Annotated[
    str | None,
    typer.Option("--revision", metavar="WORD", help="Which revision; each has a record of its own."),
]
SubsetOption = Annotated[
    str | None,
    typer.Option("--subset", metavar="WORD", help="Which part of the files; each has a record of its own."),
]
StatusArgument = Annotated[
    str,
    typer.Argument(
        metavar="STATUS",
        help="DOWNLOADING, DOWNLOADED or ERROR.",
        show_default=False,
        autocompletion=complete_settable,
    ),
]
EndingArgument = Annotated[
    str,
    typer.Argument(
        metavar="STATUS", help="DOWNLOADED or ERROR.", show_default=False, autocompletion=complete_ending
    ),
]
StatusOption = Annotated[
    str | None,
    typer.Option(
        "--status",
        "-s",
        metavar="STATUS",
        help="Only these: DOWNLOADING, DOWNLOADED, ERROR or EVICTING.",
        autocompletion=complete_status,
    ),
]
ClaimArgument = Annotated[
    str,
    typer.Argument(
        metavar="CLAIM",
        envvar=CLAIM_VARIABLE,
        help="What `pyregistry claim` has printed.",
        show_default=False,
    ),
]
ExpectedBytesOption = Annotated[
    int | None, typer.Option("--expected-bytes", metavar="N", help="How much there is to download.")
]
LeaseOption = Annotated[
    str,
    typer.Option(
        "--lease",
        metavar="SECONDS",
        help=f"How long the claim holds without `pyregistry renew`; {FOREVER}: for ever.",
    ),
]
OwnerOption = Annotated[
    str | None,
    typer.Option(
        "--owner", metavar="NAME", help="Who claims, for people. [default: host and calling process]"
    ),
]
MaxAttemptsOption = Annotated[
    int | None, typer.Option("--max-attempts", metavar="N", help="No more attempts than that.")
]
ShowWordOption = Annotated[
    bool,
    typer.Option(
        "--show-word", help="Show the claim's word on a terminal too; whoever has it can end the download."
    ),
]
SizeBytesOption = Annotated[
    int | None, typer.Option("--size-bytes", metavar="N", help="DOWNLOADED: how large the files are.")
]
MessageOption = Annotated[
    str | None, typer.Option("--message", "-m", metavar="TEXT", help="What to show to people.")
]

# `run`

WaitOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        help="How long to wait for others, in all; a command that runs here is not limited. (Before the "
        "command's name it is how long an answer may take.)  [default: as long as an owner lives]",
        show_default=False,
    ),
]
RetryOption = Annotated[
    int,
    typer.Option(
        "--retry", metavar="ATTEMPTS", help="How often the whole fleet tries; 1: one failure is the end."
    ),
]
RetryDelayOption = Annotated[
    float,
    typer.Option(
        "--retry-delay",
        metavar="SECONDS",
        help="Before the second attempt; twice as long before each later one.",
    ),
]
OwnLeaseOption = Annotated[
    float,
    typer.Option(
        "--lease",
        metavar="SECONDS",
        help="How long the claim outlives this process; it is renewed at a third of that.",
    ),
]
StallOption = Annotated[
    float | None,
    typer.Option(
        "--stall-timeout",
        metavar="SECONDS",
        help="End a command whose folder has not grown for so long (with --store).",
        show_default=False,
    ),
]
VisibilityOption = Annotated[
    float,
    typer.Option(
        "--visibility-timeout",
        metavar="SECONDS",
        help="So long after a download its files may still come to be seen.",
    ),
]
VerifyOption = Annotated[
    str | None,
    typer.Option(
        "--verify",
        metavar="COMMAND",
        help="A line for sh that says whether the files of a DOWNLOADED model are there: exit code 0.",
        show_default=False,
    ),
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="FOLDER",
        help="The cache: COMMAND fills $PYREGISTRY_FOLDER, which is then published below it by one rename.",
        show_default=False,
    ),
]
PublishOption = Annotated[
    PublishWord,
    typer.Option(
        "--publish", help="manifest: with --store on a mount that can't rename folders, in all replicas."
    ),
]
UnavailableOption = Annotated[
    OnUnavailableWord,
    typer.Option(
        "--on-unavailable", help="When nobody answers: fail, or take what --store or --verify finds on disk."
    ),
]
UnprovenOption = Annotated[
    OnUnprovenWord,
    typer.Option(
        "--on-unproven",
        help="When nobody answers until the lease is over: end COMMAND, or go on, and tell once the claim is proved.",
    ),
]
CommandArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="COMMAND",
        help="What downloads the model; after `--` its options are its own.",
        show_default=False,
    ),
]
