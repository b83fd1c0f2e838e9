"""Keeps claims alive: one thread for all clients of a process, on blocking connections of its own.

It depends on nobody's event loop. A forked child keeps nothing for its parent.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterable

from pyregistry._checks import Target
from pyregistry._ops import KEPT_LEASE, Default, Ops, Refusal, chunks
from pyregistry._owned import Held, Kept, Stall, now
from pyregistry._source import ClientSource, UrlSource
from pyregistry._transport_sync import Transport
from pyregistry.errors import DamagedRecord, RegistryError
from pyregistry.models import Claim

_log = logging.getLogger("pyregistry.keeper")

# A claim is renewed at a third of its lease: two renewals may fail before it ends. What is due within a
# twelfth goes out in the same batch; one that failed is tried again after a thirtieth.
_TOGETHER = 1 / 12
_RETRY_AFTER = 1 / 30
_LINGER = 2.0  # seconds that the thread waits for more claims before it ends

# Seconds that a renewal may wait for its answer: a tenth of the lease, within these bounds. A server that does
# not answer must not cost the claims on others their lease.
_LEAST_TIMEOUT, _MOST_TIMEOUT = 0.5, 3.0


def _timeout(kept: Iterable[Kept]) -> float:
    shortest = min((each.lease for each in kept), default=KEPT_LEASE)
    return min(max(shortest / 10, _LEAST_TIMEOUT), _MOST_TIMEOUT)


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
                dues = [client.wakes_at() for client in self.clients if client.has_claims()]
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
                client.see_to_them()


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
        self._patience = _MOST_TIMEOUT
        self._closed = False

    def has_claims(self) -> bool:
        """Whether there is anything to renew."""
        return bool(self.claims) and not self._closed

    def wakes_at(self) -> float:
        """When the first of the claims wants something; there is one."""
        return min(kept.wakes_at for kept in self.claims.values())

    def abandon(self) -> None:
        """Keep nothing from now on. For the garbage collector, in whatever thread: it takes no lock."""
        self._closed = True

    def check(self) -> None:
        """Can this client's claims be kept alive?

        Raises:
            ConfigurationError: its settings can't be cloned.
        """
        if not self._checked:
            self._source.hurried(_MOST_TIMEOUT)
            self._checked = True

    def keep(self, claim: Claim) -> None:
        """Renew this claim until it is dropped."""
        self.keep_on([Kept(claim)])

    def hold(self, claim: Claim, since: float, *, bound: bool, stall: Stall | None) -> Held:
        """Renew this claim until it is dropped, and tell its owner if it is lost.

        Args:
            claim: what was given.
            since: when it was asked for.
            bound: whether its owner stops when it can't prove its lease.
            stall: when it is ended for want of progress.
        """
        held = Held(claim, since, bound=bound, stall=stall, changed=self._wake_for, prove=self._prove)
        self.keep_on([held])
        return held

    def keep_on(self, dropped: list[Kept]) -> None:
        """Renew these as if they had never been dropped."""
        with _keeper.lock:
            if not self._closed:
                for kept in dropped:
                    self.claims[kept.claim.token] = kept
                    _keeper.clients.add(self)
                    _keeper.wake_by(kept.wakes_at)

    def _wake_for(self, kept: Kept) -> None:
        with _keeper.lock:
            if self.claims.get(kept.claim.token) is kept and not self._closed:
                _keeper.wake_by(kept.wakes_at)

    def look_at(self, held: Held) -> None:
        """Renew this claim now: something was heard that may have ended it."""
        with _keeper.lock:
            held.asked_at = now()
            held.due = 0.0
        self._wake_for(held)

    def drop(self, claim: Claim) -> None:
        """Renew this claim no more."""
        with _keeper.lock:
            self.claims.pop(claim.token, None)

    def drop_models(self, targets: list[Target], token: int | None = None) -> list[Kept]:
        """Renew no claim of these models, or only not the one with this token; returns what was kept."""
        if not self.claims:  # nearly always
            return []
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
            kept = list(self.claims.values())
            self.claims.clear()
            _keeper.clients.discard(self)
        self.hang_up()
        for each in kept:
            each.tell_lost("its client was closed")

    def hang_up(self) -> None:
        """Close the connection; another is made when it is needed."""
        with _keeper.lock:
            transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _connection(self) -> Transport:
        """As patient as the shortest lease allows; the caller holds the lock."""
        patience = _timeout(self.claims.values())
        if self._transport is None or patience != self._patience:
            # The one before closes itself once its calls have ended.
            if self._transport is not None:
                self._transport.close()
            self._transport = Transport(self._source.hurried(patience), self._ops, attempts=2, patience=0.0)
            self._patience = patience
        return self._transport

    def see_to_them(self) -> None:
        """End what is stalled, renew what is due now or very soon, in batches.

        Raises nothing: the thread has others to serve.
        """
        for held in self._stalled():
            self._end_stalled(held)
        due: list[Kept] = []
        try:
            with _keeper.lock:
                at = now()
                if self._closed or all(kept.due > at for kept in self.claims.values()):
                    return
                due = [kept for kept in self.claims.values() if kept.due <= at + kept.lease * _TOGETHER]
                transport = self._connection()
            for batch in chunks(due):
                self._renew(transport, [kept for kept in batch if kept.claim.token in self.claims])
        except Exception as error:
            # The other batches too: a server that does not answer has cost enough time.
            with _keeper.lock:
                failed = [
                    kept
                    for kept in due
                    if kept.due <= at + kept.lease * _TOGETHER and kept.claim.token in self.claims
                ]
                for kept in failed:
                    kept.due = now() + kept.lease * _RETRY_AFTER
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
        said = [kept.take_said() for kept in batch]
        sent_at = now()
        op = self._ops.renew([kept.claim for kept in batch], lease=Default.ITS_OWN, said=said)
        try:
            results = transport.call(op)
        except BaseException:
            for kept, words in zip(batch, said, strict=True):
                kept.put_back(words)
            raise
        for kept, result in zip(batch, results, strict=True):
            self._renewed(kept, result, sent_at)

    def _renewed(self, kept: Kept, result: Claim | Refusal | DamagedRecord, sent_at: float) -> bool:
        if isinstance(result, Claim):
            with _keeper.lock:
                kept.claim = result
                kept.proved(sent_at)
            return True
        with _keeper.lock:
            known = self.claims.pop(kept.claim.token, None) is not None
        why = result.why if isinstance(result, Refusal) else str(result)
        if isinstance(result, Refusal) and not result.lost:
            # One that is dropped, or about to be, was ended by its owner; that is no loss.
            if known and not kept.over:
                kept.tell_lost(why)
            return False
        if known:
            _log.warning(
                "the claim of %s (token %d) is kept no more: %s", kept.claim.ref, kept.claim.token, why
            )
        kept.tell_lost(why)
        return False

    def _prove(self, held: Held) -> bool:
        if held.lost.is_set():
            return False
        said = held.take_said()
        with _keeper.lock:
            if self._closed:
                return False
            transport = self._connection()
        sent_at = now()
        try:
            (result,) = transport.call(self._ops.renew([held.claim], lease=Default.ITS_OWN, said=[said]))
        except BaseException:
            held.put_back(said)
            raise
        return self._renewed(held, result, sent_at)

    def _stalled(self) -> list[Held]:
        with _keeper.lock:
            at = now()
            return [
                kept
                for kept in self.claims.values()
                if isinstance(kept, Held) and kept.stalls_at <= at and not self._closed
            ]

    def _end_stalled(self, held: Held) -> None:
        stall, held.stall = held.stall, None
        if stall is None:
            return  # its download has ended in this moment
        why = f"no progress for {stall.timeout:g} s"
        self.drop(held.claim)
        # Told first: what it does from here on is for nothing.
        held.lost.set(why)
        try:
            with _keeper.lock:
                transport = self._connection()
            why_not = transport.call(stall.end(held.claim, why))
        except Exception as error:
            why_not = str(error)
        log = "the download of %s (token %d) was ended: %s%s"
        _log.warning(log, held.claim.ref, held.claim.token, why, f"; {why_not}" if why_not else "")
