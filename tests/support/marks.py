"""Marks that several files share."""

from __future__ import annotations

import pytest

# A client that goes on to a second event loop can't close the connections of the first, which has ended.
left_open = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore:loop is closed:ResourceWarning"
)
