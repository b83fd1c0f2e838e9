"""The embedded server."""

from __future__ import annotations
