"""What errors of redis-py mean, and when a call may go out again. Pure, shared by both transports."""

from __future__ import annotations

import re
from typing import Any, Final, Generic, TypeVar

from redis import exceptions as redis_errors

from pyregistry._core.backoff import backoff
from pyregistry._core.clock import now
from pyregistry._redis.protocol.request import Request, pack
from pyregistry._redis.protocol.transitions import SCHEMA, SCRIPTS
from pyregistry.errors import (
    AccessDenied,
    NotNow,
    OutcomeUnknown,
    OutOfMemory,
    RegistryError,
    RegistryUnavailable,
    SchemaTooNew,
    ServerRefused,
    StaleCredentials,
)

T = TypeVar("T")

ATTEMPTS = 4
"""How often a call goes out before it fails for want of an answer. A refusal that passes is waited for longer."""

_LONGEST = 3  # of the back-off between the tries of a call: a third of a second


class RefusedNow(redis_errors.ResponseError):
    """An answer that passes by itself, of a kind that redis-py has no class for."""


class RefusedCredentials(RefusedNow):
    """What a provider of credentials gave was refused: while they are changed it may have been too old."""


# Scripts that write are refused so before they start; BUSY refuses every command.
_PASSES = ("NOREPLICAS", "MISCONF", "BUSY")

#: The server said so itself: it has not run the call, and may later, or another server may.
NOT_RUN = (
    RefusedNow,
    redis_errors.MasterDownError,
    redis_errors.NoScriptError,
    redis_errors.ReadOnlyError,
    redis_errors.BusyLoadingError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
)
#: No answer, or none that makes sense: whether the call has run is not known. (Credentials that are refused
#: are an answer.)
NO_ANSWER = (redis_errors.ConnectionError, redis_errors.TimeoutError, redis_errors.InvalidResponse, OSError)
DENIED = (
    redis_errors.AuthenticationError,
    redis_errors.AuthorizationError,
    redis_errors.AuthenticationWrongNumberOfArgsError,
    redis_errors.NoPermissionError,
)

#: Of these, what takes its time to pass. (Scripts that are gone are loaded at once.)
PASSING = tuple(kind for kind in NOT_RUN if kind is not redis_errors.NoScriptError)

# How a server says that a right is missing, by itself, and (Redis, Valkey) from within a script.
_DENIED_TEXTS = (
    "NOPERM",
    "NOAUTH",
    "WRONGPASS",
    "The user executing the script",
    "ACL failure in script",
)

# (Redis quotes what it does not know; before 7.0 in another way.)
_UNKNOWN = re.compile(r"unknown command [`']?(\w+)")
_NOT_THERE = "this server does not know: it is renamed, or disabled, or a proxy does not pass it on"
_NO_HELLO = re.compile(r"(?i)\bhello\b|unsupported protocol version")

_OF_CLUSTERS = ("MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN")
_NO_CLUSTER = "pyregistry does not go from node to node yet: it needs a server that has all keys"

#: The commands that load every script but `open`, in one write.
LOADS = [pack(("SCRIPT", "LOAD", script.text)) for script in SCRIPTS]
#: The same, of those that only read.
READING_LOADS = [load for script, load in zip(SCRIPTS, LOADS, strict=True) if not script.writes]


def pause(tried: int, left: float) -> float:
    """Seconds to wait before a call goes out again, which has done so often; if it has time left, within that."""
    wait = backoff(min(tried, _LONGEST))
    return min(wait, left) if left > 0 else wait


def recognised(error: Exception) -> Exception:
    """The error, or one of a class that says that it passes."""
    if type(error) is redis_errors.ResponseError and str(error).partition(" ")[0] in _PASSES:
        return RefusedNow(str(error)).with_traceback(error.__traceback__)
    return error


def said(error: BaseException | None) -> str:
    """What the server has said, with its first word, which redis-py cuts off."""
    text, word = str(error), getattr(error, "status_code", None)
    if word is None or not isinstance(error, (*NOT_RUN, redis_errors.AskError)):
        return text
    text = f"{word} {text}"
    return f"this is a cluster: {text}; {_NO_CLUSTER}" if word in _OF_CLUSTERS else text


