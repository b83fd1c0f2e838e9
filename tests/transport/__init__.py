"""Connections: what is sent, what breaks, what a server refuses.

Most tests start servers of their own, which a container can not: it would be the embedded one again.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.server("embedded", "debian", "stack")
