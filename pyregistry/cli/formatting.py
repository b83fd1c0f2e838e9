"""Format models and their states for human readers."""

from __future__ import annotations

from datetime import datetime, timezone

from pyregistry._core.texts import BEGAN_MESSAGES
from pyregistry.cli.units import length, percent, size
from pyregistry.models import ModelRecord, ModelRef, ModelStatus

__all__ = [
    "details_of",
    "lease_of",
    "message_of",
    "name_of",
    "now_utc",
    "printable",
    "progress_of",
    "ref_of",
    "size_of",
    "state_of",
]


def printable(text: str) -> str:
    """Escape unprintable characters, so that the text fits one line and holds no terminal control sequence."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def name_of(ref: ModelRef) -> str:
    """Format a model without its provider."""
    qualifiers = f"{f' @{ref.revision}' if ref.revision else ''}{f' #{ref.subset}' if ref.subset else ''}"
    return printable(ref.name + qualifiers)


def state_of(record: ModelRecord | None) -> str:
    """Describe the status of a model with its details; "unknown" without a record."""
    if record is None:
        return "unknown"
    details = details_of(record, now_utc())
    return f"{record.status} ({details})" if details else str(record.status)


def now_utc() -> datetime:
    """Return the current time of this machine's clock, in UTC."""
    return datetime.now(timezone.utc)


def ref_of(record: ModelRecord) -> ModelRef:
    """Return the model of a record."""
    return ModelRef(record.model_name, record.provider, record.revision, record.subset)


def lease_of(record: ModelRecord, now: datetime) -> str:
    """Describe when the lease ends or how long ago it ended."""
    if record.lease_expires_at is None:
        return "never ends"
    left = (record.lease_expires_at - now).total_seconds()
    return f"ends in {length(left)}" if left > 0 else f"over for {length(-left)}"


def waits_of(record: ModelRecord, now: datetime) -> str | None:
    """Describe how long a released download waits for its next owner; None if it was not released."""
    if not record.released or record.lease_expires_at is None:
        return None
    return f"released, waits for an owner for {length((now - record.lease_expires_at).total_seconds())}"


def details_of(record: ModelRecord, now: datetime) -> str:
    """Describe the fields that matter in the record's status."""
    parts: list[str | None]
    if record.status is ModelStatus.DOWNLOADING:
        lease = waits_of(record, now) or f"lease {lease_of(record, now)}"
        parts = [progress_of(record), record.owner, lease]
    elif record.status is ModelStatus.ERROR:
        parts = [_retry(record, now), record.message]
    elif record.status is ModelStatus.EVICTING:
        parts = [record.owner, f"lease {lease_of(record, now)}"]
    else:
        parts = [record.location, record.message]
    return ", ".join(printable(part) for part in parts if part)


def _retry(record: ModelRecord, now: datetime) -> str | None:
    if record.permanent:
        return "permanent"
    if record.retry_at is None or record.retry_at <= now:
        return "attempts used up" if record.used_up and record.retry_at is None else None
    return f"no retry for {length((record.retry_at - now).total_seconds())}"


def message_of(record: ModelRecord) -> str:
    """Return the owner's message, and "" for the default message of a new download."""
    message = record.message or ""
    return "" if message in BEGAN_MESSAGES.values() else printable(message)


def size_of(record: ModelRecord) -> str:
    """Format the size, or the expected size; "" if neither is known."""
    known = record.size_bytes if record.size_bytes is not None else record.bytes_total
    return "" if known is None else size(known)


def progress_of(record: ModelRecord) -> str | None:
    """Describe the progress of a download; None if it has reported none and has no expected size."""
    if record.bytes_total:
        return f"{percent(record.bytes_done or 0, record.bytes_total)} done"
    return None if record.bytes_done is None else f"{size(record.bytes_done)} done"
