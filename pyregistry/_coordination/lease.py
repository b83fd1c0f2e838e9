"""A claim as its owner has it while it downloads: it says how far it is, and is told when it is lost.

Nothing here sends: the keeper (`_coordination.keepalive`) renews what is held, and takes along what was said.
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
"""Seconds between two renewals that only tell how far a download is."""


class LeasedClaim:
    """One claim, when it is to be renewed, and until when it is known to hold.

    Args:
        claim: what was given.
        since: when it was asked for (`now`); left out: now.

    Attributes:
        over: whether its owner has begun to say how the download ended.
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
        """The server has granted what was asked for then."""
        self.due = since + self.lease / 3
        self.holds_until = since + self.lease

    @property
    def wakes_at(self) -> float:
        """When its keeper has something to do for it."""
        return self.due

    def take_said(self) -> ProgressUpdate:
        """What the owner has said since the last renewal."""
        return ProgressUpdate()

    def put_back(self, said: ProgressUpdate) -> None:
        """It could not be told."""

    def tell_lost(self, why: str) -> None:
        """It is somebody else's."""


class LossSignal:
    """Whether a claim is lost, or can't be proved any more: an event to look at, or to wait for, in any thread.

    Attributes:
        why: for people; empty until it is set.
    """

    def __init__(self) -> None:
        self.why = ""
        self._event = threading.Event()
        self._deadline: Callable[[], float] = lambda: math.inf
        self._calls: list[Callable[[], object]] = []

    def is_set(self) -> bool:
        """Whether it is lost. The owner's own deadline counts too, without anybody looking at the clock."""
        if not self._event.is_set() and now() >= self._deadline():
            self.set("its lease could not be proved in time")
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is lost; whether it is.

        Args:
            timeout: seconds; ``None``: as long as it takes.
        """
        ends = math.inf if timeout is None else now() + timeout
        while not self.is_set():
            left = min(ends, self._deadline()) - now()
            if now() >= ends:
                return False
            self._event.wait(LOOK_FOR_SIGNALS if left == math.inf else max(left, 0.0))
        return True

    def set(self, why: str) -> None:
        """It is lost; what was said first stays."""
        if not self._event.is_set():
            self.why = self.why or why
            self._event.set()
            for call in self._calls:
                call()

    def bind(self, deadline: Callable[[], float]) -> None:
        """Be set by itself at this point of `now`, which may move."""
        self._deadline = deadline

    def call(self, function: Callable[[], object]) -> None:
        """Call this, from whatever thread sets it; at once if it is set already."""
        self._calls.append(function)
        if self._event.is_set():
            function()


class StallDeadline:
    """When a download that does not advance is ended, and how.

    Args:
        timeout: seconds without progress.
        ending: how its claim ends; it is given the claim and the reason.
    """

    def __init__(self, timeout: float, ending: Callable[[Claim, str], Ending]) -> None:
        self.timeout = timeout
        self.ending = ending


class ActiveDownload(LeasedClaim):
    """A claim under which its owner downloads.

    Args:
        claim: what was given.
        since: when it was asked for.
        bound: whether the owner stops when it can't prove its lease; if not, only the server's word counts.
        stall: when it is ended for want of progress; ``None``: never. It may become that.
        changed: called after something was said, so that its keeper looks at `wakes_at` again.
        prove: asks the server whether it still holds.

    Attributes:
        lost: whether its owner is to stop.
        asked_at: when it was last asked to be proved at once (`now`).
        finished: whether the download has ended well: what is left is to publish it, and to say so.
        thread: where its owner is.
        artifact: what was downloaded, as far as the owner has said.
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
        """When its keeper has something to do for it."""
        return min(self.due, self.stalls_at)

    @property
    def stalls_at(self) -> float:
        """When it counts as stalled, if nothing more is reported. What never reported can't stall."""
        stall = self.stall
        return math.inf if stall is None else self._advanced_at + stall.timeout

    def proved(self, since: float) -> None:
        """The server has granted what was asked for then."""
        super().proved(since)
        self._told_at = since
        if self.asked_at >= since:
            self.due = since  # what was heard meanwhile may be newer than the answer

    def report(self, said: ProgressUpdate) -> None:
        """How far the owner is."""
        with self._lock:
            before, self.progress = self.progress, self.progress.then(said)
            self._said = self._said.then(said)
            if self.progress != before:
                self._advanced_at = now()
                self.due = min(self.due, self._told_at + REPORT_EVERY)
        self._changed(self)

    def take_said(self) -> ProgressUpdate:
        """What the owner has said since the last renewal."""
        with self._lock:
            said, self._said = self._said, ProgressUpdate()
            # In the order in which things were said, whoever sends them first.
            return said._replace(order=next_order())

    def put_back(self, said: ProgressUpdate) -> None:
        """It could not be told."""
        with self._lock:
            self._said = said.then(self._said)

    def tell_lost(self, why: str) -> None:
        """It is somebody else's."""
        self.lost.set(why)

    def prove(self) -> bool:
        """Ask the server whether the claim still holds. Blocks."""
        return self._prove(self)

    def loss(self) -> ClaimLost:
        """The error for an owner that owns no more."""
        claim = self.claim
        return ClaimLost(
            f"the claim of {claim.model_name!r} ({claim.provider}, token {claim.token}) is lost: {self.lost.why}",
            model_name=claim.model_name,
            provider=str(claim.provider),
        )


class OwnedClaim(Claim, frozen=True, kw_only=True, gc=True):
    """A claim that is kept alive while its owner downloads.

    It is a `Claim`, and renewed by the client until the download ends.

    Attributes:
        held: how the client keeps it; not for you.
    """

    held: ActiveDownload

    @classmethod
    def of(cls, held: ActiveDownload) -> OwnedClaim:
        """The owner's view of a claim that is held."""
        fields = {field: getattr(held.claim, field) for field in Claim.__struct_fields__}
        return cls(**fields, held=held)

    @property
    def lost(self) -> LossSignal:
        """Set when the claim is somebody else's, or can't be proved any more: stop then.

        An asyncio download is cancelled; one in a thread must look: ``lost.is_set()``, ``lost.wait(seconds)``.
        """
        return self.held.lost

    def report(
        self,
        bytes_done: int | None = None,
        bytes_total: int | None = None,
        message: str | Default | None = Default.UNCHANGED,
    ) -> None:
        """Say how far the download is. Cheap, from any thread: it is told along with a renewal, or once a second.

        Args:
            bytes_done: how much is done; ``None``: as before.
            bytes_total: how much there is; ``None``: as before.
            message: for people; ``None``: none; left out: as before.

        Raises:
            InvalidArgument: a number is negative or too large, a text is too long.
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
        """Say what was downloaded, for the record; what is ``None`` stays as it was.

        Args:
            size_bytes: how large the files are.
            location: where they are, relative to the cache.
            resolved_revision: which commit it was.

        Raises:
            InvalidArgument: a number is negative or too large, a text is too long.
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
        """Ask the server whether this claim still is the one that counts, and renew it. Blocks; any thread.

        Returns:
            Whether it is; if not, `lost` is set.

        Raises:
            RegistryUnavailable, OutcomeUnknown: nobody answers.
        """
        return self.held.prove()

    def __repr__(self) -> str:
        return "Owned" + super().__repr__().replace(f", held={self.held!r}", "")
