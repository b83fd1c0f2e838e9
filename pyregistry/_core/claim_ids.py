"""Claim ids: random, cheap, and never the same in two processes."""

from __future__ import annotations

import base64
import itertools
import os
import socket
import weakref
from functools import cache

from pyregistry._core import validation as checks


class ClaimIds:
    """Names claims: a random prefix, drawn anew after a fork, and a counter. Safe from many threads."""

    __slots__ = ("__weakref__", "_counter", "_prefix")

    def __init__(self) -> None:
        self.draw()
        _everyone.add(self)

    def draw(self) -> None:
        """Begin anew: what was given before is another's."""
        self._prefix = base64.urlsafe_b64encode(os.urandom(9)).decode() + "-"
        self._counter = itertools.count(1)

    def new(self) -> str:
        """An id that nobody else has."""
        return f"{self._prefix}{next(self._counter):x}"

    def made(self, claim_id: str) -> bool:
        """Whether an id comes from here."""
        return claim_id.startswith(self._prefix)


_everyone: weakref.WeakSet[ClaimIds] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for ids in list(_everyone):
        ids.draw()


os.register_at_fork(after_in_child=_after_fork_in_child)


@cache
def default_owner() -> str:
    """Host and process, for people."""
    return checks.owner(f"{socket.gethostname()}:{os.getpid()}")


# A process that forks is another owner.
os.register_at_fork(after_in_child=default_owner.cache_clear)
