"""Which records are listed, and in which order."""

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
    """What a list is sorted by."""

    USED = "used"
    SIZE = "size"
    AGE = "age"
    NAME = "name"


def matching(
    records: Iterable[ModelRecord], pattern: str | None, provider: str | None
) -> Iterator[ModelRecord]:
    """The records whose name fits a pattern, of one provider.

    Args:
        records: any.
        pattern: as a shell's, with ``*``, ``?`` and ``[...]``, of a whole name; without these, a part of one. Upper and
            lower case are one. ``None``: any name.
        provider: ``None``: any.
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
    """So many records, each once: of one that is used while it is read, the later use counts."""
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
    """The first so many of these, which come by their last use."""
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
