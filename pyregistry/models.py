"""What the registry speaks of: models, claims, their states, and what happened to them."""

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
    """A word that is equal to its text, and prints as it."""

    __str__ = str.__str__


class ModelProvider(_Word):
    """Where a model comes from. Any other plain word is a provider too."""

    HUGGING_FACE = "HuggingFace"
    NGC = "Ngc"
    GCS = "Gcs"
    S3 = "S3"


Provider = NewType("Provider", str)
"""The word of a provider beyond the four, for type checkers: ``Provider("Artifactory")``. At run time it is a str."""

ProviderLike: TypeAlias = Literal["HuggingFace", "Ngc", "Gcs", "S3"] | ModelProvider | Provider
"""What names a provider. A str that is computed or read is to be wrapped, ``Provider(word)``, so that a type checker
finds a misspelt literal; at run time any plain word is taken."""


class ModelStatus(_Word):
    """What is known of a model's files."""

    DOWNLOADING = "DOWNLOADING"
    DOWNLOADED = "DOWNLOADED"
    ERROR = "ERROR"
    EVICTING = "EVICTING"


class ModelRef(NamedTuple):
    """One model, as calls that take many of them name it.

    Attributes:
        name: its name.
        provider: where it comes from; ``None``: any (not for a claim).
        revision: a commit, tag or branch; ``None``: unpinned.
        subset: which part of its files; ``None``: the whole model.
    """

    name: str
    provider: ProviderLike | None = None
    revision: str | None = None
    subset: str | None = None

    def __str__(self) -> str:
        """As an entry of the index begins, with the name last."""
        name, provider, revision, subset = self
        where = "" if provider is None else f"{provider}"
        where += f"@{revision}" if revision else ""
        where += f"#{subset}" if subset else ""
        return f"{where}:{name}" if where else name


class ModelRecord(msgspec.Struct, frozen=True):
    """What the registry knows of one model. Compared by value; nothing in it is computed from now.

    Attributes:
        model_name: the model.
        provider: where it comes from (a `ModelProvider`, or another plain word).
        status: what is known of its files.
        created_at: when the registry first heard of it (aware, UTC).
        last_used_at: when it was last used (aware, UTC).
        message: what its owner, or whoever set the status, said last.
        revision: which revision this record is of; ``None``: unpinned.
        subset: which part of the files; ``None``: the whole model.
        token: the fencing token of the claim that made this state; grows with each new claim.
        attempts: how many claims there were since the last success, delete or ``set_status``.
        size_bytes: how large the files are, where known.
        location: where the files are, relative to the cache.
        resolved_revision: the commit that was downloaded.
        owner: who downloads, or downloaded, it.
        lease_expires_at: when the claim ends unless renewed (aware, UTC); ``None``: no claim, or never.
        finished_at: since when it is DOWNLOADED, or in ERROR (aware, UTC, by the registry's lease time).
        bytes_done: how much of a download is done, in bytes.
        bytes_total: how much there is to download, in bytes.
        previous_owner: whose claim this download took over.
        retry_at: an error is not retried before (aware, UTC); where the attempts are used up, the end of the cool-down.
        permanent: an error that is not retried.
        max_attempts: of an error: how many attempts the policy of its last owner allows; ``None``: not told.
        released: its owner gave the download back, and it waits for another since ``lease_expires_at``. A lost owner,
            whose lease has ended without a word, does not set it.
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
        """Whether it is in ERROR, and its attempts are used up; `retry_at` then ends the cool-down."""
        most = self.max_attempts
        return self.status is ModelStatus.ERROR and most is not None and self.attempts >= most


class Claim(msgspec.Struct, frozen=True, gc=False):
    """The right to download one model. Whoever has its ``claim_id`` can use it: keep it to yourself.

    Attributes:
        model_name: the model.
        provider: where it comes from.
        revision: which revision; ``None``: unpinned.
        subset: which part of the files; ``None``: the whole model.
        claim_id: names this attempt, and is its secret (not shown by ``repr``).
        owner: who claims, for people.
        token: the fencing token; a later claim of the same model always has a larger one.
        lease: how long the claim holds without renewal, in seconds; ``None``: for ever.
        lease_expires_at: when the lease ends (aware, UTC, by the registry's lease time); ``None``: never.
        attempts: which attempt this is, from 1.
        taken_over: whether another owner's claim ended without a word, or was released.
        previous_owner: that owner.
        previous_bytes_done: how far it had got, in bytes.
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
        """The model that is claimed."""
        return ModelRef(self.model_name, self.provider, self.revision, self.subset)

    def __repr__(self) -> str:
        shown = (
            f"{field}={getattr(self, field)!r}" for field in self.__struct_fields__ if field != "claim_id"
        )
        return f"Claim({', '.join(shown)})"


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """The caller owns the download.

    Attributes:
        claim: what renews, finishes or releases it.
    """

    claim: Claim


class AlreadyExists(msgspec.Struct, frozen=True, gc=False):
    """Somebody else owns the download, or it is over.

    Attributes:
        status: the status that the claim met.
        lease_expires_at: when the owner's lease ends unless renewed (aware, UTC); ``None``: never.
        lease_left: the same in seconds from the server's answer; ``None``: never, or nobody owns it.
    """

    status: ModelStatus
    lease_expires_at: datetime | None = None
    lease_left: float | None = None


class StatusCounts(NamedTuple):
    """How many records there are by status; what is being evicted counts in none."""

    downloading: int
    downloaded: int
    error: int


class EventKind(_Word):
    """What happened to a record. ABANDONED: its owners were lost as often as ``max_attempts`` allows.

    CANCELLED: the download was ended by another than its owner.
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
    """One transition, as it was published.

    Attributes:
        kind: what happened.
        record: the record afterwards (of a deleted one: before); its ``last_used_at`` is
            ``at``, where the event is no use of it.
        claim_id: which claim it was about; ``None``: none. A claim that has ended says which it was.
        by: who called, where that is not the record's owner (``set``, ``cancelled``, ``deleted``).
        at: when, by the registry's lease time (aware, UTC).
    """

    kind: EventKind
    record: ModelRecord
    claim_id: str | None
    by: str | None
    at: datetime


class EventGap(msgspec.Struct, frozen=True):
    """Events may be missing here: read the state again.

    Attributes:
        why: what happened, for people.
    """

    why: str
