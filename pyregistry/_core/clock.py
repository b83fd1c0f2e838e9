"""Clocks: the local clock, which times leases on the client, and conversion of lease time to `datetime`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import lru_cache, partial

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

now: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Return seconds of the local clock: CLOCK_BOOTTIME, or `time.monotonic` where the system lacks it.

CLOCK_BOOTTIME also advances while the machine is suspended.
"""

LOOK_FOR_SIGNALS = 1.0
"""Interval, in seconds, at which a wait without a timeout returns to the interpreter.

A signal that arrives between Python's last signal check and the system call does not interrupt that call.
"""


@lru_cache(maxsize=256)  # the leases of a batch end at the same time
def time_of(microseconds: int) -> datetime:
    """Convert microseconds of lease time to a UTC `datetime`."""
    return _EPOCH + timedelta(0, 0, microseconds)


def time_or_none(microseconds: int) -> datetime | None:
    """Convert microseconds of lease time to a UTC `datetime`; 0 becomes ``None``."""
    return time_of(microseconds) if microseconds else None
