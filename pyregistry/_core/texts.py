"""Human-readable texts about the start and the failure of a download."""

from __future__ import annotations

from datetime import datetime

from pyregistry.models import ModelRecord

__all__ = ["BEGAN_MESSAGES", "count_of", "next_try_of", "told"]

BEGAN_MESSAGES = {1: "Starting download...", 2: "Retrying download..."}
"""Default messages of a running download, by `began` of its record (1: claim, 2: retry).

They apply until the owner reports a message.
"""


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def count_of(record: ModelRecord) -> str:
    """Format the attempt count: `<attempts>`, or `<attempts> of <maximum>` if the record has a maximum.

    Returns:
        The text; empty if the record counts no attempt.
    """
    if not record.attempts:
        return ""
    return str(record.attempts) + (f" of {record.max_attempts}" if record.max_attempts else "")


def next_try_of(record: ModelRecord) -> str:
    """Describe when the fleet tries the download again."""
    if record.permanent:
        return "it is not tried again by itself"
    if record.retry_at is not None:
        return f"next try: not before {_clock(record.retry_at)}"
    if record.used_up:
        return "its attempts are used up"
    return "next try: at the next call whose policy allows one"


def told(record: ModelRecord) -> str:
    """Describe a failed download in one sentence: when, on which owner, which attempt, why, and the next try."""
    parts = [f"the download of {record.model_name!r} ({record.provider}) failed"]
    if record.finished_at is not None:
        parts.append(f"at {_clock(record.finished_at)}")
    if record.owner:
        parts.append(f"on {record.owner}")
    if record.attempts:
        parts.append(f"(attempt {count_of(record)})")
    return f"{' '.join(parts)}: {record.message}; {next_try_of(record)}; `pyregistry rm` clears it"
