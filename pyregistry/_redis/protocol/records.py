"""Typed structs of stored records and of the scripts' replies, and their conversion to `pyregistry.models`.

`StoredRecord` has the layout of ``lua/record.toml``: the build of the scripts and a test compare them. msgspec
decodes the MessagePack arrays that the scripts return. Times are integer microseconds of lease time. ``""`` and ``0``
mean that a field is absent.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from pyregistry._core.clock import time_of, time_or_none
from pyregistry._core.model_key import provider_of
from pyregistry._core.texts import BEGAN_MESSAGES
from pyregistry.backend.values import Cancelled, StatusSet
from pyregistry.models import (
    ModelProvider,
    ModelRecord,
    ModelRef,
    ModelStatus,
)

_STATUSES = {status.value: status for status in ModelStatus}

_OVER = (ModelStatus.DOWNLOADED, ModelStatus.ERROR)

NEVER = -1
"""Value of `lease_left` for a lease that never ends."""

HOW_RELEASED, HOW_CANCELLED = 3, 4
"""Values of `StoredRecord.ended_how` for a released and for a cancelled claim (1: DOWNLOADED, 2: ERROR)."""


Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""The range of a record's numbers in the scripts. Any other value counts as damage."""


class StoredRecord(msgspec.Struct, array_like=True, frozen=True):
    """A record as stored in Redis. New fields are appended, with a default.

    Trailing absent fields are not stored, so the fields that most records use come first.

    Attributes:
        lease_end: End of the lease. Of a DOWNLOADED record: the time at which the download finished. Of an ERROR: the
            time at which the error was reported.
        max_attempts: Of an ERROR: once `attempts` reaches it, `retry_at` is the end of the cool-down.
        renewal: Order of the last progress update.
    """

    status: str = ""
    created_at: Whole = 0
    attempts: Whole = 0
    owner: str = ""
    claim_id: str = ""
    lease_end: Whole = 0
    began: Whole = 0
    token: Whole = 0
    ended_id: str = ""
    ended_how: Whole = 0
    size_bytes: Whole = 0
    location: str = ""
    message: str = ""
    bytes_done: Whole = 0
    bytes_total: Whole = 0
    resolved_revision: str = ""
    retry_at: Whole = 0
    permanent: Whole = 0
    previous_owner: str = ""
    previous_bytes_done: Whole = 0
    max_attempts: Whole = 0
    renewal: Whole = 0


class Damaged(msgspec.Struct, array_like=True, frozen=True, tag="damaged"):
    """The stored value can't be read."""

    why: str


class _ClaimGranted(msgspec.Struct, array_like=True, frozen=True, gc=False):
    token: int
    lease_end: int
    lease_left: int
    attempts: int
    previous_owner: str
    previous_bytes_done: int


class ClaimGiven(_ClaimGranted, frozen=True, tag="claimed"):
    """A new claim."""


class ClaimAgain(_ClaimGranted, frozen=True, tag="again"):
    """The caller's own claim, found by a retried request."""


class Exists(msgspec.Struct, array_like=True, frozen=True, gc=False, tag="exists"):
    """Not claimed."""

    status: str
    lease_end: int
    lease_left: int


class RetryRefused(msgspec.Struct, array_like=True, frozen=True, tag="refused"):
    """Not retried; the fields give the reason."""

    status: str
    attempts: int
    permanent: int
    retry_left: int


class Renewed(msgspec.Struct, array_like=True, frozen=True, tag="renewed"):
    """The lease is extended."""

    lease_end: int
    lease_left: int


class Ended(msgspec.Struct, array_like=True, frozen=True, tag="ended"):
    """The caller has ended this claim itself."""

    how: int


class Lost(msgspec.Struct, array_like=True, frozen=True, tag="lost"):
    """The claim is lost: another owner has the model, or the record is gone."""

    status: str
    message: str = ""


class Done(msgspec.Struct, array_like=True, frozen=True, tag="done"):
    """The transition was carried out."""


class Again(msgspec.Struct, array_like=True, frozen=True, tag="again"):
    """An earlier request has already carried out the transition."""


class SetRefused(msgspec.Struct, array_like=True, frozen=True, tag="refused"):
    """Refused: an eviction is under way."""

    status: str


