"""Requests and answers of a backend, beside the public models.

Times are seconds (`float`) on the way in and lease time in microseconds (`int`) on the way out, unless a field says
otherwise. Requests check themselves when they are made, so that every backend refuses the same arguments.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from pyregistry._core import validation as checks
from pyregistry.errors import InvalidArgument
from pyregistry.models import ModelRecord, ModelStatus

__all__ = [
    "Branch",
    "Cancellation",
    "Cancelled",
    "Connected",
    "Ending",
    "HubAnswer",
    "ModelState",
    "StatusChange",
    "StatusSet",
    "Totals",
]


class Connected(msgspec.Struct, frozen=True):
    """What a connection was made to.

    Attributes:
        version: product and version of the server, such as ``valkey 9.1.2``.
        lacking: the right that waiting needs and this user lacks; empty: none.
    """

    version: str
    lacking: str = ""


class Ending(msgspec.Struct, frozen=True):
    """How a download ends.

    Attributes:
        status: DOWNLOADED or ERROR.
        message: for people; at most 4,096 bytes. Defaults to none.
        size_bytes: size of the files. For DOWNLOADED.
        location: where the files are, relative to the cache. For DOWNLOADED.
        resolved_revision: the commit that was downloaded. For DOWNLOADED.
        retry_in: back-off in seconds. For ERROR. Defaults to none.
        permanent: whether the model is never tried again by itself. For ERROR.
        max_attempts: attempts that the fleet makes. Once the record's attempts reach it, `cooldown` takes the place
            of `retry_in`. Defaults to no limit.
        cooldown: seconds until the attempts are counted anew. Defaults to never.

    Raises:
        InvalidArgument: a value is out of its range, or is not for this status.
    """

    status: ModelStatus
    message: str | None = None
    size_bytes: int | None = None
    location: str | None = None
    resolved_revision: str | None = None
    retry_in: float | None = None
    permanent: bool = False
    max_attempts: int | None = None
    cooldown: float | None = None

    def __post_init__(self) -> None:
        if self.status is ModelStatus.DOWNLOADED:
            if self.permanent or self.retry_in is not None:
                raise InvalidArgument(
                    "retry_in" if self.retry_in is not None else "permanent", "is for an ERROR"
                )
        elif self.status is not ModelStatus.ERROR:
            raise InvalidArgument("status", f"a download ends as DOWNLOADED or ERROR, not {self.status}")
        elif not (self.size_bytes is None and self.location is None and self.resolved_revision is None):
            raise InvalidArgument("status", "an ERROR has no size_bytes, location or resolved_revision")
        checks.text("message", self.message)
        if self.size_bytes is not None:
            checks.whole("size_bytes", self.size_bytes)
        checks.text("location", self.location)
        checks.text("resolved_revision", self.resolved_revision, checks.QUALIFIER_BYTES)
        if self.retry_in is not None:
            checks.microseconds("retry_in", self.retry_in, zero=True)
        if self.max_attempts is not None:
            checks.whole("max_attempts", self.max_attempts, least=1)
        if self.cooldown is not None:
            checks.microseconds("cooldown", self.cooldown)


class StatusChange(msgspec.Struct, frozen=True):
    """A status that is set from outside of a claim.

    Attributes:
        status: DOWNLOADING (which never ends by itself), DOWNLOADED or ERROR.
        message: for people. Defaults to none, which clears it.
        retry_in: back-off in seconds. For ERROR. Defaults to none.
        permanent: whether the model is never tried again by itself. For ERROR.
        size_bytes: size of the files. For DOWNLOADED. Defaults to what the record has.
        location: where the files are, relative to the cache. For DOWNLOADED. Defaults to what the record has.

    Raises:
        InvalidArgument: a value is out of its range, or is not for this status.
    """

    status: ModelStatus
    message: str | None = None
    retry_in: float | None = None
    permanent: bool = False
    size_bytes: int | None = None
    location: str | None = None

    def __post_init__(self) -> None:
        if self.status is ModelStatus.EVICTING:
            raise InvalidArgument("status", "EVICTING comes from an eviction alone")
        if self.is_plain:
            return
        if self.status is not ModelStatus.ERROR and (self.permanent or self.retry_in is not None):
            raise InvalidArgument("permanent" if self.permanent else "retry_in", "is for an ERROR")
        if self.status is not ModelStatus.DOWNLOADED and (self.size_bytes, self.location) != (None, None):
            raise InvalidArgument(
                "location" if self.size_bytes is None else "size_bytes", "is for a DOWNLOADED"
            )
        checks.text("message", self.message)
        check_back_off(self.retry_in, self.permanent)
        if self.size_bytes is not None:
            checks.whole("size_bytes", self.size_bytes)
        checks.text("location", self.location)

    @property
    def is_plain(self) -> bool:
        """Whether nothing but the status is said."""
        return not self.permanent and (self.message, self.retry_in, self.size_bytes, self.location) == (
            None, None, None, None,
        )  # fmt: skip


class Cancellation(msgspec.Struct, frozen=True):
    """The end of a download from outside of its claim.

    Attributes:
        message: why, for people. Defaults to none.
        expected_token: the claim that is meant. Defaults to any.
        retry_in: cool-down in seconds. Defaults to none.
        permanent: whether the model is never tried again by itself.

    Raises:
        InvalidArgument: a value is out of its range, or both `retry_in` and `permanent` are given.
    """

    message: str | None = None
    expected_token: int | None = None
    retry_in: float | None = None
    permanent: bool = False

    def __post_init__(self) -> None:
        checks.text("message", self.message)
        if self.expected_token is not None:
            checks.whole("expected_token", self.expected_token)
        check_back_off(self.retry_in, self.permanent)

    def told_by(self, owner: str) -> str:
        """The message of the record: the client that cancels, and why.

        Raises:
            InvalidArgument: both together are too long.
        """
        why = f": {self.message}" if self.message else ""
        return checks.text("message", f"cancelled by {owner}{why}")


def check_back_off(retry_in: float | None, permanent: bool) -> None:
    """Check when an error may be tried again.

    Raises:
        InvalidArgument: both are given, or the time is out of its range.
    """
    if permanent and retry_in is not None:
        raise InvalidArgument("retry_in", "contradicts permanent")
    if retry_in is not None:
        checks.microseconds("retry_in", retry_in, zero=True)


class StatusSet(msgspec.Struct, array_like=True, frozen=True, tag="done"):
    """The claim that a status change ended; empty and 0 if there was none."""

    ended_owner: str
    ended_claim_id: str
    ended_token: int


class Cancelled(msgspec.Struct, array_like=True, frozen=True, tag="done"):
    """The claim that was cancelled; an empty owner: the download had none."""

    owner: str
    token: int


class Totals(msgspec.Struct, array_like=True, frozen=True):
    """Records by status, and the bytes that they stand for, in the order of `STATUSES`."""

    records: tuple[int, int, int, int]
    bytes: tuple[int, int, int, int]


class HubAnswer(msgspec.Struct, array_like=True, frozen=True):
    """What a hub answered: a commit or a name, and when (lease time, microseconds)."""

    value: str
    at: int


class Branch(msgspec.Struct, array_like=True, frozen=True):
    """What the registry knows of a branch.

    Attributes:
        time: lease time of this answer, in microseconds.
        commit: the commit of the branch.
        name: the repository's name as the hub writes it.
    """

    time: int
    commit: HubAnswer | None
    name: HubAnswer | None


class ModelState(NamedTuple):
    """The state of a model, as an event tells it.

    Attributes:
        status: its status; ``None``: there is no record.
        seconds_left: how long nothing can be won: the rest of the lease or of the back-off; infinite for a claim
            that never ends.
        record: the record, where the event tells all of it.
    """

    status: ModelStatus | None
    seconds_left: float = 0.0
    record: ModelRecord | None = None
