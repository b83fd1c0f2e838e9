"""Events of the channel: their encoding and their public form."""

from __future__ import annotations

import math

import msgspec

from pyregistry._core.clock import time_of
from pyregistry._core.model_key import parse_entry
from pyregistry._redis.protocol.records import HOW_CANCELLED, StoredRecord, record_of
from pyregistry.backend.values import ModelState
from pyregistry.models import EventKind, ModelRef, ModelStatus, RegistryEvent

__all__ = ["StoredEvent", "decode_events"]

_ENDS = {EventKind.DOWNLOADED, EventKind.FAILED, EventKind.RELEASED}


class StoredEvent(msgspec.Struct, array_like=True, frozen=True):
    """One event of a message. ``used`` is the last use that the call set on the record (0: none)."""

    kind: EventKind
    entry: str
    at: int
    by: str
    used: int
    record: StoredRecord

    @property
    def ref(self) -> ModelRef:
        """The model."""
        return parse_entry(self.entry)

    def state(self) -> ModelState:
        """Return the state of the model after this event."""
        stored = self.record
        if self.kind is EventKind.DELETED or not stored.status:
            return ModelState(None)
        status = ModelStatus(stored.status)
        left = 0.0
        if status in (ModelStatus.DOWNLOADING, ModelStatus.EVICTING):
            left = math.inf if stored.lease_end == 0 else (stored.lease_end - self.at) / 1_000_000
        elif status is ModelStatus.ERROR and stored.retry_at:
            left = (stored.retry_at - self.at) / 1_000_000
        # A record is complete only with its last use.
        record = record_of(self.ref, stored, self.used) if self.used else None
        return ModelState(status, left, record)

    def event(self) -> RegistryEvent:
        """Return the public form of the event."""
        # The deletion of an unreadable record has no status; it counts as ERROR.
        record = self.record if self.record.status else StoredRecord(status="ERROR")
        ended = self.kind in _ENDS or (self.kind is EventKind.CANCELLED and record.ended_how == HOW_CANCELLED)
        return RegistryEvent(
            kind=self.kind,
            record=record_of(self.ref, record, self.used or self.at),
            claim_id=(record.ended_id if ended else record.claim_id) or None,
            by=self.by or None,
            at=time_of(self.at),
        )


decode_events = msgspec.msgpack.Decoder(list[StoredEvent]).decode
