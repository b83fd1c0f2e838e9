"""Runs a download under its claim, which it looks at: with threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyregistry._coordination.lease import ActiveDownload

__all__ = ["Guard", "work"]


def work(held: ActiveDownload, download: Callable[..., Any], *args: Any) -> None:
    """Run a download under its claim, in the caller's thread. It is told when the claim is lost (`LossSignal`).

    Raises:
        ClaimLost: the claim was lost.
        BaseException: what the download raised.
    """
    try:
        download(*args)
    except Exception as error:
        if held.lost.is_set():
            raise held.loss() from error
        raise
    if held.lost.is_set():
        raise held.loss()


class Guard:
    """A block in a thread can't be ended: it looks at ``claim.lost``."""

    def __init__(self, held: ActiveDownload) -> None:
        self._held = held

    def end(self, _error: BaseException | None) -> bool:
        """The block is over; whether what ended it was this guard."""
        return self._held.lost.is_set()
