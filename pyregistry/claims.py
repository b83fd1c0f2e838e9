"""What a download function gets: its claim, and the signal that the claim is lost."""

from __future__ import annotations

from pyregistry._coordination.lease import LossSignal, OwnedClaim

__all__ = ["LossSignal", "Lost", "OwnedClaim"]

Lost = LossSignal
"""The former name of `LossSignal`."""
