"""The retry policy of failed downloads."""

from __future__ import annotations

import random
import re
from typing import Any

import msgspec

from pyregistry._core import validation as checks
from pyregistry.errors import InvalidArgument

__all__ = ["RetryPolicy"]

_DELAY = 30 * 86400.0


class RetryPolicy(msgspec.Struct, frozen=True):
    """The number of attempts that a fleet makes at a download, and the delays between them.

    The registry counts the attempts of all replicas since the last success, delete or ``set_status``. Attempts of
    lost owners count too. When all attempts are used up, the model is in ERROR for the cool-down. Then the next
    caller that wants the model tries again, and attempts are counted from 1. The registry decides this atomically,
    so one replica of a fleet retries.

    The defaults outlast an ordinary outage. Six attempts take 102 to 205 s in addition to the downloads. That is
    longer than a restart, a failover, a roll-out or a change of DNS. An incident or a rate limit may last longer, so
    the cool-down is 300 s: the rate-limit windows of the Hugging Face hub are five minutes.

    Attributes:
        attempts: Maximum number of attempts before a cool-down. 1: no retry. Defaults to 6.
        first_delay: Seconds before the second attempt. Defaults to 1 s.
        factor: Ratio of each delay to the one before. Defaults to 4.
        max_delay: Maximum delay in seconds. Defaults to 120 s.
        jitter: Random part of a delay, 0 to 1. Defaults to 0.5.
        permanent: Exception classes that forbid retries. Defaults to none.
        local: Exception classes that are local faults. The claim is released, the attempt does not count, and other
            replicas download. `LocalFault` and disk errors of a `FolderStore` are always local. Defaults to none.
        cooldown: Seconds after which a model with no attempts left is tried again. ``None``: never. Defaults to
            300 s.

    Raises:
        InvalidArgument: A number is out of range, or `permanent` or `local` is not a tuple of exception classes.
    """

    attempts: int = 6
    first_delay: float = 1.0
    factor: float = 4.0
    max_delay: float = 120.0
    jitter: float = 0.5
    permanent: tuple[type[BaseException], ...] = ()
    local: tuple[type[BaseException], ...] = ()
    cooldown: float | None = 300.0

    def __post_init__(self) -> None:
        checks.whole("attempts", self.attempts, least=1)
        for name, least, most in (
            ("first_delay", 0.0, _DELAY),
            ("factor", 1.0, 1000.0),
            ("max_delay", 0.0, _DELAY),
            ("jitter", 0.0, 1.0),
        ):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
                raise InvalidArgument(name, f"must be a number of {least:g} to {most:g}, not {value!r}")
        if self.cooldown is not None:
            checks.microseconds("cooldown", self.cooldown)
        for name in ("permanent", "local"):
            classes = getattr(self, name)
            if not isinstance(classes, tuple) or not all(
                isinstance(each, type) and issubclass(each, BaseException) for each in classes
            ):
                raise InvalidArgument(name, "must be a tuple of classes of exceptions")

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after this attempt, counted from 1, has failed."""
        # The exponent is capped, because a float power above 1.8e308 raises OverflowError.
        longest = min(self.first_delay * self.factor ** min(attempt - 1, 100), self.max_delay)
        return longest * (1 - self.jitter * random.random())

    def is_permanent(self, error: BaseException) -> bool:
        """Return whether this exception forbids retries."""
        return isinstance(error, self.permanent)


DEFAULT_RETRY = RetryPolicy()

_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/?#@'\"<>]*@)?([^\s?#'\"<>]*)(\?[^\s#'\"<>]*)?(#[^\s'\"<>]*)?"
)


def message_of(error: BaseException) -> str:
    """Return the message of an exception for a record: truncated, and without the credentials in its URLs."""
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    text = _URL.sub(lambda url: url[1] + url[2] + ("?..." if url[3] else ""), text)
    return text.encode(errors="replace")[: checks.MESSAGE_BYTES].decode(errors="ignore")
