"""Supervision of a download on an event loop: a lost claim cancels the download."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable
from typing import Any

from pyregistry._coordination.lease import ActiveDownload
from pyregistry._core.clock import now
from pyregistry._runtime.aio import Wakeup, ask, outlast, tell

__all__ = ["Guard", "work"]


async def work(held: ActiveDownload, download: Callable[..., Any], *args: Any) -> None:
    """Run a download under its claim. Cancel it when the claim is lost, or when the caller is cancelled.

    An async download has ended when this call returns, even if the caller is cancelled repeatedly during its cleanup. A
    download in a thread can't be cancelled. It receives the `LossSignal`, and is abandoned if it ignores the signal.

    Raises:
        ClaimLost: The claim was lost.
        CancelledError: The caller was cancelled.
        BaseException: Any error of the download.
    """
    loop = asyncio.get_running_loop()
    alarm = Wakeup()

    held.lost.call(functools.partial(tell, loop, alarm.set))
    task = loop.create_task(ask(download, *args))
    task.add_done_callback(lambda _: alarm.set())
    try:
        while not task.done() and not held.lost.is_set():
            alarm.clear()
            await alarm.wait(None if not held.bound else held.holds_until - now())
    except BaseException:
        held.lost.set("its owner was cancelled")
        task.cancel()
        await outlast(task)
        raise
    if held.lost.is_set():
        task.cancel()
        cancelled = await outlast(task)
        raise cancelled or held.loss()
    task.result()


class Guard:
    """Guard of a block under a claim: it cancels the task of the block when the claim is lost."""

    def __init__(self, held: ActiveDownload) -> None:
        self._held = held
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._fired = self._over = False
        held.lost.call(functools.partial(tell, self._loop, self._look))
        self._look()

    def _look(self) -> None:
        if self._over or self._fired:
            return
        if self._held.lost.is_set():
            self._fired = True
            if self._task is not None:
                self._task.cancel()
        elif self._held.bound:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(max(self._held.holds_until - now(), 0.0), self._look)

    async def end(self, error: BaseException | None) -> bool:
        """Disarm the guard at the end of the block, and return whether the guard ended the block."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._fired:
            return False
        if error is None:
            try:
                await asyncio.sleep(0)  # receive the pending cancellation that the block has not received
            except asyncio.CancelledError as met:
                error = met
        if sys.version_info >= (3, 11) and self._task is not None and self._task.uncancel() > 0:
            return False  # another caller has cancelled the task too
        return error is None or isinstance(error, asyncio.CancelledError)
