"""``pyregistry top``: who downloads what, how far and how fast; what is stuck, what has failed, what goes first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pyregistry import _wire as wire
from pyregistry._keys import STATUSES
from pyregistry.cli.answers import STYLES, Answer, tabbed, to_json
from pyregistry.cli.context import Cli
from pyregistry.cli.pace import Pace
from pyregistry.cli.signals import Stopped, ends_by_signals
from pyregistry.cli.units import ago, length, percent, rate, size
from pyregistry.cli.words import name_of, printable, ref_of
from pyregistry.errors import OutcomeUnknown, RegistryClosed, RegistryError, RegistryUnavailable
from pyregistry.models import ModelRecord, ModelRef, ModelStatus
from pyregistry.registry import Registry

__all__ = ["top"]

_DOWNLOADS, _ERRORS, _OLDEST = 200, 20, 10  # as many are read
_REFRESH = 1.0
_BREATH = 0.1  # seconds between two frames, however much happens
_SILENT = 30.0  # seconds without progress after which a download that has told some counts as stuck
_TRY_AGAIN = 2.0


class Stock(msgspec.Struct, frozen=True):
    """What there is in one status.

    Attributes:
        models: how many.
        bytes: what they stand for: their sizes, or what their owners expect.
    """

    models: int
    bytes: int


class Download(msgspec.Struct, frozen=True):
    """One download.

    Attributes:
        record: the model.
        since: when it was claimed.
        bytes_per_second: how fast it is, as far as was seen.
        seconds_left: how long it takes at that speed.
        stuck: why it may be stuck; ``None``: it seems not to be.
    """

    record: ModelRecord
    since: datetime
    bytes_per_second: int | None
    seconds_left: float | None
    stuck: str | None


class Frame(msgspec.Struct, frozen=True):
    """What there was to see at one time.

    Attributes:
        at: when, by the registry's lease time.
        namespace: where.
        statuses: how much there is by status.
        downloading: what is being downloaded, the oldest claim first.
        errors: what has failed, the longest unused first.
        least_recently_used: what is there, the longest unused first.
    """

    at: datetime
    namespace: str
    statuses: dict[str, Stock]
    downloading: list[Download]
    errors: list[ModelRecord]
    least_recently_used: list[ModelRecord]


class _Overview:
    """Looks, again and again, and remembers how fast the downloads were."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._paces: dict[ModelRef, Pace] = {}

    def look(self) -> Frame:
        """What there is to see now."""
        registry = self._registry
        counts = registry._transport.call(registry._ops.stock())
        downloading = registry.get_models_by_last_used(_DOWNLOADS, ModelStatus.DOWNLOADING)
        at = registry._transport.call(registry._ops.now())
        self._paces = {ref_of(each): self._paces.get(ref_of(each), Pace()) for each in downloading}
        return Frame(
            at=at,
            namespace=registry.namespace,
            statuses={
                status: Stock(*both)
                for status, *both in zip(STATUSES, counts.records, counts.bytes, strict=True)
            },
            downloading=[self._download(record, at) for record in downloading],
            errors=registry.get_models_by_last_used(_ERRORS, ModelStatus.ERROR),
            least_recently_used=registry.get_models_by_last_used(_OLDEST, ModelStatus.DOWNLOADED),
        )

    def _download(self, record: ModelRecord, at: datetime) -> Download:
        pace, now = self._paces[ref_of(record)], time.monotonic()
        pace.saw(now, record.token, record.bytes_done)
        speed, left = pace.speed(now), pace.seconds_left(now, record.bytes_total)
        return Download(
            record=record,
            # The token is the time of its claim; after a failover it may be ahead.
            since=min(wire.time_of(record.token), at),
            bytes_per_second=None if speed is None else round(speed),
            seconds_left=None if left is None else round(left, 1),
            stuck=_stuck(record, at, pace.silence(now)),
        )


def _stuck(record: ModelRecord, at: datetime, silence: float) -> str | None:
    end = record.lease_expires_at
    if end is not None and end <= at:
        return f"lease over for {length((at - end).total_seconds())}"
    if record.bytes_done is not None and silence >= _SILENT:
        return f"no progress for {length(silence)}"
    return None


_DOWNLOAD_COLUMNS = (
    "provider", "model_name", "revision", "subset", "owner", "since", "attempts", "bytes_done", "bytes_total",
    "bytes_per_second", "seconds_left", "lease_expires_at", "stuck", "message",
)  # fmt: skip
_ERROR_COLUMNS = (
    "provider", "model_name", "revision", "subset", "owner", "attempts", "permanent", "retry_at", "message",
)  # fmt: skip
_OLDEST_COLUMNS = ("provider", "model_name", "revision", "subset", "last_used_at", "size_bytes", "location")


