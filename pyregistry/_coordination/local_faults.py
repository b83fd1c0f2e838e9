"""Faults of this machine or of the caller's program, which are not recorded for the fleet."""

from __future__ import annotations

import errno
import os
import random

from pyregistry._core.clock import now
from pyregistry.errors import ConfigurationError, InvalidArgument, LocalFault
from pyregistry.retry import RetryPolicy, message_of

__all__ = ["MOST_FAULTS", "NO_DESCRIPTORS", "LocalBackoff", "check_descriptors", "fault_of", "is_callers"]

MOST_FAULTS = 5
"""Number of local faults after which one call of `ensure` fails: about 20 s of back-off."""

_FIRST_DELAY, _MAX_DELAY = 1.0, 60.0  # seconds
_DESCRIPTORS = 12  # the connection of the keepalive, the pipes of a worker, and a few files

# Errors of the caller's program, which a retry does not fix.
_CALLERS = (
    TypeError, NameError, AttributeError, ImportError, SyntaxError, NotImplementedError,
    InvalidArgument, ConfigurationError,
)  # fmt: skip
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
"""Error numbers of the system for too many open files in a process or on the machine."""


class LocalBackoff:
    """Back-off of this machine after local faults, during which it leaves claims to other replicas. One per client.

    Attributes:
        until: End of the back-off (`now`); 0 if there is none.
    """

    def __init__(self) -> None:
        self._faults = 0
        self.until = 0.0  # of `now`

    def failed(self) -> float:
        """Record one more consecutive fault, and return the back-off in seconds.

        The back-off is 1 s, doubled by each further fault up to 60 s, with jitter of 0.5 to 1.0.
        """
        longest = min(_FIRST_DELAY * 2.0 ** min(self._faults, 20), _MAX_DELAY)
        self._faults += 1
        delay = longest * random.uniform(0.5, 1.0)
        self.until = now() + delay
        return delay

    def succeeded(self) -> None:
        """Reset the back-off after a successful download."""
        self._faults, self.until = 0, 0.0


def fault_of(error: BaseException, policy: RetryPolicy | None) -> LocalFault | None:
    """Convert an error to a `LocalFault`; ``None`` if it is not a fault of this machine."""
    if isinstance(error, LocalFault):
        return error
    is_local = policy is not None and isinstance(error, policy.local)
    if is_local or (isinstance(error, OSError) and error.errno in NO_DESCRIPTORS):
        fault = LocalFault(f"this machine can't download: {message_of(error)}")
        fault.__cause__ = error
        return fault
    return None


def is_callers(error: BaseException) -> bool:
    """Return whether an error is a bug of the caller's program: it is raised to the caller and not recorded."""
    return isinstance(error, _CALLERS)


def check_descriptors() -> None:
    """Check that enough file descriptors are available for a download.

    Raises:
        LocalFault: Fewer than 12 descriptors are available.
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
