"""Requests of the multiplexed connection that wait for their answer, and the batches that carry them."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any, Protocol

import msgspec

from pyregistry._core.clock import now
from pyregistry._redis.protocol.outcomes import (
    PASSING,
)
from pyregistry._redis.protocol.request import CommandTemplate, Request
from pyregistry._redis.transport.pipelined import PipelinedConnection

__all__ = ["Batch", "BatchOwner", "PendingRequest"]


class BatchOwner(Protocol):
    """What a batch tells how it ended."""

    def answered(self, batch: Batch, reply: Any) -> None:
        """The server has replied to a batch."""

    def lost(self, batch: Batch, error: Exception) -> None:
        """No reply to a batch will come."""


class PendingRequest(msgspec.Struct, eq=False):
    """One request, of all who ask the same.

    Attributes:
        attempts: how often it has gone out in vain.
        refused: how often of these it was refused for now.
        patience: seconds for which it goes out again while it is refused for now; ``None``: the transport's.
        ends: until when that is; 0: it was not refused yet.
    """

    op: Request[Any]
    key: Hashable  # under which it can be joined
    alone: asyncio.Future[Any] | None  # who waits, as long as nobody else does
    together: list[asyncio.Future[Any]] | None = None
    attempts: int = 0
    refused: int = 0
    patience: float | None = None
    ends: float = 0.0
    maybe_ran: bool = False
    owed: bool = False  # to be sent though nobody waits
    trouble: Exception | None = None

    def join(self, future: asyncio.Future[Any]) -> None:
        """One more waits for its answer."""
        if self.together is None:
            self.together = [] if self.alone is None else [self.alone]
            self.alone = None
        self.together.append(future)

    def goes_on(self, attempts: int, patience: float) -> bool:
        """Whether it is to go out again: after so many tries, and so long in which it was refused."""
        if isinstance(self.trouble, PASSING):
            at = now()
            self.refused += 1
            self.ends = self.ends or at + (patience if self.patience is None else self.patience)
            return self.attempts < attempts or at < self.ends
        return self.attempts - self.refused < attempts

    def waiting(self) -> list[asyncio.Future[Any]]:
        """Who waits for its answer."""
        if self.together is not None:
            return [future for future in self.together if not future.done()]
        return [] if self.alone is None or self.alone.done() else [self.alone]

    def wanted(self) -> bool:
        """Whether anybody waits, or something may have been won that has to be given back."""
        for future in self.together or (self.alone,):
            if future is not None and not future.done():
                return True
        return self.owed or (self.maybe_ran and self.op.undo is not None)


class Batch(msgspec.Struct, eq=False):
    """The calls that one command carries.

    Attributes:
        head: what they share.
        pipe: what it goes out on.
    """

    mux: BatchOwner
    pipe: PipelinedConnection
    head: CommandTemplate
    calls: list[PendingRequest]
    items: int

    def waited_for(self) -> bool:
        """Whether anybody waits for its reply."""
        return any(call.waiting() for call in self.calls)

    def packed(self) -> bytes:
        """The command, as it travels."""
        calls = self.calls
        return calls[0].op.packed() if len(calls) == 1 else self.head.packed([call.op for call in calls])

    def keys(self) -> list[str]:
        """The keys of its items."""
        return [key for call in self.calls for key in call.op.keys]

    def answered(self, reply: Any) -> None:
        """The server's reply."""
        self.mux.answered(self, reply)

    def lost(self, error: Exception) -> None:
        """There will be none."""
        self.mux.lost(self, error)
