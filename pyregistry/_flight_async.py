"""One download per fleet: who wants a model gets it, by downloading it or by waiting for who does.

An `AsyncFlight` is one caller's way to one model. It asks, claims, waits to be told, downloads, verifies;
what is won and lost is decided by the transitions alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pyregistry._hub import Seat, View
from pyregistry._op import Op
from pyregistry._ops import Refusal
from pyregistry._owned import Held, OwnedClaim, Stall, now
from pyregistry._wait_async import Guard, Poke, Turn, ask, check_function, see_through, work
from pyregistry._wish import Wish
from pyregistry.errors import (
    CacheMismatch,
    ClaimLost,
    DamagedRecord,
    DownloadFailed,
    NotNow,
    OutcomeUnknown,
    RegistryError,
    RegistryUnavailable,
    WaitTimedOut,
)
from pyregistry.models import AlreadyExists, Claim, Claimed, ModelRecord, ModelStatus
from pyregistry.policy import message_of
from pyregistry.store import CacheMark, FolderStore

if TYPE_CHECKING:
    from types import TracebackType

    from pyregistry.aio import AsyncRegistry

__all__ = ["AsyncDownload", "AsyncFlight"]

T = TypeVar("T")

_log = logging.getLogger("pyregistry.flight")

_AWAY = (RegistryUnavailable, OutcomeUnknown)
_JITTER = 0.25  # seconds over which those spread who saw the same lease end
_SOON, _LATER = 0.2, 2.0  # seconds between looks at what nobody tells: at first, and in the end
_MARK_PATIENCE = 5.0  # seconds in which a file that another machine wrote may come to be seen
_UNKNOWN = datetime.fromtimestamp(0, timezone.utc)  # a time that only the registry knows
_UNLEASED = (ModelStatus.DOWNLOADED, ModelStatus.ERROR)


class AsyncFlight:
    """One caller's way to one model."""

    def __init__(self, client: AsyncRegistry, wish: Wish) -> None:
        if wish.verify is not None:
            check_function("verify", wish.verify)
        self._client = client
        self._wish = wish
        self._ends = math.inf if wish.timeout is None else now() + wish.timeout
        self._poke = Poke()
        self._listens = False
        self._failure: BaseException | None = None

    async def ensure(self, download: Callable[..., Any]) -> ModelRecord:
        """The record, once the model is there."""
        check_function("download", download)
        while True:
            got = await self.take()
            if isinstance(got, ModelRecord):
                return got
            await self._own(got, download)

    # One of many who want it

    async def take(self) -> ModelRecord | Held:
        """The record of a model that is there, or the claim of who is to download it."""
        self._client._listener.come_home()
        hub, entry = self._client._listener.hub, self._wish.target.entry
        seat = hub.sit(entry, self._poke)
        try:
            while True:
                try:
                    return await self._take(seat)
                except _AWAY as error:
                    record = await self._without_registry(error)
                    if record is not None:
                        return record
        finally:
            hub.rise(entry, self._poke)
            if self._listens:
                self._listens = False
                self._client._listener.leave()

    async def _take(self, seat: Seat[Poke, Turn]) -> ModelRecord | Held:
        await self._check_cache()
        need = seat.asked  # what is known must have been asked for after this
        while True:
            self._poke.clear()
            if self._listens and not self._client._listener.is_up:
                # It will be told when it is up again, or that this takes too long; to ask would be for nothing.
                self._raise_again(self._client._listener.trouble)
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
                self._check_retry(view.record)
            claimed = view.status in (ModelStatus.DOWNLOADING, ModelStatus.EVICTING)
            if not self._listens and (claimed or now() < view.until):
                # Who waits listens first, and then asks again.
                await self._client._listener.join()
                self._listens = True
                need = seat.asked
            elif now() < view.until:
                if await self._wait(seat, view.until):
                    need = seat.asked
            else:
                held = await self._contend(seat, version, view)
                if held is not None:
                    return held
                if seat.version == version:
                    need = seat.asked  # it was not won, and why is not known

    async def _look(self, seat: Seat[Poke, Turn], need: int) -> View:
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

    async def _read(self) -> View:
        (record,) = await self._call(self._client._ops.read([self._wish.target]))
        if isinstance(record, DamagedRecord):
            raise record
        if record is None:
            return View(None)
        # How long a lease or a back-off lasts only the server can tell: it is tried.
        return View(record.status, 0.0, record)

    def _raise_again(self, trouble: RegistryError | None) -> None:
        """What another waiter has met, or the listener."""
        if isinstance(trouble, _AWAY):
            raise RegistryUnavailable(str(trouble)) from trouble
        if trouble is not None:
            raise trouble

    async def _wait(self, seat: Seat[Poke, Turn], until: float) -> bool:
        """Until there is news, or the time has come; whether it is time to ask."""
        await self._sleep(min(until + random.uniform(0.0, _JITTER), seat.recheck_at) - now())
        self._raise_again(self._client._listener.trouble)
        return not self._poke.is_set() and now() >= seat.recheck_at

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
        return await self._poke.wait(min(seconds, left))

    # One of few who may win it

    async def _contend(self, seat: Seat[Poke, Turn], version: int, view: View) -> Held | None:
        """Try to win the claim, one at a time, and only if nothing was heard meanwhile."""
        asked = seat.asked
        async with seat.turn:
            if seat.answered > asked:
                self._raise_again(seat.trouble)
            if seat.version != version:
                return None
            won: list[Held] = []
            try:
                await self._ask(seat, partial(self._claim, view, won))
            except BaseException:
                for held in won:
                    await see_through(self.give_up, held)
                raise
            return won[0] if won else None

    async def _claim(self, view: View, won: list[Held]) -> View | None:
        client, wish = self._client, self._wish
        most = wish.retry.attempts if wish.retry else None
        since = now()
        if view.status is ModelStatus.ERROR:
            op = client._ops.retry(
                wish.target, lease=wish.lease, claim_id=None, owner=wish.owner, max_attempts=most
            )
            answer = await self._won(op)
            claim = client._told_retry(wish.target.ref, answer, wish.lease)
            if claim is None:
                assert isinstance(answer, Refusal), "it was not won"
                return view._replace(until=now() + answer.retry_left) if answer.retry_left else None
        else:
            of = wish.target
            like = client._ops.claiming(of.provider, of.revision, of.subset, wish.lease, wish.owner, most)
            claiming = like.claim(of.name, None, wish.expected_bytes)
            result = await self._won(claiming)
            client._told_claim(result, wish.lease)
            if isinstance(result, AlreadyExists):
                left = math.inf if result.lease_left is None else result.lease_left
                return View(result.status, 0.0 if result.status in _UNLEASED else now() + left)
            claim = result.claim
        won.append(client._kept.hold(claim, since, bound=wish.bound, stall=self._stall()))
        return View(ModelStatus.DOWNLOADING, since + wish.lease)

    async def _won(self, op: Op[T]) -> T:
        """The answer to a claim or a retry. Who is cancelled meanwhile gives back what it may have won."""
        try:
            return await self._call(op)
        except Exception:
            raise
        except BaseException:
            await see_through(self._unwin, op)
            raise

    async def _unwin(self, op: Op[Any]) -> None:
        try:
            # Its claim id makes it the same claim; a copy that comes after the release finds that it has ended.
            answer = await self._call(op)
            claim = answer.claim if isinstance(answer, Claimed) else answer
            if isinstance(claim, Claim):
                await self._call(self._client._ops.release(claim))
        except RegistryError as error:
            _log.warning("a claim that was asked for may have been won, and ends with its lease: %s", error)

    def _check_retry(self, record: ModelRecord) -> None:
        """Raises where nobody of this policy is to try again."""
        retry = self._wish.retry
        if retry is None or record.permanent or record.attempts >= retry.attempts:
            often = f" (attempt {record.attempts})" if record.attempts > 1 else ""
            raise DownloadFailed(
                f"the download of {record.model_name!r} ({record.provider}) has failed{often}: {record.message}",
                record,
            ) from self._failure

    # The one who owns it

    async def _own(self, held: Held, download: Callable[..., Any]) -> None:
        """Download under the claim, and say how it ended. It may have been lost: the state then tells."""
        try:
            try:
                await work(held, download, *await self.prepare(held))
                await self.succeed(held)
            except Exception as error:
                self._failure = error
                await self.went_wrong(held, error)
        except Exception:
            raise
        except BaseException:
            await see_through(self.give_up, held)
            raise
        finally:
            self._client._kept.drop(held.claim)

    async def prepare(self, held: Held) -> tuple[Any, ...]:
        """What the download gets: its claim, and a folder of its own where there is a store."""
        store, owned = self._wish.store, OwnedClaim.of(held)
        if store is None:
            return (owned,)
        await self._check_cache(anew=True)
        await self._tidy(partial(store.sweep, owned.ref, owned.token, None))
        return (owned, await ask(store.staging, owned))

    async def went_wrong(self, held: Held, error: Exception) -> None:
        """The download has ended with an error: its own, or that of an owner who is none any more."""
        if held.lost.is_set():
            _log.warning("%s", held.loss())
            await self._discard(held)
        elif isinstance(error, CacheMismatch):
            await self.give_up(held)
            raise error  # another, with the right folder, may go on
        elif held.over:
            raise error  # it was not the download
        else:
            await self.fail(held, error)

    async def succeed(self, held: Held) -> None:
        """The download has ended well.

        Raises:
            ClaimLost: somebody else's counts.
            RegistryUnavailable, OutcomeUnknown: nobody could be told in time.
        """
        store = self._wish.store
        held.stall = None  # what comes now is no download, and may take long without progress
        if store is not None:
            await self._publish(store, held)
        artifact = held.artifact
        op = self._client._ops.finish(
            held.claim,
            ModelStatus.DOWNLOADED,
            None,
            size_bytes=artifact.get("size_bytes"),
            location=artifact.get("location"),
            resolved_revision=artifact.get("resolved_revision"),
            retry_in=None,
            permanent=False,
        )
        await self._end(held, op, "finished as DOWNLOADED")
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
        op = self._failed(held.claim, message_of(error), retry is not None and retry.is_permanent(error))
        try:
            await self._end(held, op, "finished as ERROR")
        except ClaimLost:
            pass  # the state tells what counts
        finally:
            await self._discard(held)

    async def give_up(self, held: Held) -> None:
        """Give the claim back, so that another can go on at once."""
        self._client._kept.drop(held.claim)
        held.lost.set("it was given back")
        try:
            why_not = await self._call(self._client._ops.release(held.claim))
            _log.info(
                "gave back %s (token %d)%s", held.claim.ref, held.claim.token, why_not and f": {why_not}"
            )
        except RegistryError as error:
            _log.warning("%s could not be given back, and ends with its lease: %s", held.claim.ref, error)
        await self._discard(held)

    async def _end(self, held: Held, op: Op[str], how: str) -> None:
        """Tell the registry, as long as this claim can be the one that counts."""
        held.over = True
        why_not = await self._while_it_counts(held, partial(self._call, op), how)
        if not self._client._told_end(held.claim, how, why_not):
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

    def _failed(self, claim: Claim, message: str, permanent: bool) -> Op[str]:
        retry = self._wish.retry
        return self._client._ops.finish(
            claim,
            ModelStatus.ERROR,
            message,
            size_bytes=None,
            location=None,
            resolved_revision=None,
            retry_in=None if permanent or retry is None else retry.delay(claim.attempts),
            permanent=permanent,
        )

    def _stall(self) -> Stall | None:
        timeout = self._wish.stall_timeout
        return None if timeout is None else Stall(timeout, lambda claim, why: self._failed(claim, why, False))

    # Files

    async def _accepts(self, record: ModelRecord, *, again: bool = False) -> bool:
        store, verify = self._wish.store, self._wish.verify
        if store is not None and not await ask(store.look_again if again else store.contains, record):
            return False
        return verify is None or bool(await ask(verify, record))

    async def _comes_to_be_accepted(self, seat: Seat[Poke, Turn], record: ModelRecord) -> bool:
        """A push outruns file systems: look again for a while. Where nothing comes, the record goes."""
        await self._check_cache(anew=True)
        version = seat.version
        left = 0.0
        if record.finished_at is not None:
            age = await self._call(self._client._ops.now()) - record.finished_at
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

    async def _delete(self, record: ModelRecord) -> View | None:
        target = self._wish.target
        op = self._client._ops.delete([target], expected_token=record.token, force=False)
        if not await self._call(op):
            return None  # another's by now
        _log.warning("%s is not where its record (token %d) says: it is forgotten", target.ref, record.token)
        return View(None)

    async def _publish(self, store: FolderStore, held: Held) -> None:
        try:
            publish = partial(ask, store.publish, held.claim, held.prove)
            published = await self._while_it_counts(held, publish, "published")
        except _AWAY as error:
            raise held.loss() from error
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
        store, client = self._wish.store, self._client
        if store is None or (store.root in client._caches and not anew):
            return
        ends = now() + _MARK_PATIENCE
        known = await self._call(client._ops.cache())
        mark = await ask(store.read_mark)
        while known is not None and mark is None and now() < ends:
            await asyncio.sleep(_SOON)  # it was written before it was told, but on another machine
            mark = await ask(store.read_mark)
        if mark is None and known is None:
            mark = await ask(store.write_mark, CacheMark(client._ops.ids.new(), client.namespace))
        if mark is not None and mark.namespace == client.namespace:
            known = await self._call(client._ops.cache(mark.cache_id))
        if mark is None or mark.namespace != client.namespace or mark.cache_id != known:
            of = "of no cache" if mark is None else f"the cache of namespace {mark.namespace!r}"
            raise CacheMismatch(
                f"{store.root} is {of}, not the one that namespace {client.namespace!r} stands for: "
                "was the folder replaced, or is another registry's?"
            )
        client._caches.add(store.root)

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

    async def _call(self, op: Op[T]) -> T:
        return await self._client._transport.call(op)


