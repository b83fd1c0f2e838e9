"""The process that downloads a snapshot for `pyregistry.huggingface`: it can be ended, as no thread can.

It is told what to do by a line of JSON on standard input, so that a token is on no command line, and says how
far it is by lines of JSON on standard output. Standard input stays open as long as its parent lives.
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

# huggingface_hub passes on what it has received in pieces of 10 MiB: to whoever looks for progress, a slow
# connection would look like a dead one.
_PIECE = 64 * 1024
_SAMPLE_EVERY = 0.5
_UNFINISHED = ".incomplete"
_BOOKKEEPING = Path(".cache", "huggingface")
_PR_SET_PDEATHSIG = 1
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)  # such as NFS without its lock service
# For each file that is under way: its connection, itself, and its lock. Beside them what a session keeps.
_FILES_EACH, _FILES_BESIDE = 3, 8


def main(job: dict[str, Any]) -> None:
    """Does one job, and ends the process."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what anybody prints is no answer
    _die_with(job["parent"])
    _name_missing_locks()
    voice = _Voice(answers, job["token"])
    try:
        worker = _Worker(job, voice)
    except Exception as error:  # before the hub is asked anything
        voice.say(failed=voice.told(error), permanent=False, local=True)
        os._exit(0)
    voice.say(started=True)
    try:
        voice.say(done=worker.try_out() if job.get("trial") else worker.fetch())
    except Exception as error:
        local = is_local(error) or bool(job.get("trial"))
        voice.say(failed=voice.told(error), permanent=is_permanent(error, worker.endpoint), local=local)
    # Threads may wait for a network that does not answer; nobody is to wait for them.
    os._exit(0)


def _die_with(parent: int) -> None:
    """See to it that this process does not outlive its parent."""
    signal.signal(signal.SIGTERM, _give_up)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another libc: the pipe will do
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        _give_up()

    def watch() -> None:
        while os.read(0, 1024):
            pass
        _give_up()

    threading.Thread(target=watch, daemon=True).start()


def _name_missing_locks() -> None:
    """Have a file system without locks say ENOSYS: huggingface_hub then uses files as locks; other words end it."""
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
    """End at once; but half a file, which nobody could use, may be large, and is not left in a cache."""
    with suppress(FileNotFoundError):  # not Linux
        for opened in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                path = opened.readlink()
                if path.suffix == _UNFINISHED:
                    path.unlink()
    os._exit(128 + signal.SIGTERM)


class _Voice:
    """What the parent hears.

    Attributes:
        secret: a token that nobody is to hear.
    """

    def __init__(self, answers: int, secret: str | bool | None) -> None:
        self.secret = secret
        self._answers = answers
        self._lock = threading.Lock()

    def say(self, **words: Any) -> None:
        """Tell the parent."""
        with self._lock:
            os.write(self._answers, json.dumps(words).encode() + b"\n")

    def told(self, error: BaseException) -> str:
        """What may be said of an error, without secrets."""
        return without_secrets(message_of(error), self.secret)


class _Worker:
    """Downloads one snapshot."""

    def __init__(self, job: dict[str, Any], voice: _Voice) -> None:
        if job["stored"] and "HF_HOME" not in os.environ and os.path.expanduser("~") == "~":  # noqa: PTH111 - no error
            # No home directory: what huggingface_hub keeps there goes where its bookkeeping is removed.
            os.environ["HF_HOME"] = str(Path(job["folder"] or "/") / _BOOKKEEPING)
        # Slow to import, and only when a dead parent would be noticed.
        from huggingface_hub import HfApi, constants, get_token

        constants.DOWNLOAD_CHUNK_SIZE = _PIECE
        token = job["token"]
        if token is None or token is True:
            voice.secret = get_token()
        self._options = {name: job[name] for name in ("repo_id", "revision", "token", "endpoint")}
        self._patterns = {name: job[name] for name in ("allow_patterns", "ignore_patterns")}
        self._max_workers: int = job["max_workers"]
        self._folder = None if job["folder"] is None else Path(job["folder"])
        # Not looked for where it is not used: without a home directory there is none.
        self._cache = None if job["stored"] else Path(job["cache_dir"] or constants.HF_HUB_CACHE).expanduser()
        self._api = HfApi(endpoint=job["endpoint"], token=token)
        self.endpoint: str = self._api.endpoint
        self._say = voice.say
        _pass_on_warnings(voice)

    def try_out(self) -> dict[str, Any]:
        """See whether this machine can do what a download needs."""
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
        """Downloads the files, and sees that they are there."""
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
        # Where the hub went away in the middle, what is on disk may have been taken for enough.
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
        """The files that are wanted, and how large they are."""
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
    """How many bytes are there: the most of what the disk shows and what the hub's client counts.

    The disk knows what was there before, the client what is still in memory. To fetch the same bytes again is no
    progress: it only grows.
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
        """So many bytes."""
        disk = sum(size or 0 for name, size in self._sizes.items() if (self._files / name).exists())
        for path in self._unfinished():
            if path not in self._leftovers:
                with suppress(OSError):
                    info = path.stat()
                    disk += min(info.st_size, info.st_blocks * 512)  # it may have holes
        counted = max((int(bar.n) for bar in self._bars), default=0)
        self._most = max(self._most, disk, counted)
        return self._most if self._total is None else min(self._most, self._total)

    def _unfinished(self) -> Iterator[Path]:
        with suppress(OSError):  # what is walked changes
            yield from self._place.rglob(f"*{_UNFINISHED}")

    def bar_class(self) -> type:
        """What counts for `snapshot_download`, and shows nothing."""
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
    """What huggingface_hub left for its own next time."""
    shutil.rmtree(folder / _BOOKKEEPING, ignore_errors=True)
    with suppress(OSError):  # a repository may have a folder of that name
        (folder / ".cache").rmdir()


def _try_to_write(folder: Path) -> None:
    """See that files can be made in a folder, and renamed there."""
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
    """What huggingface_hub logs goes to the parent's log."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(Exception):
                voice.say(log=voice.told(Warning(record.getMessage())).removeprefix("Warning: "))

    logger = logging.getLogger("huggingface_hub")
    logger.handlers[:] = [Handler(logging.WARNING)]
    logger.propagate = False
