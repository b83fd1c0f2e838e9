"""Format sizes, durations and percentages."""

from __future__ import annotations

from datetime import datetime

__all__ = ["ago", "length", "percent", "rate", "size"]

_STEPS = (("days", 86400), ("h", 3600), ("min", 60))


def length(seconds: float) -> str:
    """Format a duration in the largest unit that fits twice: 90 s, 3 min, 2 days. The minimum is 1 s."""
    for unit, step in _STEPS:
        if seconds >= 2 * step:
            return f"{seconds // step:.0f} {unit}"
    return f"{max(seconds, 1):.0f} s"


def ago(then: datetime, now: datetime) -> str:
    """Format the time since `then`.

    Less than 1 s is "just now", and so is a negative time: the registry's clock may be ahead of this machine's.
    """
    seconds = (now - then).total_seconds()
    return "just now" if seconds < 1 else f"{length(seconds)} ago"


def size(count: int) -> str:
    """Format a number of bytes: 0 B, 1023 B, 1.5 KiB, 4.1 GiB."""
    number, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if number < 1023.95:  # a larger number would be rounded to 1024.0
            break
        number, unit = number / 1024, larger
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def percent(done: int, total: int) -> str:
    """Format a percentage, rounded down, so that only a complete total is 100 %."""
    return f"{min(done * 100 // total, 100)} %"


def rate(speed: float) -> str:
    """Format a speed in bytes per second."""
    return f"{size(round(speed))}/s"
