"""One frame of `pyregistry top`, in three forms: JSON, pipe and terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import msgspec
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from pyregistry._core.texts import count_of
from pyregistry.cli.formatting import message_of, name_of, printable, ref_of, waits_of
from pyregistry.cli.listeners import listening_words
from pyregistry.cli.output import STYLES, tabbed, to_json
from pyregistry.cli.rows import Block, Row, Rows, fitted
from pyregistry.cli.units import ago, length, percent, rate, size
from pyregistry.models import ModelRecord, ModelStatus

__all__ = ["Download", "Frame", "FrameView", "Stock"]

_MOST = 2  # maximum lines of one detail in a frame that is cut to the screen


class Stock(msgspec.Struct, frozen=True):
    """Totals of one status.

    Attributes:
        models: Number of models.
        bytes: Sum of their sizes, or of the sizes that their owners expect.
    """

    models: int
    bytes: int


class Download(msgspec.Struct, frozen=True):
    """One running download.

    Attributes:
        record: The record of the model.
        since: Time of the claim.
        bytes_per_second: Observed speed; None if too few samples exist.
        seconds_left: Remaining time at that speed; None if unknown.
        stuck: Why the download may be stuck; None if there is no sign of it.
    """

    record: ModelRecord
    since: datetime
    bytes_per_second: int | None
    seconds_left: float | None
    stuck: str | None


class Frame(msgspec.Struct, frozen=True):
    """State of a namespace at one time.

    Attributes:
        at: Lease time of the frame.
        namespace: The namespace.
        statuses: Totals by status.
        downloading: Running downloads, the oldest claim first.
        errors: Failed models, in LRU order.
        least_recently_used: Downloaded models, in LRU order.
        listeners: Number of clients subscribed to the events of the namespace; None if the user may not ask.
    """

    at: datetime
    namespace: str
    statuses: dict[str, Stock]
    downloading: list[Download]
    errors: list[ModelRecord]
    least_recently_used: list[ModelRecord]
    listeners: int | None


_DOWNLOAD_COLUMNS = (
    "provider", "model_name", "revision", "subset", "owner", "since", "attempts", "bytes_done", "bytes_total",
    "bytes_per_second", "seconds_left", "lease_expires_at", "stuck", "message",
)  # fmt: skip
_ERROR_COLUMNS = (
    "provider", "model_name", "revision", "subset", "owner", "attempts", "permanent", "retry_at", "message",
)  # fmt: skip
_OLDEST_COLUMNS = ("provider", "model_name", "revision", "subset", "last_used_at", "size_bytes", "location")


@dataclass(frozen=True)
class FrameView:
    """A frame in three forms.

    Attributes:
        frame: The frame.
        trouble: Why the frame is out of date. Defaults to "": it is current.
        fits: Whether the frame is cut to the height of the screen. Defaults to False.
        listens: Whether this process is one of the listeners. Defaults to False.
    """

    frame: Frame
    trouble: str = ""
    fits: bool = False
    listens: bool = False

    def json(self) -> Iterable[bytes]:
        yield to_json(self.frame)

    def lines(self) -> Iterator[str]:
        """Return four tables, separated by empty lines."""
        frame = self.frame
        yield tabbed(("STATUS", "MODELS", "BYTES"))
        for status, stock in frame.statuses.items():
            yield tabbed((status, stock.models, stock.bytes))
        downloads = (
            {**msgspec.structs.asdict(each.record), **msgspec.structs.asdict(each)}
            for each in frame.downloading
        )
        yield from _lines(_DOWNLOAD_COLUMNS, downloads)
        yield from _lines(_ERROR_COLUMNS, map(msgspec.structs.asdict, frame.errors))
        yield from _lines(_OLDEST_COLUMNS, map(msgspec.structs.asdict, frame.least_recently_used))

    def screen(self) -> RenderableType:
        return self

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        frame, width = self.frame, options.max_width
        head = Text("pyregistry ", "bold").append(f"{frame.namespace}  {frame.at.astimezone():%H:%M:%S}", "")
        if frame.listeners is not None:
            head.append(f"  {listening_words(frame.listeners, also_this=self.listens)}", "dim")
        head.truncate(width, overflow="ellipsis")
        yield head
        if self.trouble:
            trouble = Text(f"not up to date: {printable(self.trouble)}", "bold red")
            trouble.truncate(width, overflow="ellipsis")
            yield trouble
        yield _stocks(frame.statuses)
        parts = [
            (_downloads(frame.downloading, frame.at), ModelStatus.DOWNLOADING),
            (_errors(frame.errors, frame.at), ModelStatus.ERROR),
            (_oldest(frame.least_recently_used, frame.at), ModelStatus.DOWNLOADED),
        ]
        made = [list(rows.blocks(console, width, _MOST if self.fits else None)) for rows, _ in parts]
        heads, bodies = [blocks[0] for blocks in made], [blocks[1:] for blocks in made]
        if self.fits:
            # Up to 3 lines above; then each of the 3 parts has an empty line, a head, and an "and N more" line.
            bodies = _cut(bodies, max(options.size.height - 3 - 3 * 3, 3))
        for (_, status), top, body in zip(parts, heads, bodies, strict=True):
            if body:
                yield Text()
                yield from top
                for block in body:
                    yield from block
                if (more := frame.statuses[status].models - len(body)) > 0:
                    yield Text(f"and {more:,} more", "dim")


def _cut(bodies: list[list[Block]], room: int) -> list[list[Block]]:
    """Cut downloads, errors and unused models to fit `room` lines together."""
    downloads, errors, oldest = bodies
    least = max(room // 4, 1)
    errors = fitted(errors, max(least, room - _height(downloads) - min(_height(oldest), least)))
    oldest = fitted(oldest, max(least, room - _height(downloads) - _height(errors)))
    return [fitted(downloads, max(room - _height(errors) - _height(oldest), 1)), errors, oldest]


def _height(blocks: Iterable[Block]) -> int:
    return sum(map(len, blocks))


def _lines(columns: Iterable[str], rows: Iterable[dict[str, object]]) -> Iterator[str]:
    yield ""
    yield tabbed(column.upper() for column in columns)
    for row in rows:
        yield tabbed(row[column] for column in columns)


def _stocks(statuses: dict[str, Stock]) -> Text:
    text = Text()
    for status, stock in statuses.items():
        if text:
            text.append("   ")
        text.append(f"{stock.models:,} ", "bold").append(status, STYLES[ModelStatus(status)])
        if stock.bytes:
            text.append(f" {size(stock.bytes)}", "dim")
    return text


def _rows(first: str, cells: tuple[str, ...], last: str, rows: Iterable[Row]) -> Rows:
    return Rows((first, cells, last), frozenset({"DONE", "SPEED", "LEFT", "SIZE", "TRY"}), list(rows))


def _downloads(downloads: Iterable[Download], at: datetime) -> Rows:
    columns = ("FOR", "DONE", "SIZE", "SPEED", "LEFT")
    return _rows("DOWNLOADING", columns, "OWNER", (_download(each, at) for each in downloads))


def _download(each: Download, at: datetime) -> Row:
    record, total = each.record, each.record.bytes_total
    done = "" if record.bytes_done is None else size(record.bytes_done)
    if total:
        done = percent(record.bytes_done or 0, total)
    owner = Text(printable(record.owner or "nobody"))
    if record.attempts > 1:
        owner.append(f", attempt {record.attempts}", "cyan")
    waits = waits_of(record, at)
    if waits is not None:
        owner = Text(f"{waits}: ", "yellow").append(owner)
    elif each.stuck:
        owner = Text(f"{each.stuck}: ", "bold red").append(owner)
    elif record.lease_expires_at is None:
        owner = Text("lease never ends: ", "yellow").append(owner)
    cells = (
        length((at - each.since).total_seconds()),
        done,
        "" if total is None else size(total),
        "" if each.bytes_per_second is None else rate(each.bytes_per_second),
        "" if each.seconds_left is None else length(each.seconds_left),
    )
    message = message_of(record)
    return Row(_model(record), list(map(Text, cells)), [owner, *([Text(message, "dim")] if message else [])])


def _errors(errors: Iterable[ModelRecord], at: datetime) -> Rows:
    return _rows("ERROR", ("TRY", "NEXT"), "MESSAGE", (_error(record, at) for record in errors))


def _error(record: ModelRecord, at: datetime) -> Row:
    if record.permanent or (record.used_up and record.retry_at is None):
        following = Text("never", "red")
    elif record.retry_at is None or record.retry_at <= at:
        following = Text("any time")
    else:
        following = Text(f"in {length((record.retry_at - at).total_seconds())}")
    said = _said(record.message)
    if record.finished_at is not None:
        where = f" on {printable(record.owner)}" if record.owner else ""
        said.append(Text(f"failed {ago(record.finished_at, at)}{where}", "dim"))
    return Row(_model(record), [Text(count_of(record)), following], said)


def _oldest(records: Iterable[ModelRecord], at: datetime) -> Rows:
    rows = (
        Row(
            _model(record),
            [
                Text(ago(record.last_used_at, at)),
                Text("" if record.size_bytes is None else size(record.size_bytes)),
            ],
            _said(record.location),
        )
        for record in records
    )
    return _rows("LONGEST UNUSED", ("LAST USED", "SIZE"), "LOCATION", rows)


def _said(words: str | None) -> list[Text]:
    return [Text(printable(words))] if words else []


def _model(record: ModelRecord) -> Text:
    return Text(name_of(ref_of(record))).append(f"  {record.provider}", "dim")
