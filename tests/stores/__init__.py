"""Files in folders: no server takes part but the embedded one."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.server("embedded")
