"""``pyregistry run``: a command that one process of the whole fleet runs, the others wait for that one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pyregistry._coordination.lease import OwnedClaim
from pyregistry._coordination.local_faults import NO_DESCRIPTORS
from pyregistry._coordination.options import OnUnavailable, OnUnproven
from pyregistry._core.claim_ids import default_owner
from pyregistry.cli.advice import Told
from pyregistry.cli.context import Cli, complain
from pyregistry.cli.exit_codes import Exit, exit_of
from pyregistry.cli.formatting import name_of, printable
from pyregistry.cli.output import Answer, Said
from pyregistry.cli.process import Child
from pyregistry.cli.progress import Waiting
from pyregistry.cli.signals import Stopped, told_of_signals
from pyregistry.cli.supervisor import NOT_FOUND, NOT_RUNNABLE
from pyregistry.cli.units import size
from pyregistry.errors import DownloadFailed, InvalidArgument, LocalFault, RegistryError
from pyregistry.models import ModelRecord, ModelRef, Provider
from pyregistry.retry import RetryPolicy
from pyregistry.stores.folder import FolderStore, Publish

__all__ = ["CommandFailed", "run_command"]

_OF_THE_STORE = (
    "look whether this user may write below --store, whether it is mounted for writing, and has room"
)

_TICK = 0.25  # seconds between two looks at the claim while a command runs
_LOOK_EVERY = 1.0  # seconds between two looks at how far it is
_LOOK_SHARE = 20  # and that many times as long as a look takes


class CommandFailed(Exception):
    """A command has ended with another exit code than 0."""


def run_command(
    cli: Cli,
    ref: ModelRef,
    command: Sequence[str],
    *,
    owner: str | None,
    store: Path | None,
    publish: Publish,
    verify: str | None,
    retry: RetryPolicy,
    lease: float,
    expected_bytes: int | None,
    timeout: float | None,
    stall_timeout: float | None,
    visibility_timeout: float,
    on_unavailable: OnUnavailable,
    on_unproven: OnUnproven,
) -> Answer | int:
    """Have a model there: run the command, or wait for who does. The exit code may be the command's own."""
    if shutil.which(command[0]) is None:
        # Told before anything is claimed: that it is missing here is no reason for others to fail.
        raise InvalidArgument("COMMAND", f"there is no program {command[0]!r} here")
    if stall_timeout is not None and store is None:
        raise InvalidArgument("stall_timeout", "needs --store: without it nobody sees how far the command is")
    if publish != "rename" and store is None:
        raise InvalidArgument("publish", "needs --store: nothing is published without it")
    folders = None if store is None else FolderStore(store, publish=publish)
    runner = _Runner(cli, ref, command, verify, folders, retry.attempts)
    try:
        with told_of_signals(runner.tell):
            client = cli.client if on_unavailable == "verify" else cli.registry
            with Waiting(client, ref, quiet=cli.wants_json) as runner.waiting:
                record = client.ensure(
                    ref.name, ref.provider or Provider(""), runner.download, revision=ref.revision, subset=ref.subset,
                    store=folders, verify=runner.accepts if verify is not None else None, retry=retry,
                    lease=lease, owner=owner or default_owner(), expected_bytes=expected_bytes,
                    timeout=timeout, stall_timeout=stall_timeout, visibility_timeout=visibility_timeout,
                    on_unavailable=on_unavailable, on_unproven=on_unproven,
                )  # fmt: skip
    except Stopped as stopped:
        return complain("Stopped", str(stopped), stopped.exit_code, json=cli.wants_json)
    except DownloadFailed as error:
        code = runner.codes.get(error.record.token, exit_of(error))
        return complain("DownloadFailed", printable(str(error)), code, json=cli.wants_json)
    except LocalFault as error:
        cause = error.__cause__
        of_store = store is not None and isinstance(cause, OSError) and cause.errno not in NO_DESCRIPTORS
        said = Told(printable(str(error)), _OF_THE_STORE if of_store else "")
        return complain("LocalFault", said, exit_of(error), json=cli.wants_json)
    except RegistryError:
        raise  # also those that are OSErrors
    except OSError as error:
        # Of this machine, and not of the model: another replica may do better.
        said = Told(f"this machine can't do it: {printable(str(error))}", _OF_THE_STORE if store else "")
        return complain(type(error).__name__, said, Exit.UNAVAILABLE, json=cli.wants_json)
    path = None if folders is None else folders.path(record)
    return Answer(
        Said({"downloaded_here": record.token in runner.won, "path": path and str(path), "record": record}),
        _is_there(ref, record, path, here=record.token in runner.won),
    )


def _is_there(ref: ModelRef, record: ModelRecord, path: Path | None, *, here: bool) -> str:
    parts = []
    if here or record.owner is not None:
        parts.append("downloaded here" if here else f"downloaded by {printable(record.owner or '')}")
    if record.size_bytes is not None:
        parts.append(size(record.size_bytes))
    if path is not None:
        parts.append(printable(str(path)))
    return f"{name_of(ref)} is there{': ' if parts else ''}{', '.join(parts)}"


