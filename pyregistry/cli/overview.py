"""``pyregistry top``: running downloads with progress and speed, stuck downloads, errors, and the LRU models."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import datetime

from rich.console import Console
from rich.live import Live

from pyregistry._core.clock import time_of
from pyregistry._core.values import STATUSES
from pyregistry.cli.context import Cli
from pyregistry.cli.formatting import ref_of
from pyregistry.cli.frame import Download, Frame, FrameView, Stock
from pyregistry.cli.listeners import listeners_of
from pyregistry.cli.output import Answer
from pyregistry.cli.signals import Stopped, ends_by_signals
from pyregistry.cli.throughput import Pace
from pyregistry.cli.units import length
from pyregistry.errors import OutcomeUnknown, RegistryClosed, RegistryError, RegistryUnavailable
from pyregistry.models import ModelRecord, ModelRef, ModelStatus
from pyregistry.registry import Registry

__all__ = ["top"]

_DOWNLOADS, _ERRORS, _OLDEST = 200, 20, 10  # maximum number of records read for each frame
_REFRESH = 1.0
_MIN_FRAME_INTERVAL_S = 0.1  # applies at any rate of events
_SILENT = 30.0  # seconds without progress after which a download that has reported some counts as stuck
_TRY_AGAIN = 2.0


class _Overview:
    """Reads frames from the registry, and keeps the observed progress of each download between them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._paces: dict[ModelRef, Pace] = {}

    def look(self) -> Frame:
        """Read one frame."""
        registry = self._registry
        counts = registry._backend.totals()
        downloading = registry.get_models_by_last_used(_DOWNLOADS, ModelStatus.DOWNLOADING)
        at = registry._backend.lease_time()
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
            listeners=listeners_of(registry),
        )

    def _download(self, record: ModelRecord, at: datetime) -> Download:
        pace, now = self._paces[ref_of(record)], time.monotonic()
        pace.saw(now, record.token, record.bytes_done)
        speed, left = pace.speed(now), pace.seconds_left(now, record.bytes_total)
        return Download(
            record=record,
            # The token is the lease time of the claim. After a failover it may be ahead of the server's clock.
            since=min(time_of(record.token), at),
            bytes_per_second=None if speed is None else round(speed),
            seconds_left=None if left is None else round(left, 1),
            stuck=_stuck(record, at, pace.silence(now)),
        )


def _stuck(record: ModelRecord, at: datetime, silence: float) -> str | None:
    end = record.lease_expires_at
    if record.released:
        return None
    if end is not None and end <= at:
        return f"lease over for {length((at - end).total_seconds())}"
    if record.bytes_done is not None and silence >= _SILENT:
        return f"no progress for {length(silence)}"
    return None


def top(cli: Cli, once: bool) -> Answer | int:
    """Show one frame; on a terminal, redraw frames until a signal comes.

    Args:
        cli: The command line.
        once: Whether to show one frame on a terminal too.

    Returns:
        One frame, or the exit code of the signal.
    """
    overview = _Overview(cli.registry)
    frame = overview.look()
    if once or not cli.on_screen or Console().is_dumb_terminal:
        return Answer(FrameView(frame))
    changed, listens = threading.Event(), threading.Event()
    listener = threading.Thread(
        target=_listen, args=(cli.registry, changed, listens), name="pyregistry-top", daemon=True
    )
    listener.start()  # the thread ends when the client is closed
    console = Console(highlight=False, markup=False, emoji=False)
    view = FrameView(frame, fits=True)
    try:
        with ends_by_signals(), Live(view, console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(view, refresh=True)
                time.sleep(_MIN_FRAME_INTERVAL_S)
                changed.wait(_REFRESH - _MIN_FRAME_INTERVAL_S)
                changed.clear()
                also_this = listens.is_set()
                try:
                    view = FrameView(overview.look(), fits=True, listens=also_this)
                except (RegistryUnavailable, OutcomeUnknown) as error:
                    view = replace(view, trouble=str(error))
    except Stopped as stopped:
        return stopped.exit_code


def _listen(registry: Registry, changed: threading.Event, listens: threading.Event) -> None:
    """Set `changed` on every event and every gap; keep `listens` set while subscribed."""
    while True:
        try:
            with registry.watch() as events:
                listens.set()
                for _ in events:
                    changed.set()
            return
        except RegistryClosed:
            return
        except RegistryError:
            listens.clear()
            time.sleep(_TRY_AGAIN)
