"""Supervision of a download in a thread: the download checks the signal of a lost claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyregistry._coordination.lease import ActiveDownload

__all__ = ["Guard", "work"]


def work(held: ActiveDownload, download: Callable[..., Any], *args: Any) -> None:
    """Run a download under its claim, in the caller's thread. A lost claim sets its `LossSignal`.

    Raises:
        ClaimLost: The claim was lost.
        BaseException: Any error of the download.
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
    """Guard of a block under a claim. It can't end a block in a thread, so the block checks ``claim.lost``."""

    def __init__(self, held: ActiveDownload) -> None:
        self._held = held

    def end(self, _error: BaseException | None) -> bool:
        """Return at the end of the block whether the claim is lost."""
        return self._held.lost.is_set()
