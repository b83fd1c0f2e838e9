"""What the tests share: no tests."""

from __future__ import annotations
