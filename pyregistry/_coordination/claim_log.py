"""The claims of one client: bookkeeping of the keepalive, and log messages."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from pyregistry._coordination.keepalive import Keepalive
from pyregistry._coordination.lease import LeasedClaim
from pyregistry._coordination.local_faults import LocalBackoff
from pyregistry._core.claim_ids import ClaimIds
from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import KEPT, ClaimResult, Lease, Rejection
from pyregistry.backend.values import Cancelled, Connected, StatusSet
from pyregistry.errors import DamagedRecord
from pyregistry.models import Claim, Claimed, ModelRef, ModelStatus

__all__ = ["ClaimLog"]

_log = logging.getLogger("pyregistry")


class ClaimLog:
    """The part of a session that both clients share: it processes the answers of the backend.

    Attributes:
        keepalive: The claims that are kept alive.
        ids: Generator of claim ids.
        backoff: Back-off of this machine after local faults.
        cache_roots: Roots of stores that were verified as the cache of this namespace.
        checked_roots: Roots of writable stores, with the time of the last check (`now`).
    """

    def __init__(self, keepalive: Keepalive, ids: ClaimIds) -> None:
        self.keepalive = keepalive
        self.ids = ids
        self.backoff = LocalBackoff()
        self.cache_roots: set[Path] = set()
        self.checked_roots: dict[Path, float] = {}

    def connected(self, server: Connected) -> None:
        """Log a warning if the user lacks the right that waiting requires."""
        if server.lacking:
            _log.warning("waiting will be refused: this user lacks the right to %s", server.lacking)

    def claimed_many(self, results: Sequence[ClaimResult | DamagedRecord], lease: Lease) -> None:
        """Log the results of claims, and keep the won claims alive."""
        for result in results:
            if isinstance(result, DamagedRecord):
                _log.warning("not claimed: %s", result)
            else:
                self.claimed(result, lease)

    def claimed(self, result: ClaimResult, lease: Lease) -> None:
        """Log the result of a claim, and keep a won claim alive."""
        if isinstance(result, Claimed):
            if lease is KEPT or result.claim.taken_over or _log.isEnabledFor(logging.DEBUG):
                self._won(result.claim, lease, "claimed", logging.DEBUG)
        elif _log.isEnabledFor(logging.DEBUG):
            _log.debug("not claimed: it is %s", result.status)

    def _won(self, claim: Claim, lease: Lease, how: str, level: int) -> None:
        if lease is KEPT:
            self.keepalive.keep(claim)
        if claim.taken_over:
            _log.info(
                "took over %s from %s, which had got to %d bytes (token %d, attempt %d)",
                claim.ref, claim.previous_owner, claim.previous_bytes_done or 0,
                claim.token, claim.attempts,
            )  # fmt: skip
        elif _log.isEnabledFor(level):
            _log.log(level, "%s %s (token %d, attempt %d)", how, claim.ref, claim.token, claim.attempts)

    def retried(self, ref: ModelRef, result: Claim | Rejection, lease: Lease) -> Claim | None:
        """Log the result of a retry, and keep a won claim alive. Return the claim, or ``None`` after a rejection."""
        if isinstance(result, Rejection):
            _log.debug("%s is not retried: %s", ref, result.why)
            return None
        self._won(result, lease, "retries", logging.INFO)
        return result

    def renewed(
        self, claim: Claim, result: Claim | Rejection | DamagedRecord
    ) -> Claim | DamagedRecord | None:
        """Log the result of a renewal, and drop a claim that could not be renewed.

        Returns:
            The claim or the `DamagedRecord`; ``None`` after a rejection.
        """
        if isinstance(result, Claim):
            _log.debug("renewed %s (token %d)", claim.ref, claim.token)
            return result
        self.keepalive.drop(claim)
        if isinstance(result, Rejection):
            level = logging.WARNING if result.lost else logging.DEBUG
            _log.log(level, "the claim of %s (token %d): %s", claim.ref, claim.token, result.why)
            return None
        return result

    def ended(self, claim: Claim, how: str, why_not: str) -> bool:
        """Drop a claim that has ended, log it, and return whether the claim was valid."""
        self.keepalive.drop(claim)
        if why_not:
            _log.warning("%s (token %d) could not be %s: %s", claim.ref, claim.token, how, why_not)
            return False
        _log.debug("%s is %s (token %d)", claim.ref, how, claim.token)
        return True

    def status_set(
        self, key: ModelKey, status: ModelStatus, reply: StatusSet, dropped: Iterable[LeasedClaim]
    ) -> None:
        """Log a change of status. Warn if the change ended a live claim of another client."""
        ended = reply.ended_claim_id
        if ended and not (self.ids.made(ended) or any(kept.claim.claim_id == ended for kept in dropped)):
            _log.warning(
                "set_status of %s to %s ended the live claim of %s (token %d)",
                key.ref, status, reply.ended_owner, reply.ended_token,
            )  # fmt: skip
        elif _log.isEnabledFor(logging.DEBUG):
            _log.debug("set %s to %s", key.ref, status)

    def cancelled(self, key: ModelKey, cancelled: Cancelled | None) -> bool:
        """Log the cancellation of a download, and return whether there was a download."""
        if cancelled is None:
            _log.debug("%s is not being downloaded: nothing to cancel", key.ref)
            return False
        _log.info(
            "cancelled the download of %s by %s (token %d)",
            key.ref, cancelled.owner or "no owner", cancelled.token,
        )  # fmt: skip
        return True

    def touched(self, name: str) -> None:
        """Log a touch."""
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("touched %s", name)

    def touched_many(self, known: Sequence[bool | DamagedRecord]) -> None:
        """Log the touches of a batch."""
        _log.debug("touched %d records", len(known))

    def deleted(self, ref: ModelRef, gone: int) -> None:
        """Log the deletion of records."""
        _log.debug("deleted %d records of %s", gone, ref.name)
