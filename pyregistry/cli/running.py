"""``pyregistry run``: run a command in one process of the fleet while the others wait for it."""

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

_TICK = 0.25  # seconds between two checks of the claim while a command runs
_LOOK_EVERY = 1.0  # minimum seconds between two measurements of the folder's size
_LOOK_SHARE = 20  # the interval is also at least 20 times as long as a measurement takes


class CommandFailed(Exception):
    """The command has ended with an exit code other than 0."""


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
    """Make a model available: run the command under a claim, or wait for the claim's owner.

    Args:
        cli: The command line.
        ref: The model.
        command: The program that downloads the model, and its arguments.
        owner: Human-readable client name. Defaults to host and process.
        store: Folder of the `FolderStore` that the command fills. None: the command stores the files itself.
        publish: How the store publishes staged files.
        verify: A line for ``/bin/sh`` that exits with 0 if the files of a DOWNLOADED model exist. None: no check.
        retry: Attempts and delays of the whole fleet.
        lease: Length of the lease, in seconds.
        expected_bytes: Expected size of the model; None if unknown.
        timeout: Longest wait for other owners, in seconds. None: no limit.
        stall_timeout: Seconds without growth of the folder after which the command is ended. None: no limit.
        visibility_timeout: Seconds after a download in which its files may still become visible.
        on_unavailable: Behaviour when the registry does not answer.
        on_unproven: Behaviour when the lease cannot be proved.

    Returns:
        The answer, or an exit code. After a failed command it is the command's own exit code.

    Raises:
        InvalidArgument: The program does not exist here, or an option lacks ``--store``.
        RegistryError: Any error that this function does not report itself.
    """
    if shutil.which(command[0]) is None:
        # Checked before the claim, because a program that is missing here must not cost the fleet an attempt.
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
        return _complain_local("LocalFault", str(error), of_store=of_store, json=cli.wants_json)
    except RegistryError:
        raise  # before OSError, because WaitTimedOut is one as well
    except OSError as error:
        words = f"this machine can't do it: {error}"
        return _complain_local(type(error).__name__, words, of_store=store is not None, json=cli.wants_json)
    path = None if folders is None else folders.path(record)
    return Answer(
        Said({"downloaded_here": record.token in runner.won, "path": path and str(path), "record": record}),
        _is_there(ref, record, path, here=record.token in runner.won),
    )


def _complain_local(kind: str, message: str, *, of_store: bool, json: bool) -> int:
    """Report a fault of this machine: another replica may succeed. Returns the exit code.

    Args:
        kind: Name of the error class.
        message: Error text; may hold unprintable characters.
        of_store: Whether to advise a check of the folder of ``--store``.
        json: Whether to write JSON.
    """
    said = Told(printable(message), _OF_THE_STORE if of_store else "")
    return complain(kind, said, Exit.UNAVAILABLE, json=json)


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
    """Runs the commands of one call, all of them in the main thread.

    Attributes:
        waiting: Reports the downloads of other replicas.
        won: Tokens of the claims that this process won.
        codes: Exit codes of commands that failed in this process, keyed by the token of the claim.
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
        """Handle a signal: pass it on to the running command; without a command, end the wait.

        Raises:
            Stopped: This is the first signal, and no command is running or starting.
        """
        first = self._stopped is None
        if first:
            self._stopped = number
        if self._child is not None:
            self._child.pass_on(number)
        elif first and not self._busy:
            raise Stopped(number)

    def download(self, claim: OwnedClaim, folder: Path | None = None) -> None:
        """Run the command under a claim.

        Args:
            claim: The claim.
            folder: The staging folder. None: no store.

        Raises:
            CommandFailed: The exit code is not 0, and the claim was not lost.
            Stopped: A signal came while the command ran.
        """
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
            # With --json standard output holds the document alone, so the command writes to standard error.
            code = self._run(self._command, more, 2 if self._cli.wants_json else None, claim, folder)
        if code and not claim.lost.is_set():
            self.codes[claim.token] = code
            said = f"{Path(self._command[0]).name} ended with exit code {code}"
            if claim.attempts < self._attempts:
                # The failure of the last attempt is the error of the whole command, reported in `run_command`.
                self._cli.note(f"{name_of(self._ref)}: attempt {claim.attempts} failed: {printable(said)}")
            raise CommandFailed(said)

    def accepts(self, record: ModelRecord) -> bool:
        """Return whether the command of ``--verify`` finds the files.

        Raises:
            RegistryError: The command could not be run, or a signal killed it.
            Stopped: A signal came while the command ran.
        """
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
            # This is an error and no negative answer: after a negative answer the record would be deleted.
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
        """Run a command to its end; end it early if the claim is lost.

        Args:
            command: The program and its arguments.
            more: Additional variables for its environment, without their prefix.
            stdout: Descriptor of its standard output. None: this process's.
            claim: The claim that the command runs under. Defaults to none.
            folder: The folder whose size is reported as progress. Defaults to none.

        Returns:
            The exit code.

        Raises:
            Stopped: A signal came while the command ran. Raised after its end.
        """
        look_at = time.monotonic()
        self._busy = True
        try:
            with Child(command, self._environment(more), stdout) as child:
                self._child = child
                if self._stopped is not None:
                    child.pass_on(self._stopped)  # the signal came while the command was being started
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
        # Remove the variables of an outer `run` or `claim`, so that the command can't use another claim as its own.
        others = ("CLAIM", "TOKEN", "CLAIM_ID", "ATTEMPT", "FOLDER", "LOCATION")
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in {f"PYREGISTRY_{other}" for other in others}
        }
        return {**inherited, **{f"PYREGISTRY_{name}": value for name, value in ours.items()}}


def _size(folder: Path) -> int:
    """Return the total size of the files in a folder, at any depth. Files may appear and vanish during the scan."""
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
