"""Texts about downloads, for people: how one began, and how it failed."""

from __future__ import annotations

from datetime import datetime

from pyregistry.models import ModelRecord

__all__ = ["BEGAN_MESSAGES", "count_of", "next_try_of", "told"]

BEGAN_MESSAGES = {1: "Starting download...", 2: "Retrying download..."}
"""By `began` of a record (1: by a claim, 2: by a retry): what is shown while the owner has said nothing."""


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def count_of(record: ModelRecord) -> str:
    """Which attempt it was, and of how many where that is known; empty where none is counted."""
    if not record.attempts:
        return ""
    return str(record.attempts) + (f" of {record.max_attempts}" if record.max_attempts else "")


def next_try_of(record: ModelRecord) -> str:
    """When it is tried again."""
    if record.permanent:
        return "it is not tried again by itself"
    if record.retry_at is not None:
        return f"next try: not before {_clock(record.retry_at)}"
    if record.used_up:
        return "its attempts are used up"
    return "next try: at the next call whose policy allows one"


def told(record: ModelRecord) -> str:
    """The whole story in one sentence."""
    parts = [f"the download of {record.model_name!r} ({record.provider}) failed"]
    if record.finished_at is not None:
        parts.append(f"at {_clock(record.finished_at)}")
    if record.owner:
        parts.append(f"on {record.owner}")
    if record.attempts:
        parts.append(f"(attempt {count_of(record)})")
    return f"{' '.join(parts)}: {record.message}; {next_try_of(record)}; `pyregistry rm` clears it"