class AsyncDownload:
    """The block form of `AsyncFlight.ensure`: an async context manager, to be entered once."""

    def __init__(self, client: AsyncRegistry, wish: Wish) -> None:
        self._client = client
        self._flight = AsyncFlight(client, wish)
        self._held: Held | None = None
        self._guard: Guard | None = None

    async def __aenter__(self) -> OwnedClaim | ModelRecord:
        got = await self._flight.take()
        if isinstance(got, ModelRecord):
            return got
        try:
            owned: OwnedClaim = (await self._flight.prepare(got))[0]
        except Exception as error:
            await self._flight.went_wrong(got, error)
            self._client._kept.drop(got.claim)
            raise
        except BaseException:
            await see_through(self._flight.give_up, got)
            raise
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
        try:
            if await guard.end(error) or (error is None and held.lost.is_set()):
                loss = held.loss()
                await self._flight.went_wrong(held, loss)
                raise loss from error
            if error is None:
                await self._succeed(held)
            elif isinstance(error, Exception):
                await self._flight.went_wrong(held, error)
            else:
                await see_through(self._flight.give_up, held)
        finally:
            self._client._kept.drop(held.claim)

    async def _succeed(self, held: Held) -> None:
        try:
            await self._flight.succeed(held)
        except Exception as error:
            await self._flight.went_wrong(held, error)
            raise
        except BaseException:
            await see_through(self._flight.give_up, held)
            raise