@dataclass(frozen=True)
class _FrameView:
    """A frame in three forms.

    Attributes:
        frame: what was seen.
        trouble: why nothing newer is.
        fits: whether it is cut to the height of the screen.
    """

    frame: Frame
    trouble: str = ""
    fits: bool = False

    def json(self) -> Iterable[bytes]:
        yield to_json(self.frame)

    def lines(self) -> Iterator[str]:
        """Four tables, with an empty line between them."""
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
        frame = self.frame
        head = Text("pyregistry ", "bold").append(f"{frame.namespace}  {frame.at.astimezone():%H:%M:%S}", "")
        head.truncate(options.max_width, overflow="ellipsis")
        yield head
        if self.trouble:
            trouble = Text(f"not up to date: {printable(self.trouble)}", "bold red")
            trouble.truncate(options.max_width, overflow="ellipsis")
            yield trouble
        yield _stocks(frame.statuses)
        downloads, errors, oldest = frame.downloading, frame.errors, frame.least_recently_used
        if self.fits:
            # Up to three lines above, and for each part an empty line, a head, and how many more there are.
            room = max(options.size.height - 3 - 3 * 3, 3)
            least = max(room // 4, 1)
            errors = errors[: max(least, room - len(downloads) - min(len(oldest), least))]
            oldest = oldest[: max(least, room - len(downloads) - len(errors))]
            downloads = downloads[: max(room - len(errors) - len(oldest), 1)]
        yield from _part(
            _download_table(downloads, frame.at), len(downloads), frame.statuses[ModelStatus.DOWNLOADING]
        )
        yield from _part(_error_table(errors, frame.at), len(errors), frame.statuses[ModelStatus.ERROR])
        yield from _part(_oldest_table(oldest, frame.at), len(oldest), frame.statuses[ModelStatus.DOWNLOADED])


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


def _part(table: Table, shown: int, stock: Stock) -> Iterator[RenderableType]:
    if shown:
        yield Text()
        yield table
        if stock.models > shown:
            yield Text(f"and {stock.models - shown:,} more", "dim")


def _table(first: str, *columns: str, last: str = "") -> Table:
    """The first column shrinks first, then the last."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", expand=True)
    table.add_column(first, no_wrap=True, overflow="ellipsis", ratio=3)
    for name in columns:
        right = name in ("DONE", "SPEED", "LEFT", "SIZE", "TRY")
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify="right" if right else "left")
    if last:
        table.add_column(last, no_wrap=True, overflow="ellipsis", ratio=2)
    return table


def _download_table(downloads: Iterable[Download], at: datetime) -> Table:
    table = _table("DOWNLOADING", "FOR", "DONE", "SIZE", "SPEED", "LEFT", last="OWNER")
    for each in downloads:
        record, total = each.record, each.record.bytes_total
        done = "" if record.bytes_done is None else size(record.bytes_done)
        if total:
            done = percent(record.bytes_done or 0, total)
        owner = Text(printable(record.owner or "nobody"))
        if record.attempts > 1:
            owner.append(f", attempt {record.attempts}", "cyan")
        if each.stuck:
            owner = Text(f"{each.stuck}: ", "bold red").append(owner)
        elif record.lease_expires_at is None:
            owner = Text("lease never ends: ", "yellow").append(owner)
        table.add_row(
            _model(record),
            length((at - each.since).total_seconds()),
            done,
            "" if total is None else size(total),
            "" if each.bytes_per_second is None else rate(each.bytes_per_second),
            "" if each.seconds_left is None else length(each.seconds_left),
            owner,
        )
    return table


def _error_table(errors: Iterable[ModelRecord], at: datetime) -> Table:
    table = _table("ERROR", "TRY", "NEXT", last="MESSAGE")
    for record in errors:
        if record.permanent:
            following = Text("never", "red")
        elif record.retry_at is None or record.retry_at <= at:
            following = Text("any time")
        else:
            following = Text(f"in {length((record.retry_at - at).total_seconds())}")
        table.add_row(
            _model(record), str(record.attempts or ""), following, Text(printable(record.message or ""))
        )
    return table


def _oldest_table(records: Iterable[ModelRecord], at: datetime) -> Table:
    table = _table("LONGEST UNUSED", "LAST USED", "SIZE", last="LOCATION")
    for record in records:
        table.add_row(
            _model(record),
            ago(record.last_used_at, at),
            "" if record.size_bytes is None else size(record.size_bytes),
            Text(printable(record.location or "")),
        )
    return table


def _model(record: ModelRecord) -> Text:
    return Text(name_of(ref_of(record))).append(f"  {record.provider}", "dim")


def top(cli: Cli, once: bool) -> Answer | int:
    """One frame, or, on a terminal, one after the other until a signal comes."""
    overview = _Overview(cli.registry)
    frame = overview.look()
    if once or not cli.on_screen or Console().is_dumb_terminal:
        return Answer(_FrameView(frame))
    changed = threading.Event()
    # It ends when the client is closed.
    threading.Thread(target=_listen, args=(cli.registry, changed), name="pyregistry-top", daemon=True).start()
    console = Console(highlight=False, markup=False, emoji=False)
    view = _FrameView(frame, fits=True)
    try:
        with ends_by_signals(), Live(view, console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(view, refresh=True)
                time.sleep(_BREATH)
                changed.wait(_REFRESH - _BREATH)
                changed.clear()
                try:
                    view = _FrameView(overview.look(), fits=True)
                except (RegistryUnavailable, OutcomeUnknown) as error:
                    view = replace(view, trouble=str(error))
    except Stopped as stopped:
        return stopped.exit_code


def _listen(registry: Registry, changed: threading.Event) -> None:
    """Any event, and any gap, is a reason to look again."""
    while True:
        try:
            for _ in registry.watch():
                changed.set()
            return
        except RegistryClosed:
            return
        except RegistryError:
            time.sleep(_TRY_AGAIN)
