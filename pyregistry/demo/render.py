"""Output of the demo: a live table on a terminal, plain lines in a pipe, and the verdict."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pyregistry.models import ModelStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import ConsoleOptions, RenderableType, RenderResult
    from typing_extensions import Self

    from pyregistry.demo.checks import Evidence, Promise
    from pyregistry.demo.ipc import Model
    from pyregistry.models import ModelRecord

_EVENTS = 7
_BAR_WIDTH = 12
_TOKEN_WIDTH = 16
_SHORTEST = 12
_WIDE = 100  # minimum width, in columns, that shows tokens in full
_PIPE_WIDTH = 160
_STYLES = {ModelStatus.DOWNLOADING: "yellow", ModelStatus.DOWNLOADED: "green", ModelStatus.ERROR: "red"}


class Show:
    """The screen. A context manager, within which the table is live.

    Args:
        models: The models of the demo.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self._console = _Console(highlight=False)
        self._live: Live | None = None
        if sys.stdout.isatty() and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
        else:
            self._console = _Console(highlight=False, width=_PIPE_WIDTH)
        self._models = models
        self._records: Sequence[ModelRecord | None] = [None] * len(models)
        self._killed_owner: str | None = None
        self._events = deque[Table](maxlen=_EVENTS)
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
            self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str, *, style: str = "", in_table: bool = False) -> None:
        """Show an event.

        Args:
            text: One line.
            style: Its rich style on a terminal. Defaults to none.
            in_table: Whether the live table shows it already; a terminal then omits the line. Defaults to False.
        """
        at = Text(f"{time.monotonic() - self._began:5.1f} s ", style="dim")
        if self._live is None:
            self._line(at, Text(text))
        elif not in_table:
            self._events.append(_hanging(at, Text(text, style=style)))
            self._draw()

    def update(self, records: Sequence[ModelRecord | None], killed_owner: str | None) -> None:
        """Show the current records.

        Args:
            records: Record of each model; None for a model without one.
            killed_owner: Owner whose process was killed; None if no process was.
        """
        self._records, self._killed_owner = records, killed_owner
        self._draw()

    def results(self, seen: Evidence, promises: Sequence[Promise]) -> None:
        """Show the LRU order, the counts and the verdict."""
        counts = seen.counts
        self._console.print("\nLeast recently used first, as the registry has it", style="bold")
        self._console.print(self._lru_table(seen.records))
        self._console.print(
            f"{counts.downloading} DOWNLOADING, {counts.downloaded} DOWNLOADED, {counts.error} ERROR\n"
        )
        for promise in promises:
            if promise.broken:
                self._line(Text(self._char("✗", "BROKEN:"), "bold red"), Text(promise.text, "bold red"))
                for what in promise.broken:
                    self._line(Text("   "), Text(what, "red"))
            else:
                text = Text(promise.text).append(f": {promise.proof}", style="dim")
                self._line(Text(self._char("✓", "ok:"), "bold green"), text)
        broken = sum(bool(promise.broken) for promise in promises)
        seconds = time.monotonic() - self._began
        if broken:
            self.failure(f"{broken} of {len(promises)} promises were broken ({seconds:.1f} s).")
        else:
            text = Text(f"\nAll {len(promises)} promises were kept ({seconds:.1f} s).", "bold green")
            self._console.print(text)

    def failure(self, text: str) -> None:
        """Show that the demo failed."""
        self._console.print(Text(f"\n{text}", style="bold red"), soft_wrap=True)

    def _line(self, mark: Text, text: Text) -> None:
        """Print a marked line. A terminal wraps it with an indent; in a pipe it stays one line."""
        if self._live is None:
            self._console.print(mark, text, soft_wrap=True)
        else:
            self._console.print(_hanging(mark, text))

    def _char(self, char: str, word: str) -> str:
        """Return `char`, or `word` if the console's encoding lacks the character."""
        try:
            char.encode(self._console.encoding)
        except UnicodeEncodeError:
            return word
        return char

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(Group(self._live_table(), *self._events), refresh=True)

    def _live_table(self) -> Table:
        table = _table()
        table.add_column("model")
        table.add_column("status", no_wrap=True, min_width=11)
        table.add_column("owner", no_wrap=True, min_width=10)
        table.add_column("progress", no_wrap=True, min_width=_BAR_WIDTH)
        table.add_column("", no_wrap=True, justify="right", min_width=5)
        token_width = _TOKEN_WIDTH if self._console.width >= _WIDE else _TOKEN_WIDTH // 2
        table.add_column("token", width=token_width)
        table.add_column("try", no_wrap=True, justify="right")
        for model, record in zip(self._models, self._records, strict=True):
            name = _End(model.name)
            if record is None:
                table.add_row(name, Text("-", "dim"))
                continue
            downloaded = record.status is ModelStatus.DOWNLOADED
            lost = not downloaded and record.owner == self._killed_owner
            total = record.bytes_total or record.size_bytes or 1
            done = total if downloaded else record.bytes_done or 0
            table.add_row(
                name,
                Text(record.status, style=_STYLES.get(record.status, "")),
                Text((record.owner or "").partition(" (")[0], style="strike red" if lost else ""),
                ProgressBar(total, done, width=_BAR_WIDTH, complete_style="red" if lost else "yellow"),
                f"{100 * done // total} %",
                _End(str(record.token)),
                Text(str(record.attempts), "bold cyan" if record.attempts > 1 else ""),
            )
        return table

    def _lru_table(self, records: Sequence[ModelRecord]) -> Table:
        table = _table()
        table.add_column("", no_wrap=True, justify="right")
        table.add_column("provider", no_wrap=True, min_width=11)
        table.add_column("model")
        table.add_column("last used (UTC)", no_wrap=True, min_width=15)
        table.add_column("size", no_wrap=True, justify="right", min_width=7)
        if self._console.width >= _WIDE:
            table.add_column("token", no_wrap=True, min_width=_TOKEN_WIDTH)
        for place, record in enumerate(records, 1):
            cells: list[RenderableType] = [
                str(place),
                str(record.provider),
                _End(record.model_name),
                f"{record.last_used_at:%H:%M:%S.%f}",
                f"{(record.size_bytes or 0) / 1e6:.1f} MB",
                str(record.token),
            ]
            table.add_row(*cells[: len(table.columns)])
        return table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError for the caller to handle; by default rich exits the process."""
        raise BrokenPipeError


class _End:
    """A text that is truncated at its beginning, because the end of a name or token distinguishes it better."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        cut = len(self._text) - options.max_width
        more = "~" if options.ascii_only else "…"
        yield Text(self._text if cut <= 0 else more + self._text[cut + 1 :])

    def __rich_measure__(self, _: Console, __: ConsoleOptions) -> Measurement:
        return Measurement(min(len(self._text), _SHORTEST), len(self._text))


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _hanging(mark: Text, text: Text) -> Table:
    """Create a paragraph with a hanging indent after its mark."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    grid.add_row(mark, text)
    return grid
