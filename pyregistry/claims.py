"""The arguments of a download function: its claim, with the signal that the claim is lost."""

from __future__ import annotations

from pyregistry._coordination.lease import LossSignal, OwnedClaim

__all__ = ["LossSignal", "Lost", "OwnedClaim"]

Lost = LossSignal
"""Former name of `LossSignal`."""
