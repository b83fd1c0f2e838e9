"""Values of the registry: models, claims, their statuses, and events."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Literal, NamedTuple, NewType, TypeAlias

import msgspec

__all__ = [
    "AlreadyExists",
    "Claim",
    "Claimed",
    "EventGap",
    "EventKind",
    "ModelProvider",
    "ModelRecord",
    "ModelRef",
    "ModelStatus",
    "Provider",
    "ProviderLike",
    "RegistryEvent",
    "StatusCounts",
]


class _Word(str, Enum):
    """Base of enums whose members equal their text and print as it."""

    __str__ = str.__str__


class ModelProvider(_Word):
    """The source of a model. Any other plain word is a provider too."""

    HUGGING_FACE = "HuggingFace"
    NGC = "Ngc"
    GCS = "Gcs"
    S3 = "S3"


Provider = NewType("Provider", str)
"""Type of a provider beyond the four, for type checkers: ``Provider("Artifactory")``. At run time it is a str."""

ProviderLike: TypeAlias = Literal["HuggingFace", "Ngc", "Gcs", "S3"] | ModelProvider | Provider
"""Type of a provider argument. Wrap a computed str as ``Provider(word)``.

A plain ``str`` is not in this type, so that type checkers find a misspelt literal. At run time any plain word is
accepted."""


class ModelStatus(_Word):
    """The status of a model's files."""

    DOWNLOADING = "DOWNLOADING"
    DOWNLOADED = "DOWNLOADED"
    ERROR = "ERROR"
    EVICTING = "EVICTING"


class ModelRef(NamedTuple):
    """The identity of one model, as an argument of calls for many models.

    Attributes:
        name: Model name.
        provider: Provider of the model. A claim needs one. Defaults to ``None``: any provider.
        revision: Commit, tag or branch. Defaults to ``None``: unpinned.
        subset: Part of the files. Defaults to ``None``: the whole model.
    """

    name: str
    provider: ProviderLike | None = None
    revision: str | None = None
    subset: str | None = None

    def __str__(self) -> str:
        """Return the model in the form of an index entry, with the name last."""
        name, provider, revision, subset = self
        where = "" if provider is None else f"{provider}"
        where += f"@{revision}" if revision else ""
        where += f"#{subset}" if subset else ""
        return f"{where}:{name}" if where else name


class ModelRecord(msgspec.Struct, frozen=True):
    """The state of one model in the registry. Compared by value; no field depends on the current time.

    Attributes:
        model_name: Model name.
        provider: Provider of the model: a `ModelProvider` or another plain word.
        status: Status of the files.
        created_at: Time of the record's creation (aware, UTC).
        last_used_at: Time of the last use (aware, UTC).
        message: Last message of the owner, or of the caller that set the status.
        revision: Revision of the model. ``None``: unpinned.
        subset: Part of the files. ``None``: the whole model.
        token: Fencing token of the claim that made this state. It grows with each new claim.
        attempts: Number of claims since the last success, delete or ``set_status``.
        size_bytes: Size of the files in bytes, if known.
        location: Location of the files, relative to the cache.
        resolved_revision: Downloaded commit.
        owner: Owner of the current or last download.
        lease_expires_at: End of the lease unless renewed (aware, UTC). ``None``: no claim, or it never expires.
        finished_at: Time of the change to DOWNLOADED or ERROR (aware, UTC, in the registry's lease time).
        bytes_done: Number of bytes downloaded.
        bytes_total: Size of the download in bytes.
        previous_owner: Owner of the claim that this download took over.
        retry_at: End of the back-off of an ERROR (aware, UTC). With no attempts left, the end of the cool-down.
        permanent: Whether retries of the ERROR are forbidden.
        max_attempts: Attempts that the policy of an ERROR's last owner allows. ``None``: not recorded.
        released: Whether the owner released the download. It has been waiting for the next owner since
            ``lease_expires_at``. False for a lost owner, whose lease ended without renewal.
    """

    model_name: str
    provider: ProviderLike
    status: ModelStatus
    created_at: datetime
    last_used_at: datetime
    message: str | None = None
    revision: str | None = None
    subset: str | None = None
    token: int = 0
    attempts: int = 0
    size_bytes: int | None = None
    location: str | None = None
    resolved_revision: str | None = None
    owner: str | None = None
    lease_expires_at: datetime | None = None
    finished_at: datetime | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    previous_owner: str | None = None
    retry_at: datetime | None = None
    permanent: bool = False
    max_attempts: int | None = None
    released: bool = False

    @property
    def used_up(self) -> bool:
        """Whether the model is in ERROR with no attempts left. `retry_at` is then the end of the cool-down."""
        most = self.max_attempts
        return self.status is ModelStatus.ERROR and most is not None and self.attempts >= most


