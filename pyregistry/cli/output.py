"""Answers of commands, each in three forms: JSON, terminal and pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import msgspec
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from pyregistry._core.texts import count_of, next_try_of
from pyregistry.cli.exit_codes import Exit
from pyregistry.cli.formatting import (
    details_of,
    lease_of,
    name_of,
    now_utc,
    printable,
    progress_of,
    ref_of,
    size_of,
    waits_of,
)
from pyregistry.cli.listeners import listening_words
from pyregistry.cli.rows import below
from pyregistry.cli.units import ago, size
from pyregistry.models import ModelRecord, ModelStatus, StatusCounts

if TYPE_CHECKING:
    from pyregistry.doctor import Finding

__all__ = [
    "STYLES",
    "Answer",
    "Counts",
    "Findings",
    "OneRecord",
    "Records",
    "Said",
    "View",
    "aligned",
    "tabbed",
    "to_json",
]

STYLES = {
    ModelStatus.DOWNLOADING: "cyan",
    ModelStatus.DOWNLOADED: "green",
    ModelStatus.ERROR: "red",
    ModelStatus.EVICTING: "yellow",
}
_GAP = 2  # between two columns
_WIDE_NAME = 60
_DETAILS = 30  # minimum width of a DETAILS column, in cells
_DETAIL_LINES = 3  # maximum lines of details below a row
_LEVEL_STYLES = {"ok": "green", "info": "cyan", "warning": "yellow", "error": "bold red"}


class View(Protocol):
    """An answer in three forms."""

    def json(self) -> Iterable[bytes]:
        """Return the pieces of one JSON document."""

    def lines(self) -> Iterable[str]:
        """Return lines for a pipe: tab-separated columns, neither truncated nor rounded."""

    def screen(self) -> RenderableType | None:
        """Return what a terminal shows; None for the same lines as a pipe."""


@dataclass(frozen=True)
class Answer:
    """Result of a command.

    Attributes:
        view: Goes to standard output.
        note: Human-readable text for standard error; omitted with ``--json``. A function is called after the view
            is written. Defaults to no note.
        code: The exit code. Defaults to `Exit.DONE`.
    """

    view: View
    note: str | Callable[[], str] = ""
    code: Exit = Exit.DONE


def to_json(value: object) -> bytes:
    """Encode one JSON document. Times follow RFC 3339."""
    return msgspec.json.encode(value)


def _field(value: object) -> str:
    """Format one column of a line for a pipe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return str(msgspec.to_builtins(value))
    return printable(str(value))


def tabbed(values: Iterable[object]) -> str:
    """Format one line for a pipe."""
    return "\t".join(map(_field, values))


def _grid(columns: Mapping[str, int | None], *, head: bool = True) -> Table:
    """Create a borderless table. The first column folds; the others are truncated to their width, if any."""
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold", show_header=head)
    for name, width in columns.items():
        first = not table.columns
        table.add_column(name, width=width, no_wrap=not first, overflow="fold" if first else "ellipsis")
    return table


