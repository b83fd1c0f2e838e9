"""The process that downloads a snapshot (`snapshot`), as its parent has it: started, tried, heard and ended."""

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

_LOOK_EVERY = 0.2  # seconds between two looks at whether the claim is lost
_GRACE = 5.0  # seconds between TERM and KILL
_LAST_WORDS = 2000  # characters of what a process said that ended without an answer
_TRIAL = 60.0  # seconds for a process to start and to import huggingface_hub, on a host that is busy

# Its own path is all that it needs to know before it reads its job.
_PROGRAM = (
    "import json, sys; job = json.loads(sys.stdin.buffer.readline()); sys.path[:] = job['path']; "
    "from pyregistry.huggingface.snapshot import main; main(job)"
)


def executable() -> str:
    """The Python that runs the process: that of ``multiprocessing``, which programs that embed Python can set.

    Raises:
        LocalFault: there is none.
    """
    found = spawn.get_executable()
    if not found:
        raise LocalFault(f"sys.executable is not set: {_SET_IT}")
    return os.fsdecode(found)


_SET_IT = "multiprocessing.set_executable(path) names the Python to start"


class SnapshotProcess:
    """One process, for as long as its context is open.

    Args:
        job: what it is told.

    Raises:
        LocalFault: it can't be started.
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
                start_new_session=True,  # a group of its own, and no Ctrl-C that is not for it
            )
        except OSError as error:
            raise LocalFault(f"{self._program} can't be started: {error}; {_SET_IT}") from error
        try:
            self._selector = selectors.DefaultSelector()
            for pipe in (self._process.stdout, self._process.stderr):
                assert pipe is not None, "it is a pipe"
                self._selector.register(pipe, selectors.EVENT_READ)
            assert self._process.stdin is not None, "it is a pipe"
            with suppress(BrokenPipeError):  # it has ended; why is seen later
                self._process.stdin.write(json.dumps(job).encode() + b"\n")
                self._process.stdin.flush()
        except BaseException as error:
            _end(self._process)
            if isinstance(error, OSError):
                raise LocalFault(f"{self._program} can't be told what to do: {error}") from error
            raise

    @property
    def pid(self) -> int:
        """Its number."""
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
        """What it says next, within that time.

        Raises:
            LocalFault: it has ended before it began, or is no Python, or says that this machine can't do it.
            SnapshotFailed: it has ended, or says that the download has failed (`SnapshotRefused`: for good).
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
        """What its end means."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        stderr = self._process.stderr
        assert stderr is not None, "it is a pipe"
        os.set_blocking(stderr.fileno(), False)  # what it has started may have it open still
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
    """Downloads a snapshot in a process of its own, and ends that process whatever happens.

    Args:
        wanted: what is wanted.
        name: how the hub writes the repository's name.
        commit: the commit.
        why_not: why no download can be begun; "": it can.
    """

    def __init__(self, wanted: Snapshot, name: str, commit: str, why_not: str) -> None:
        self._wanted = wanted
        self._name = name
        self._commit = commit
        self._why_not = why_not
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End it. Any thread."""
        self._stopped.set()

    def check(self) -> None:
        """See, before there is a claim, whether a download can be begun from here. Blocks.

        What has worked once is not tried again by this process.

        Raises:
            LocalFault: this machine can't.
            SnapshotFailed: the hub is away.
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
        """What a trial is of."""
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
        """Download, and tell the claim how far it is and what it was. Blocks.

        Raises:
            SnapshotFailed: it did not work, or the hub said no (`SnapshotRefused`).
            LocalFault: it can't work on this machine.
            ClaimLost: somebody else's counts.
        """
        claim.report(0, message=f"Asking the hub for {self._commit[:12]}")
        try:
            with SnapshotProcess(self._wanted.job(self._name, self._commit, folder)) as process:
                _log.info("%s is downloaded by process %d", claim.ref, process.pid)
                done = self._follow(process, claim)
        except LocalFault:
            _trials.worked.clear()  # what worked does so no more: it is tried before the next claim
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
        """Something that the process said; what was downloaded, if that is it."""
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
        worked: what has been tried, and has worked.
    """

    def __init__(self) -> None:
        self.worked: set[tuple[object, ...]] = set()
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._after_fork_in_child)

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()  # a thread of the parent may hold the other

    @contextmanager
    def turn(self, look_up: Callable[[], None]) -> Iterator[None]:
        """Wait for the trials of other threads; ``look_up`` is called meanwhile, and may raise."""
        lock = self._lock
        while not lock.acquire(timeout=_LOOK_EVERY):
            look_up()
        try:
            yield
        finally:
            lock.release()


_trials = _Trials()


def _end(process: subprocess.Popen[bytes]) -> None:
    """See that a process and its group have ended."""
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
