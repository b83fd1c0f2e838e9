"""Keeps claims alive: one thread for all clients of a process, on blocking connections of its own.

It depends on nobody's event loop. A forked child keeps nothing for its parent.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref

from pyregistry._checks import Target
from pyregistry._ops import KEPT_LEASE, Default, Ops, Refusal, chunks
from pyregistry._source import ClientSource, UrlSource
from pyregistry._transport_sync import Transport
from pyregistry.errors import RegistryError
from pyregistry.models import Claim

_log = logging.getLogger("pyregistry.keeper")

RENEW_EVERY = KEPT_LEASE / 3
"""Seconds between two renewals of a claim: two may fail before the lease ends."""

_TOGETHER = RENEW_EVERY / 4  # what is due this soon goes out in the same batch
_RETRY_AFTER = RENEW_EVERY / 10
_LINGER = 2.0  # seconds that the thread waits for more claims before it ends
_TIMEOUT = KEPT_LEASE / 10  # a server that does not answer must not cost the claims on others their lease


def now() -> float:
    """Seconds on a clock that also runs while the machine sleeps, where there is one."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Kept:
    """One claim, when it is to be renewed, and until when it is known to hold."""

    __slots__ = ("claim", "due", "holds_until")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.proved()

    def proved(self, since: float | None = None) -> None:
        proved_at = now() if since is None else since
        self.due = proved_at + RENEW_EVERY
        self.holds_until = proved_at + KEPT_LEASE


class _Keeper:
    """The thread, and what it keeps. Everything is changed under `lock` alone."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.clients: set[KeptClaims] = set()
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0

    def wake_by(self, due: float) -> None:
        """See to it that the thread runs and wakes in time; the caller holds `lock`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pyregistry-keeper", daemon=True)
            self._wakes_at = due
            self._thread.start()
        elif due < self._wakes_at:
            # Most claims are due after those that are there: they need not wake anybody.
            self._wakes_at = due
            self.lock.notify()

    def _run(self) -> None:
        while True:
            with self.lock:
                dues = [client.next_due() for client in self.clients if client.has_claims()]
                if not dues:
                    self._wakes_at = now() + _LINGER
                    self.lock.wait(_LINGER)
                    if any(client.has_claims() for client in self.clients):
                        continue
                    idle, self.clients, self._thread = self.clients, set(), None
                else:
                    self._wakes_at = min(dues)
                    self.lock.wait(max(self._wakes_at - now(), 0.0))
                    idle = {client for client in self.clients if not client.has_claims()}
                    self.clients -= idle
                clients = list(self.clients)
                ends = self._thread is None
            for client in idle:
                client.hang_up()
            if ends:
                return
            for client in clients:
                client.renew_due()


_keeper = _Keeper()
_everyone: weakref.WeakSet[KeptClaims] = weakref.WeakSet()


def _forget_parent() -> None:
    """In a forked child: its parent renews; the thread and whatever lock it held did not come along."""
    global _keeper  # noqa: PLW0603 - one keeper per process is the point
    _keeper = _Keeper()
    for client in list(_everyone):
        client.start_anew()


os.register_at_fork(after_in_child=_forget_parent)


class KeptClaims:
    """The claims that one client keeps alive."""

    def __init__(self, source: ClientSource | UrlSource, ops: Ops) -> None:
        self._source = source
        self._ops = ops
        self._checked = False
        self.start_anew()
        _everyone.add(self)

    def start_anew(self) -> None:
        """Keep nothing."""
        self.claims: dict[int, Kept] = {}  # by token: a claim id may serve for several models
        self._transport: Transport | None = None
        self._closed = False

    def has_claims(self) -> bool:
        """Whether there is anything to renew."""
        return bool(self.claims) and not self._closed

    def next_due(self) -> float:
        """When the first of the claims is due; there is one."""
        return min(kept.due for kept in self.claims.values())

    def abandon(self) -> None:
        """Keep nothing from now on. For the garbage collector, in whatever thread: it takes no lock."""
        self._closed = True

    def check(self) -> None:
        """Can this client's claims be kept alive?

        Raises:
            ConfigurationError: its settings can't be cloned.
        """
        if not self._checked:
            self._source.hurried(_TIMEOUT)
            self._checked = True

    def keep(self, claim: Claim) -> None:
        """Renew this claim until it is dropped."""
        self.keep_on([Kept(claim)])

    def keep_on(self, dropped: list[Kept]) -> None:
        """Renew these as if they had never been dropped."""
        with _keeper.lock:
            if not self._closed:
                for kept in dropped:
                    self.claims[kept.claim.token] = kept
                    _keeper.clients.add(self)
                    _keeper.wake_by(kept.due)

    def drop(self, claim: Claim) -> None:
        """Renew this claim no more."""
        with _keeper.lock:
            self.claims.pop(claim.token, None)

    def drop_models(self, targets: list[Target], token: int | None = None) -> list[Kept]:
        """Renew no claim of these models, or only not the one with this token; returns what was kept."""
        refs = {target.ref for target in targets}
        with _keeper.lock:
            dropped = [
                kept
                for kept in self.claims.values()
                if kept.claim.ref in refs and token in (None, kept.claim.token)
            ]
            for kept in dropped:
                del self.claims[kept.claim.token]
        return dropped

    def close(self) -> None:
        """Keep nothing, now and later. The claims end with their leases."""
        with _keeper.lock:
            self._closed = True
            self.claims.clear()
            _keeper.clients.discard(self)
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection; another is made when it is needed."""
        with _keeper.lock:
            transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def renew_due(self) -> None:
        """Renew what is due now or very soon, in batches. Raises nothing: the thread has others to serve."""
        due: list[Kept] = []
        soon = now() + _TOGETHER
        try:
            with _keeper.lock:
                if self._closed or not self.claims or self.next_due() > now():
                    return
                due = [kept for kept in self.claims.values() if kept.due <= soon]
                if self._transport is None:
                    self._transport = Transport(self._source.hurried(_TIMEOUT), self._ops, attempts=2)
                transport = self._transport
            for batch in chunks(due):
                self._renew(transport, [kept for kept in batch if kept.claim.token in self.claims])
        except Exception as error:
            # The other batches too: a server that does not answer has cost enough time.
            with _keeper.lock:
                failed = [kept for kept in due if kept.due <= soon and kept.claim.token in self.claims]
                for kept in failed:
                    kept.due = now() + _RETRY_AFTER
            if self._closed or not failed:
                return  # closed, or all dropped, under this call
            _log.warning(
                "%d claims could not be renewed, %d of them beyond their lease; trying on: %s",
                len(failed),
                sum(kept.holds_until <= now() for kept in failed),
                error,
                exc_info=not isinstance(error, RegistryError),
            )

    def _renew(self, transport: Transport, batch: list[Kept]) -> None:
        if not batch:
            return
        sent_at = now()
        results = transport.call(self._ops.renew([kept.claim for kept in batch], lease=Default.ITS_OWN))
        for kept, result in zip(batch, results, strict=True):
            if isinstance(result, Claim):
                with _keeper.lock:
                    kept.claim = result
                    kept.proved(sent_at)
                continue
            with _keeper.lock:
                known = self.claims.pop(kept.claim.token, None) is not None
            # One that was dropped meanwhile was ended by its owner; that is no loss.
            if known and (not isinstance(result, Refusal) or result.lost):
                why = result.why if isinstance(result, Refusal) else str(result)
                _log.warning(
                    "the claim of %s (token %d) is kept no more: %s",
                    kept.claim.ref,
                    kept.claim.token,
                    why,
                )
