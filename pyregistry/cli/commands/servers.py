"""Commands for servers: ping, doctor, serve, and the demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from pyregistry.cli import health
from pyregistry.cli.advice import clearer
from pyregistry.cli.command import command
from pyregistry.cli.context import Cli
from pyregistry.cli.exit_codes import Exit
from pyregistry.cli.formatting import printable
from pyregistry.cli.output import Answer, Findings, Said
from pyregistry.errors import InvalidArgument


@command("ping")
def probe(
    cli: Cli,
    write: Annotated[
        bool, typer.Option("--write", help="Also send a write, which changes no record and leaves none.")
    ] = False,
) -> Answer:
    """Say whether the registry answers, for probes.

    It ends within --timeout, whatever the network does.
    """
    pong = health.ping(cli.config, write=write)
    writes = " and takes writes" if write else ""
    words = f"{pong.server} answers{writes}, namespace {pong.namespace}, {pong.milliseconds:g} ms"
    return Answer(Said(pong, words))


@command("doctor")
def examine(
    cli: Cli,
    records: Annotated[
        bool, typer.Option(help="Read all records too, in pages (SCAN); else look at the server only.")
    ] = True,
) -> Answer:
    """Look for what is wrong with the server and the namespace."""
    from pyregistry import doctor

    config = cli.config
    found = doctor.examine(config.url, config.namespace, records=records, **config.options)
    wrong = any(finding.is_wrong for finding in found)
    return Answer(
        Findings([clearer(finding, config) for finding in found]), code=Exit.NO if wrong else Exit.DONE
    )


@command(common=False)
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
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the one that runs, unless it has clients.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Stop it though it has clients.")] = False,
) -> Answer | int:
    """Run the embedded server in the foreground, or stop it.

    All processes of this user find it by the URL embedded:// (with --data-dir: embedded:///path). It takes
    this process's place: Ctrl-C ends it in good order, and the exit code is the server's.
    """
    if cli.given.url is not None or cli.given.namespace is not None or cli.given.as_json:
        raise InvalidArgument("serve", "takes no --url, --namespace or --json")
    if force and not stop:
        raise InvalidArgument("--force", "is for --stop")
    if stop:
        if port is not None:
            raise InvalidArgument("--port", "is not for --stop")
        return _stop_server(data_dir, force=force)
    from pyregistry.embedded import run_foreground

    where = "embedded://" if data_dir is None else f"embedded://{quote(str(data_dir.resolve()))}"
    print(f"pyregistry: starting the server of {printable(where)}; Ctrl-C ends it", file=sys.stderr)
    return run_foreground(data_dir, port=port)


def _stop_server(data_dir: Path | None, *, force: bool) -> Answer:
    from pyregistry.embedded import stop_shared, stop_unused

    clients = (0 if stop_shared(data_dir) else None) if force else stop_unused(data_dir)
    if clients is None:
        return Answer(Said({"stopped": False}), "no server runs", Exit.NO)
    if clients:
        used = "1 connection" if clients == 1 else f"{clients} connections"
        return Answer(
            Said({"stopped": False}), f"not stopped: it has {used}; --force stops it all the same", Exit.NO
        )
    return Answer(Said({"stopped": True}), "stopped; its data stay")


@command(common=False)
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
