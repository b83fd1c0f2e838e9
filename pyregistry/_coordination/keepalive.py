"""Keep claims alive, with one thread for all clients of a process, on blocking connections of its own.

It depends on nobody's event loop. A forked child keeps nothing for its parent.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from pyregistry._coordination.keepalive_thread import KeepaliveThread
from pyregistry._coordination.lease import ActiveDownload, LeasedClaim, StallDeadline
from pyregistry._core import values
from pyregistry._core.clock import now
from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import Rejection, chunks
from pyregistry.backend.common import Verb
from pyregistry.backend.protocol_sync import Backend
from pyregistry.errors import DamagedRecord, NotNow, RegistryClosed, RegistryError, RegistryUnavailable
from pyregistry.models import Claim

T = TypeVar("T")

_log = logging.getLogger("pyregistry.keeper")

# A claim is renewed at a third of its lease, so two renewals may fail before it ends. Claims that are due within a
# twelfth of their lease go out in the same batch. A failed renewal is tried again after a thirtieth.
_TOGETHER = 1 / 12
_RETRY_AFTER = 1 / 30
_LINGER = 2.0  # seconds without a claim after which a connection, and the thread, end
_REFUSED_FOR = 1.0  # seconds without a new attempt after a connection was refused

# Timeout of a renewal in seconds: a tenth of the lease, within these bounds. A silent server must not delay the
# renewals on other servers beyond their leases.
_LEAST_TIMEOUT, _MOST_TIMEOUT = 0.5, 3.0


def _timeout(kept: Iterable[LeasedClaim]) -> float:
    shortest = min((each.lease for each in kept), default=values.KEPT_LEASE)
    return min(max(shortest / 10, _LEAST_TIMEOUT), _MOST_TIMEOUT)


_keeper = KeepaliveThread()
_everyone: weakref.WeakSet[Keepalive] = weakref.WeakSet()


def _forget_parent() -> None:
    """Reset the keepalive in a forked child. The parent renews its claims; the thread and its locks are not copied."""
    global _keeper  # noqa: PLW0603 - the process has one keepalive thread
    _keeper = KeepaliveThread()
    for client in list(_everyone):
        client.reset()


os.register_at_fork(after_in_child=_forget_parent)


def _was_refused(error: RegistryUnavailable) -> bool:
    """Return whether a connection was refused, as at the server's limit, rather than silent or refused for now."""
    return not isinstance(error, NotNow) and not error.timed_out


