"""When a download that failed is tried again."""

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
    """How often a fleet tries a download, and how long it waits in between.

    The registry counts: attempts of all replicas together, also those whose owner was lost, since the last
    success, delete or ``set_status``. When they are used up, the model is in ERROR for the cool-down. Then the first
    caller that wants the model tries again, and attempts are counted anew. The registry decides that: one replica of a
    fleet comes back.

    The defaults outlive an ordinary outage. Six attempts take 102 to 205 s beside the downloads themselves: longer
    than a restart, a failover, a roll-out or a change of DNS. An incident, or a rate limit (its windows are five
    minutes at the Hugging Face hub), may last longer: it meets the cool-down of 300 s.

    Attributes:
        attempts: as many owners in all, before a cool-down; 1: no retry.
        first_delay: seconds before the second attempt.
        factor: by how much each delay is longer than the one before.
        max_delay: seconds that no delay exceeds.
        jitter: the part of a delay that is random, 0 to 1.
        permanent: exceptions after which nobody tries again.
        local: exceptions that are this machine's fault. The claim is given back, the attempt does not count, and
            other replicas download. `LocalFault`, and what a `FolderStore` meets on its disk, are so by themselves.
        cooldown: seconds after which a model whose attempts are used up is tried anew; ``None``: never.

    Raises:
        InvalidArgument: a number is out of its range.
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
        """Seconds to wait after this attempt, from 1, has failed."""
        # The power is cut before it overflows.
        longest = min(self.first_delay * self.factor ** min(attempt - 1, 100), self.max_delay)
        return longest * (1 - self.jitter * random.random())

    def is_permanent(self, error: BaseException) -> bool:
        """Whether nobody is to try again after this."""
        return isinstance(error, self.permanent)


DEFAULT_RETRY = RetryPolicy()

_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/?#@'\"<>]*@)?([^\s?#'\"<>]*)(\?[^\s#'\"<>]*)?(#[^\s'\"<>]*)?"
)


def message_of(error: BaseException) -> str:
    """What a record says of an exception: one that fits, and shows no credentials that a URL held."""
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    text = _URL.sub(lambda url: url[1] + url[2] + ("?..." if url[3] else ""), text)
    return text.encode(errors="replace")[: checks.MESSAGE_BYTES].decode(errors="ignore")
