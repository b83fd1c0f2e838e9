"""The owner's view of a claim during a download: progress reports and the signal of a lost claim.

This module sends nothing. The keepalive (`_coordination.keepalive`) renews the claims and sends progress with renewals.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from pyregistry._core import validation as checks
from pyregistry._core.clock import LOOK_FOR_SIGNALS, now
from pyregistry._core.values import Default, ProgressUpdate, next_order
from pyregistry.backend.values import Ending
from pyregistry.errors import ClaimLost
from pyregistry.models import Claim

__all__ = ["ActiveDownload", "LeasedClaim", "LossSignal", "OwnedClaim", "StallDeadline"]

REPORT_EVERY = 1.0
"""Minimum seconds between two renewals that only send progress."""


class LeasedClaim:
    """One claim with a lease, its next renewal, and its local expiry.

    Args:
        claim: The claim.
        since: Time of the request for the claim (`now`). Defaults to the current time.

    Attributes:
        due: Time of the next renewal (`now`): a third of the lease after the last proof.
        holds_until: Time until which the lease is proved (`now`).
        over: Whether the owner has begun to report the end of the download.
    """

    __slots__ = ("__weakref__", "claim", "due", "holds_until", "lease", "over")

    def __init__(self, claim: Claim, since: float | None = None) -> None:
        if claim.lease is None:
            raise AssertionError("a claim that never ends needs no keeping")
        self.claim = claim
        self.lease = claim.lease
        self.over = False
        self.proved(now() if since is None else since)

    def proved(self, since: float) -> None:
        """Restart the lease after the server has granted a request that was sent at `since`."""
        self.due = since + self.lease / 3
        self.holds_until = since + self.lease

    @property
    def wakes_at(self) -> float:
        """Time of the next action of the keepalive for this claim (`now`)."""
        return self.due

    def take_said(self) -> ProgressUpdate:
        """Return the progress since the last renewal, and clear it."""
        return ProgressUpdate()

    def put_back(self, said: ProgressUpdate) -> None:
        """Restore progress that could not be sent."""

    def tell_lost(self, why: str) -> None:
        """Signal the owner that the claim is lost."""


class LossSignal:
    """Thread-safe event: the claim is lost, or its lease can no longer be proved.

    Attributes:
        why: Human-readable reason; empty until the signal is set.
    """

    def __init__(self) -> None:
        self.why = ""
        self._event = threading.Event()
        self._deadline: Callable[[], float] = lambda: math.inf
        self._calls: list[Callable[[], object]] = []

    def is_set(self) -> bool:
        """Return whether the claim is lost. This call also checks the owner's deadline, so it needs no timer."""
        if not self._event.is_set() and now() >= self._deadline():
            self.set("its lease could not be proved in time")
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the claim is lost, and return whether it is.

        Args:
            timeout: Seconds. Defaults to ``None``: no timeout.
        """
        ends = math.inf if timeout is None else now() + timeout
        while not self.is_set():
            left = min(ends, self._deadline()) - now()
            if now() >= ends:
                return False
            self._event.wait(LOOK_FOR_SIGNALS if left == math.inf else max(left, 0.0))
        return True

    def set(self, why: str) -> None:
        """Set the signal and call the callbacks. Idempotent; the first reason remains."""
        if not self._event.is_set():
            self.why = self.why or why
            self._event.set()
            for call in self._calls:
                call()

    def bind(self, deadline: Callable[[], float]) -> None:
        """Set the deadline at which the signal sets itself.

        Args:
            deadline: Returns the deadline (`now`), which may move.
        """
        self._deadline = deadline

    def call(self, function: Callable[[], object]) -> None:
        """Register a callback, which runs in the thread that sets the signal. If it is already set, call it at once."""
        self._calls.append(function)
        if self._event.is_set():
            function()


class StallDeadline:
    """Stall timeout of a download, and the ending of a stalled download.

    Args:
        timeout: Seconds without progress.
        ending: Builds the ending of the claim from the claim and the reason.
    """

    def __init__(self, timeout: float, ending: Callable[[Claim, str], Ending]) -> None:
        self.timeout = timeout
        self.ending = ending


class ActiveDownload(LeasedClaim):
    """A claim under which its owner downloads.

    Args:
        claim: The claim.
        since: Time of the request for the claim (`now`).
        bound: Whether the owner stops when it can't prove its lease. If false, only an answer of the server ends the
            claim.
        stall: Stall timeout; ``None``: the download never stalls. It may be set to ``None`` later.
        changed: Called after a report, so that the keepalive reads `wakes_at` again.
        prove: Asks the server whether the claim is still valid.

    Attributes:
        lost: Signal that the owner must stop.
        asked_at: Time of the last request for an immediate proof (`now`).
        finished: Whether the download has succeeded. Only publishing and the final report remain.
        thread: Id of the owner's thread.
        artifact: Facts about the downloaded files that the owner has reported.
    """

    __slots__ = ("_advanced_at", "_changed", "_lock", "_prove", "_said", "_told_at", "artifact", "asked_at", "bound",
                 "finished", "lost", "progress", "stall", "thread")  # fmt: skip

    def __init__(
        self,
        claim: Claim,
        since: float,
        *,
        bound: bool,
        stall: StallDeadline | None,
        changed: Callable[[LeasedClaim], None],
        prove: Callable[[ActiveDownload], bool],
    ) -> None:
        self.asked_at = -math.inf
        super().__init__(claim, since)
        self.lost = LossSignal()
        self.bound = bound
        if bound:
            self.lost.bind(lambda: self.holds_until)
        self.stall = stall
        self.finished = False
        self.thread = threading.get_ident()
        self.artifact: dict[str, Any] = {}
        self.progress = ProgressUpdate()
        self._said = ProgressUpdate()
        self._told_at = since
        self._advanced_at = math.inf
        self._changed = changed
        self._prove = prove
        self._lock = threading.Lock()

    @property
    def wakes_at(self) -> float:
        """Time of the next action of the keepalive for this claim (`now`)."""
        return min(self.due, self.stalls_at)

    @property
    def stalls_at(self) -> float:
        """Time at which the download stalls without further progress. A download without any report never stalls."""
        stall = self.stall
        return math.inf if stall is None else self._advanced_at + stall.timeout

    def proved(self, since: float) -> None:
        """Restart the lease after the server has granted a request that was sent at `since`."""
        super().proved(since)
        self._told_at = since
        if self.asked_at >= since:
            self.due = since  # an event during the request may be newer than the answer

    def report(self, said: ProgressUpdate) -> None:
        """Merge a progress report of the owner. Progress schedules a renewal within `REPORT_EVERY`."""
        with self._lock:
            before, self.progress = self.progress, self.progress.then(said)
            self._said = self._said.then(said)
            if self.progress != before:
                self._advanced_at = now()
                self.due = min(self.due, self._told_at + REPORT_EVERY)
        self._changed(self)

    def take_said(self) -> ProgressUpdate:
        """Return the progress since the last renewal, with a new order, and clear it."""
        with self._lock:
            said, self._said = self._said, ProgressUpdate()
            # The lock makes the numbers follow the order of the reports, whichever thread sends first.
            return said._replace(order=next_order())

    def put_back(self, said: ProgressUpdate) -> None:
        """Restore progress that could not be sent. Later reports take precedence."""
        with self._lock:
            self._said = said.then(self._said)

    def tell_lost(self, why: str) -> None:
        """Signal the owner that the claim is lost."""
        self.lost.set(why)

    def prove(self) -> bool:
        """Ask the server whether the claim is still valid. Blocks."""
        return self._prove(self)

    def loss(self) -> ClaimLost:
        """Build the error for an owner that has lost its claim."""
        claim = self.claim
        return ClaimLost(
            f"the claim of {claim.model_name!r} ({claim.provider}, token {claim.token}) is lost: {self.lost.why}",
            model_name=claim.model_name,
            provider=str(claim.provider),
        )


class OwnedClaim(Claim, frozen=True, kw_only=True, gc=True):
    """A claim that is kept alive while its owner downloads.

    The client renews this `Claim` until the download ends.

    Attributes:
        held: State of the keepalive; private to the library.
    """

    held: ActiveDownload

    @classmethod
    def of(cls, held: ActiveDownload) -> OwnedClaim:
        """Create the owner's view of an active download."""
        fields = {field: getattr(held.claim, field) for field in Claim.__struct_fields__}
        return cls(**fields, held=held)

    @property
    def lost(self) -> LossSignal:
        """Signal that the claim is lost, or can no longer be proved. The download must then stop.

        An asyncio download is cancelled. A download in a thread must check ``lost.is_set()`` or ``lost.wait(seconds)``.
        """
        return self.held.lost

    def report(
        self,
        bytes_done: int | None = None,
        bytes_total: int | None = None,
        message: str | Default | None = Default.UNCHANGED,
    ) -> None:
        """Report the progress of the download. Cheap and thread-safe.

        The next renewal sends the report, at most once a second.

        Args:
            bytes_done: Downloaded bytes. Defaults to ``None``: unchanged.
            bytes_total: Total bytes. Defaults to ``None``: unchanged.
            message: Human-readable message; ``None`` clears it. Defaults to unchanged.

        Raises:
            InvalidArgument: A number is negative or too large, or a text is too long.
        """
        if bytes_done is not None:
            checks.whole("bytes_done", bytes_done)
        if bytes_total is not None:
            checks.whole("bytes_total", bytes_total)
        if not isinstance(message, Default):
            checks.text("message", message)
        self.held.report(ProgressUpdate(message, bytes_done, bytes_total))

    def describe(
        self,
        *,
        size_bytes: int | None = None,
        location: str | None = None,
        resolved_revision: str | None = None,
    ) -> None:
        """Describe the downloaded files for the record. Arguments that are ``None`` leave their value unchanged.

        Args:
            size_bytes: Size of the files in bytes. Defaults to ``None``.
            location: Path of the files, relative to the cache. Defaults to ``None``.
            resolved_revision: The downloaded commit. Defaults to ``None``.

        Raises:
            InvalidArgument: A number is negative or too large, or a text is too long.
        """
        if size_bytes is not None:
            self.held.artifact["size_bytes"] = checks.whole("size_bytes", size_bytes)
        if location is not None:
            self.held.artifact["location"] = checks.text("location", location)
        if resolved_revision is not None:
            self.held.artifact["resolved_revision"] = checks.text(
                "resolved_revision", resolved_revision, checks.QUALIFIER_BYTES
            )

    def prove(self) -> bool:
        """Ask the server whether this claim is still valid, and renew it. Blocks; thread-safe.

        Returns:
            Whether the claim is valid. If not, `lost` is set.

        Raises:
            RegistryUnavailable, OutcomeUnknown: The server does not answer.
        """
        return self.held.prove()

    def __repr__(self) -> str:
        return "Owned" + super().__repr__().replace(f", held={self.held!r}", "")