class _Runner:
    """Runs the commands of one call, all in the main thread.

    Attributes:
        waiting: what is said meanwhile.
        won: the tokens of the claims that were won here.
        codes: how the command has failed here, by the token of its claim.
    """

    waiting: Waiting

    def __init__(
        self,
        cli: Cli,
        ref: ModelRef,
        command: Sequence[str],
        verify: str | None,
        store: FolderStore | None,
        attempts: int,
    ) -> None:
        self._cli = cli
        self._ref = ref
        self._command = command
        self._verify = verify
        self._attempts = attempts
        self._store = store
        self._stopped: int | None = None
        self._busy = False
        self._child: Child | None = None
        self.won = set[int]()
        self.codes: dict[int, int] = {}

    def tell(self, number: int) -> None:
        """A signal has come: it is for the command that runs; else it ends the waiting."""
        first = self._stopped is None
        if first:
            self._stopped = number
        if self._child is not None:
            self._child.pass_on(number)
        elif first and not self._busy:
            raise Stopped(number)

    def download(self, claim: OwnedClaim, folder: Path | None = None) -> None:
        """Run the command under this claim."""
        self.won.add(claim.token)
        more = {
            "TOKEN": str(claim.token),
            "CLAIM_ID": claim.claim_id,
            "ATTEMPT": str(claim.attempts),
        }
        if folder is not None:
            more["FOLDER"] = str(folder)
        with self.waiting.hidden(claim.token):
            self._say_won(claim)
            # With --json standard output is for the document alone.
            code = self._run(self._command, more, 2 if self._cli.wants_json else None, claim, folder)
        if code and not claim.lost.is_set():
            self.codes[claim.token] = code
            said = f"{Path(self._command[0]).name} ended with exit code {code}"
            if claim.attempts < self._attempts:
                # The last one's is what the whole command ends with.
                self._cli.note(f"{name_of(self._ref)}: attempt {claim.attempts} failed: {printable(said)}")
            raise CommandFailed(said)

    def accepts(self, record: ModelRecord) -> bool:
        """Whether the command of ``--verify`` finds the files."""
        more = {
            "TOKEN": str(record.token),
            "LOCATION": record.location or "",
            "SIZE_BYTES": "" if record.size_bytes is None else str(record.size_bytes),
            "RESOLVED_REVISION": record.resolved_revision or "",
        }
        if self._store is not None and record.location is not None:
            more["FOLDER"] = str(self._store.path(record))
        code = self._run(["/bin/sh", "-c", self._verify or ""], more, 2)
        if code in (NOT_FOUND, NOT_RUNNABLE) or code > 128:
            # Not a no, for which a record would be deleted.
            raise RegistryError(f"the command of --verify could not be carried out: exit code {code}")
        return code == 0

    def _say_won(self, claim: OwnedClaim) -> None:
        words = f"{name_of(self._ref)}: attempt {claim.attempts} runs here, token {claim.token}"
        if claim.taken_over and claim.previous_owner:
            words += f"; taken over from {printable(claim.previous_owner)}"
            if claim.previous_bytes_done:
                words += f", which had got to {size(claim.previous_bytes_done)}"
        self._cli.note(words)

    def _run(
        self,
        command: Sequence[str],
        more: Mapping[str, str],
        stdout: int | None,
        claim: OwnedClaim | None = None,
        folder: Path | None = None,
    ) -> int:
        """Run it to its end, and end it if the claim is lost. A signal that came meanwhile is raised then."""
        look_at = time.monotonic()
        self._busy = True
        try:
            with Child(command, self._environment(more), stdout) as child:
                self._child = child
                if self._stopped is not None:
                    child.pass_on(self._stopped)  # it came while the command was started
                while (code := child.wait(_TICK)) is None:
                    if claim is None:
                        continue
                    if claim.lost.is_set():
                        child.end()
                    elif folder is not None and time.monotonic() >= look_at:
                        began = time.monotonic()
                        claim.report(_size(folder))
                        took = time.monotonic() - began
                        look_at = began + max(_LOOK_EVERY, _LOOK_SHARE * took)
        finally:
            self._child, self._busy = None, False
        if self._stopped is not None:
            raise Stopped(self._stopped)
        return code

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        name, provider, revision, subset = self._ref
        ours = {
            "MODEL": name,
            "PROVIDER": str(provider),
            "REVISION": revision or "",
            "SUBSET": subset or "",
            **more,
        }
        # Nothing of an outer `run` or `claim` is left: the command is not to take it for its own.
        others = ("CLAIM", "TOKEN", "CLAIM_ID", "ATTEMPT", "FOLDER", "LOCATION")
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in {f"PYREGISTRY_{other}" for other in others}
        }
        return {**inherited, **{f"PYREGISTRY_{name}": value for name, value in ours.items()}}


def _size(folder: Path) -> int:
    """The size of the files in it, at any depth; they may come and go meanwhile."""
    total, pending = 0, [os.fspath(folder)]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    return total
