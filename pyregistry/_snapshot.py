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
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyregistry.policy import message_of

# huggingface_hub passes on what it has received in pieces of 10 MiB: to whoever looks for progress, a slow
# connection would look like a dead one.
_PIECE = 64 * 1024
_SAMPLE_EVERY = 0.5
_UNFINISHED = ".incomplete"
_PR_SET_PDEATHSIG = 1
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_REFUSED = (401, 403, 404, 410)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)  # such as NFS without its lock service


def main(job: dict[str, Any]) -> None:
    """Does one job, and ends the process."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what anybody prints is no answer
    _die_with(job["parent"])
    _name_missing_locks()
    worker = _Worker(job, answers)
    try:
        worker.say(done=worker.fetch())
    except Exception as error:
        worker.say(failed=worker.told(error), permanent=is_permanent(error, worker.endpoint))
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


class _Worker:
    """Downloads one snapshot."""

    def __init__(self, job: dict[str, Any], answers: int) -> None:
        # Slow to import, and only when a dead parent would be noticed.
        from huggingface_hub import HfApi, constants, get_token

        constants.DOWNLOAD_CHUNK_SIZE = _PIECE
        token = job["token"]
        self._secret = token if isinstance(token, str) else get_token() if token is not False else None
        self._options = {name: job[name] for name in ("repo_id", "revision", "token", "endpoint")}
        self._patterns = {name: job[name] for name in ("allow_patterns", "ignore_patterns")}
        self._max_workers: int = job["max_workers"]
        self._folder = None if job["folder"] is None else Path(job["folder"])
        self._cache = Path(job["cache_dir"] or constants.HF_HUB_CACHE).expanduser()
        self._api = HfApi(endpoint=job["endpoint"], token=token)
        self.endpoint: str = self._api.endpoint
        self._answers = answers
        self._lock = threading.Lock()
        _pass_on_warnings(self)

    def say(self, **words: Any) -> None:
        """Tell the parent."""
        with self._lock:
            os.write(self._answers, json.dumps(words).encode() + b"\n")

    def told(self, error: BaseException) -> str:
        """What may be said of an error, without secrets."""
        return without_secrets(message_of(error), self._secret)

    def fetch(self) -> dict[str, Any]:
        """Downloads the files, and sees that they are there."""
        from huggingface_hub import snapshot_download

        sizes = self._sizes()
        total = sum(size or 0 for size in sizes.values()) if None not in sizes.values() else None
        self.say(total=total, files=len(sizes))
        if self._folder is None:
            place: dict[str, Any] = {"cache_dir": self._cache}
            storage = self._cache / f"models--{self._options['repo_id'].replace('/', '--')}"
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
        return {**done, "location": files.relative_to(self._cache).as_posix()}

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
                self.say(bytes=done)
            pause.wait(_SAMPLE_EVERY)


def without_secrets(text: str, token: str | bool | None) -> str:
    """A text that does not show a token: neither this one nor one that looks like one."""
    if isinstance(token, str) and token:
        text = text.replace(token, "***")
    return _TOKEN.sub("***", text)


class NoFiles(Exception):
    """There is nothing to download."""


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
    shutil.rmtree(folder / ".cache" / "huggingface", ignore_errors=True)
    with suppress(OSError):  # a repository may have a folder of that name
        (folder / ".cache").rmdir()


def is_permanent(error: BaseException | None, endpoint: str) -> bool:
    """Whether the hub has said no, or the job makes no sense; what wraps an answer counts like the answer."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, (NoFiles, HFValidationError)):
            return True
        if isinstance(error, OfflineModeIsEnabled):
            return False
        response = getattr(error, "response", None)
        if response is not None and response.status_code in _REFUSED:
            # What another host refuses was a link that is over.
            return urlsplit(str(response.url)).netloc == urlsplit(endpoint).netloc
        error = error.__cause__
    return False


def _pass_on_warnings(worker: _Worker) -> None:
    """What huggingface_hub logs goes to the parent's log."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(Exception):
                worker.say(log=worker.told(Warning(record.getMessage())).removeprefix("Warning: "))

    logger = logging.getLogger("huggingface_hub")
    logger.handlers[:] = [Handler(logging.WARNING)]
    logger.propagate = False
