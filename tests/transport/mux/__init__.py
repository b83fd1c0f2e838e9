"""The one connection of an `AsyncRegistry`."""

from __future__ import annotations
