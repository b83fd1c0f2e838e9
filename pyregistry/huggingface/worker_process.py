"""The parent's side of the worker process that downloads a snapshot (`snapshot`): start, trial, messages, end."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import threading
from contextlib import contextmanager, suppress
from multiprocessing import spawn
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyregistry._core.clock import now
from pyregistry.errors import LocalFault
from pyregistry.huggingface.errors import SnapshotFailed, SnapshotRefused, without_secrets
from pyregistry.retry import message_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from typing_extensions import Self

    from pyregistry._coordination.lease import OwnedClaim
    from pyregistry.huggingface.specification import Snapshot

_log = logging.getLogger("pyregistry.huggingface")

_LOOK_EVERY = 0.2  # seconds between checks for a lost claim
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_LAST_WORDS = 2000  # characters of stderr shown for a process that ended without a reply
_TRIAL = 60.0  # seconds allowed for a process to start and import huggingface_hub on a busy host

# The job sets `sys.path`, so the program imports nothing of this package before it has read the job.
_PROGRAM = (
    "import json, sys; job = json.loads(sys.stdin.buffer.readline()); sys.path[:] = job['path']; "
    "from pyregistry.huggingface.snapshot import main; main(job)"
)


def executable() -> str:
    """Return the Python of the worker process: that of ``multiprocessing``, which embedding programs can set.

    Raises:
        LocalFault: No Python is set.
    """
    found = spawn.get_executable()
    if not found:
        raise LocalFault(f"sys.executable is not set: {_SET_IT}")
    return os.fsdecode(found)


_SET_IT = "multiprocessing.set_executable(path) names the Python to start"


class SnapshotProcess:
    """One worker process. A context manager that ends it on exit.

    Args:
        job: Job of the process.

    Raises:
        LocalFault: The process can't be started.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._token = job["token"]
        self._program = executable()
        self._started = False
        self._unread = self._errors = b""
        try:
            self._process = subprocess.Popen(
                [self._program, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # its own process group, which Ctrl-C does not reach
            )
        except OSError as error:
            raise LocalFault(f"{self._program} can't be started: {error}; {_SET_IT}") from error
        try:
            self._selector = selectors.DefaultSelector()
            for pipe in (self._process.stdout, self._process.stderr):
                assert pipe is not None, "it is a pipe"
                self._selector.register(pipe, selectors.EVENT_READ)
            assert self._process.stdin is not None, "it is a pipe"
            with suppress(BrokenPipeError):  # the process has ended; `hear` raises the cause
                self._process.stdin.write(json.dumps(job).encode() + b"\n")
                self._process.stdin.flush()
        except BaseException as error:
            _end(self._process)
            if isinstance(error, OSError):
                raise LocalFault(f"{self._program} can't be told what to do: {error}") from error
            raise

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._selector.close()
        _end(self._process)

    def hear(self, seconds: float) -> Iterator[dict[str, Any]]:
        """Yield the messages that arrive within this many seconds.

        Raises:
            LocalFault: The process ended before its start message, is not a Python, or reports a local fault.
            SnapshotFailed: The process ended, or reports a failed download (`SnapshotRefused`: permanently).
        """
        said: list[dict[str, Any]] = []
        for key, _ in self._selector.select(seconds):
            got = os.read(key.fd, 65536)
            if key.fileobj is self._process.stderr:
                self._errors = (self._errors + got)[-4 * _LAST_WORDS :]
                if not got:
                    self._selector.unregister(key.fileobj)
            elif got:
                *lines, self._unread = (self._unread + got).split(b"\n")
                said += map(self._read, lines)
            else:
                raise self._ended()
        for words in said:
            self._started = True
            if "failed" in words:
                if words["local"]:
                    raise LocalFault(words["failed"])
                raise (SnapshotRefused if words["permanent"] else SnapshotFailed)(words["failed"])
            yield words

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            words = json.loads(line)
        except ValueError:
            words = None
        if not isinstance(words, dict):
            raise LocalFault(f"{self._program} is no Python: it says {self._shown(line)!r}; {_SET_IT}")
        return words

    def _ended(self) -> Exception:
        """Return the error for the end of the process."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        stderr = self._process.stderr
        assert stderr is not None, "it is a pipe"
        os.set_blocking(stderr.fileno(), False)  # a child of the process may still have it open
        with suppress(BlockingIOError):
            while got := os.read(stderr.fileno(), 65536):
                self._errors = (self._errors + got)[-4 * _LAST_WORDS :]
        why = f"ended by itself ({self._process.returncode}): {self._shown(self._errors)}"
        if self._started:
            return SnapshotFailed(f"its process {why}")
        return LocalFault(f"the process that downloads, {self._program}, {why}".rstrip(": "))

    def _shown(self, text: bytes) -> str:
        shown = text.decode(errors="replace")[-_LAST_WORDS:]
        return (
            without_secrets(message_of(Exception(shown)), self._token).removeprefix("Exception").lstrip(": ")
        )


class Fetch:
    """Downloads a snapshot in its own process, and always ends that process.

    Args:
        wanted: Requested snapshot.
        name: Repository's name in the hub's spelling.
        commit: Commit of the snapshot.
        why_not: Reason why no download can begin. Empty: it can.
    """

    def __init__(self, wanted: Snapshot, name: str, commit: str, why_not: str) -> None:
        self._wanted = wanted
        self._name = name
        self._commit = commit
        self._why_not = why_not
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Stop the download. Thread-safe. Idempotent."""
        self._stopped.set()

    def check(self) -> None:
        """Check before a claim whether this machine can download. Blocks.

        This process does not repeat a successful trial.

        Raises:
            LocalFault: This machine can't download.
            SnapshotFailed: The hub is unavailable.
        """
        if self._why_not:
            error = SnapshotFailed(self._why_not)
            error.hub_away = True
            raise error
        with _trials.turn(self._look_up):
            what = self._needs()
            if what not in _trials.worked:
                self._try()
                _trials.worked.add(what)

    def _needs(self) -> tuple[object, ...]:
        """Return the key of a trial: the inputs on which its result depends."""
        wanted = self._wanted
        place = None if wanted.store is not None else (wanted.cache_dir, self._name)
        return executable(), place, wanted.max_workers

    def _try(self) -> None:
        ends = now() + _TRIAL
        with SnapshotProcess({**self._wanted.job(self._name, self._commit, None), "trial": True}) as process:
            while True:
                self._look_up()
                if any("done" in words for words in process.hear(_LOOK_EVERY)):
                    return
                if now() >= ends:
                    raise LocalFault(f"the process that downloads says nothing for {_TRIAL:g} s")

    def run(self, claim: OwnedClaim, folder: Path | None = None) -> None:
        """Download the snapshot, and report progress and result to the claim. Blocks.

        Raises:
            SnapshotFailed: The download failed, or the hub refused (`SnapshotRefused`).
            LocalFault: This machine can't download.
            ClaimLost: The claim was lost.
        """
        claim.report(0, message=f"Asking the hub for {self._commit[:12]}")
        try:
            with SnapshotProcess(self._wanted.job(self._name, self._commit, folder)) as process:
                _log.info("%s is downloaded by process %d", claim.ref, process.pid)
                done = self._follow(process, claim)
        except LocalFault:
            _trials.worked.clear()  # the machine has changed, so a trial runs before the next claim
            raise
        claim.describe(size_bytes=done["size"], location=done.get("location"), resolved_revision=self._commit)

    def _follow(self, process: SnapshotProcess, claim: OwnedClaim) -> dict[str, Any]:
        while True:
            if claim.lost.is_set():
                raise claim.held.loss()
            self._look_up()
            for words in process.hear(_LOOK_EVERY):
                done = self._hear(claim, words)
                if done is not None:
                    return done

    def _look_up(self) -> None:
        if self._stopped.is_set():
            raise SnapshotFailed("its caller was cancelled")

    def _hear(self, claim: OwnedClaim, words: dict[str, Any]) -> dict[str, Any] | None:
        """Handle a message of the process. Returns the result if the message is the last one."""
        if "bytes" in words:
            claim.report(words["bytes"])
        elif "total" in words:
            files = "1 file" if words["files"] == 1 else f"{words['files']} files"
            claim.report(0, words["total"], f"Downloading {files} of {self._commit[:12]}")
        elif "log" in words:
            _log.warning("%s: %s", claim.ref, words["log"])
        elif "done" in words:
            done: dict[str, Any] = words["done"]
            return done
        return None


class _Trials:
    """The trials of this process, one at a time.

    Attributes:
        worked: Keys of the successful trials.
    """

    def __init__(self) -> None:
        self.worked: set[tuple[object, ...]] = set()
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._after_fork_in_child)

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()  # a thread of the parent may have held the old lock during the fork

    @contextmanager
    def turn(self, look_up: Callable[[], None]) -> Iterator[None]:
        """Wait for the trials of other threads. Calls ``look_up`` every 0.2 s meanwhile, which may raise."""
        lock = self._lock
        while not lock.acquire(timeout=_LOOK_EVERY):
            look_up()
        try:
            yield
        finally:
            lock.release()


_trials = _Trials()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE if number == signal.SIGTERM else None)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
