"""Faults of this machine, and of the caller: what the fleet is not told."""

from __future__ import annotations

import errno
import os
import random

from pyregistry._core.clock import now
from pyregistry.errors import ConfigurationError, InvalidArgument, LocalFault
from pyregistry.retry import RetryPolicy, message_of

__all__ = ["MOST_FAULTS", "NO_DESCRIPTORS", "LocalBackoff", "check_descriptors", "fault_of", "is_callers"]

MOST_FAULTS = 5
"""Faults of its machine that one call of `ensure` outlasts: about 20 s of waiting."""

_FIRST_DELAY, _MAX_DELAY = 1.0, 60.0  # seconds
_DESCRIPTORS = 12  # a connection that keeps the claim, the pipes of a worker, and a few files

# The mistakes of a program, which no other attempt mends.
_CALLERS = (
    TypeError, NameError, AttributeError, ImportError, SyntaxError, NotImplementedError,
    InvalidArgument, ConfigurationError,
)  # fmt: skip
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
"""What the system says where a process, or the machine, has too many files open."""


class LocalBackoff:
    """How long this machine leaves claims to others after it failed by itself. One for each client."""

    def __init__(self) -> None:
        self._faults = 0
        self.until = 0.0  # of `now`

    def failed(self) -> float:
        """It failed (once more in a row); how many seconds it keeps from claiming."""
        longest = min(_FIRST_DELAY * 2.0 ** min(self._faults, 20), _MAX_DELAY)
        self._faults += 1
        delay = longest * random.uniform(0.5, 1.0)
        self.until = now() + delay
        return delay

    def succeeded(self) -> None:
        """A download has ended well."""
        self._faults, self.until = 0, 0.0


def fault_of(error: BaseException, policy: RetryPolicy | None) -> LocalFault | None:
    """The error as a fault of this machine, if it is one."""
    if isinstance(error, LocalFault):
        return error
    told = policy is not None and isinstance(error, policy.local)
    if told or (isinstance(error, OSError) and error.errno in NO_DESCRIPTORS):
        fault = LocalFault(f"this machine can't download: {message_of(error)}")
        fault.__cause__ = error
        return fault
    return None


def is_callers(error: BaseException) -> bool:
    """Whether it is a mistake of the caller's program: it is raised to the caller, and nobody else is told."""
    return isinstance(error, _CALLERS)


def check_descriptors() -> None:
    """Are there enough file descriptors for a download?

    Raises:
        LocalFault: there are not.
    """
    opened: list[int] = []
    try:
        opened.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(_DESCRIPTORS))
    except OSError as error:
        if error.errno not in NO_DESCRIPTORS:
            raise
        raise LocalFault(
            f"too few file descriptors: a download needs {_DESCRIPTORS} more; raise the limit (ulimit -n)"
        ) from error
    finally:
        for each in opened:
            os.close(each)