class Keepalive:
    """The claims of one client that are kept alive.

    Attributes:
        claims: what is kept, by token: a claim id may serve for several models.
        ready: whether there is a connection that keeps them. It is made before the first claim is asked for: a server
            that takes no more connections by then would let the lease end.
        by_client: runs a verb on the client's own connections, and waits for the answer at most so many seconds. It
            goes that way where a connection is refused.

    Args:
        connect: makes a backend with connections of its own, whose answers may take so many seconds.
    """

    by_client: Callable[[Verb, float], Any] | None = None

    def __init__(self, connect: Callable[[float], Backend]) -> None:
        self._connect = connect
        self._checked = False
        self.reset()
        _everyone.add(self)

    def reset(self) -> None:
        """Drop all claims and connections."""
        self.claims: dict[int, LeasedClaim] = {}
        self.ready = False
        self._preparing = threading.Lock()  # held by the thread that connects on behalf of all callers
        self._refused_until = 0.0
        self._idle_since: float | None = None
        self._backend: Backend | None = None
        self._before: Backend | None = None  # the previous connection, until the new one has answered
        self._patience = _MOST_TIMEOUT
        self._closed = False
        self._why = ""  # why claims are refused; set when the client shuts down
        self._owners = threading.Condition()
        self._owned: set[ActiveDownload] = set()  # claims with a running download; guarded by `_owners`
        self._wakes: set[Callable[[], object]] = set()  # wake-ups of waiting callers; guarded by `_owners`

    def has_claims(self) -> bool:
        """Return whether there is a claim to renew."""
        return bool(self.claims) and not self._closed

    def wakes_at(self, at: float) -> float:
        """Return when the first claim is due, or when the client counts as idle (`now`)."""
        if self.has_claims():
            self._idle_since = None
            return min(kept.wakes_at for kept in self.claims.values())
        self._idle_since = at if self._idle_since is None else self._idle_since
        return at if self._closed else self._idle_since + _LINGER

    def is_idle(self, at: float) -> bool:
        """Return whether there was no claim for `_LINGER` seconds."""
        if self.has_claims():
            return False
        return self._closed or (self._idle_since is not None and at >= self._idle_since + _LINGER)

    def abandon(self) -> None:
        """Stop renewing. Takes no lock, because the garbage collector calls it in any thread."""
        self._closed = True

    def check(self) -> None:
        """Check that the claims of this client can be kept alive.

        Raises:
            ConfigurationError: its settings can't be cloned.
        """
        if not self._checked:
            self._connect(_MOST_TIMEOUT)
            self._checked = True

    def prepare(self) -> None:
        """Open the connection that renews claims, if possible, before a claim is asked for. Blocks.

        Raises:
            ConfigurationError: the settings of the client can't be cloned.
            RegistryClosed: the client shuts down.
        """
        self.check()
        self.check_open()
        with self._preparing:
            if self.ready or self._closed or now() < self._refused_until:
                return
            with _keeper.lock:
                backend = self._connection()
                self._idle_since = None
                _keeper.clients.add(self)
                _keeper.wake_by(now() + _LINGER)
            try:
                backend.connect()
            except RegistryError:
                # The claim itself reports the error. If the claim finds a connection, that one renews too.
                self._refused_until = now() + _REFUSED_FOR
                return
            with _keeper.lock:
                self.ready = self._backend is backend and not self._why

    def check_open(self) -> None:
        """Check that this client may claim.

        Raises:
            RegistryClosed: the client shuts down.
        """
        if self._why:
            raise RegistryClosed(f"no claim is made any more: {self._why}")

    def keep(self, claim: Claim) -> None:
        """Renew a claim until it is dropped."""
        self.keep_on([LeasedClaim(claim)])

    def hold(self, claim: Claim, since: float, *, bound: bool, stall: StallDeadline | None) -> ActiveDownload:
        """Renew a claim until it is dropped, and signal its owner if it is lost.

        Args:
            claim: what was given.
            since: when it was asked for.
            bound: whether its owner stops when it can't prove its lease.
            stall: when it is ended for want of progress.
        """
        held = ActiveDownload(
            claim, since, bound=bound, stall=stall, changed=self._wake_for, prove=self._prove
        )
        with self._owners:
            self._owned.add(held)
        with _keeper.lock:
            if not self._why:  # else the caller releases it
                self.keep_on([held])
        return held

    def ended(self, held: ActiveDownload) -> None:
        """Drop a claim whose owner has ended and cleaned up."""
        self.drop(held.claim)
        with self._owners:
            self._owned.discard(held)
            self._owners.notify_all()

    @contextmanager
    def waiting(self, wake: Callable[[], object]) -> Iterator[None]:
        """Call `wake`, in any thread, if the client shuts down within the block."""
        with self._owners:
            self._wakes.add(wake)
        try:
            yield
        finally:
            with self._owners:
                self._wakes.discard(wake)

    def keep_on(self, dropped: list[LeasedClaim]) -> None:
        """Renew claims again that were dropped."""
        with _keeper.lock:
            if self._why and dropped and not self._closed:
                # Won during the shutdown. A thread releases them, because the caller may be an event loop.
                threading.Thread(target=self._release, args=(dropped,), name="pyregistry-release").start()
            elif not self._closed:
                for kept in dropped:
                    self.claims[kept.claim.token] = kept
                    _keeper.clients.add(self)
                    _keeper.wake_by(kept.wakes_at)

    def _wake_for(self, kept: LeasedClaim) -> None:
        with _keeper.lock:
            if self.claims.get(kept.claim.token) is kept and not self._closed:
                _keeper.wake_by(kept.wakes_at)

    def look_at(self, held: ActiveDownload) -> None:
        """Renew a claim now, because an event may have ended it."""
        with _keeper.lock:
            held.asked_at = now()
            held.due = 0.0
        self._wake_for(held)

    def drop(self, claim: Claim) -> None:
        """Stop renewing a claim."""
        with _keeper.lock:
            self.claims.pop(claim.token, None)

    def drop_models(self, targets: list[ModelKey], token: int | None = None) -> list[LeasedClaim]:
        """Drop the claims of models, or the one with this token, and return them."""
        if not self.claims:  # the usual case
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
        """Stop renewing for good. The claims end with their leases, unless the client shuts down."""
        if self._why:
            self._give_back(finished=True)
        with _keeper.lock:
            self._closed = True
            kept = list(self.claims.values())
            self.claims.clear()
            _keeper.clients.discard(self)
        self.hang_up()
        for each in kept:
            each.tell_lost("its client was closed")

    def announce(self) -> None:
        """Refuse new claims, because the client is about to shut down. Takes no lock: signal handlers call it."""
        self._why = "the client was shut down"
        self.ready = False

    def shut_down(self, timeout: float) -> None:
        """Release all claims and refuse new ones, wait for the owners, and release the rest. Blocks.

        Args:
            timeout: seconds to wait for the owners in other threads.
        """
        self.announce()
        with self._owners:
            wakes = list(self._wakes)
        for wake in wakes:
            wake()
        self._give_back(finished=False)
        here = threading.get_ident()
        with self._owners:
            self._owners.wait_for(lambda: all(held.thread == here for held in self._owned), timeout)
        self._give_back(finished=True)

    def _give_back(self, *, finished: bool) -> None:
        """Signal the owners of all claims, and release the claims.

        Args:
            finished: whether those too whose download has ended well, and is being published.
        """
        with _keeper.lock:
            if self._closed:
                return
            given = [
                kept
                for kept in self.claims.values()
                if finished or not (isinstance(kept, ActiveDownload) and kept.finished)
            ]
            for kept in given:
                del self.claims[kept.claim.token]
        for kept in given:
            kept.tell_lost(self._why)
        self._release(given)

    def _release(self, given: Sequence[LeasedClaim]) -> None:
        """Release claims, so that another client can claim the models at once. Raises nothing."""
        if not given:
            return
        with _keeper.lock:
            # Take the connection, because the thread closes the connections of a client without claims.
            backend, self._backend = self._connection(), None
        answers = backend.release_many([kept.claim for kept in given])
        for kept, answer in zip(given, answers, strict=True):
            ref, token = kept.claim.ref, kept.claim.token
            if isinstance(answer, Exception):
                _log.warning("%s could not be given back, and ends with its lease: %s", ref, answer)
            else:
                _log.info("gave back %s (token %d)%s", ref, token, answer and f": {answer}")
        backend.close()

    def hang_up(self) -> None:
        """Close the connections. The next renewal opens a new one."""
        with _keeper.lock:
            backends = (self._backend, self._before)
            self._backend = self._before = None
            self.ready = False
        for backend in backends:
            if backend is not None:
                backend.close()

    def _connection(self) -> Backend:
        """Return a backend whose timeout fits the shortest lease. The caller holds the lock."""
        patience = _timeout(self.claims.values())
        if self._backend is None or patience != self._patience:
            if self._before is None:
                self._before = self._backend
            elif self._backend is not None:
                self._backend.close()
            self._backend = self._connect(patience)
            self._patience = patience
        return self._backend

    def _call(self, backend: Backend, verb: Callable[[Backend], T]) -> T:
        """Return the answer to a verb. If its own connection is refused, another open one serves."""
        try:
            reply = verb(backend)
        except RegistryUnavailable as error:
            if not _was_refused(error):
                raise
            before, by_client = self._before, self.by_client
            if before is not None:
                with suppress(RegistryUnavailable):
                    return verb(before)
            if by_client is None:
                raise
            reply = by_client(verb, _MOST_TIMEOUT)
        else:
            if self._before is not None:
                with _keeper.lock:
                    before, self._before = self._before, None
                if before is not None:
                    before.close()  # after its calls have ended
        return reply

    def see_to_them(self) -> None:
        """End stalled downloads, and renew the claims that are due, in batches.

        Raises nothing: the thread has others to serve.
        """
        for held in self._stalled():
            self._end_stalled(held)
        due: list[LeasedClaim] = []
        try:
            with _keeper.lock:
                at = now()
                if self._closed or all(kept.due > at for kept in self.claims.values()):
                    return
                due = [kept for kept in self.claims.values() if kept.due <= at + kept.lease * _TOGETHER]
                backend = self._connection()
            for batch in chunks(due, backend.max_batch):
                self._renew(backend, [kept for kept in batch if kept.claim.token in self.claims])
        except Exception as error:
            # The other batches count as failed too, because the silent server has cost enough time.
            with _keeper.lock:
                failed = [
                    kept
                    for kept in due
                    if kept.due <= at + kept.lease * _TOGETHER and kept.claim.token in self.claims
                ]
                for kept in failed:
                    kept.due = now() + kept.lease * _RETRY_AFTER
            if self._closed or not failed:
                return  # closed, or all dropped, during this call
            _log.warning(
                "%d claims could not be renewed, %d of them beyond their lease; trying on: %s",
                len(failed),
                sum(kept.holds_until <= now() for kept in failed),
                error,
                exc_info=not isinstance(error, RegistryError),
            )

    def _renew(self, backend: Backend, batch: list[LeasedClaim]) -> None:
        if not batch:
            return
        said = [kept.take_said() for kept in batch]
        sent_at = now()
        claims = [kept.claim for kept in batch]
        try:
            results = self._call(backend, lambda of: of.renew(claims, updates=said))
        except BaseException:
            for kept, words in zip(batch, said, strict=True):
                kept.put_back(words)
            raise
        for kept, result in zip(batch, results, strict=True):
            self._renewed(kept, result, sent_at)

    def _renewed(self, kept: LeasedClaim, result: Claim | Rejection | DamagedRecord, sent_at: float) -> bool:
        if isinstance(result, Claim):
            with _keeper.lock:
                kept.claim = result
                kept.proved(sent_at)
            return True
        with _keeper.lock:
            known = self.claims.pop(kept.claim.token, None) is not None
        why = result.why if isinstance(result, Rejection) else str(result)
        if isinstance(result, Rejection) and not result.lost:
            # The owner has ended a claim that is dropped, or is about to be; that is no loss.
            if known and not kept.over:
                kept.tell_lost(why)
            return False
        if known:
            _log.warning(
                "the claim of %s (token %d) is kept no more: %s", kept.claim.ref, kept.claim.token, why
            )
        kept.tell_lost(why)
        return False

    def _prove(self, held: ActiveDownload) -> bool:
        if held.lost.is_set():
            return False
        said = held.take_said()
        with _keeper.lock:
            if self._closed:
                return False
            backend = self._connection()
        sent_at = now()
        try:
            (result,) = self._call(backend, lambda of: of.renew([held.claim], updates=[said]))
        except BaseException:
            held.put_back(said)
            raise
        return self._renewed(held, result, sent_at)

    def _stalled(self) -> list[ActiveDownload]:
        with _keeper.lock:
            at = now()
            return [
                kept
                for kept in self.claims.values()
                if isinstance(kept, ActiveDownload) and kept.stalls_at <= at and not self._closed
            ]

    def _end_stalled(self, held: ActiveDownload) -> None:
        stall, held.stall = held.stall, None
        if stall is None:
            return  # its download has just ended
        why = f"no progress for {stall.timeout:g} s"
        self.drop(held.claim)
        # The signal comes first, because the result of the download no longer counts.
        held.lost.set(why)
        try:
            with _keeper.lock:
                backend = self._connection()
            ending = stall.ending(held.claim, why)
            why_not = self._call(backend, lambda of: of.finish(held.claim, ending))
        except Exception as error:
            why_not = str(error)
        log = "the download of %s (token %d) was ended: %s%s"
        _log.warning(log, held.claim.ref, held.claim.token, why, f"; {why_not}" if why_not else "")
