"""Functions and classes without a server; Debian's server runs them too, for its other Python."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.server("embedded", "debian")