def aligned(names: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Create a borderless table with a right-aligned last column, for numbers."""
    table = _grid(dict.fromkeys(names))
    table.columns[-1].justify = "right"
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    return table


def _pairs() -> Table:
    """Create a grid of two columns: labels, and values that fold."""
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


@dataclass(frozen=True)
class Said:
    """A JSON document, and one line of text for a terminal or a pipe. An empty text prints no line."""

    document: object
    words: str = ""

    def json(self) -> Iterable[bytes]:
        yield to_json(self.document)

    def lines(self) -> Iterable[str]:
        return [self.words] if self.words else []

    def screen(self) -> None:
        return None


_COLUMNS = (
    "status", "provider", "model_name", "revision", "subset", "size_bytes", "bytes_done", "bytes_total",
    "last_used_at", "owner", "lease_expires_at", "message",
)  # fmt: skip


@dataclass(frozen=True)
class Records:
    """A list of records. `records` may be lazy: JSON and pipe output read it while they write."""

    records: Iterable[ModelRecord]

    def json(self) -> Iterable[bytes]:
        before = b"["
        for record in self.records:
            yield before + to_json(record)
            before = b",\n"
        yield b"]" if before != b"[" else b"[]"

    def lines(self) -> Iterator[str]:
        yield tabbed(column.upper() for column in _COLUMNS)
        for record in self.records:
            yield tabbed(getattr(record, column) for column in _COLUMNS)

    def screen(self) -> RenderableType:
        records = list(self.records)
        return _Listing(records) if records else Text("no models", style="dim")


@dataclass(frozen=True)
class _Listing:
    """A table of records. Model names are never truncated; details that do not fit beside a row go below it."""

    records: Sequence[ModelRecord]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = now_utc()
        models = [Text(name_of(ref_of(record))) for record in self.records]
        details = [Text(details_of(record, now), style="dim") for record in self.records]
        middle = {
            "PROVIDER": [Text(str(record.provider)) for record in self.records],
            "STATUS": [Text(record.status, style=STYLES[record.status]) for record in self.records],
            "SIZE": [Text(size_of(record)) for record in self.records],
            "LAST USED": [Text(ago(record.last_used_at, now)) for record in self.records],
        }
        widths = [_width([Text(head), *cells]) for head, cells in middle.items()]
        # Older versions of rich also add a gap after the last column.
        room = options.max_width - sum(widths) - _GAP * (len(widths) + 1)
        name = max(_width(models), len("MODEL"))
        if min(name, _WIDE_NAME) + _GAP + _DETAILS <= room:
            name = min(name, room - _GAP - _DETAILS)
            table = _grid(
                {"MODEL": name, **dict(zip(middle, widths, strict=True)), "DETAILS": room - name - _GAP}
            )
            for row in zip(models, *middle.values(), details, strict=True):
                table.add_row(*row)
            yield table
            return
        columns = {"MODEL": min(name, max(room, len("MODEL"))), **dict(zip(middle, widths, strict=True))}
        yield _grid(columns)
        for detail, *cells in zip(details, models, *middle.values(), strict=True):
            table = _grid(columns, head=False)
            table.add_row(*cells)
            yield table
            if detail:
                yield from below(console, detail, options.max_width, _DETAIL_LINES)


def _width(texts: Iterable[Text]) -> int:
    return max(text.cell_len for text in texts)


@dataclass(frozen=True)
class OneRecord:
    """All fields of a record.

    Attributes:
        record: The record of the model.
        listeners: Number of clients subscribed to the events of its namespace. None if unknown; the default.
    """

    record: ModelRecord
    listeners: int | None = None

    def json(self) -> Iterable[bytes]:
        yield to_json({**msgspec.structs.asdict(self.record), "listeners": self.listeners})

    def lines(self) -> Iterator[str]:
        for name in ModelRecord.__struct_fields__:
            yield tabbed((name, getattr(self.record, name)))
        yield tabbed(("listeners", self.listeners))

    def screen(self) -> RenderableType:
        record = self.record
        now = now_utc()
        grid = _pairs()

        def add(label: str, value: object, style: str = "") -> None:
            if value is not None and value != "":
                grid.add_row(Text(label, style="dim"), Text(str(value), style=style))

        add("model", printable(record.model_name), "bold")
        add("provider", record.provider)
        add("revision", record.revision and printable(record.revision))
        add("subset", record.subset and printable(record.subset))
        add("status", record.status, STYLES[record.status])
        add("message", "\n".join(map(printable, (record.message or "").splitlines())))
        add("size", _exact(record.size_bytes))
        add("size expected", _exact(record.bytes_total))
        add("progress", progress_of(record))
        add("location", record.location and printable(record.location))
        add("resolved revision", record.resolved_revision and printable(record.resolved_revision))
        add("owner", record.owner and printable(record.owner))
        if record.status in (ModelStatus.DOWNLOADING, ModelStatus.EVICTING):
            end = record.lease_expires_at
            waits = waits_of(record, now)
            add("lease", waits or f"{lease_of(record, now)}{f' ({_clock(end)})' if end else ''}")
        if self.listeners is not None and record.status is not ModelStatus.DOWNLOADED:
            add("listeners", f"{listening_words(self.listeners)} to this namespace, for any model")
        add("token", record.token or None)
        if record.status is ModelStatus.ERROR and record.finished_at is not None:
            add("failed", f"{ago(record.finished_at, now)} ({_clock(record.finished_at)})")
        add("attempts", count_of(record))
        add("taken over from", record.previous_owner and printable(record.previous_owner))
        if record.status is ModelStatus.ERROR:
            add("retry", f"{next_try_of(record)}; `pyregistry rm` clears it")
        add("created", f"{ago(record.created_at, now)} ({_clock(record.created_at)})")
        add("last used", f"{ago(record.last_used_at, now)} ({_clock(record.last_used_at)})")
        return grid


def _clock(time: datetime) -> str:
    """Format a UTC time to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ")


def _exact(count: int | None) -> str | None:
    if count is None:
        return None
    return size(count) if count < 1024 else f"{size(count)} ({count:,} bytes)"


@dataclass(frozen=True)
class Counts:
    """Number of models by status."""

    counts: StatusCounts

    def json(self) -> Iterable[bytes]:
        yield to_json(self.counts._asdict())

    def lines(self) -> Iterator[str]:
        for name, count in self.counts._asdict().items():
            yield tabbed((name.upper(), count))

    def screen(self) -> RenderableType:
        grid = _pairs()
        grid.columns[1].justify = "right"
        for name, count in self.counts._asdict().items():
            status = ModelStatus(name.upper())
            grid.add_row(Text(status, style=STYLES[status]), Text(f"{count:,}"))
        return grid


@dataclass(frozen=True)
class Findings:
    """Findings of `doctor`."""

    findings: list[Finding] = field(default_factory=list)

    def json(self) -> Iterable[bytes]:
        findings = [
            {**msgspec.structs.asdict(finding), "models": [ref._asdict() for ref in finding.models]}
            for finding in self.findings
        ]
        yield to_json({"wrong": any(finding.is_wrong for finding in self.findings), "findings": findings})

    def lines(self) -> Iterator[str]:
        yield tabbed(("LEVEL", "CHECK", "MESSAGE", "ADVICE", "MODELS"))
        for finding in self.findings:
            models = ", ".join(f"{ref.provider}:{name_of(ref)}" for ref in finding.models)
            yield tabbed((finding.level, finding.check, finding.message, finding.advice, models))

    def screen(self) -> RenderableType:
        grid = _pairs()
        grid.add_column(overflow="fold")
        for finding in self.findings:
            words = Text(printable(finding.message))
            for ref in finding.models:
                words.append(f"\n  {ref.provider}:{name_of(ref)}", style="bold")
            if finding.advice:
                words.append(f"\n-> {printable(finding.advice)}", style="dim")
            grid.add_row(
                Text(finding.level, style=_LEVEL_STYLES[finding.level.value]), Text(finding.check), words
            )
        return grid
