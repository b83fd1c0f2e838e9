"""page: the sorted sets, merged in the order of last use."""

from __future__ import annotations

from typing import Any

import pytest

from pyregistry._redis.protocol.records import StoredRecord
from tests.lua.harness import PROVIDER, Item, Lab

STATUSES = ("DOWNLOADING", "DOWNLOADED", "ERROR", "EVICTING")


def page(lab: Lab, *statuses: str, since: int = 0, limit: int = 1000) -> list[tuple[str, int]]:
    shared: dict[str, Any] = {"from": since, "limit": limit}
    flat = lab.call("page", *(Item(status, {}) for status in statuses), **shared)
    return [
        (entry.removeprefix(f"{PROVIDER}:"), score)
        for entry, score in zip(flat[::2], flat[1::2], strict=True)
    ]


@pytest.fixture
def filled(lab: Lab) -> list[tuple[str, int]]:
    """Forty records, in no order of theirs; what a page of all shows."""
    for number in range(40):
        status = STATUSES[number * 7 % 4]
        lab.put(f"m{number * 13 % 40:02}", StoredRecord(status, created_at=1, token=number + 1), number * 10)
    return [(f"m{number * 13 % 40:02}", number * 10) for number in range(40)]


def test_all(lab: Lab, filled: list[tuple[str, int]]) -> None:
    """page returns all entries in the order of their last use."""
    assert page(lab, *STATUSES) == filled
    assert page(lab, *reversed(STATUSES)) == filled


def test_some(lab: Lab, filled: list[tuple[str, int]]) -> None:
    """page returns the entries of the given statuses."""
    for at, status in enumerate(STATUSES):
        expected = [each for number, each in enumerate(filled) if number * 7 % 4 == at]
        assert page(lab, status) == expected
    assert [score % 20 for _, score in page(lab, "DOWNLOADING", "ERROR")] == [0] * 20


@pytest.mark.parametrize("limit", [1, 2, 7, 39, 40, 41, 1000])
def test_at_most_so_many(lab: Lab, filled: list[tuple[str, int]], limit: int) -> None:
    """page returns at most `limit` entries."""
    assert page(lab, *STATUSES, limit=limit) == filled[:limit]


@pytest.mark.parametrize("since", [0, 1, 10, 11, 385, 390, 391, 2**53 - 1])
def test_from_a_last_use_on(lab: Lab, filled: list[tuple[str, int]], since: int) -> None:
    """page returns the entries from a last use on."""
    assert page(lab, *STATUSES, since=since) == [each for each in filled if each[1] >= since]


@pytest.mark.parametrize("limit", [1, 3, 39, 40])
def test_page_after_page(lab: Lab, filled: list[tuple[str, int]], limit: int) -> None:
    """Successive pages return every entry once."""
    found: list[tuple[str, int]] = []
    while some := page(lab, *STATUSES, since=found[-1][1] + 1 if found else 0, limit=limit):
        found += some
    assert found == filled


def test_nothing(lab: Lab) -> None:
    """page of an empty namespace returns nothing."""
    assert page(lab, *STATUSES) == []


def test_the_largest_scores_are_exact(lab: Lab) -> None:
    """page returns the largest scores exactly."""
    most = 2**53 - 1
    for number in range(3):
        record = StoredRecord("DOWNLOADED", created_at=1, token=1)
        lab.put(f"m{number}", record, most - number)
    assert page(lab, "DOWNLOADED", since=most - 1) == [("m1", most - 1), ("m0", most)]


def test_one_score_in_several_sets(lab: Lab) -> None:
    """It does not come to that by itself; none is left out."""
    for number, status in enumerate(STATUSES):
        lab.put(f"m{number}", StoredRecord(status, created_at=1, token=5))
    assert page(lab, *STATUSES) == [("m0", 5), ("m1", 5), ("m2", 5), ("m3", 5)]
