"""The near cache."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.server("embedded", "debian", "stack")  # on servers of their own: not in containers
