"""The worker process that downloads a snapshot for `pyregistry.huggingface`. Unlike a thread, it can be ended.

The process reads its job as a line of JSON on standard input, so that no token is on a command line. It reports
progress as lines of JSON on standard output. Standard input stays open as long as the parent lives.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyregistry.huggingface.errors import NoFiles, is_local, is_permanent, without_secrets
from pyregistry.huggingface.specification import cached, storage_of
from pyregistry.retry import message_of

# huggingface_hub delivers received data in chunks of 10 MiB. With such chunks, a slow connection shows no progress
# and looks like a stall.
_PIECE = 64 * 1024
_SAMPLE_EVERY = 0.5
_UNFINISHED = ".incomplete"
_BOOKKEEPING = Path(".cache", "huggingface")
_PR_SET_PDEATHSIG = 1
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)  # such as NFS without its lock service
# Descriptors for each file in progress (connection, file, lock), and those that a session keeps in addition.
_FILES_EACH, _FILES_BESIDE = 3, 8


def main(job: dict[str, Any]) -> None:
    """Run one job and end the process."""
    answers = os.dup(1)
    os.dup2(2, 1)  # printed text goes to stderr, so that it can't mix with the messages
    _die_with(job["parent"])
    _name_missing_locks()
    voice = _Voice(answers, job["token"])
    try:
        worker = _Worker(job, voice)
    except Exception as error:  # before any request to the hub, so the fault is local
        voice.say(failed=voice.told(error), permanent=False, local=True)
        os._exit(0)
    voice.say(started=True)
    try:
        voice.say(done=worker.try_out() if job.get("trial") else worker.fetch())
    except Exception as error:
        local = is_local(error) or bool(job.get("trial"))
        voice.say(failed=voice.told(error), permanent=is_permanent(error, worker.endpoint), local=local)
    # `os._exit` does not wait for threads, which may be blocked on the network.
    os._exit(0)


def _die_with(parent: int) -> None:
    """Ensure that this process does not outlive its parent."""
    signal.signal(signal.SIGTERM, _give_up)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a libc without prctl; the pipe below suffices
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        _give_up()

    def watch() -> None:
        while os.read(0, 1024):
            pass
        _give_up()

    threading.Thread(target=watch, daemon=True).start()


def _name_missing_locks() -> None:
    """Translate the errors of a file system without locks to ENOSYS.

    For ENOSYS, huggingface_hub uses files as locks. Other error numbers end the download.
    """
    flock = fcntl.flock

    def named(opened: Any, how: int) -> None:
        try:
            flock(opened, how)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
            raise

    fcntl.flock = named


def _give_up(*_: object) -> None:
    """End the process at once, after removing unfinished files. They are useless, and may be large."""
    with suppress(FileNotFoundError):  # not Linux
        for opened in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                path = opened.readlink()
                if path.suffix == _UNFINISHED:
                    path.unlink()
    os._exit(128 + signal.SIGTERM)


class _Voice:
    """The messages to the parent.

    Attributes:
        secret: Token that messages must not contain.
    """

    def __init__(self, answers: int, secret: str | bool | None) -> None:
        self.secret = secret
        self._answers = answers
        self._lock = threading.Lock()

    def say(self, **words: Any) -> None:
        """Send a message to the parent."""
        with self._lock:
            os.write(self._answers, json.dumps(words).encode() + b"\n")

    def told(self, error: BaseException) -> str:
        """Return the message of an error, without secrets."""
        return without_secrets(message_of(error), self.secret)


class _Worker:
    """Downloads one snapshot."""

    def __init__(self, job: dict[str, Any], voice: _Voice) -> None:
        if job["stored"] and "HF_HOME" not in os.environ and os.path.expanduser("~") == "~":  # noqa: PTH111 - no error
            # Without a home directory, HF_HOME is in the folder whose bookkeeping is removed at the end.
            os.environ["HF_HOME"] = str(Path(job["folder"] or "/") / _BOOKKEEPING)
        # Imported after `_die_with`, because the import is slow and the parent may die meanwhile.
        from huggingface_hub import HfApi, constants, get_token

        constants.DOWNLOAD_CHUNK_SIZE = _PIECE
        token = job["token"]
        if token is None or token is True:
            voice.secret = get_token()
        self._options = {name: job[name] for name in ("repo_id", "revision", "token", "endpoint")}
        self._patterns = {name: job[name] for name in ("allow_patterns", "ignore_patterns")}
        self._max_workers: int = job["max_workers"]
        self._folder = None if job["folder"] is None else Path(job["folder"])
        # Not computed if unused, because it needs a home directory.
        self._cache = None if job["stored"] else Path(job["cache_dir"] or constants.HF_HUB_CACHE).expanduser()
        self._api = HfApi(endpoint=job["endpoint"], token=token)
        self.endpoint: str = self._api.endpoint
        self._say = voice.say
        _pass_on_warnings(voice)

    def try_out(self) -> dict[str, Any]:
        """Check whether this machine can download. Raises OSError if not."""
        wanted = self._max_workers * _FILES_EACH + _FILES_BESIDE
        opened: list[int] = []
        try:
            while len(opened) < wanted:
                opened.append(os.dup(0))
        except OSError as error:
            raise OSError(
                error.errno,
                f"a download with max_workers={self._max_workers} may need {wanted} open files, and only "
                f"{len(opened)} more can be opened here: raise the limit (ulimit -n), or lower max_workers",
            ) from None
        finally:
            for number in opened:
                os.close(number)
        if self._cache is not None:
            _try_to_write(self._cache)
            storage = self._cache / storage_of(self._options["repo_id"])
            for folder in (storage, storage / "blobs", storage / "snapshots"):
                if folder.is_dir():
                    _try_to_write(folder)
        return {}

    def fetch(self) -> dict[str, Any]:
        """Download the files and check their sizes."""
        from huggingface_hub import snapshot_download

        sizes = self._sizes()
        total = sum(size or 0 for size in sizes.values()) if None not in sizes.values() else None
        self._say(total=total, files=len(sizes))
        if self._folder is None:
            assert self._cache is not None, "the job says where to"
            place: dict[str, Any] = {"cache_dir": self._cache}
            storage = self._cache / storage_of(self._options["repo_id"])
            files, unfinished = storage / "snapshots" / self._options["revision"], storage / "blobs"
        else:
            place = {"local_dir": self._folder}
            files, unfinished = self._folder, self._folder / ".cache"
        meter = _Meter(files, unfinished, sizes, total)
        threading.Thread(target=self._report, args=(meter,), daemon=True).start()
        snapshot_download(
            **self._options,
            **self._patterns,
            **place,
            max_workers=self._max_workers,
            tqdm_class=meter.bar_class(),
        )
        # If the hub fails midway, huggingface_hub may accept incomplete files on disk.
        found = {name: (files / name).stat().st_size for name in sizes}
        for name, size in sizes.items():
            if size not in (None, found[name]):
                raise OSError(f"{name} should have {size} bytes, and has {found[name]}")
        done = {"size": sum(found.values())}
        if self._folder is not None:
            _remove_bookkeeping(self._folder)
            return done
        return {**done, "location": cached(self._options["repo_id"], self._options["revision"])}

    def _sizes(self) -> dict[str, int | None]:
        """Return the selected files with their sizes."""
        from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # not re-exported

        info = self._api.model_info(
            self._options["repo_id"], revision=self._options["revision"], files_metadata=True
        )
        sizes = {each.rfilename: each.size for each in info.siblings or ()}
        wanted = list(filter_repo_objects(sizes, **self._patterns))
        if not wanted:
            raise NoFiles(f"none of its {len(sizes)} files is asked for")
        return {name: sizes[name] for name in wanted}

    def _report(self, meter: _Meter) -> None:
        told = -1
        pause = threading.Event()
        while True:
            done = meter.read()
            if done > told:
                told = done
                self._say(bytes=done)
            pause.wait(_SAMPLE_EVERY)


class _Meter:
    """The number of downloaded bytes: the maximum of the size on disk and the count of the hub's client.

    The disk includes earlier files; the client includes data in memory. The number never decreases, because fetching
    the same bytes again is no progress.
    """

    def __init__(
        self, files: Path, unfinished: Path, sizes: dict[str, int | None], total: int | None
    ) -> None:
        self._files = files
        self._place = unfinished
        self._sizes = sizes
        self._total = total
        self._leftovers = set(self._unfinished())
        self._bars: list[Any] = []
        self._most = 0

    def read(self) -> int:
        """Return the number of downloaded bytes."""
        disk = sum(size or 0 for name, size in self._sizes.items() if (self._files / name).exists())
        for path in self._unfinished():
            if path not in self._leftovers:
                with suppress(OSError):
                    info = path.stat()
                    disk += min(info.st_size, info.st_blocks * 512)  # the file may be sparse
        counted = max((int(bar.n) for bar in self._bars), default=0)
        self._most = max(self._most, disk, counted)
        return self._most if self._total is None else min(self._most, self._total)

    def _unfinished(self) -> Iterator[Path]:
        with suppress(OSError):  # the folder changes during the walk
            yield from self._place.rglob(f"*{_UNFINISHED}")

    def bar_class(self) -> type:
        """Return a progress bar class for `snapshot_download` that counts bytes and shows nothing."""
        from tqdm.std import tqdm

        bars, lock = self._bars, threading.Lock()

        class Bar(tqdm):  # type: ignore[misc]  # untyped
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **{**options, "disable": True})
                self.n = options.get("initial", 0)
                if options.get("unit") == "B":
                    bars.append(self)

            def update(self, n: float | None = 1) -> None:
                with lock:
                    self.n += n or 0

        return Bar


def _remove_bookkeeping(folder: Path) -> None:
    """Remove the metadata that huggingface_hub keeps for its next run."""
    shutil.rmtree(folder / _BOOKKEEPING, ignore_errors=True)
    with suppress(OSError):  # the repository may have files in a folder of that name
        (folder / ".cache").rmdir()


def _try_to_write(folder: Path) -> None:
    """Check that files can be made and renamed in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".pyregistry-{os.urandom(8).hex()}"
    renamed = draft.with_suffix(".tmp")
    draft.touch()
    try:
        draft.rename(renamed)
    finally:
        for each in (draft, renamed):
            each.unlink(missing_ok=True)


def _pass_on_warnings(voice: _Voice) -> None:
    """Forward the warnings of huggingface_hub to the parent's log."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(Exception):
                voice.say(log=voice.told(Warning(record.getMessage())).removeprefix("Warning: "))

    logger = logging.getLogger("huggingface_hub")
    logger.handlers[:] = [Handler(logging.WARNING)]
    logger.propagate = False
