"""One download per fleet: who wants a model gets it, by downloading it or by waiting for who does.

An `AsyncFlight` is one caller's way to one model. It asks, claims, waits to be told, downloads, verifies;
what is won and lost is decided by the transitions alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pyregistry._coordination.lease import Held, OwnedClaim, Stall
from pyregistry._coordination.local_faults import MOST_FAULTS, check_descriptors, fault_of, is_callers
from pyregistry._coordination.options import Wish
from pyregistry._coordination.session_async import AsyncSession
from pyregistry._coordination.supervise_async import Guard, work
from pyregistry._coordination.waiters import RECHECK, OwnersEar, Seat, Snapshot
from pyregistry._core.clock import now, time_of
from pyregistry._core.texts import told
from pyregistry._core.values import Rejection
from pyregistry._runtime.aio import Poke, Turn, ask, check_function, see_through, waker
from pyregistry.backend.protocol_async import AsyncBackend
from pyregistry.backend.values import Ending
from pyregistry.errors import (
    CacheMismatch,
    ClaimLost,
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
from pyregistry.models import AlreadyExists, Claim, Claimed, ModelRecord, ModelStatus
from pyregistry.retry import message_of
from pyregistry.stores.folder import FolderStore
from pyregistry.stores.mark import CacheMark, how_to_restore

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["AsyncDownload", "AsyncFlight"]

T = TypeVar("T")

_log = logging.getLogger("pyregistry.flight")

_AWAY = (RegistryUnavailable, OutcomeUnknown)
_JITTER = 0.25  # seconds over which those spread who saw the same lease end
_SOON, _LATER = 0.2, 2.0  # seconds between looks at what nobody tells: at first, and in the end
_MARK_PATIENCE = 5.0  # seconds in which a file that another machine wrote may come to be seen
_CHECK_EVERY = 60.0  # seconds for which a root that could be written to is taken to be so
_PUBLISH_TRIES = 5  # how often the disk may refuse what was downloaded, before the claim is given back
_UNKNOWN = datetime.fromtimestamp(0, timezone.utc)  # a time that only the registry knows
_UNLEASED = (ModelStatus.DOWNLOADED, ModelStatus.ERROR)


class AsyncFlight:
    """One caller's way to one model."""

    def __init__(self, session: AsyncSession, wish: Wish) -> None:
        if wish.verify is not None:
            check_function("verify", wish.verify, 1)
        self._session = session
        self._wish = wish
        self._ends = math.inf if wish.timeout is None else now() + wish.timeout
        self._poke = Poke()
        self._listens = False
        self._failure: BaseException | None = None
        self._faults = 0
        self._finished: int | None = None  # the token of the download that this flight has finished

    async def ensure(self, download: Callable[..., Any]) -> ModelRecord:
        """The record, once the model is there."""
        check_function("download", download, 1 if self._wish.store is None else 2)
        while True:
            got = await self.take()
            if isinstance(got, ModelRecord):
                return got
            await self._own(got, download)

    # One of many who want it

    async def take(self) -> ModelRecord | Held:
        """The record of a model that is there, or the claim of who is to download it."""
        self._session.subscriber.come_home()
        hub, entry = self._session.subscriber.hub, self._wish.target.entry
        seat = hub.sit(entry, self._poke)
        try:
            while True:
                try:
                    got = await self._take(seat)
                except _AWAY as error:
                    record = await self._without_registry(error)
                    if record is not None:
                        return record
                else:
                    self._use(got)
                    return got
        finally:
            hub.rise(entry, self._poke)
            if self._listens:
                self._listens = False
                self._session.subscriber.leave()

    def _use(self, got: ModelRecord | Held) -> None:
        """A model that is there is used by this call. The server is told later; a finish has told it already."""
        if self._wish.touch and isinstance(got, ModelRecord) and got.token != self._finished:
            with suppress(RegistryClosed):  # the model is there all the same
                self._session.uses.touch(self._wish.target, [self._wish.target])

    async def _take(self, seat: Seat[Poke, Turn]) -> ModelRecord | Held:
        await self._check_cache()
        need = seat.asked  # what is known must have been asked for after this
        while True:
            self._poke.clear()
            if self._listens and not self._session.subscriber.is_up:
                # It will be told when it is up again, or that this takes too long; to ask would be for nothing.
                self._raise_again(self._session.subscriber.trouble)
                await self._sleep(_LATER)
                continue
            view = await self._look(seat, need)
            version = seat.version
            if view.status in _UNLEASED and view.record is None:
                need = seat.asked
                continue
            if view.status is ModelStatus.DOWNLOADED and view.record is not None:
                if await self._accepts(view.record) or await self._comes_to_be_accepted(seat, view.record):
                    return view.record
                need = seat.asked
                continue
            if view.status is ModelStatus.ERROR and view.record is not None:
                self._check_retry(view.record, view.until)
            claimed = view.status in (ModelStatus.DOWNLOADING, ModelStatus.EVICTING)
            # After a fault of this machine others go first.
            until = max(view.until, self._session.backoff.until)
            self._tell_wait(seat, view)
            if not self._listens and (claimed or now() < until):
                # Who waits listens first, and then asks again.
                await self._session.subscriber.join()
                self._listens = True
                need = seat.asked
            elif now() < until:
                if await self._wait(seat, until):
                    need = seat.asked
            else:
                held = await self._contend(seat, version, view)
                if held is not None:
                    return held
                if seat.version == version:
                    need = seat.asked  # it was not won, and why is not known

    async def _look(self, seat: Seat[Poke, Turn], need: int) -> Snapshot:
        """What is known. One of all that want to know asks."""
        while True:
            if seat.answered > need:
                self._raise_again(seat.trouble)
                view = seat.view
                if view is not None:
                    return view
            asked = seat.asked
            async with seat.turn:
                # Whoever had the turn before may have asked after this one came.
                if seat.answered <= max(need, asked):
                    await self._ask(seat, self._read)

    async def _ask(self, seat: Seat[Poke, Turn], question: Callable[[], Any]) -> None:
        """Ask for all; the question gives a view, or ``None`` where it can't tell."""
        number, version = seat.ask()
        try:
            view = await question()
        except RegistryError as error:
            seat.answer(number, version, None, error)
            raise
        seat.answer(number, version, view, None)

    async def _read(self) -> Snapshot:
        (record,) = await self._backend().read([self._wish.target])
        if isinstance(record, DamagedRecord):
            raise record
        if record is None:
            return Snapshot(None)
        # How long a lease or a back-off lasts only the server can tell: it is tried.
        return Snapshot(record.status, 0.0, record)

    def _raise_again(self, trouble: RegistryError | None) -> None:
        """What another waiter has met, or the listener."""
        if isinstance(trouble, _AWAY):
            raise RegistryUnavailable(str(trouble)) from trouble
        if trouble is not None:
            raise trouble

    async def _wait(self, seat: Seat[Poke, Turn], until: float) -> bool:
        """Until there is news, or the time has come; whether it is time to ask."""
        await self._sleep(min(until + random.uniform(0.0, _JITTER), seat.recheck_at) - now())
        self._raise_again(self._session.subscriber.trouble)
        return not self._poke.is_set() and now() >= seat.recheck_at

    def _tell_wait(self, seat: Seat[Poke, Turn], view: Snapshot) -> None:
        """Log what is waited for: at first, and from time to time. One line for all that wait for a model."""
        record = view.record
        if record is None or record.status is not ModelStatus.DOWNLOADING or now() < seat.tell_at:
            return
        seat.tell_at = now() + RECHECK / 2
        who = record.owner if record.owner and not record.released else "an owner"
        total = "" if record.bytes_total is None else f" of {record.bytes_total}"
        _log.info(
            "waiting for %s: %s has downloaded %d%s bytes since %s%s",
            self._wish.target.ref, who, record.bytes_done or 0, total, f"{time_of(record.token):%H:%M:%S} UTC",
            f" ({record.message})" if record.message else "",
        )  # fmt: skip

    async def _sleep(self, seconds: float) -> bool:
        """So long, or until there is news; whether there is."""
        left = self._ends - now()
        if left <= 0:
            ref = self._wish.target.ref
            raise WaitTimedOut(
                f"{ref.name!r} ({ref.provider}) was not there after {self._wish.timeout:g} s",
                model_name=ref.name,
                provider=str(ref.provider),
            )
        with self._session.keepalive.waiting(waker(self._poke)):
            self._session.keepalive.check_open()  # once it is woken when the client shuts down
            return await self._poke.wait(min(seconds, left))

    # One of few who may win it

    async def _contend(self, seat: Seat[Poke, Turn], version: int, view: Snapshot) -> Held | None:
        """Try to win the claim, one at a time, and only if nothing was heard meanwhile."""
        self._session.keepalive.check_open()
        asked = seat.asked
        async with seat.turn:
            if seat.answered > asked:
                self._raise_again(seat.trouble)
            if seat.version != version:
                return None
            try:
                await self._check_machine()
            except LocalFault as fault:
                self._leave_to_others(fault)
                return None
            won: list[Held] = []
            try:
                await self._ask(seat, partial(self._claim, view, won))
            except BaseException:
                for held in won:
                    await see_through(self.give_up, held)
                raise
            return won[0] if won else None

    async def _claim(self, view: Snapshot, won: list[Held]) -> Snapshot | None:
        session, wish = self._session, self._wish
        most, cooldown = (wish.retry.attempts, wish.retry.cooldown) if wish.retry else (None, None)
        if not session.keepalive.ready:
            await asyncio.to_thread(session.keepalive.prepare)
        since = now()
        backend, key = self._backend(), wish.target
        claim: Claim | None
        if view.status is ModelStatus.ERROR:
            answer = await self._won(
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
            result = await self._won(
                partial(
                    backend.claim, key.name, key.provider, key.revision, key.subset,
                    lease=wish.lease, owner=wish.owner, max_attempts=most, cooldown=cooldown,
                    expected_bytes=wish.expected_bytes, claim_id=session.ids.new(),
                )
            )  # fmt: skip
            session.claimed(result, wish.lease)
            if isinstance(result, AlreadyExists):
                left = math.inf if result.lease_left is None else result.lease_left
                return Snapshot(result.status, 0.0 if result.status in _UNLEASED else now() + left)
            claim = result.claim
        won.append(session.keepalive.hold(claim, since, bound=wish.bound, stall=self._stall()))
        session.keepalive.check_open()
        return Snapshot(ModelStatus.DOWNLOADING, since + wish.lease)

    async def _won(self, ask_for: Callable[[], Awaitable[T]]) -> T:
        """The answer to a claim or a retry. A caller that is cancelled meanwhile releases what it may have won."""
        try:
            return await ask_for()
        except Exception:
            raise
        except BaseException:
            await see_through(self._unwin, ask_for)
            raise

    async def _unwin(self, ask_for: Callable[[], Awaitable[Any]]) -> None:
        try:
            # The claim id makes it the same claim; a copy that comes after the release finds that it has ended.
            answer = await ask_for()
            claim = answer.claim if isinstance(answer, Claimed) else answer
            if isinstance(claim, Claim):
                await self._backend().release(claim)
        except RegistryError as error:
            _log.warning("a claim that was asked for may have been won, and ends with its lease: %s", error)

    def _check_retry(self, record: ModelRecord, until: float) -> None:
        """Raises where nobody of this policy is to try again, or not before a cool-down that lasts."""
        retry = self._wish.retry
        if retry is None or record.permanent:
            over = True
        elif record.used_up and record.retry_at is not None:
            over = now() < until  # where that is not known yet, the registry says so when it is asked
        else:
            over = record.attempts >= retry.attempts
        if over:
            raise DownloadFailed(told(record), record) from self._failure

    # What this machine can't do

    async def _check_machine(self) -> None:
        """Try what a download needs, before a claim is asked for.

        Raises:
            LocalFault: something is missing here.
        """
        check_descriptors()
        store, checked = self._wish.store, self._session.checked_roots
        if store is not None and now() >= checked.get(store.root, -math.inf) + _CHECK_EVERY:
            await ask(store.check)
            checked[store.root] = now()
        if self._wish.ready is not None:
            await ask(self._wish.ready)

    def _leave_to_others(self, fault: LocalFault) -> None:
        """Keep from claiming for a while, longer each time.

        Raises:
            LocalFault: it was so too often.
        """
        ref = self._wish.target.ref
        if self._wish.store is not None:
            self._session.checked_roots.pop(self._wish.store.root, None)
        delay = self._session.backoff.failed()
        self._faults += 1
        if self._faults >= MOST_FAULTS:
            raise fault
        _log.warning("this machine leaves %s to others for %s s: %s", ref, round(delay, 1), fault)

    # The one who owns it

    async def _own(self, held: Held, download: Callable[..., Any]) -> None:
        """Download under the claim, and say how it ended. It may have been lost: the state then tells."""
        try:
            try:
                with self.overheard(held):
                    await work(held, download, *await self.prepare(held))
                await self.succeed(held)
            except Exception as error:
                self._failure = error
                fault = await self.went_wrong(held, error)
                if fault is not None:
                    self._leave_to_others(fault)
            else:
                self._session.backoff.succeeded()
        except Exception:
            raise
        except BaseException:
            await see_through(self.give_up, held)
            raise
        finally:
            self._session.keepalive.ended(held)

    @contextmanager
    def overheard(self, held: Held) -> Iterator[None]:
        """Let the owner hear of what others do to its model: whatever it is, its claim is proved, or lost, at once."""
        session, entry = self._session, self._wish.target.entry
        session.subscriber.come_home()
        hub = session.subscriber.hub
        ear = OwnersEar(partial(session.keepalive.look_at, held))
        hub.sit(entry, ear)
        session.subscriber.begin()
        try:
            yield
        finally:
            hub.rise(entry, ear)
            session.subscriber.leave()

    async def prepare(self, held: Held) -> tuple[Any, ...]:
        """What the download gets: its claim, and a folder of its own where there is a store."""
        store, owned = self._wish.store, OwnedClaim.of(held)
        if store is None:
            return (owned,)
        await self._check_cache(anew=True)
        await self._tidy(partial(store.sweep, owned.ref, owned.token, None))
        try:
            return (owned, await ask(store.staging, owned))
        except OSError as error:
            raise LocalFault(f"{store.root} can't be written to: {error}") from error

    async def went_wrong(self, held: Held, error: Exception) -> LocalFault | None:
        """The download has ended with an error: its own, or that of an owner who is none any more.

        Returns:
            The fault of this machine, if it was one. Others may go on, and so may this one after a while.
        """
        if held.lost.is_set():
            _log.warning("%s", held.loss())
            await self._discard(held)
            return None
        if held.over and not isinstance(error, CacheMismatch):
            raise error  # it was not the download
        fault = fault_of(error, self._wish.retry)
        if fault is None and not is_callers(error):
            await self.fail(held, error)
            return None
        await self.give_up(held)
        if fault is None:
            raise error  # another, with the right folder or program, may go on
        return fault

    async def succeed(self, held: Held) -> None:
        """The download has ended well.

        Raises:
            ClaimLost: somebody else's counts.
            RegistryUnavailable, OutcomeUnknown: nobody could be told in time.
        """
        store = self._wish.store
        held.finished = True
        held.stall = None  # what comes now is no download, and may take long without progress
        if store is not None:
            await self._publish(store, held)
        artifact = held.artifact
        ending = Ending(
            ModelStatus.DOWNLOADED,
            size_bytes=artifact.get("size_bytes"),
            location=artifact.get("location"),
            resolved_revision=artifact.get("resolved_revision"),
        )
        await self._end(held, ending)
        self._finished = held.claim.token
        if store is not None:
            await self._tidy(partial(store.sweep, held.claim.ref, held.claim.token, artifact["location"]))

    async def fail(self, held: Held, error: BaseException) -> None:
        """The download has failed.

        Raises:
            ClaimLost: somebody else's counts.
            RegistryUnavailable, OutcomeUnknown: nobody could be told in time.
        """
        _log.warning("the download of %s failed: %s", held.claim.ref, message_of(error))
        retry = self._wish.retry
        permanent = retry is not None and retry.is_permanent(error)
        ending = self._failed(held.claim, message_of(error), permanent)
        try:
            await self._end(held, ending)
        except ClaimLost:
            pass  # the state tells what counts
        finally:
            await self._discard(held)

    async def give_up(self, held: Held) -> None:
        """Give the claim back, so that another can go on at once."""
        self._session.keepalive.drop(held.claim)
        held.lost.set("it was given back")
        try:
            why_not = await self._backend().release(held.claim)
            _log.info(
                "gave back %s (token %d)%s", held.claim.ref, held.claim.token, why_not and f": {why_not}"
            )
        except RegistryError as error:
            _log.warning("%s could not be given back, and ends with its lease: %s", held.claim.ref, error)
        await self._discard(held)
        self._session.keepalive.ended(held)

    async def _end(self, held: Held, ending: Ending) -> None:
        """Tell the registry, as long as this claim can be the one that counts."""
        held.over = True
        how = f"finished as {ending.status}"

        async def finish() -> str:
            return await self._backend().finish(held.claim, ending)

        why_not = await self._while_it_counts(held, finish, how)
        if not self._session.ended(held.claim, how, why_not):
            held.lost.set(why_not)
            raise held.loss()

    async def _while_it_counts(self, held: Held, act: Callable[[], Any], what: str) -> Any:
        """Do it, again and again while nobody answers, as long as the claim is not lost.

        Raises:
            ClaimLost: it was lost before, or between two tries.
            RegistryUnavailable, OutcomeUnknown: it was lost in the last one.
        """
        pause = _SOON
        while not held.lost.is_set():
            try:
                return await act()
            except _AWAY as error:
                if held.lost.is_set():
                    raise
                _log.warning("%s can't be %s yet: %s", held.claim.ref, what, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LATER)
        raise held.loss()

    def _failed(self, claim: Claim, message: str, permanent: bool) -> Ending:
        retry = self._wish.retry
        if permanent or retry is None:
            return Ending(ModelStatus.ERROR, message, permanent=permanent)
        return Ending(
            ModelStatus.ERROR,
            message,
            retry_in=retry.delay(claim.attempts),
            max_attempts=retry.attempts,
            cooldown=retry.cooldown,
        )

    def _stall(self) -> Stall | None:
        timeout = self._wish.stall_timeout
        return None if timeout is None else Stall(timeout, lambda claim, why: self._failed(claim, why, False))

    # Files

    async def _accepts(self, record: ModelRecord, *, again: bool = False) -> bool:
        store, verify = self._wish.store, self._wish.verify
        if store is not None:
            try:
                if not await ask(store.look_again if again else store.contains, record):
                    return False
            except InvalidArgument:
                return False  # its location says nothing to this store
        return verify is None or bool(await ask(verify, record))

    async def _comes_to_be_accepted(self, seat: Seat[Poke, Turn], record: ModelRecord) -> bool:
        """A push outruns file systems: look again for a while. Where nothing comes, the record goes."""
        await self._check_cache(anew=True)
        version = seat.version
        left = 0.0
        if record.finished_at is not None and (self._wish.store is None or record.location):
            age = await self._backend().lease_time() - record.finished_at
            left = self._wish.visibility_timeout - age.total_seconds()
        ends = now() + left  # from the answer on, however long it took: later than meant does no harm
        pause = _SOON
        while not await self._accepts(record, again=True):
            if seat.version != version:
                return False
            if now() >= ends:
                await self._forget(seat, version, record)
                return False
            await self._sleep(min(pause * random.uniform(0.5, 1.0), ends - now()))
            self._poke.clear()
            pause = min(pause * 1.5, _LATER)
        return True

    async def _forget(self, seat: Seat[Poke, Turn], version: int, record: ModelRecord) -> None:
        async with seat.turn:
            if seat.version == version:
                await self._ask(seat, partial(self._delete, record))

    async def _delete(self, record: ModelRecord) -> Snapshot | None:
        target = self._wish.target
        if not await self._backend().delete([target], expected_token=record.token, force=False):
            return None  # another's by now
        _log.warning("%s is not where its record (token %d) says: it is forgotten", target.ref, record.token)
        return Snapshot(None)

    async def _publish(self, store: FolderStore, held: Held) -> None:
        publish = partial(ask, store.publish, held.claim, held.prove)
        pause = _SOON
        for left in reversed(range(_PUBLISH_TRIES)):
            try:
                published = await self._while_it_counts(held, publish, "published")
                break
            except _AWAY as error:
                raise held.loss() from error
            except OSError as error:
                # What was downloaded is not thrown away for what may pass.
                if not left or isinstance(error, FileNotFoundError):
                    raise LocalFault(f"{store.root} does not take what was downloaded: {error}") from error
                _log.warning("%s can't be %s yet: %s", held.claim.ref, "published", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LATER)
        held.artifact["location"] = published.location
        held.artifact.setdefault("size_bytes", published.size_bytes)

    async def _discard(self, held: Held) -> None:
        store = self._wish.store
        if store is not None:
            await self._tidy(partial(store.discard, held.claim))

    async def _tidy(self, sweep: Callable[[], Any]) -> None:
        """What is left over harms nobody: the next one tries again."""
        try:
            await ask(sweep)
        except OSError as error:
            _log.warning("leftovers could not be removed: %s", error)

    async def _check_cache(self, *, anew: bool = False) -> None:
        """Is the folder the cache that this namespace stands for?"""
        store, session = self._wish.store, self._session
        if store is None or (store.root in session.cache_roots and not anew):
            return
        try:
            await self._compare_marks(store)
        except OSError as error:
            raise LocalFault(f"{store.root} can't be used as a store: {error}") from error
        session.cache_roots.add(store.root)

    async def _compare_marks(self, store: FolderStore) -> None:
        session = self._session
        ends = now() + _MARK_PATIENCE
        known = await self._backend().cache_id()
        try:
            mark = await ask(store.read_mark)
        except CacheMismatch:
            known = await self._heal_mark(store, known)
            mark = await ask(store.read_mark)
        while known is not None and mark is None and now() < ends:
            await asyncio.sleep(_SOON)  # it was written before it was told, but on another machine
            mark = await ask(store.read_mark)
        if mark is None and known is None:
            mark = await ask(store.write_mark, CacheMark(session.ids.new(), session.backend.namespace))
        if mark is not None and mark.namespace == session.backend.namespace:
            known = known or await self._backend().cache_id(mark.cache_id)
        if mark is None or mark.namespace != session.backend.namespace or mark.cache_id != known:
            of = "of no cache" if mark is None else f"the cache of namespace {mark.namespace!r}"
            raise CacheMismatch(
                f"{store.root} is {of}, not the one that namespace {session.backend.namespace!r} stands for: "
                "was the folder replaced, or is another registry's?"
            )

    async def _heal_mark(self, store: FolderStore, known: str | None) -> str | None:
        """Write a damaged mark anew; the id of the cache. Of all that do so at once the registry takes one's."""
        session = self._session
        if known is not None:
            raise CacheMismatch(how_to_restore(store.root, CacheMark(known, session.backend.namespace)))
        mark = CacheMark(session.ids.new(), session.backend.namespace)
        draft = await ask(store.draft_mark, mark)
        known = await self._backend().cache_id(mark.cache_id)
        if known != mark.cache_id:
            await ask(draft.unlink)
            return known
        await ask(store.replace_mark, draft)
        _log.warning("the damaged cache_id of %s is written anew: %s", store.root, known)
        return known

    # A registry that is away

    async def _without_registry(self, error: RegistryError) -> ModelRecord | None:
        """What is on disk, if that is to count; who was waiting already goes on, and gets None.

        A caller that waits already waits for a refusal to pass, whatever `on_unavailable` says: the server is there.
        """
        if self._wish.on_unavailable == "raise":
            if not isinstance(error, NotNow):
                raise error
        else:
            record = await self._on_disk()
            if record is not None:
                _log.warning("%s is taken as it is on disk: %s", self._wish.target.ref, error)
                return record
        if not self._listens:
            raise error
        self._poke.clear()
        await self._sleep(random.uniform(_SOON, _LATER))
        return None

    async def _on_disk(self) -> ModelRecord | None:
        wish = self._wish
        name, provider, revision, subset = wish.target.ref
        assert provider is not None, "a target has its provider"
        found = await ask(wish.store.find, wish.target.ref) if wish.store else None
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
        return record if wish.verify is None or await ask(wish.verify, record) else None

    def _backend(self) -> AsyncBackend:
        """The registry, which is not asked again after a refusal for longer than this caller waits."""
        backend = self._session.backend
        return backend if self._ends == math.inf else backend.within(self._ends - now())


class AsyncDownload:
    """The block form of `AsyncFlight.ensure`: an async context manager, to be entered once."""

    def __init__(self, session: AsyncSession, wish: Wish) -> None:
        self._session = session
        self._flight = AsyncFlight(session, wish)
        self._held: Held | None = None
        self._guard: Guard | None = None
        self._ear = ExitStack()

    async def __aenter__(self) -> OwnedClaim | ModelRecord:
        got = await self._flight.take()
        if isinstance(got, ModelRecord):
            return got
        try:
            owned: OwnedClaim = (await self._flight.prepare(got))[0]
        except Exception as error:
            try:
                await self._went_wrong(got, error)
            finally:
                self._session.keepalive.ended(got)
            raise
        except BaseException:
            await see_through(self._flight.give_up, got)
            raise
        self._ear.enter_context(self._flight.overheard(got))
        self._held, self._guard = got, Guard(got)
        return owned

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        held, guard = self._held, self._guard
        if held is None or guard is None:
            return
        self._held = None
        self._ear.close()
        try:
            if await guard.end(error) or (error is None and held.lost.is_set()):
                loss = held.loss()
                await self._went_wrong(held, loss)
                raise loss from error
            if error is None:
                await self._succeed(held)
            elif isinstance(error, Exception):
                await self._went_wrong(held, error)
            else:
                await see_through(self._flight.give_up, held)
        finally:
            self._session.keepalive.ended(held)

    async def _succeed(self, held: Held) -> None:
        try:
            await self._flight.succeed(held)
        except Exception as error:
            await self._went_wrong(held, error)
            raise
        except BaseException:
            await see_through(self._flight.give_up, held)
            raise

    async def _went_wrong(self, held: Held, error: Exception) -> None:
        if await self._flight.went_wrong(held, error) is not None:
            self._session.backoff.failed()