class Claim(msgspec.Struct, frozen=True, gc=False):
    """The right to download one model. Any process with its ``claim_id`` can use it, so keep the id secret.

    Attributes:
        model_name: Model name.
        provider: Provider of the model.
        revision: Revision of the model. ``None``: unpinned.
        subset: Part of the files. ``None``: the whole model.
        claim_id: Unique name and secret of this attempt. ``repr`` omits it.
        owner: Human-readable name of the owner.
        token: Fencing token. A later claim of the same model always has a larger one.
        lease: Seconds for which the claim holds without renewal. ``None``: the claim never expires.
        lease_expires_at: End of the lease (aware, UTC, in the registry's lease time). ``None``: never.
        attempts: Number of this attempt, counted from 1.
        taken_over: Whether the previous owner's claim expired without renewal or was released.
        previous_owner: Previous owner.
        previous_bytes_done: Number of bytes that the previous owner had downloaded.
    """

    model_name: str
    provider: ProviderLike
    revision: str | None
    subset: str | None
    claim_id: str
    owner: str
    token: int
    lease: float | None
    lease_expires_at: datetime | None
    attempts: int = 1
    taken_over: bool = False
    previous_owner: str | None = None
    previous_bytes_done: int | None = None

    @property
    def ref(self) -> ModelRef:
        """The claimed model."""
        return ModelRef(self.model_name, self.provider, self.revision, self.subset)

    def __repr__(self) -> str:
        shown = (
            f"{field}={getattr(self, field)!r}" for field in self.__struct_fields__ if field != "claim_id"
        )
        return f"Claim({', '.join(shown)})"


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """The caller owns the download.

    Attributes:
        claim: Claim to renew, finish or release the download.
    """

    claim: Claim


class AlreadyExists(msgspec.Struct, frozen=True, gc=False):
    """Another caller owns the download, or the download is over.

    Attributes:
        status: Status of the model at the time of the call.
        lease_expires_at: End of the owner's lease unless renewed (aware, UTC). ``None``: never.
        lease_left: The same in seconds from the server's reply. ``None``: never, or the model has no owner.
    """

    status: ModelStatus
    lease_expires_at: datetime | None = None
    lease_left: float | None = None


class StatusCounts(NamedTuple):
    """The number of records by status. A model in EVICTING is not counted."""

    downloading: int
    downloaded: int
    error: int


class EventKind(_Word):
    """The kind of a change.

    ABANDONED: the model has lost as many owners as ``max_attempts`` allows.

    CANCELLED: a caller other than the owner ended the download.
    """

    CLAIMED = "claimed"
    TAKEN_OVER = "taken_over"
    RETRIED = "retried"
    RENEWED = "renewed"
    DOWNLOADED = "downloaded"
    FAILED = "failed"
    ABANDONED = "abandoned"
    RELEASED = "released"
    CANCELLED = "cancelled"
    SET = "set"
    DELETED = "deleted"


class RegistryEvent(msgspec.Struct, frozen=True):
    """One published transition.

    Attributes:
        kind: Kind of the change.
        record: The record after the change, or before it if the record was deleted. Its ``last_used_at`` is ``at``
            if the event is not a use of the model.
        claim_id: Id of the claim concerned, also of a claim that has ended. ``None``: no claim.
        by: Name of the caller, if it is not the record's owner (``set``, ``cancelled``, ``deleted``).
        at: Time of the change in the registry's lease time (aware, UTC).
    """

    kind: EventKind
    record: ModelRecord
    claim_id: str | None
    by: str | None
    at: datetime


class EventGap(msgspec.Struct, frozen=True):
    """A gap in the stream of events. Read the state again, because events may be missing.

    Attributes:
        why: Human-readable reason.
    """

    why: str
