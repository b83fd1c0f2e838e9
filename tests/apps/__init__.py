"""The programs on top of the clients.

The server below makes no difference; Debian's runs them too, for its other Python.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.server("embedded", "debian")
