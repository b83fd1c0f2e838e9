"""The block form of `ensure`, which `download` of a client returns."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from pyregistry._coordination.ensure_async import AsyncEnsure
from pyregistry._coordination.lease import ActiveDownload, OwnedClaim
from pyregistry._coordination.options import EnsureRequest
from pyregistry._coordination.session_async import AsyncSession
from pyregistry._coordination.supervise_async import Guard
from pyregistry._runtime.aio import run_to_completion
from pyregistry.models import ModelRecord

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["AsyncDownload"]


class AsyncDownload:
    """The block form of `AsyncEnsure.ensure`: an async context manager, which the caller may enter once."""

    def __init__(self, session: AsyncSession, wish: EnsureRequest) -> None:
        self._session = session
        self._flight = AsyncEnsure(session, wish)
        self._held: ActiveDownload | None = None
        self._guard: Guard | None = None
        self._exit_stack = ExitStack()

    async def __aenter__(self) -> OwnedClaim | ModelRecord:
        got = await self._flight.take()
        if isinstance(got, ModelRecord):
            return got
        try:
            owned: OwnedClaim = (await self._flight.owner.prepare(got))[0]
        except Exception as error:
            try:
                await self._handle_failure(got, error)
            finally:
                self._session.keepalive.ended(got)
            raise
        except BaseException:
            await run_to_completion(self._flight.owner.give_up, got)
            raise
        self._exit_stack.enter_context(self._flight.owner.overheard(got))
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
        self._exit_stack.close()
        try:
            if await guard.end(error) or (error is None and held.lost.is_set()):
                loss = held.loss()
                await self._handle_failure(held, loss)
                raise loss from error
            if error is None:
                await self._succeed(held)
            elif isinstance(error, Exception):
                await self._handle_failure(held, error)
            else:
                await run_to_completion(self._flight.owner.give_up, held)
        finally:
            self._session.keepalive.ended(held)

    async def _succeed(self, held: ActiveDownload) -> None:
        try:
            await self._flight.owner.succeed(held)
        except Exception as error:
            await self._handle_failure(held, error)
            raise
        except BaseException:
            await run_to_completion(self._flight.owner.give_up, held)
            raise

    async def _handle_failure(self, held: ActiveDownload, error: Exception) -> None:
        if await self._flight.owner.went_wrong(held, error) is not None:
            self._session.backoff.failed()
