"""Claim ids: random, cheap, and never the same in two processes."""

from __future__ import annotations

import base64
import itertools
import os


class ClaimIds:
    """Names claims: a random prefix, drawn anew after a fork, and a counter. Safe from many threads."""

    __slots__ = ("_counter", "_pid", "_prefix")

    def __init__(self) -> None:
        self._draw()

    def _draw(self) -> None:
        self._prefix = base64.urlsafe_b64encode(os.urandom(9)).decode() + "-"
        self._counter = itertools.count(1)
        self._pid = os.getpid()

    def new(self) -> str:
        """An id that nobody else has."""
        if os.getpid() != self._pid:
            self._draw()
        return f"{self._prefix}{next(self._counter):x}"

    def made(self, claim_id: str) -> bool:
        """Whether an id comes from here."""
        return os.getpid() == self._pid and claim_id.startswith(self._prefix)
