"""Values that clients, coordination and backends exchange in addition to the public models."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias, TypeVar, cast

import msgspec

from pyregistry.errors import DamagedRecord, InvalidArgument, RegistryError
from pyregistry.models import AlreadyExists, Claimed, ModelProvider, ModelRecord, ModelRef, ModelStatus

T = TypeVar("T")

#: The statuses, in the order in which scripts receive the sorted sets of the index.
STATUSES = (
    ModelStatus.DOWNLOADING,
    ModelStatus.DOWNLOADED,
    ModelStatus.ERROR,
    ModelStatus.EVICTING,
)

DEFAULT_TIMEOUT: Final = 5.0
"""Timeout, in seconds, of a connection attempt, a write, or a reply."""

KEPT_LEASE: Final = 30.0
"""Lease, in seconds, of a claim that its client keeps alive."""


class Default(Enum):
    """Sentinels for omitted arguments, for parameters where ``None`` has another meaning."""

    KEPT = f"{KEPT_LEASE:g} s, kept alive"
    UNCHANGED = "unchanged"
    ITS_OWN = "its own"

    __hash__ = object.__hash__  # Enum.__hash__ is Python code, and every claim hashes its lease

    def __repr__(self) -> str:
        return f"<{self.value}>"


KEPT: Final = Default.KEPT
"""Alias of `Default.KEPT`, because every claim reads it: up to Python 3.11, access through the enum is much slower."""

Lease: TypeAlias = "float | Default | None"
Model: TypeAlias = "ModelRef | tuple[str, ModelProvider | str] | str"

ClaimResult: TypeAlias = Claimed | AlreadyExists


class Rejection(msgspec.Struct, frozen=True):
    """A rejected retry or renewal, with the reason for the log. Callers of a client get ``None`` instead.

    Attributes:
        why: Human-readable reason.
        lost: Whether the claim now belongs to another owner, or no longer exists. Defaults to False.
        retry_left: Remaining back-off of a retry, in seconds. Defaults to 0.
    """

    why: str
    lost: bool = False
    retry_left: float = 0.0


class ProgressUpdate(NamedTuple):
    """Progress that an owner reports with a renewal. Omitted fields keep their value.

    `order` grows with each report, so that the registry recognizes a late copy of a renewal. 0: the renewal assigns the
    order when it is made.
    """

    message: str | Default | None = Default.UNCHANGED
    bytes_done: int | None = None
    bytes_total: int | None = None
    order: int = 0

    def then(self, later: ProgressUpdate) -> ProgressUpdate:
        """Merge with a later update. Fields of the later update take precedence."""
        return ProgressUpdate(
            self.message if later.message is Default.UNCHANGED else later.message,
            self.bytes_done if later.bytes_done is None else later.bytes_done,
            self.bytes_total if later.bytes_total is None else later.bytes_total,
        )


_order_lock = threading.Lock()
_last_order = 0


def next_order() -> int:
    """Return a number that grows with every call in this process.

    Across processes the order is that of the wall clock, in microseconds.
    """
    global _last_order  # noqa: PLW0603 - one sequence for all clients of the process
    with _order_lock:
        _last_order = max(_last_order + 1, time.time_ns() // 1000)
        return _last_order


def first_error(results: Sequence[T | Exception]) -> list[T]:
    """Return the results of a call for one or many models, or raise the first error.

    Raises:
        Exception: The first error. Other errors take precedence over `DamagedRecord`. If there are several results,
            ``results`` of a `RegistryError` holds those of the other models.
    """
    errors = [result for result in results if isinstance(result, Exception)]
    if not errors:
        return cast("list[T]", results)
    error = next((each for each in errors if not isinstance(each, DamagedRecord)), errors[0])
    if isinstance(error, RegistryError) and len(results) > 1:
        error.results = [None if isinstance(result, Exception) else result for result in results]
    raise error


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Split the items into chunks of at most `size` items. `size` defaults to 64."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def status_of(status: ModelStatus | str) -> ModelStatus:
    """Convert a status or its value to a `ModelStatus`.

    Raises:
        InvalidArgument: The word is not a status.
    """
    if type(status) is ModelStatus:
        return status
    try:
        return ModelStatus(status)
    except ValueError:
        words = ", ".join(ModelStatus)
        raise InvalidArgument("status", f"must be one of {words}, not {status!r}") from None


def known_of(found: Sequence[bool | Exception]) -> bool | Exception:
    """Return whether any record of one name exists, or the first error if there is one."""
    return next((each for each in found if isinstance(each, Exception)), any(found))


def preferred_record(found: Iterable[ModelRecord | Exception | None]) -> ModelRecord | None:
    """Choose among the records of one name: the first DOWNLOADED one, or else the first one.

    Raises:
        Exception: A record that may be the DOWNLOADED one could not be read, or all records that exist are damaged.
    """
    return _preferred(found, attrgetter("status"))


def _preferred(found: Iterable[T | Exception | None], status: Callable[[T], ModelStatus]) -> T | None:
    first: T | None = None
    error: DamagedRecord | None = None
    for each in found:
        if each is None:
            continue
        if isinstance(each, DamagedRecord):
            error = error or each
        elif isinstance(each, Exception):
            raise each
        elif status(each) is ModelStatus.DOWNLOADED:
            return each
        elif first is None:
            first = each
    if first is None and error is not None:
        raise error
    return first


def ref_of(model: Model) -> ModelRef:
    """Convert an item of a list of models to a `ModelRef`: a `ModelRef`, a tuple with its first fields, or a name.

    Raises:
        InvalidArgument: The item is none of these.
    """
    if isinstance(model, str):
        return ModelRef(model)
    if not isinstance(model, tuple) or not 1 <= len(model) <= len(ModelRef._fields):
        raise InvalidArgument("models", f"must hold names, (name, provider) or ModelRef, not {model!r}")
    return ModelRef(*model)
