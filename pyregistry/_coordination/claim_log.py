"""The claims of one client: which are kept alive, and what is logged of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from pyregistry._coordination.keepalive import Keepalive
from pyregistry._coordination.lease import LeasedClaim
from pyregistry._coordination.local_faults import LocalBackoff
from pyregistry._core.claim_ids import ClaimIds
from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import KEPT, ClaimResult, Default, Rejection
from pyregistry.backend.values import Cancelled, Connected, StatusSet
from pyregistry.errors import DamagedRecord
from pyregistry.models import Claim, Claimed, ModelRef, ModelStatus

__all__ = ["ClaimLog"]

_log = logging.getLogger("pyregistry")

Lease = float | Default | None


class ClaimLog:
    """The part of a session that both clients share: what follows from the answers of the backend.

    Attributes:
        keepalive: the claims that are kept alive.
        ids: makes claim ids.
        backoff: how long this machine leaves claims to others after it failed by itself.
        cache_roots: roots of stores that were seen to be the cache of this namespace.
        checked_roots: roots of stores that could be written to, and when (`now`).
    """

    def __init__(self, keepalive: Keepalive, ids: ClaimIds) -> None:
        self.keepalive = keepalive
        self.ids = ids
        self.backoff = LocalBackoff()
        self.cache_roots: set[Path] = set()
        self.checked_roots: dict[Path, float] = {}

    def connected(self, server: Connected) -> None:
        """Warn of a user who may not wait."""
        if server.lacking:
            _log.warning("waiting will be refused: this user lacks the right to %s", server.lacking)

    def claimed_many(self, results: Sequence[ClaimResult | DamagedRecord], lease: Lease) -> None:
        """Keep alive what was won, and log."""
        for result in results:
            if isinstance(result, DamagedRecord):
                _log.warning("not claimed: %s", result)
            else:
                self.claimed(result, lease)

    def claimed(self, result: ClaimResult, lease: Lease) -> None:
        """Keep alive what was won, and log."""
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
        """Keep alive what was won, and log."""
        if isinstance(result, Rejection):
            _log.debug("%s is not retried: %s", ref, result.why)
            return None
        self._won(result, lease, "retries", logging.INFO)
        return result

    def renewed(
        self, claim: Claim, result: Claim | Rejection | DamagedRecord
    ) -> Claim | DamagedRecord | None:
        """Drop a claim that could not be renewed, and log."""
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
        """Drop a claim that has ended, and log; whether it counted."""
        self.keepalive.drop(claim)
        if why_not:
            _log.warning("%s (token %d) could not be %s: %s", claim.ref, claim.token, how, why_not)
            return False
        _log.debug("%s is %s (token %d)", claim.ref, how, claim.token)
        return True

    def status_set(
        self, key: ModelKey, status: ModelStatus, reply: StatusSet, dropped: Iterable[LeasedClaim]
    ) -> None:
        """Log a status that was set, and the live claim of another client that it ended."""
        ended = reply.ended_claim_id
        if ended and not (self.ids.made(ended) or any(kept.claim.claim_id == ended for kept in dropped)):
            _log.warning(
                "set_status of %s to %s ended the live claim of %s (token %d)",
                key.ref, status, reply.ended_owner, reply.ended_token,
            )  # fmt: skip
        elif _log.isEnabledFor(logging.DEBUG):
            _log.debug("set %s to %s", key.ref, status)

    def cancelled(self, key: ModelKey, cancelled: Cancelled | None) -> bool:
        """Log a download that was cancelled; whether there was one."""
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
        """Log records that were deleted."""
        _log.debug("deleted %d records of %s", gone, ref.name)