def refusal(error: Exception) -> RegistryError:
    """The public form of an error that the server answered."""
    # Where in the script it was raised helps nobody.
    text = said(error).partition(" script: ")[0]
    if isinstance(error, RefusedCredentials):
        return StaleCredentials(text)
    if isinstance(recognised(error), RefusedNow):
        return NotNow(text)
    if isinstance(error, DENIED) or text.startswith(_DENIED_TEXTS):
        return AccessDenied(text)
    if isinstance(error, redis_errors.OutOfMemoryError):
        return OutOfMemory(text)
    if text.startswith("SCHEMATOONEW "):
        return SchemaTooNew(int(text.split()[1]), SCHEMA)
    if unknown := _UNKNOWN.match(text):
        return ServerRefused(f"pyregistry needs the command {unknown[1].upper()}, which {_NOT_THERE}")
    return ServerRefused(text)


def lacks_resp3(error: Exception) -> bool:
    """Whether a connection was refused for its protocol: there is no HELLO, or the right to it is missing."""
    return isinstance(error, redis_errors.ResponseError) and bool(_NO_HELLO.search(str(error)))


def failure(op: Request[Any], maybe_ran: bool, trouble: BaseException | None, shown: str) -> RegistryError:
    """The public form of having given up."""
    why = f"{shown}: {said(trouble)}"
    if maybe_ran and op.head.writes:
        return OutcomeUnknown(op.head.name, why)
    if isinstance(trouble, RefusedCredentials):
        return StaleCredentials(f"{op.head.name}: {why}")
    if isinstance(trouble, NOT_RUN):
        return NotNow(f"{op.head.name}: {why}")
    error = RegistryUnavailable(f"{op.head.name}: {why}")
    error.timed_out = isinstance(trouble, (redis_errors.TimeoutError, TimeoutError))
    return error


class _Pending:
    """No outcome yet."""


PENDING: Final = _Pending()


class PendingCall(Generic[T]):
    """One operation on its way.

    Attributes:
        op: what is asked.
        outcome: what was answered, or the error that its caller gets; `PENDING`: it is to go out, maybe again.
        trouble: why it has not been answered.
    """

    __slots__ = ("_maybe_ran", "_refused", "op", "outcome", "trouble")

    def __init__(self, op: Request[T]) -> None:
        self.op = op
        self.outcome: T | Exception | _Pending = PENDING
        self.trouble: Exception | None = None
        self._maybe_ran = False
        self._refused = 0  # how often that was all

    def answered(self, reply: Any, shown: str) -> None:
        """The server's reply; an exception, if it is an error."""
        if isinstance(reply, Exception):
            self.failed(reply, shown)
            return
        try:
            self.outcome = self.op.head.read(self.op, reply)
        except Exception as error:
            self.outcome = error

    def failed(self, error: Exception, shown: str, *, sent: bool = True) -> None:
        """An error of redis-py's; ``sent``: without an answer it may have run."""
        error = recognised(error)
        if isinstance(error, NOT_RUN):
            self.trouble = error
            if isinstance(error, PASSING):
                self._refused += 1
                if not self.op.head.patient:
                    self.give_up(shown)
        elif isinstance(error, DENIED):
            self.outcome = refusal(error)
        elif isinstance(error, NO_ANSWER):
            self.trouble = error
            self._maybe_ran |= sent
            if sent and not self.op.head.resend:
                self.give_up(shown)
        else:
            self.outcome = refusal(error)
            self.outcome.__cause__ = error

    def goes_on(self, tried: int, attempts: int, ends: float) -> bool:
        """Whether it is to go out again: after so many tries, of so many, and until when a refusal is waited for."""
        if isinstance(self.trouble, PASSING):
            return tried < attempts or now() < ends
        return tried - self._refused < attempts

    def give_up(self, shown: str, error: RegistryError | None = None) -> None:
        """It goes out no more; ``error``: why it can't, if it has not run."""
        if self.outcome is PENDING:
            if error is None or self._maybe_ran:
                error = failure(self.op, self._maybe_ran, self.trouble, shown)
                error.__cause__ = self.trouble
            self.outcome = error


def too_old(info: str) -> str | None:
    """What a server that can't read a script says that it is; nothing if it is new enough to try."""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    product = "valkey" if "valkey_version" in fields else "redis"
    version = fields.get(f"{product}_version", "unknown")
    major = version.split(".")[0]
    return f"{product} {version}" if not major.isdigit() or int(major) < 7 else None
