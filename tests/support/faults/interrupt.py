"""A signal whose handler raises."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from tests.support.faults.proxy import SECONDS, until

NUMBER = signal.SIGUSR1


class Interrupted(BaseException):
    """What the handler raises."""


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """The first of these signals raises `Interrupted` in the main thread; the event says that it did."""
    came = threading.Event()

    def handler(_number: int, _frame: FrameType | None) -> None:
        if not came.is_set():
            came.set()
            raise Interrupted

    before = signal.signal(NUMBER, handler)
    try:
        yield came
    finally:
        signal.signal(NUMBER, before)


def interrupt_from_elsewhere(
    main: int, waits_in: CodeType, came: threading.Event, end: Callable[[], object]
) -> None:
    """In another thread than ``main``: send the signal to this thread once ``main`` waits, then end that wait.

    Such a signal does not end the wait. Nor does one that comes between Python's last look for a signal and the system
    call.
    """

    def waits() -> bool:
        frames = [frame.f_code for frame, _ in traceback.walk_stack(sys._current_frames()[main])]
        return frames[0] is threading.Condition.wait.__code__ and waits_in in frames

    until(waits, "it waits")
    signal.pthread_kill(threading.get_ident(), NUMBER)
    try:
        assert came.wait(SECONDS), "nobody looked for signals"
    finally:
        end()
