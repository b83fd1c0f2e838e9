# Made from _coordination/download_async.py by tools/unasync.py: change that one.
"""The block form of `ensure`, which `download` of a client returns."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from pyregistry._coordination.ensure_sync import Ensure
from pyregistry._coordination.lease import ActiveDownload, OwnedClaim
from pyregistry._coordination.options import EnsureRequest
from pyregistry._coordination.session_sync import Session
from pyregistry._coordination.supervise_sync import Guard
from pyregistry._runtime.threads import run_to_completion
from pyregistry.models import ModelRecord

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Download"]


class Download:
    """The block form of `Ensure.ensure`: a context manager, which the caller may enter once."""

    def __init__(self, session: Session, wish: EnsureRequest) -> None:
        self._session = session
        self._flight = Ensure(session, wish)
        self._held: ActiveDownload | None = None
        self._guard: Guard | None = None
        self._exit_stack = ExitStack()

    def __enter__(self) -> OwnedClaim | ModelRecord:
        got = self._flight.take()
        if isinstance(got, ModelRecord):
            return got
        try:
            owned: OwnedClaim = (self._flight.owner.prepare(got))[0]
        except Exception as error:
            try:
                self._handle_failure(got, error)
            finally:
                self._session.keepalive.ended(got)
            raise
        except BaseException:
            run_to_completion(self._flight.owner.give_up, got)
            raise
        self._exit_stack.enter_context(self._flight.owner.overheard(got))
        self._held, self._guard = got, Guard(got)
        return owned

    def __exit__(
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
            if guard.end(error) or (error is None and held.lost.is_set()):
                loss = held.loss()
                self._handle_failure(held, loss)
                raise loss from error
            if error is None:
                self._succeed(held)
            elif isinstance(error, Exception):
                self._handle_failure(held, error)
            else:
                run_to_completion(self._flight.owner.give_up, held)
        finally:
            self._session.keepalive.ended(held)

    def _succeed(self, held: ActiveDownload) -> None:
        try:
            self._flight.owner.succeed(held)
        except Exception as error:
            self._handle_failure(held, error)
            raise
        except BaseException:
            run_to_completion(self._flight.owner.give_up, held)
            raise

    def _handle_failure(self, held: ActiveDownload, error: Exception) -> None:
        if self._flight.owner.went_wrong(held, error) is not None:
            self._session.backoff.failed()
