"""``pyregistry top``: who downloads what, how far and how fast; what is stuck, what has failed, what goes first."""

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

_DOWNLOADS, _ERRORS, _OLDEST = 200, 20, 10  # as many are read
_REFRESH = 1.0
_BREATH = 0.1  # seconds between two frames, however much happens
_SILENT = 30.0  # seconds without progress after which a download that has told some counts as stuck
_TRY_AGAIN = 2.0


class _Overview:
    """Looks, again and again, and remembers how fast the downloads were."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._paces: dict[ModelRef, Pace] = {}

    def look(self) -> Frame:
        """What there is to see now."""
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
            # The token is the time of its claim; after a failover it may be ahead.
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
    """One frame, or, on a terminal, one after the other until a signal comes."""
    overview = _Overview(cli.registry)
    frame = overview.look()
    if once or not cli.on_screen or Console().is_dumb_terminal:
        return Answer(FrameView(frame))
    changed, listens = threading.Event(), threading.Event()
    listener = threading.Thread(
        target=_listen, args=(cli.registry, changed, listens), name="pyregistry-top", daemon=True
    )
    listener.start()  # it ends when the client is closed
    console = Console(highlight=False, markup=False, emoji=False)
    view = FrameView(frame, fits=True)
    try:
        with ends_by_signals(), Live(view, console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(view, refresh=True)
                time.sleep(_BREATH)
                changed.wait(_REFRESH - _BREATH)
                changed.clear()
                also_this = listens.is_set()
                try:
                    view = FrameView(overview.look(), fits=True, listens=also_this)
                except (RegistryUnavailable, OutcomeUnknown) as error:
                    view = replace(view, trouble=str(error))
    except Stopped as stopped:
        return stopped.exit_code


def _listen(registry: Registry, changed: threading.Event, listens: threading.Event) -> None:
    """Any event, and any gap, is a reason to look again."""
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
