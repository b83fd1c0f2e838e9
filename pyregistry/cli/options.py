"""The options and arguments that more than one command takes."""

from __future__ import annotations

from typing import Annotated

import typer

from pyregistry.cli.ticket import CLAIM_VARIABLE

FOREVER = "none"

# Every command

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The server: redis://, rediss://, unix:// or embedded://. "
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

# Some of them

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.", show_default=False)]
ProviderOption = Annotated[
    str, typer.Option("--provider", "-p", metavar="WORD", help="Where the model comes from.")
]
AnyProviderOption = Annotated[
    str | None,
    typer.Option(
        "--provider",
        "-p",
        metavar="WORD",
        help="Where the model comes from. [default: any of the four]",
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
    str, typer.Argument(metavar="STATUS", help="DOWNLOADING, DOWNLOADED or ERROR.", show_default=False)
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
MessageOption = Annotated[
    str | None, typer.Option("--message", "-m", metavar="TEXT", help="What to show to people.")
]
