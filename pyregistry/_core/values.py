"""Values that clients, coordination and backends exchange beside the public models."""

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

#: The order in which scripts take the sorted sets.
STATUSES = (
    ModelStatus.DOWNLOADING,
    ModelStatus.DOWNLOADED,
    ModelStatus.ERROR,
    ModelStatus.EVICTING,
)

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds that a connection attempt, a write or an answer may take."""

KEPT_LEASE: Final = 30.0
"""The lease, in seconds, of a claim that its client keeps alive."""


class Default(Enum):
    """Stands for an argument that was left out, where ``None`` means something else."""

    KEPT = f"{KEPT_LEASE:g} s, kept alive"
    UNCHANGED = "unchanged"
    ITS_OWN = "its own"

    __hash__ = object.__hash__  # Enum's own is written in Python, and every claim hashes its lease

    def __repr__(self) -> str:
        return f"<{self.value}>"


KEPT: Final = Default.KEPT
"""What every claim looks at: on its enum, Python looks for it much longer (up to 3.11)."""

Lease: TypeAlias = "float | Default | None"
Model: TypeAlias = "ModelRef | tuple[str, ModelProvider | str] | str"

ClaimResult: TypeAlias = Claimed | AlreadyExists


class Rejection(msgspec.Struct, frozen=True):
    """A retry or a renewal that was not granted, and why (for the log; callers get None).

    Attributes:
        why: for people.
        lost: the claim is somebody else's by now, or gone.
        retry_left: seconds of back-off (of a retry).
    """

    why: str
    lost: bool = False
    retry_left: float = 0.0


class ProgressUpdate(NamedTuple):
    """What an owner says with a renewal; what is left out stays as it was.

    ``order`` grows with what is said: a copy of a renewal that comes late is told by it. 0: it is given when the
    renewal is made.
    """

    message: str | Default | None = Default.UNCHANGED
    bytes_done: int | None = None
    bytes_total: int | None = None
    order: int = 0

    def then(self, later: ProgressUpdate) -> ProgressUpdate:
        """Both, the later one last."""
        return ProgressUpdate(
            self.message if later.message is Default.UNCHANGED else later.message,
            self.bytes_done if later.bytes_done is None else later.bytes_done,
            self.bytes_total if later.bytes_total is None else later.bytes_total,
        )


_order_lock = threading.Lock()
_last_order = 0


def next_order() -> int:
    """A number that grows with every call of this process; across processes it is the clock's order (microseconds)."""
    global _last_order  # noqa: PLW0603 - one sequence for all clients of the process
    with _order_lock:
        _last_order = max(_last_order + 1, time.time_ns() // 1000)
        return _last_order


def first_error(results: Sequence[T | Exception]) -> list[T]:
    """The results of a call for one or many.

    Raises:
        Exception: the first error that there is, before damaged records; its ``results`` are those of the others.
    """
    errors = [result for result in results if isinstance(result, Exception)]
    if not errors:
        return cast("list[T]", results)
    error = next((each for each in errors if not isinstance(each, DamagedRecord)), errors[0])
    if isinstance(error, RegistryError) and len(results) > 1:
        error.results = [None if isinstance(result, Exception) else result for result in results]
    raise error


def chunks(items: Sequence[T], size: int = 64) -> Iterator[Sequence[T]]:
    """The items, at most `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def status_of(status: ModelStatus | str) -> ModelStatus:
    """A status, also by its word."""
    if type(status) is ModelStatus:
        return status
    try:
        return ModelStatus(status)
    except ValueError:
        words = ", ".join(ModelStatus)
        raise InvalidArgument("status", f"must be one of {words}, not {status!r}") from None


def known_of(found: Sequence[bool | Exception]) -> bool | Exception:
    """Whether any of the records of one name is there; an error, if there was one."""
    return next((each for each in found if isinstance(each, Exception)), any(found))


def preferred_record(found: Iterable[ModelRecord | Exception | None]) -> ModelRecord | None:
    """Of the records of one name: one that is DOWNLOADED, else the first there is.

    Raises:
        Exception: one is not known, and may be the one that is DOWNLOADED; or all that there are are damaged.
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
    """A model of a list: a `ModelRef`, a tuple that begins like one, or a name.

    Raises:
        InvalidArgument: it is none of these.
    """
    if isinstance(model, str):
        return ModelRef(model)
    if not isinstance(model, tuple) or not 1 <= len(model) <= len(ModelRef._fields):
        raise InvalidArgument("models", f"must hold names, (name, provider) or ModelRef, not {model!r}")
    return ModelRef(*model)
