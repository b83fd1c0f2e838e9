"""What a client is beside its I/O: its operations, the claims that it keeps alive, what it logs."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pyregistry._coordination.keepalive import KeptClaims
from pyregistry._coordination.lease import Kept
from pyregistry._coordination.local_faults import LocalBackoff
from pyregistry._coordination.options import Wish
from pyregistry._core import validation as checks
from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import KEPT, ClaimResult, Lease, Rejection
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.operations import Ops
from pyregistry._redis.transport.endpoint import ClientSource, UrlSource
from pyregistry._runtime.greenlets import check_runtime
from pyregistry.errors import DamagedRecord, InvalidArgument
from pyregistry.models import Claim, Claimed, ModelRecord, ModelRef, ModelStatus

_log = logging.getLogger("pyregistry")


class Core:
    """The part that both clients share."""

    _ops: Ops
    _kept: KeptClaims
    _source: ClientSource | UrlSource

    def _set_up(
        self,
        source: ClientSource | UrlSource,
        namespace: str,
        owner: str | None,
        providers: Iterable[str],
    ) -> None:
        check_runtime()
        self._source = source
        self._ops = Ops(namespace, owner, providers)
        self._kept = KeptClaims(source, self._ops)
        self._caches: set[Path] = set()  # folders that were seen to be the cache of this namespace
        self._checked: dict[Path, float] = {}  # roots that could be written to, and when (`now`)
        self._backoff = LocalBackoff()
        # A client that nobody has any more is as good as closed.
        weakref.finalize(self, self._kept.abandon)

    @property
    def namespace(self) -> str:
        """Which registry this is: one cache, shared or a node's own."""
        return self._ops.keys.namespace

    @property
    def owner(self) -> str:
        """Who this client is, for people."""
        return self._ops.owner

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._source.shown!r}, namespace={self.namespace!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} does not pickle: make one from its URL in the other process"
        )

    def _wish(self, targets: Sequence[ModelKey], **wishes: Any) -> Wish:
        if len(targets) != 1:
            raise InvalidArgument("provider", "must be named: a download comes from one place")
        if wishes["owner"] is not None:
            checks.owner(wishes["owner"])
        if wishes["expected_bytes"] is not None:
            checks.whole("expected_bytes", wishes["expected_bytes"])
        self._kept.check()
        return Wish(target=targets[0], **wishes)

    def _told_server(self, opened: wire.Opened) -> None:
        if opened.lacking:
            _log.warning("waiting will be refused: this user lacks the right to %s", opened.lacking)

    def _told_claims(self, results: Sequence[ClaimResult | DamagedRecord], lease: Lease) -> None:
        for result in results:
            if isinstance(result, DamagedRecord):
                _log.warning("not claimed: %s", result)
            else:
                self._told_claim(result, lease)

    def _told_claim(self, result: ClaimResult, lease: Lease) -> None:
        if isinstance(result, Claimed):
            if lease is KEPT or result.claim.taken_over or _log.isEnabledFor(logging.DEBUG):
                self._told_won(result.claim, lease, "claimed", logging.DEBUG)
        elif _log.isEnabledFor(logging.DEBUG):
            _log.debug("not claimed: it is %s", result.status)

    def _told_won(self, claim: Claim, lease: Lease, how: str, level: int) -> None:
        if lease is KEPT:
            self._kept.keep(claim)
        if claim.taken_over:
            _log.info(
                "took over %s from %s, which had got to %d bytes (token %d, attempt %d)",
                claim.ref, claim.previous_owner, claim.previous_bytes_done or 0,
                claim.token, claim.attempts,
            )  # fmt: skip
        elif _log.isEnabledFor(level):
            _log.log(level, "%s %s (token %d, attempt %d)", how, claim.ref, claim.token, claim.attempts)

    def _told_retry(self, ref: ModelRef, result: Claim | Rejection, lease: Lease) -> Claim | None:
        if isinstance(result, Rejection):
            _log.debug("%s is not retried: %s", ref, result.why)
            return None
        self._told_won(result, lease, "retries", logging.INFO)
        return result

    def _told_renewal(
        self, claim: Claim, result: Claim | Rejection | DamagedRecord
    ) -> Claim | DamagedRecord | None:
        if isinstance(result, Claim):
            _log.debug("renewed %s (token %d)", claim.ref, claim.token)
            return result
        self._kept.drop(claim)
        if isinstance(result, Rejection):
            level = logging.WARNING if result.lost else logging.DEBUG
            _log.log(level, "the claim of %s (token %d): %s", claim.ref, claim.token, result.why)
            return None
        return result

    def _told_end(self, claim: Claim, how: str, why_not: str) -> bool:
        self._kept.drop(claim)
        if why_not:
            _log.warning("%s (token %d) could not be %s: %s", claim.ref, claim.token, how, why_not)
            return False
        _log.debug("%s is %s (token %d)", claim.ref, how, claim.token)
        return True

    def _told_status(
        self, target: ModelKey, status: ModelStatus, reply: wire.StatusSet, dropped: Iterable[Kept]
    ) -> None:
        ended = reply.ended_claim_id
        if ended and not (self._ops.ids.made(ended) or any(kept.claim.claim_id == ended for kept in dropped)):
            _log.warning(
                "set_status of %s to %s ended the live claim of %s (token %d)",
                target.ref, status, reply.ended_owner, reply.ended_token,
            )  # fmt: skip
        elif _log.isEnabledFor(logging.DEBUG):
            _log.debug("set %s to %s", target.ref, status)

    def _told_cancel(self, target: ModelKey, cancelled: wire.Cancelled | None) -> bool:
        if cancelled is None:
            _log.debug("%s is not being downloaded: nothing to cancel", target.ref)
            return False
        _log.info(
            "cancelled the download of %s by %s (token %d)",
            target.ref, cancelled.owner or "no owner", cancelled.token,
        )  # fmt: skip
        return True

    def _told_touch(self, name: str) -> None:
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("touched %s", name)

    def _told_touches(self, known: Sequence[bool | DamagedRecord]) -> None:
        _log.debug("touched %d records", len(known))

    def _told_delete(self, ref: ModelRef, gone: int) -> None:
        _log.debug("deleted %d records of %s", gone, ref.name)

    def _listable(
        self, found: Iterable[ModelRecord | DamagedRecord | None], status: ModelStatus | None
    ) -> list[ModelRecord]:
        """The records of a page: not those that are gone, damaged, or of another status by now."""
        records = []
        for record in found:
            if isinstance(record, DamagedRecord):
                _log.warning("left out: %s", record)
            elif record is not None and (status is None or record.status is status):
                records.append(record)
        return records
