# Made from _coordination/ensure_async.py by tools/unasync.py: change that one.
"""Single flight of a download across a fleet: a caller downloads the model, or waits for the owner's download.

An `Ensure` serves one call for one model. It reads the record, claims, waits for events, downloads and verifies.
Only the transitions on the server decide which caller wins a claim.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from typing import Any

from pyregistry._coordination.lease import ActiveDownload
from pyregistry._coordination.local_faults import MOST_FAULTS, check_descriptors
from pyregistry._coordination.options import EnsureRequest
from pyregistry._coordination.owner_sync import Owner
from pyregistry._coordination.session_sync import Session
from pyregistry._coordination.supervise_sync import work
from pyregistry._coordination.waiters import RECHECK, KnownState, WaitEntry
from pyregistry._core import backoff
from pyregistry._core.clock import now, time_of
from pyregistry._core.texts import told
from pyregistry._core.values import Rejection
from pyregistry._runtime.threads import Lock, Wakeup, ask, check_function, run_to_completion, waker
from pyregistry.backend.protocol_sync import Backend
from pyregistry.errors import (
    DamagedRecord,
    DownloadFailed,
    InvalidArgument,
    LocalFault,
    NotNow,
    OutcomeUnknown,
    RegistryClosed,
    RegistryError,
    RegistryUnavailable,
    WaitTimedOut,
)
from pyregistry.models import AlreadyExists, Claim, ModelRecord, ModelStatus

__all__ = ["Ensure"]

_log = logging.getLogger("pyregistry.flight")

_UNAVAILABLE = (RegistryUnavailable, OutcomeUnknown)
_JITTER = 0.25  # seconds over which waiters spread their claims after the end of a lease
_CHECK_EVERY = 60.0  # seconds for which a successful check of a store's root remains valid
_UNKNOWN = datetime.fromtimestamp(0, timezone.utc)  # placeholder for a time that only the registry knows
_UNLEASED = (ModelStatus.DOWNLOADED, ModelStatus.ERROR)


class Ensure:
    """One call of `ensure` for one model.

    Args:
        session: The client.
        wish: The validated arguments of the call.
    """

    def __init__(self, session: Session, wish: EnsureRequest) -> None:
        if wish.verify is not None:
            check_function("verify", wish.verify, 1)
        self._session = session
        self._wish = wish
        self._ends = math.inf if wish.timeout is None else now() + wish.timeout
        self._wakeup = Wakeup()
        self._listens = False
        self._failure: BaseException | None = None
        self._faults = 0
        self.owner = Owner(session, wish, self._backend)

    def ensure(self, download: Callable[..., Any]) -> ModelRecord:
        """Return the record once the model is available. Download the model if this call wins the claim.

        Args:
            download: Function of the user that downloads the model.
        """
        check_function("download", download, 1 if self._wish.store is None else 2)
        while True:
            got = self.take()
            if isinstance(got, ModelRecord):
                return got
            self._own(got, download)

    # Waiting

    def take(self) -> ModelRecord | ActiveDownload:
        """Return the record of an available model, or a claim under which the caller must download the model."""
        self._session.subscriber.bind_to_running_loop()
        waiters, entry = self._session.subscriber.waiters, self._wish.target.entry
        wait_entry = waiters.add(entry, self._wakeup)
        try:
            while True:
                try:
                    got = self._take(wait_entry)
                except _UNAVAILABLE as error:
                    record = self._without_registry(error)
                    if record is not None:
                        return record
                else:
                    self._record_use(got)
                    return got
        finally:
            waiters.remove(entry, self._wakeup)
            if self._listens:
                self._listens = False
                self._session.subscriber.leave()

    def _record_use(self, got: ModelRecord | ActiveDownload) -> None:
        """Touch an available model through the touch buffer. A finish by this call has already touched the model."""
        if self._wish.touch and isinstance(got, ModelRecord) and got.token != self.owner.finished:
            with suppress(RegistryClosed):  # the model is available although its touch is lost
                self._session.uses.touch(self._wish.target, [self._wish.target])

    def _take(self, wait_entry: WaitEntry[Wakeup, Lock]) -> ModelRecord | ActiveDownload:
        self.owner.identity.check()
        need = wait_entry.asked  # only an answer to a later query is fresh enough
        while True:
            self._wakeup.clear()
            if self._listens and not self._session.subscriber.is_up:
                # The subscriber wakes this waiter when the subscription is up, or after its patience. A query before
                # that is useless, because the new subscription invalidates the answer.
                self._reraise(self._session.subscriber.trouble)
                self._sleep(backoff.LONGEST_PAUSE_S)
                continue
            view = self._look(wait_entry, need)
            version = wait_entry.version
            if view.status in _UNLEASED and view.record is None:
                need = wait_entry.asked
                continue
            if view.status is ModelStatus.DOWNLOADED and view.record is not None:
                if self._accepts(view.record) or self._poll_until_accepted(wait_entry, view.record):
                    return view.record
                need = wait_entry.asked
                continue
            if view.status is ModelStatus.ERROR and view.record is not None:
                self._check_retry(view.record, view.until)
            claimed = view.status in (ModelStatus.DOWNLOADING, ModelStatus.EVICTING)
            # After a local fault this machine leaves the claim to other replicas.
            until = max(view.until, self._session.backoff.until)
            self._log_wait(wait_entry, view)
            if not self._listens and (claimed or now() < until):
                # Subscribe before the next query, so that no event between query and subscription is lost.
                self._session.subscriber.join()
                self._listens = True
                need = wait_entry.asked
            elif now() < until:
                if self._wait(wait_entry, until):
                    need = wait_entry.asked
            else:
                held = self._contend(wait_entry, version, view)
                if held is not None:
                    return held
                if wait_entry.version == version:
                    need = wait_entry.asked  # the claim failed for an unknown reason: query again

    def _look(self, wait_entry: WaitEntry[Wakeup, Lock], need: int) -> KnownState:
        """Return a snapshot from a query after number `need`. One waiter queries on behalf of all waiters."""
        while True:
            if wait_entry.answered > need:
                self._reraise(wait_entry.trouble)
                view = wait_entry.view
                if view is not None:
                    return view
            asked = wait_entry.asked
            with wait_entry.lock:
                # The previous holder of the lock may have queried after this waiter arrived.
                if wait_entry.answered <= max(need, asked):
                    self._ask(wait_entry, self._read)

    def _ask(self, wait_entry: WaitEntry[Wakeup, Lock], question: Callable[[], Any]) -> None:
        """Run a query on behalf of all waiters of this model.

        Args:
            wait_entry: The wait entry of the model.
            question: Returns a snapshot, or ``None`` if the state remains unknown.
        """
        number, version = wait_entry.ask()
        try:
            view = question()
        except RegistryError as error:
            wait_entry.answer(number, version, None, error)
            raise
        wait_entry.answer(number, version, view, None)

    def _read(self) -> KnownState:
        (record,) = self._backend().read([self._wish.target])
        if isinstance(record, DamagedRecord):
            raise record
        if record is None:
            return KnownState(None)
        # Only the server knows the rest of a lease or a back-off. A claim, which 0.0 permits, returns it.
        return KnownState(record.status, 0.0, record)

    def _reraise(self, trouble: RegistryError | None) -> None:
        """Raise the error of another waiter's query, or of the subscriber, if there is one."""
        if isinstance(trouble, _UNAVAILABLE):
            raise RegistryUnavailable(str(trouble)) from trouble
        if trouble is not None:
            raise trouble

    def _wait(self, wait_entry: WaitEntry[Wakeup, Lock], until: float) -> bool:
        """Sleep until an event, `until`, or the recheck time. Return whether the recheck is due."""
        self._sleep(min(until + random.uniform(0.0, _JITTER), wait_entry.recheck_at) - now())
        self._reraise(self._session.subscriber.trouble)
        return not self._wakeup.is_set() and now() >= wait_entry.recheck_at

    def _log_wait(self, wait_entry: WaitEntry[Wakeup, Lock], view: KnownState) -> None:
        """Log the progress of the owner every `RECHECK / 2` seconds: one line for all waiters of a model."""
        record = view.record
        if record is None or record.status is not ModelStatus.DOWNLOADING or now() < wait_entry.tell_at:
            return
        wait_entry.tell_at = now() + RECHECK / 2
        who = record.owner if record.owner and not record.released else "an owner"
        total = "" if record.bytes_total is None else f" of {record.bytes_total}"
        _log.info(
            "waiting for %s: %s has downloaded %d%s bytes since %s%s",
            self._wish.target.ref, who, record.bytes_done or 0, total, f"{time_of(record.token):%H:%M:%S} UTC",
            f" ({record.message})" if record.message else "",
        )  # fmt: skip

    def _sleep(self, seconds: float) -> bool:
        """Sleep for this many seconds, or until an event. Return whether there is an event.

        Raises:
            WaitTimedOut: The timeout of the call has passed.
            RegistryClosed: The client shuts down.
        """
        left = self._ends - now()
        if left <= 0:
            ref = self._wish.target.ref
            raise WaitTimedOut(
                f"{ref.name!r} ({ref.provider}) was not there after {self._wish.timeout:g} s",
                model_name=ref.name,
                provider=str(ref.provider),
            )
        with self._session.keepalive.waiting(waker(self._wakeup)):
            self._session.keepalive.check_open()  # a shutdown wakes this waiter
            return self._wakeup.wait(min(seconds, left))

    # Claiming

    def _contend(
        self, wait_entry: WaitEntry[Wakeup, Lock], version: int, view: KnownState
    ) -> ActiveDownload | None:
        """Try to claim, one waiter at a time, if the snapshot has not changed meanwhile.

        Returns:
            The claim; ``None`` if it was not won, or the snapshot changed.
        """
        self._session.keepalive.check_open()
        asked = wait_entry.asked
        with wait_entry.lock:
            if wait_entry.answered > asked:
                self._reraise(wait_entry.trouble)
            if wait_entry.version != version:
                return None
            try:
                self._check_machine()
            except LocalFault as fault:
                self._back_off(fault)
                return None
            won: list[ActiveDownload] = []
            try:
                self._ask(wait_entry, partial(self._claim, view, won))
            except BaseException:
                for held in won:
                    run_to_completion(self.owner.give_up, held)
                raise
            return won[0] if won else None

    def _claim(self, view: KnownState, won: list[ActiveDownload]) -> KnownState | None:
        session, wish = self._session, self._wish
        most, cooldown = (wish.retry.attempts, wish.retry.cooldown) if wish.retry else (None, None)
        if not session.keepalive.ready:
            session.keepalive.prepare()
        since = now()
        backend, key = self._backend(), wish.target
        claim: Claim | None
        if view.status is ModelStatus.ERROR:
            answer = self.owner.claim_or_compensate(
                partial(
                    backend.retry, key,
                    lease=wish.lease, owner=wish.owner, max_attempts=most, claim_id=session.ids.new(),
                )
            )  # fmt: skip
            claim = session.retried(key.ref, answer, wish.lease)
            if claim is None:
                assert isinstance(answer, Rejection), "it was not won"
                return view._replace(until=now() + answer.retry_left) if answer.retry_left else None
        else:
            result = self.owner.claim_or_compensate(
                partial(
                    backend.claim, key.name, key.provider, key.revision, key.subset,
                    lease=wish.lease, owner=wish.owner, max_attempts=most, cooldown=cooldown,
                    expected_bytes=wish.expected_bytes, claim_id=session.ids.new(),
                )
            )  # fmt: skip
            session.claimed(result, wish.lease)
            if isinstance(result, AlreadyExists):
                left = math.inf if result.lease_left is None else result.lease_left
                return KnownState(result.status, 0.0 if result.status in _UNLEASED else now() + left)
            claim = result.claim
        won.append(session.keepalive.hold(claim, since, bound=wish.bound, stall=self.owner.stall()))
        session.keepalive.check_open()
        return KnownState(ModelStatus.DOWNLOADING, since + wish.lease)

    def _check_retry(self, record: ModelRecord, until: float) -> None:
        """Raise if the policy of this call permits no further attempt, or none before the end of a cool-down.

        Raises:
            DownloadFailed: There is no policy, the failure is permanent, the attempts are used up, or the cool-down has
                not ended.
        """
        retry = self._wish.retry
        if retry is None or record.permanent:
            over = True
        elif record.used_up and record.retry_at is not None:
            # If `until` is still unknown, the registry rejects the retry and returns the rest of the cool-down.
            over = now() < until
        else:
            over = record.attempts >= retry.attempts
        if over:
            raise DownloadFailed(told(record), record) from self._failure

    # Local faults

    def _check_machine(self) -> None:
        """Check the requirements of a download on this machine before the claim.

        Raises:
            LocalFault: The machine lacks a requirement.
        """
        check_descriptors()
        store, checked = self._wish.store, self._session.checked_roots
        if store is not None and now() >= checked.get(store.root, -math.inf) + _CHECK_EVERY:
            ask(store.check)
            checked[store.root] = now()
        if self._wish.ready is not None:
            ask(self._wish.ready)

    def _back_off(self, fault: LocalFault) -> None:
        """Stop claiming for a back-off that grows with each consecutive fault.

        Raises:
            LocalFault: This call has met `MOST_FAULTS` faults.
        """
        ref = self._wish.target.ref
        if self._wish.store is not None:
            self._session.checked_roots.pop(self._wish.store.root, None)
        delay = self._session.backoff.failed()
        self._faults += 1
        if self._faults >= MOST_FAULTS:
            raise fault
        _log.warning("this machine leaves %s to others for %s s: %s", ref, round(delay, 1), fault)

    def _own(self, held: ActiveDownload, download: Callable[..., Any]) -> None:
        """Download under the claim and report the end. After a lost claim `ensure` reads the record again."""
        owner = self.owner
        try:
            try:
                with owner.overheard(held):
                    work(held, download, *owner.prepare(held))
                owner.succeed(held)
            except Exception as error:
                self._failure = error
                fault = owner.went_wrong(held, error)
                if fault is not None:
                    self._back_off(fault)
            else:
                self._session.backoff.succeeded()
        except Exception:
            raise
        except BaseException:
            run_to_completion(owner.give_up, held)
            raise
        finally:
            self._session.keepalive.ended(held)

    # Files

    def _accepts(self, record: ModelRecord, *, again: bool = False) -> bool:
        store, verify = self._wish.store, self._wish.verify
        if store is not None:
            try:
                if not ask(store.look_again if again else store.contains, record):
                    return False
            except InvalidArgument:
                return False  # the location is not valid in this store
        return verify is None or bool(ask(verify, record))

    def _poll_until_accepted(self, wait_entry: WaitEntry[Wakeup, Lock], record: ModelRecord) -> bool:
        """Poll the files of a DOWNLOADED record until they are visible, because an event outruns a shared file system.

        Delete the record if the files are not visible within `visibility_timeout`.

        Returns:
            Whether the files are accepted.
        """
        self.owner.identity.check(anew=True)
        version = wait_entry.version
        left = 0.0
        if record.finished_at is not None and (self._wish.store is None or record.location):
            age = self._backend().lease_time() - record.finished_at
            left = self._wish.visibility_timeout - age.total_seconds()
        ends = now() + left  # counted from the answer: the time of the request only extends the wait
        pause = backoff.FIRST_PAUSE_S
        while not self._accepts(record, again=True):
            if wait_entry.version != version:
                return False
            if now() >= ends:
                self._forget(wait_entry, version, record)
                return False
            self._sleep(min(pause * random.uniform(0.5, 1.0), ends - now()))
            self._wakeup.clear()
            pause = min(pause * 1.5, backoff.LONGEST_PAUSE_S)
        return True

    def _forget(self, wait_entry: WaitEntry[Wakeup, Lock], version: int, record: ModelRecord) -> None:
        with wait_entry.lock:
            if wait_entry.version == version:
                self._ask(wait_entry, partial(self._delete, record))

    def _delete(self, record: ModelRecord) -> KnownState | None:
        target = self._wish.target
        if not self._backend().delete([target], expected_token=record.token, force=False):
            return None  # the record has changed, so it belongs to another attempt
        _log.warning("%s is not where its record (token %d) says: it is forgotten", target.ref, record.token)
        return KnownState(None)

    # Unavailable registry

    def _without_registry(self, error: RegistryError) -> ModelRecord | None:
        """Handle an unavailable registry: return a record of the files on disk, if `on_unavailable` permits it.

        A waiter with a subscription pauses and continues. With `on_unavailable` "raise" it continues only after
        `NotNow`, a temporary refusal, because the server is reachable.

        Returns:
            The record; ``None`` if the waiter should continue.
        """
        if self._wish.on_unavailable == "raise":
            if not isinstance(error, NotNow):
                raise error
        else:
            record = self._on_disk()
            if record is not None:
                _log.warning("%s is taken as it is on disk: %s", self._wish.target.ref, error)
                return record
        if not self._listens:
            raise error
        self._wakeup.clear()
        self._sleep(random.uniform(backoff.FIRST_PAUSE_S, backoff.LONGEST_PAUSE_S))
        return None

    def _on_disk(self) -> ModelRecord | None:
        wish = self._wish
        name, provider, revision, subset = wish.target.ref
        assert provider is not None, "a target has its provider"
        found = ask(wish.store.find, wish.target.ref) if wish.store else None
        if wish.store and not found:
            return None
        record = ModelRecord(
            name,
            provider,
            ModelStatus.DOWNLOADED,
            created_at=_UNKNOWN,
            last_used_at=_UNKNOWN,
            revision=revision,
            subset=subset,
            size_bytes=found.size_bytes if found else None,
            location=found.location if found else None,
        )
        return record if wish.verify is None or ask(wish.verify, record) else None

    def _backend(self) -> Backend:
        """Return the backend, with its patience limited to the remaining timeout of this call."""
        backend = self._session.backend
        return backend if self._ends == math.inf else backend.within(self._ends - now())