class Known(msgspec.Struct, array_like=True, frozen=True, tag="known"):
    """The record exists."""


class Unknown(msgspec.Struct, array_like=True, frozen=True, tag="unknown"):
    """The record does not exist."""


class Deleted(msgspec.Struct, array_like=True, frozen=True, tag="deleted"):
    """This call has deleted the record."""


class Absent(msgspec.Struct, array_like=True, frozen=True, tag="absent"):
    """The record does not exist."""


class OtherToken(msgspec.Struct, array_like=True, frozen=True, tag="other"):
    """The record has another token than the expected one."""

    token: int


class Evicting(msgspec.Struct, array_like=True, frozen=True, tag="evicting"):
    """Refused: an eviction is under way."""

    lease_left: int


class Held(msgspec.Struct, array_like=True, frozen=True, tag="held"):
    """Refused: the files are in use."""

    holders: int


class Found(msgspec.Struct, array_like=True, frozen=True, tag="found"):
    """A record and its last use."""

    last_used: int
    record: msgspec.Raw  # decoded separately, so that a damaged record does not fail the others


class Now(msgspec.Struct, array_like=True, frozen=True):
    """Lease time."""

    time: int


class Cache(msgspec.Struct, array_like=True, frozen=True):
    """The cache id of a namespace; ``""``: not set."""

    cache_id: str


class BranchSet(msgspec.Struct, array_like=True, frozen=True):
    """The number of fields written."""

    written: int


class Opened(msgspec.Struct, array_like=True, frozen=True):
    """The server that a connection was opened to.

    Attributes:
        run_id: Run id of the server.
        version: Product and version.
        schema: Schema version of the namespace.
        due: 1: the connection is checked for reading only, and `open` must still run. Defaults to 0.
        lacking: The right that waiting needs and this user lacks. Defaults to empty: none.
    """

    run_id: str
    version: str
    schema: int
    due: int = 0
    lacking: str = ""


ClaimReply = ClaimGiven | ClaimAgain | Exists | Damaged
RetryReply = ClaimGiven | ClaimAgain | RetryRefused | Damaged
RenewReply = Renewed | Ended | Lost | Damaged
EndReply = Done | Again | Lost | Damaged
SetReply = StatusSet | SetRefused | Damaged
CancelReply = Cancelled | Again | OtherToken | SetRefused | Damaged
TouchReply = Known | Unknown | Damaged
DeleteReply = Deleted | Absent | OtherToken | Evicting | Held | Damaged
ReadReply = Found | Absent | Damaged

decode_record = msgspec.msgpack.Decoder(StoredRecord).decode


class _StatusOnly(msgspec.Struct, array_like=True, frozen=True):
    status: ModelStatus


decode_status = msgspec.msgpack.Decoder(_StatusOnly).decode


def record_of(ref: ModelRef, stored: StoredRecord, last_used: int) -> ModelRecord:
    """Return the public form of a record.

    Args:
        ref: The model.
        stored: The record.
        last_used: Its last use; 0 if no index has it: the time of its creation stands for it then.

    Raises:
        ValueError: The status is unknown.
    """
    status = _STATUSES.get(stored.status) or ModelStatus(stored.status)
    over = status in _OVER
    began = BEGAN_MESSAGES.get(stored.began) if status is ModelStatus.DOWNLOADING else None
    # By position, because a call with this many keyword arguments takes three times as long.
    return ModelRecord(
        ref.name,
        ref.provider if type(ref.provider) is ModelProvider else provider_of(str(ref.provider)),
        status,
        time_of(stored.created_at),
        time_of(last_used or stored.created_at),
        stored.message or began,
        ref.revision,
        ref.subset,
        stored.token,
        stored.attempts,
        stored.size_bytes or None,
        stored.location or None,
        stored.resolved_revision or None,
        stored.owner or None,
        None if over else time_or_none(stored.lease_end),
        time_or_none(stored.lease_end) if over else None,
        stored.bytes_done or None,
        stored.bytes_total or None,
        stored.previous_owner or None,
        time_or_none(stored.retry_at),
        bool(stored.permanent),
        stored.max_attempts or None,
        status is ModelStatus.DOWNLOADING and not stored.claim_id and stored.lease_end > 0,
    )
