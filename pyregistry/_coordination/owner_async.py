"""The owner of a claim: prepares the download, publishes its files, and reports its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from pyregistry._coordination.lease import ActiveDownload, OwnedClaim, StallDeadline
from pyregistry._coordination.local_faults import fault_of, is_callers
from pyregistry._coordination.options import EnsureRequest
from pyregistry._coordination.session_async import AsyncSession
from pyregistry._coordination.store_identity_async import AsyncStoreIdentity
from pyregistry._coordination.waiters import OwnerWakeup
from pyregistry._core import backoff
from pyregistry._runtime.aio import ask, run_to_completion
from pyregistry.backend.protocol_async import AsyncBackend
from pyregistry.backend.values import Ending
from pyregistry.errors import (
    CacheMismatch,
    ClaimLost,
    LocalFault,
    OutcomeUnknown,
    RegistryError,
    RegistryUnavailable,
)
from pyregistry.models import Claim, Claimed, ModelStatus
from pyregistry.retry import message_of
from pyregistry.stores.folder import FolderStore

__all__ = ["AsyncOwner"]

T = TypeVar("T")

_log = logging.getLogger("pyregistry.flight")

_UNAVAILABLE = (RegistryUnavailable, OutcomeUnknown)
_PUBLISH_TRIES = 5  # attempts to publish on a failing disk before the claim is released


class AsyncOwner:
    """The owner's part of one call of `ensure` or `download`.

    Args:
        session: The client.
        request: The validated arguments of the call.
        backend: Returns the backend, with its patience limited to the remaining timeout of the call.

    Attributes:
        identity: Check that the store belongs to the namespace.
        finished: Token of the download that this owner has finished; ``None`` if there is none.
    """

    def __init__(
        self,
        session: AsyncSession,
        request: EnsureRequest,
        backend: Callable[[], AsyncBackend],
    ) -> None:
        self._session = session
        self._request = request
        self._backend = backend
        self.identity = AsyncStoreIdentity(session, request.store, backend)
        self.finished: int | None = None

    @contextmanager
    def overheard(self, held: ActiveDownload) -> Iterator[None]:
        """Subscribe the owner to events of its model for the duration of the block.

        If the known state of the model changes, the keepalive proves the claim at once, or signals its loss.
        """
        session, entry = self._session, self._request.target.entry
        session.subscriber.bind_to_running_loop()
        waiters = session.subscriber.waiters
        wakeup = OwnerWakeup(partial(session.keepalive.look_at, held))
        waiters.add(entry, wakeup)
        session.subscriber.begin()
        try:
            yield
        finally:
            waiters.remove(entry, wakeup)
            session.subscriber.leave()

    async def prepare(self, held: ActiveDownload) -> tuple[Any, ...]:
        """Return the arguments of the download function: the claim, and a staging folder if there is a store.

        Raises:
            LocalFault: The store is not writable.
            CacheMismatch: The folder of the store is not the cache of the namespace.
        """
        store, owned = self._request.store, OwnedClaim.of(held)
        if store is None:
            return (owned,)
        await self.identity.check(anew=True)
        await self._tidy(partial(store.sweep, owned.ref, owned.token, None))
        try:
            return (owned, await ask(store.staging, owned))
        except OSError as error:
            raise LocalFault(f"{store.root} can't be written to: {error}") from error

    async def went_wrong(self, held: ActiveDownload, error: Exception) -> LocalFault | None:
        """Handle a failed download, or one whose claim was lost.

        Returns:
            The `LocalFault`, if the error is one: other replicas may continue at once, and this one after a back-off.
            ``None`` if the claim was lost or the failure was recorded.

        Raises:
            Exception: `error` itself, if the caller's program, the store, or the final report caused it.
        """
        if held.lost.is_set():
            _log.warning("%s", held.loss())
            await self._discard(held)
            return None
        if held.over and not isinstance(error, CacheMismatch):
            raise error  # the final report failed, not the download
        fault = fault_of(error, self._request.retry)
        if fault is None and not is_callers(error):
            await self.fail(held, error)
            return None
        await self.give_up(held)
        if fault is None:
            raise error  # another replica with the right folder or program may continue
        return fault

    async def succeed(self, held: ActiveDownload) -> None:
        """Publish the files of a successful download, and finish the claim as DOWNLOADED.

        Raises:
            ClaimLost: The claim is no longer valid.
            RegistryUnavailable, OutcomeUnknown: The server did not answer before the claim was lost.
            LocalFault: The files could not be published.
        """
        store = self._request.store
        held.finished = True
        held.stall = None  # publishing may take long without progress
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
        self.finished = held.claim.token
        if store is not None:
            await self._tidy(partial(store.sweep, held.claim.ref, held.claim.token, artifact["location"]))

    async def fail(self, held: ActiveDownload, error: BaseException) -> None:
        """Finish the claim of a failed download as ERROR, and discard its staging folder.

        The method ignores a lost claim, because `ensure` reads the record again.

        Raises:
            RegistryUnavailable, OutcomeUnknown: The server did not answer before the claim was lost.
        """
        _log.warning("the download of %s failed: %s", held.claim.ref, message_of(error))
        retry = self._request.retry
        permanent = retry is not None and retry.is_permanent(error)
        ending = self._failed(held.claim, message_of(error), permanent)
        try:
            await self._end(held, ending)
        except ClaimLost:
            pass  # the record has the state of the new owner
        finally:
            await self._discard(held)

    async def give_up(self, held: ActiveDownload) -> None:
        """Release the claim, so that another replica can continue at once, and discard the staging folder."""
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

    async def _end(self, held: ActiveDownload, ending: Ending) -> None:
        """Send the ending to the registry, with retries while the claim is not lost.

        Raises:
            ClaimLost: The claim is no longer valid.
            RegistryUnavailable, OutcomeUnknown: The claim was lost during the last attempt.
        """
        held.over = True
        how = f"finished as {ending.status}"

        async def finish() -> str:
            return await self._backend().finish(held.claim, ending)

        why_not = await self._while_it_counts(held, finish, how)
        if not self._session.ended(held.claim, how, why_not):
            held.lost.set(why_not)
            raise held.loss()

    async def _while_it_counts(self, held: ActiveDownload, act: Callable[[], Any], what: str) -> Any:
        """Run an action. Retry it while the server does not answer and the claim is not lost.

        Args:
            held: The claim.
            act: The action.
            what: Participle that names the action in the log.

        Raises:
            ClaimLost: The claim was lost before the first attempt, or between two attempts.
            RegistryUnavailable, OutcomeUnknown: The claim was lost during the last attempt.
        """
        pause = backoff.FIRST_PAUSE_S
        while not held.lost.is_set():
            try:
                return await act()
            except _UNAVAILABLE as error:
                if held.lost.is_set():
                    raise
                _log.warning("%s can't be %s yet: %s", held.claim.ref, what, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, backoff.LONGEST_PAUSE_S)
        raise held.loss()

    def _failed(self, claim: Claim, message: str, permanent: bool) -> Ending:
        retry = self._request.retry
        if permanent or retry is None:
            return Ending(ModelStatus.ERROR, message, permanent=permanent)
        return Ending(
            ModelStatus.ERROR,
            message,
            retry_in=retry.delay(claim.attempts),
            max_attempts=retry.attempts,
            cooldown=retry.cooldown,
        )

    def stall(self) -> StallDeadline | None:
        """Build the stall timeout of the download; ``None`` if the call has none."""
        timeout = self._request.stall_timeout
        return (
            None
            if timeout is None
            else StallDeadline(timeout, lambda claim, why: self._failed(claim, why, False))
        )

    async def _publish(self, store: FolderStore, held: ActiveDownload) -> None:
        publish = partial(ask, store.publish, held.claim, held.prove)
        pause = backoff.FIRST_PAUSE_S
        for left in reversed(range(_PUBLISH_TRIES)):
            try:
                published = await self._while_it_counts(held, publish, "published")
                break
            except _UNAVAILABLE as error:
                raise held.loss() from error
            except OSError as error:
                # The failure may be temporary, and a new download is expensive: retry before giving up.
                if not left or isinstance(error, FileNotFoundError):
                    raise LocalFault(f"{store.root} does not take what was downloaded: {error}") from error
                _log.warning("%s can't be %s yet: %s", held.claim.ref, "published", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, backoff.LONGEST_PAUSE_S)
        held.artifact["location"] = published.location
        held.artifact.setdefault("size_bytes", published.size_bytes)

    async def _discard(self, held: ActiveDownload) -> None:
        store = self._request.store
        if store is not None:
            await self._tidy(partial(store.discard, held.claim))

    async def _tidy(self, sweep: Callable[[], Any]) -> None:
        """Remove leftover files. A failure is only logged, because the next download sweeps again."""
        try:
            await ask(sweep)
        except OSError as error:
            _log.warning("leftovers could not be removed: %s", error)

    async def claim_or_compensate(self, ask_for: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to a claim or a retry. If the caller is cancelled, release a claim that was won."""
        try:
            return await ask_for()
        except Exception:
            raise
        except BaseException:
            await run_to_completion(self._compensate, ask_for)
            raise

    async def _compensate(self, ask_for: Callable[[], Awaitable[Any]]) -> None:
        try:
            # The claim id makes the request idempotent. A copy that arrives after the release finds an ended claim.
            answer = await ask_for()
            claim = answer.claim if isinstance(answer, Claimed) else answer
            if isinstance(claim, Claim):
                await self._backend().release(claim)
        except RegistryError as error:
            _log.warning("a claim that was asked for may have been won, and ends with its lease: %s", error)
