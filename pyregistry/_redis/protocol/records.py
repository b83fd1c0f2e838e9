"""What travels and what is stored, as typed Structs, and what they become in `pyregistry.models`.

`StoredRecord` has the layout of ``lua/record.toml``: the build of the scripts and a test compare them. msgspec
reads the MessagePack arrays that the scripts answer. Times are integer microseconds of lease time; ``""``
and ``0`` say that nothing is there.
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
"""A lease left of this says that the lease never ends."""

HOW_RELEASED, HOW_CANCELLED = 3, 4
"""`StoredRecord.ended_how` of a claim that was given back, or cancelled (1: DOWNLOADED, 2: ERROR)."""


Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""What the scripts take for a number of a record; any other is damage."""


class StoredRecord(msgspec.Struct, array_like=True, frozen=True):
    """A record as Redis holds it. New elements come at the end, with a default.

    Trailing elements that say nothing are not stored: what most records need comes first. The lease of a
    DOWNLOADED record has ended when its files were there, that of an ERROR when it was told. ``max_attempts`` is of
    an ERROR: once ``attempts`` reach it, ``retry_at`` ends the cool-down. ``renewal`` is the order of the progress
    that was told last.
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
    """The caller's own claim, met by a request that was sent again."""


class Exists(msgspec.Struct, array_like=True, frozen=True, gc=False, tag="exists"):
    """Not claimed."""

    status: str
    lease_end: int
    lease_left: int


class RetryRefused(msgspec.Struct, array_like=True, frozen=True, tag="refused"):
    """Not retried, and why."""

    status: str
    attempts: int
    permanent: int
    retry_left: int


class Renewed(msgspec.Struct, array_like=True, frozen=True, tag="renewed"):
    """The lease goes on."""

    lease_end: int
    lease_left: int


class Ended(msgspec.Struct, array_like=True, frozen=True, tag="ended"):
    """The caller has ended this claim itself."""

    how: int


class Lost(msgspec.Struct, array_like=True, frozen=True, tag="lost"):
    """The claim is somebody else's by now, or gone."""

    status: str
    message: str = ""


class Done(msgspec.Struct, array_like=True, frozen=True, tag="done"):
    """Carried out."""


class Again(msgspec.Struct, array_like=True, frozen=True, tag="again"):
    """It was carried out before."""


class SetRefused(msgspec.Struct, array_like=True, frozen=True, tag="refused"):
    """Not set: an eviction is under way."""

    status: str


class Known(msgspec.Struct, array_like=True, frozen=True, tag="known"):
    """There is such a record."""


class Unknown(msgspec.Struct, array_like=True, frozen=True, tag="unknown"):
    """There is no such record."""


class Deleted(msgspec.Struct, array_like=True, frozen=True, tag="deleted"):
    """Gone, by this call."""


class Absent(msgspec.Struct, array_like=True, frozen=True, tag="absent"):
    """There is no such record."""


class OtherToken(msgspec.Struct, array_like=True, frozen=True, tag="other"):
    """The record is not the one that was meant."""

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
    record: msgspec.Raw  # read one by one: a damaged one must not take the others with it


class Now(msgspec.Struct, array_like=True, frozen=True):
    """Lease time."""

    time: int


class Cache(msgspec.Struct, array_like=True, frozen=True):
    """Which cache a namespace stands for; ``""``: nobody has said so yet."""

    cache_id: str


class BranchSet(msgspec.Struct, array_like=True, frozen=True):
    """How many fields were written."""

    written: int


class Opened(msgspec.Struct, array_like=True, frozen=True):
    """The server that a connection was opened to.

    Attributes:
        run_id: the server's.
        version: product and version.
        schema: that of the namespace.
        due: 1: as far as reading goes; `open` is still to run.
        lacking: the right that waiting needs and this user lacks; empty: none.
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
    """The public form of a record. One that the index has lost shows when it was made as its last use.

    Raises:
        ValueError: its status is unknown.
    """
    status = _STATUSES.get(stored.status) or ModelStatus(stored.status)
    over = status in _OVER
    began = BEGAN_MESSAGES.get(stored.began) if status is ModelStatus.DOWNLOADING else None
    # By position: by so many names the call takes three times as long.
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
