"""Claim ids: random, cheap, and unique across processes."""

from __future__ import annotations

import base64
import itertools
import os
import socket
import weakref
from functools import cache

from pyregistry._core import validation as checks


class ClaimIds:
    """Generator of claim ids. Thread-safe.

    An id is a random prefix and a counter. A forked child draws a new prefix.
    """

    __slots__ = ("__weakref__", "_counter", "_prefix")

    def __init__(self) -> None:
        self.draw()
        _instances.add(self)

    def draw(self) -> None:
        """Draw a new prefix and restart the counter. `made` no longer recognizes earlier ids."""
        self._prefix = base64.urlsafe_b64encode(os.urandom(9)).decode() + "-"
        self._counter = itertools.count(1)

    def new(self) -> str:
        """Return a unique claim id."""
        return f"{self._prefix}{next(self._counter):x}"

    def made(self, claim_id: str) -> bool:
        """Return whether this generator made the id."""
        return claim_id.startswith(self._prefix)


_instances: weakref.WeakSet[ClaimIds] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for ids in list(_instances):
        ids.draw()


os.register_at_fork(after_in_child=_after_fork_in_child)


@cache
def default_owner() -> str:
    """Return the default owner: `host:pid`, human-readable, truncated to 64 bytes."""
    return checks.owner(f"{socket.gethostname()}:{os.getpid()}")


# A forked child has another pid, so its default owner differs.
os.register_at_fork(after_in_child=default_owner.cache_clear)
