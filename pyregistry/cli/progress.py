"""Report the download of another replica on standard error: its owner, progress and remaining time.

A terminal shows one line, which is redrawn. A pipe gets a new line when the state changes. Two background threads do
this, because the main thread blocks in `ensure`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pyregistry.cli.formatting import message_of, name_of, printable, progress_of, ref_of
from pyregistry.cli.throughput import Pace
from pyregistry.cli.units import length, rate
from pyregistry.errors import RegistryClosed, RegistryError
from pyregistry.models import EventGap, EventKind, ModelRecord, ModelRef, ModelStatus
from pyregistry.registry import Registry

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Waiting", "waiting_words"]

_FIRST_REPORT_S = 0.5  # delay before the first report: for most models `ensure` returns earlier
_REDRAW = 1.0
# Delay from an event to its report. It coalesces events, and lets `hidden` run first: the event of this process's own
# claim can arrive before the reply to that claim.
_SETTLE = 0.2
_NEXT_LINE = 10.0  # seconds between two lines in a pipe that differ in progress alone
_TRY_AGAIN = 2.0


class Waiting:
    """Reports the state of one model while the context is entered and not `hidden`.

    Args:
        registry: The client that watches the events.
        ref: The model.
        quiet: Report nothing, and start no thread.
    """

    def __init__(self, registry: Registry, ref: ModelRef, *, quiet: bool) -> None:
        self._registry = registry
        self._ref = ref
        self._quiet = quiet
        self._pace = Pace()
        self._record: ModelRecord | None = None
        self._known = False
        self._changed = threading.Event()
        self._ending = threading.Event()
        self._lock = threading.Lock()  # guards the screen
        self._hidden = False
        self._our_token = 0
        self._live: Live | None = None
        self._said: object = None
        self._said_at = 0.0
        self._thread = threading.Thread(target=self._draw, name="pyregistry-waiting", daemon=True)

    def __enter__(self) -> Self:
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._changed.set()
        if not self._quiet:
            self._thread.join()

    @contextmanager
    def hidden(self, token: int | None = None) -> Iterator[None]:
        """Report nothing within this context, because a command uses the screen.

        Args:
            token: The token of this process's claim that the command runs under. Later reports skip this claim.
                Defaults to the token of the last call.
        """
        with self._lock:
            self._hidden, self._our_token = True, token or self._our_token
            self._clear()
        try:
            yield
        finally:
            self._hidden = False

    # Reading events

    def _listen(self) -> None:
        while not self._ending.is_set():
            try:
                with self._registry.watch(self._ref.name, self._ref.provider) as events:
                    self._look()
                    for event in events:
                        if isinstance(event, EventGap):
                            self._look()
                        elif ref_of(event.record) == self._ref:
                            self._saw(None if event.kind is EventKind.DELETED else event.record)
                return  # the client is closed
            except RegistryClosed:
                return
            except RegistryError:
                # The main thread, in `ensure`, reports this error.
                self._ending.wait(_TRY_AGAIN)

    def _look(self) -> None:
        name, provider, revision, subset = self._ref
        self._saw(self._registry.get_model_record(name, provider, revision=revision, subset=subset))

    def _saw(self, record: ModelRecord | None) -> None:
        if record is not None:
            self._pace.saw(time.monotonic(), record.token, record.bytes_done)
        self._record, self._known = record, True
        self._changed.set()

    # Writing reports

    def _draw(self) -> None:
        if self._ending.wait(_FIRST_REPORT_S):
            return
        # This thread ends when the client is closed, after `__exit__`.
        threading.Thread(target=self._listen, name="pyregistry-waiting-events", daemon=True).start()
        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        on_screen = sys.stderr.isatty() and not console.is_dumb_terminal
        while not self._ending.is_set():
            self._changed.wait(_REDRAW)
            self._changed.clear()
            self._ending.wait(_SETTLE)
            with self._lock, suppress(OSError):  # the reader has closed standard error
                if self._hidden or not self._known or self._ending.is_set() or self._is_ours():
                    self._clear()
                    continue
                at = time.monotonic()
                words = f"pyregistry: {waiting_words(self._ref, self._record, self._pace, at)}"
                if on_screen:
                    self._redraw(console, words)
                else:
                    self._say(words, at)
        with self._lock:
            self._clear()

    def _is_ours(self) -> bool:
        record = self._record
        # `_Runner.download` reports the failure of this process's own attempt.
        ours = (ModelStatus.DOWNLOADING, ModelStatus.ERROR)
        return record is not None and record.status in ours and record.token == self._our_token

    def _redraw(self, console: Console, words: str) -> None:
        if self._live is None:
            # rich prints log lines above the live line. Standard output belongs to the command.
            self._live = Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False)
            self._live.start()
        self._live.update(Text(words, no_wrap=True, overflow="ellipsis"), refresh=True)

    def _say(self, words: str, at: float) -> None:
        record = self._record
        state = None if record is None else (record.status, record.token, record.owner)
        if state != self._said or at - self._said_at >= _NEXT_LINE:
            self._said, self._said_at = state, at
            sys.stderr.write(f"{words}\n")  # one write call, because other threads write too
            sys.stderr.flush()

    def _clear(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def waiting_words(ref: ModelRef, record: ModelRecord | None, pace: Pace, at: float) -> str:
    """Describe why a model is not available yet.

    Args:
        ref: The model.
        record: Its record; None if it has none.
        pace: Speed of the download so far.
        at: Now, in seconds of the monotonic clock.
    """
    name = name_of(ref)
    if record is None:
        return f"{name}: nobody downloads it"
    owner = printable(record.owner or "")
    if record.status is ModelStatus.DOWNLOADING:
        parts = [f"{owner} downloads it" if owner else "it is DOWNLOADING, and has no owner"]
        if record.attempts > 1:
            parts.append(f"attempt {record.attempts}")
        if (progress := progress_of(record)) is not None:
            parts.append(progress)
        if (speed := pace.speed(at)) is not None:
            parts.append(rate(speed))
        if (left := pace.seconds_left(at, record.bytes_total)) is not None:
            parts.append(f"{length(left)} left")
        if message := message_of(record):
            parts.append(message)
        return f"{name}: {', '.join(parts)}"
    if record.status is ModelStatus.ERROR:
        return f"{name}: attempt {record.attempts} failed: {printable(record.message or '')}"
    if record.status is ModelStatus.EVICTING:
        return f"{name}: {owner or 'somebody'} evicts it"
    return f"{name}: it is DOWNLOADED, and its files are looked for"
