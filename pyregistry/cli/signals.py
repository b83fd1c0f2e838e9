"""Handle the signals that end a command: TERM, INT and HUP."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Stopped", "ends_by_signals", "told_of_signals"]

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(BaseException):
    """A signal ends the command.

    Attributes:
        number: The signal number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code that a shell reports for a program killed by this signal."""
        return 128 + self.number


@contextmanager
def told_of_signals(tell: Callable[[int], None]) -> Iterator[None]:
    """Call `tell` with the number of each TERM, INT and HUP within this context.

    A signal that this process ignores from its start (nohup) stays ignored. In any thread but the main one the context
    has no effect, because Python installs handlers in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, lambda number, _frame: tell(number))
        yield
    finally:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, handler)


@contextmanager
def ends_by_signals() -> Iterator[None]:
    """Raise `Stopped` on the first TERM, INT or HUP, and ignore later ones, so that they don't interrupt clean-up."""
    told = False

    def tell(number: int) -> None:
        nonlocal told
        if not told:
            told = True
            raise Stopped(number)

    with told_of_signals(tell):
        yield
