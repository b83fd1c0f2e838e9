"""Former name of `pyregistry.retry`."""

from __future__ import annotations

from pyregistry.retry import RetryPolicy

__all__ = ["RetryPolicy"]
