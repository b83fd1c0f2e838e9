"""When requests that were gathered are written: the rule alone, without a connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyregistry._redis.protocol.scripts import BATCH
from pyregistry._redis.transport.coalescing import LEAST, gather
from tests.support.servers import KINDS

pytestmark = pytest.mark.server(*KINDS)
counts = st.integers(min_value=0, max_value=10_000)


@pytest.mark.parametrize(
    ("active", "under_way", "gathered"),
    [
        (0, 0, BATCH),  # nothing is known yet: the turn's end, or a full batch
        (1, 0, 1),  # alone: at once
        (1, 1, BATCH),  # a call alone has gone out, and others come: they are gathered
        (2, 2, BATCH),  # more than were expected
        (2, 0, 2),
        (3, 0, 2),
        (16, 0, 8),
        (16, 8, 8),  # the halves stay apart
        (50, 25, 25),
        (101, 0, 51),
        (128, 0, BATCH),
        (500, 436, BATCH),
    ],
)
def test_the_rule(active: int, under_way: int, gathered: int) -> None:
    """The size of the next batch follows from the active requests and those in flight."""
    assert gather(active, under_way) == gathered


@given(active=counts, under_way=counts)
def test_a_batch_is_never_larger_than_a_call_nor_smaller_than_is_worth_one(
    active: int, under_way: int
) -> None:
    """A batch has between LEAST and BATCH items, except for one lone request."""
    gathered = gather(active, under_way)
    assert 1 <= gathered <= BATCH
    assert gathered >= LEAST or (active, under_way) == (1, 0)


@given(active=st.integers(min_value=2, max_value=2 * BATCH), under_way=counts)
def test_all_that_are_expected_are_two_batches(active: int, under_way: int) -> None:
    """All active requests fit in two batches."""
    assert -(-active // gather(active, under_way)) <= 2


@given(st.integers(min_value=1, max_value=2000))
def test_a_burst_after_quiet_is_one_call_and_full_batches(burst: int) -> None:
    """One caller was active, and many ask in one turn."""
    under_way, written = 0, 0
    while under_way < burst:
        under_way += min(gather(1, under_way), burst - under_way)
        written += 1
    assert written == 1 + -(-(burst - 1) // BATCH)
