"""Filter and sort the records of a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from enum import Enum
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from pyregistry.cli.formatting import ref_of
from pyregistry.models import ModelRecord, ModelRef

__all__ = ["Order", "latest", "matching", "ordered"]


class Order(str, Enum):
    """Sort order of a list."""

    USED = "used"
    SIZE = "size"
    AGE = "age"
    NAME = "name"


def matching(
    records: Iterable[ModelRecord], pattern: str | None, provider: str | None
) -> Iterator[ModelRecord]:
    """Yield the records that match a name pattern and a provider.

    Args:
        records: The records to filter.
        pattern: A shell pattern for the whole name if it has ``*``, ``?`` or ``[``. It also matches as a plain part of
            a name. Case is ignored. None matches every name.
        provider: The provider. None matches every provider.
    """
    wanted = None if pattern is None else pattern.casefold()
    whole = wanted is not None and any(sign in wanted for sign in "*?[")
    for record in records:
        name = record.model_name.casefold()
        if provider is not None and record.provider != provider:
            continue
        if wanted is None or wanted in name or (whole and fnmatchcase(name, wanted)):
            yield record


def latest(records: Iterable[ModelRecord], limit: int | None) -> list[ModelRecord]:
    """Return up to `limit` records, each model once. A record that was used while it was read keeps its later place.

    Args:
        records: The records, in LRU order.
        limit: Maximum number of records. None: no limit.
    """
    found: dict[ModelRef, ModelRecord] = {}
    for record in records if limit != 0 else ():
        ref = ref_of(record)
        found.pop(ref, None)
        found[ref] = record
        if len(found) == limit:
            break
    return list(found.values())


def ordered(
    records: Iterable[ModelRecord], order: Order, limit: int | None, *, reverse: bool
) -> list[ModelRecord]:
    """Sort records and return the first ones.

    Args:
        records: The records, in LRU order.
        order: The sort order.
        limit: Maximum number of records. None: no limit.
        reverse: Whether to reverse the order.
    """
    found = latest(records, None)
    if order is not Order.USED:
        found.sort(key=_KEYS[order])
    if reverse:
        found.reverse()
    return list(islice(found, limit))


def _size(record: ModelRecord) -> int:
    known = record.size_bytes if record.size_bytes is not None else record.bytes_total
    return -(known or 0)  # the largest first


def _age(record: ModelRecord) -> datetime:
    return record.created_at


def _name(record: ModelRecord) -> tuple[str, ...]:
    return record.model_name, str(record.provider), record.revision or "", record.subset or ""


_KEYS: dict[Order, Callable[[ModelRecord], Any]] = {Order.SIZE: _size, Order.AGE: _age, Order.NAME: _name}
