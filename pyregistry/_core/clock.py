"""Clocks: of this machine, which leases are timed by here, and the registry's lease time as a `datetime`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import lru_cache, partial

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

now: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds on a clock that also runs while the machine sleeps, where there is one."""

LOOK_FOR_SIGNALS = 1.0
"""Seconds after which a wait without an end looks up: a signal that comes between Python's last look for one and the
system call does not end that call."""


@lru_cache(maxsize=256)  # the claims of a batch end at the same time
def time_of(microseconds: int) -> datetime:
    """A point in lease time."""
    return _EPOCH + timedelta(0, 0, microseconds)


def time_or_none(microseconds: int) -> datetime | None:
    """A point in lease time, or nothing where 0 stands."""
    return time_of(microseconds) if microseconds else None
