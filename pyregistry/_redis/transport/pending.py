"""Requests of the multiplexed connection that wait for their reply, and the batches that carry them."""

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
    """Handles the outcome of a batch."""

    def answered(self, batch: Batch, reply: Any) -> None:
        """Handle the reply to a batch."""

    def lost(self, batch: Batch, error: Exception) -> None:
        """Handle a batch that gets no reply."""


class PendingRequest(msgspec.Struct, eq=False):
    """One request, shared by all callers that ask the same.

    Attributes:
        op: The request.
        key: Key under which other callers join.
        alone: The only waiting future; None once `together` is in use.
        together: All waiting futures, once a second caller has joined.
        attempts: Number of times that it was sent without success.
        refused: Number of these that were temporary refusals.
        patience: Seconds for which a temporary refusal is retried. Defaults to that of the transport.
        ends: Time (`now`) at which that ends; 0: not refused yet.
        maybe_ran: Whether the server may have run it, because a sent request got no reply.
        owed: Whether it is sent even if no caller waits.
        trouble: The last error.
    """

    op: Request[Any]
    key: Hashable
    alone: asyncio.Future[Any] | None
    together: list[asyncio.Future[Any]] | None = None
    attempts: int = 0
    refused: int = 0
    patience: float | None = None
    ends: float = 0.0
    maybe_ran: bool = False
    owed: bool = False
    trouble: Exception | None = None

    def join(self, future: asyncio.Future[Any]) -> None:
        """Add a future that waits for the result."""
        if self.together is None:
            self.together = [] if self.alone is None else [self.alone]
            self.alone = None
        self.together.append(future)

    def goes_on(self, attempts: int, patience: float) -> bool:
        """Return whether to send the request again. Counts a temporary refusal.

        Args:
            attempts: Maximum number of times that a request is sent.
            patience: Seconds for which a temporary refusal is retried, unless the request has its own.
        """
        if isinstance(self.trouble, PASSING):
            at = now()
            self.refused += 1
            self.ends = self.ends or at + (patience if self.patience is None else self.patience)
            return self.attempts < attempts or at < self.ends
        return self.attempts - self.refused < attempts

    def waiting(self) -> list[asyncio.Future[Any]]:
        """Return the futures that wait for the result."""
        if self.together is not None:
            return [future for future in self.together if not future.done()]
        return [] if self.alone is None or self.alone.done() else [self.alone]

    def wanted(self) -> bool:
        """Return whether the request must go on: a caller waits, or the server may have granted something to undo."""
        for future in self.together or (self.alone,):
            if future is not None and not future.done():
                return True
        return self.owed or (self.maybe_ran and self.op.undo is not None)


class Batch(msgspec.Struct, eq=False):
    """The requests that one command carries.

    Attributes:
        mux: Handles the outcome.
        pipe: The connection that carries the command.
        head: The template that the requests share.
        calls: The requests.
        items: Number of items of all requests.
    """

    mux: BatchOwner
    pipe: PipelinedConnection
    head: CommandTemplate
    calls: list[PendingRequest]
    items: int

    def waited_for(self) -> bool:
        """Return whether any caller waits for the reply."""
        return any(call.waiting() for call in self.calls)

    def packed(self) -> bytes:
        """Return the packed command."""
        calls = self.calls
        return calls[0].op.packed() if len(calls) == 1 else self.head.packed([call.op for call in calls])

    def keys(self) -> list[str]:
        """Return the keys of all items."""
        return [key for call in self.calls for key in call.op.keys]

    def answered(self, reply: Any) -> None:
        """Handle the server's reply."""
        self.mux.answered(self, reply)

    def lost(self, error: Exception) -> None:
        """Handle the loss of the reply."""
        self.mux.lost(self, error)
