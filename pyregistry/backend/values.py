"""Requests and answers of a backend, in addition to the public models.

Unless documented otherwise, times are seconds (`float`) in requests and lease time in microseconds (`int`) in answers.
Requests validate themselves when they are created, so that every backend rejects the same arguments.
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
    """The server of a new connection.

    Attributes:
        version: Product and version of the server, such as ``valkey 9.1.2``.
        lacking: Right that waiting requires and this user lacks. Defaults to empty: none.
    """

    version: str
    lacking: str = ""


class Ending(msgspec.Struct, frozen=True):
    """The end of a download.

    Attributes:
        status: DOWNLOADED or ERROR.
        message: Human-readable message of at most 4,096 bytes. Defaults to none.
        size_bytes: Size of the files in bytes. For DOWNLOADED. Defaults to unknown.
        location: Path of the files, relative to the cache. For DOWNLOADED. Defaults to unknown.
        resolved_revision: The downloaded commit. For DOWNLOADED. Defaults to unknown.
        retry_in: Back-off in seconds. For ERROR. Defaults to none.
        permanent: Whether the fleet never retries the model automatically. For ERROR. Defaults to False.
        max_attempts: Maximum number of attempts of the fleet. When the record's attempts reach it, `cooldown` replaces
            `retry_in`. Defaults to no limit.
        cooldown: Seconds until the count of attempts restarts. Defaults to never.

    Raises:
        InvalidArgument: A value is out of range, or is not valid for this status.
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
    """A change of status outside a claim.

    Attributes:
        status: DOWNLOADING (which never expires), DOWNLOADED or ERROR.
        message: Human-readable message. Defaults to none, which clears the message of the record.
        retry_in: Back-off in seconds. For ERROR. Defaults to none.
        permanent: Whether the fleet never retries the model automatically. For ERROR. Defaults to False.
        size_bytes: Size of the files in bytes. For DOWNLOADED. Defaults to the value of the record.
        location: Path of the files, relative to the cache. For DOWNLOADED. Defaults to the value of the record.

    Raises:
        InvalidArgument: A value is out of range, or is not valid for this status.
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
        """Whether the change sets only the status."""
        return not self.permanent and (self.message, self.retry_in, self.size_bytes, self.location) == (
            None, None, None, None,
        )  # fmt: skip


class Cancellation(msgspec.Struct, frozen=True):
    """The end of a download from outside its claim.

    Attributes:
        message: Human-readable reason. Defaults to none.
        expected_token: Cancel only the claim with this token. Defaults to any.
        retry_in: Cool-down in seconds. Defaults to none.
        permanent: Whether the fleet never retries the model automatically. Defaults to False.

    Raises:
        InvalidArgument: A value is out of range, or both `retry_in` and `permanent` are given.
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
        """Build the message of the record: the client that cancels, and the reason.

        Raises:
            InvalidArgument: The message exceeds 4,096 bytes.
        """
        why = f": {self.message}" if self.message else ""
        return checks.text("message", f"cancelled by {owner}{why}")


def check_back_off(retry_in: float | None, permanent: bool) -> None:
    """Check the back-off of an error.

    Raises:
        InvalidArgument: Both arguments are given, or the back-off is out of range.
    """
    if permanent and retry_in is not None:
        raise InvalidArgument("retry_in", "contradicts permanent")
    if retry_in is not None:
        checks.microseconds("retry_in", retry_in, zero=True)


class StatusSet(msgspec.Struct, array_like=True, frozen=True, tag="done"):
    """The claim that a status change ended; empty texts and 0 if there was none."""

    ended_owner: str
    ended_claim_id: str
    ended_token: int


class Cancelled(msgspec.Struct, array_like=True, frozen=True, tag="done"):
    """The cancelled claim. The owner is empty if the download had none."""

    owner: str
    token: int


class Totals(msgspec.Struct, array_like=True, frozen=True):
    """Numbers of records and bytes by status, in the order of `STATUSES`."""

    records: tuple[int, int, int, int]
    bytes: tuple[int, int, int, int]


class HubAnswer(msgspec.Struct, array_like=True, frozen=True):
    """An answer of a hub: a commit or a name, and its lease time in microseconds."""

    value: str
    at: int


class Branch(msgspec.Struct, array_like=True, frozen=True):
    """The facts that the registry has about a branch.

    Attributes:
        time: Lease time of this answer, in microseconds.
        commit: The commit of the branch; ``None`` if it is unknown.
        name: The name of the repository as the hub spells it; ``None`` if it is unknown.
    """

    time: int
    commit: HubAnswer | None
    name: HubAnswer | None


class ModelState(NamedTuple):
    """The state of a model, according to an event.

    Attributes:
        status: Status of the model; ``None`` if there is no record.
        seconds_left: Seconds in which no claim can succeed: the rest of the lease or of the back-off. It is infinite
            for a claim that never ends. Defaults to 0.
        record: The record; ``None`` if the event does not include the whole record.
    """

    status: ModelStatus | None
    seconds_left: float = 0.0
    record: ModelRecord | None = None
