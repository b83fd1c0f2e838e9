"""Signals that end a command in good order."""

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
        number: which.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell gives a program that a signal ends."""
        return 128 + self.number


@contextmanager
def told_of_signals(tell: Callable[[int], None]) -> Iterator[None]:
    """Have TERM, INT and HUP told, but not those that whoever started this has it ignore (nohup).

    Only the main thread can have it so; in another one, signals do what they did.
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
    """Have the first of these signals raise `Stopped`; what then cleans up is not disturbed by another."""
    told = False

    def tell(number: int) -> None:
        nonlocal told
        if not told:
            told = True
            raise Stopped(number)

    with told_of_signals(tell):
        yield
