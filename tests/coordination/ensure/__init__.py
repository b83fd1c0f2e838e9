"""`ensure` and `download`: one caller downloads, the others get the result."""

from __future__ import annotations
