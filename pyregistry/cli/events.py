"""``pyregistry watch``: write the events of the models, one a line."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from datetime import datetime

import msgspec
from rich.console import Console
from rich.text import Text

from pyregistry._core import validation as checks
from pyregistry._core.texts import count_of
from pyregistry.cli.context import Cli
from pyregistry.cli.exit_codes import Exit
from pyregistry.cli.formatting import message_of, name_of, now_utc, printable, progress_of, ref_of
from pyregistry.cli.output import STYLES, tabbed, to_json
from pyregistry.cli.units import length, size
from pyregistry.models import EventGap, EventKind, ProviderLike, RegistryEvent

__all__ = ["watch_events"]

_KIND_WIDTH = max(map(len, EventKind))
_COLUMNS = (
    "at", "kind", "status", "provider", "model_name", "revision", "subset", "token", "owner", "by", "attempts",
    "bytes_done", "bytes_total", "size_bytes", "location", "message",
)  # fmt: skip


def watch_events(
    cli: Cli, model: str | None, provider: ProviderLike | None, seconds: float | None, count: int | None
) -> int:
    """Write events until a limit is reached, or until the reader ends it (Ctrl-C, closed pipe).

    Args:
        cli: The command line.
        model: Only events of this model. None: all models.
        provider: Only events of this provider. None: all providers.
        seconds: Duration, in seconds. None: no limit.
        count: Number of events; gaps do not count. None: no limit.

    Returns:
        The exit code.

    Raises:
        InvalidArgument: `seconds` or `count` is out of range.
        RegistryError: As for every call of a client.
    """
    if seconds is not None:
        checks.microseconds("for", seconds)
    if count is not None:
        checks.whole("count", count)
    write = _writer(cli)
    with cli.registry.watch(model, provider) as events:
        # Another thread can end the stream only by closing the client.
        timer = None if seconds is None else threading.Timer(seconds, cli.registry.close)
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            # The subscription exists: every event after this note is written.
            cli.note(f"watching {cli.registry.namespace}")
            left = count
            for event in events if left != 0 else ():
                write(event)
                if left is not None and isinstance(event, RegistryEvent):
                    left -= 1
                if left == 0:
                    break
        finally:
            if timer is not None:
                timer.cancel()
    return Exit.DONE


def _writer(cli: Cli) -> Callable[[RegistryEvent | EventGap], None]:
    if cli.wants_json:
        return _write_json
    if cli.on_screen:
        console = Console(highlight=False, markup=False, emoji=False)
        return lambda event: console.print(_screen(event), soft_wrap=True)
    _write_line(column.upper() for column in _COLUMNS)
    return lambda event: _write_line(_values(event))


def _write_json(event: RegistryEvent | EventGap) -> None:
    sys.stdout.buffer.write(to_json(_document(event)) + b"\n")
    sys.stdout.buffer.flush()


def _document(event: RegistryEvent | EventGap) -> dict[str, object]:
    if isinstance(event, EventGap):
        return {"kind": "gap", "at": now_utc(), "why": event.why}
    # Without the claim id: it is a secret, with which any client can end the download.
    return {"kind": event.kind, "at": event.at, "by": event.by, "record": event.record}


def _write_line(values: Iterable[object]) -> None:
    print(tabbed(values), flush=True)


def _values(event: RegistryEvent | EventGap) -> list[object]:
    if isinstance(event, EventGap):
        known: dict[str, object] = {"at": now_utc(), "kind": "gap", "message": event.why}
    else:
        known = {
            **msgspec.structs.asdict(event.record), "at": event.at, "kind": event.kind, "by": event.by,
        }  # fmt: skip
    return [known.get(column) for column in _COLUMNS]


def _screen(event: RegistryEvent | EventGap) -> Text:
    if isinstance(event, EventGap):
        text = _begin(now_utc(), "gap", "bold yellow")
        return text.append(f"events may be missing: {printable(event.why)}", "yellow")
    record = event.record
    gone = event.kind is EventKind.DELETED
    text = _begin(event.at, event.kind, "magenta" if gone else STYLES[record.status])
    text.append(name_of(ref_of(record)), "bold").append(f"  {record.provider}")
    return text.append(f"  {_details(event)}", "dim")


def _begin(at: datetime, kind: str, style: str) -> Text:
    local = at.astimezone()
    return Text(f"{local:%H:%M:%S}  ").append(f"{kind.replace('_', ' '):<{_KIND_WIDTH}}  ", style)


def _details(event: RegistryEvent) -> str:
    record = event.record
    parts: list[str | None] = []
    match event.kind:
        case EventKind.CLAIMED | EventKind.RETRIED | EventKind.TAKEN_OVER:
            parts = [record.owner, f"attempt {record.attempts}", f"token {record.token}"]
            if event.kind is EventKind.TAKEN_OVER:
                parts.insert(1, f"from {record.previous_owner}")
        case EventKind.RENEWED:
            parts = [record.owner, progress_of(record)]
            if record.bytes_total and record.bytes_done is not None:
                parts.append(f"{size(record.bytes_done)} of {size(record.bytes_total)}")
            parts.append(message_of(record))
        case EventKind.DOWNLOADED:
            parts = [
                record.owner,
                None if record.size_bytes is None else size(record.size_bytes),
                record.location,
                record.message,
            ]
        case EventKind.FAILED | EventKind.ABANDONED:
            parts = [record.owner, f"attempt {count_of(record)}", record.message]
            if record.permanent:
                parts.insert(2, "for good")
            elif record.retry_at is not None:
                parts.insert(2, f"no retry for {length((record.retry_at - event.at).total_seconds())}")
        case EventKind.CANCELLED:
            parts = [record.message]
        case EventKind.SET:
            parts = [str(record.status), event.by and f"by {event.by}", record.message]
        case _:
            parts = [event.by and f"by {event.by}"]
    return ", ".join(printable(part) for part in parts if part)
