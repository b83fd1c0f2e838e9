"""Maps errors of redis-py to outcomes, and decides when a call is retried. No I/O; shared by both transports."""

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
"""Maximum number of times that a call is sent without a reply. A temporary refusal is retried for longer."""

_LONGEST = 3  # step at which the back-off between the tries of a call stops growing: a third of a second


class RefusedNow(redis_errors.ResponseError):
    """A temporary refusal for which redis-py has no class."""


class RefusedCredentials(RefusedNow):
    """The server refused the credentials of a provider. Temporary: they may be stale during a rotation."""


# The server refuses writing scripts with these before they start; BUSY refuses every command.
_PASSES = ("NOREPLICAS", "MISCONF", "BUSY")

#: The server reports that it has not run the call. A later try, or another server, may run it.
NOT_RUN = (
    RefusedNow,
    redis_errors.MasterDownError,
    redis_errors.NoScriptError,
    redis_errors.ReadOnlyError,
    redis_errors.BusyLoadingError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
)
#: No reply, or an invalid one: whether the call has run is unknown. (A refusal of credentials is a reply, `DENIED`.)
NO_ANSWER = (redis_errors.ConnectionError, redis_errors.TimeoutError, redis_errors.InvalidResponse, OSError)
DENIED = (
    redis_errors.AuthenticationError,
    redis_errors.AuthorizationError,
    redis_errors.AuthenticationWrongNumberOfArgsError,
    redis_errors.NoPermissionError,
)

#: The temporary refusals that need a wait. (NOSCRIPT needs none: the scripts are loaded at once.)
PASSING = tuple(kind for kind in NOT_RUN if kind is not redis_errors.NoScriptError)

# First words of the errors for a missing right: from the server, and from within a script (Redis, Valkey).
_DENIED_TEXTS = (
    "NOPERM",
    "NOAUTH",
    "WRONGPASS",
    "The user executing the script",
    "ACL failure in script",
)

# Redis before 7.0 quotes the command with another character.
_UNKNOWN = re.compile(r"unknown command [`']?(\w+)")
_NOT_THERE = "this server does not know: it is renamed, or disabled, or a proxy does not pass it on"
_NO_HELLO = re.compile(r"(?i)\bhello\b|unsupported protocol version")

_OF_CLUSTERS = ("MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN")
_NO_CLUSTER = "pyregistry does not go from node to node yet: it needs a server that has all keys"

#: The commands that load every script but `open`, in one write.
LOADS = [pack(("SCRIPT", "LOAD", script.text)) for script in SCRIPTS]
#: The commands that load the scripts that only read.
READING_LOADS = [load for script, load in zip(SCRIPTS, LOADS, strict=True) if not script.writes]


def pause(tried: int, left: float) -> float:
    """Return the seconds to wait before a call is sent again.

    Args:
        tried: Number of times that it was sent.
        left: Seconds for which it may still be retried; an upper limit if positive.
    """
    wait = backoff(min(tried, _LONGEST))
    return min(wait, left) if left > 0 else wait


def recognised(error: Exception) -> Exception:
    """Return the error, as `RefusedNow` if it is a temporary refusal without a class of redis-py."""
    if type(error) is redis_errors.ResponseError and str(error).partition(" ")[0] in _PASSES:
        return RefusedNow(str(error)).with_traceback(error.__traceback__)
    return error


def said(error: BaseException | None) -> str:
    """Return the server's error text with its first word, which redis-py removes."""
    text, word = str(error), getattr(error, "status_code", None)
    if word is None or not isinstance(error, (*NOT_RUN, redis_errors.AskError)):
        return text
    text = f"{word} {text}"
    return f"this is a cluster: {text}; {_NO_CLUSTER}" if word in _OF_CLUSTERS else text


def refusal(error: Exception) -> RegistryError:
    """Return the public form of an error reply."""
    # Cut off the position in the script.
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
    """Return whether the server refused RESP3: it has no HELLO, or the user has no right to it."""
    return isinstance(error, redis_errors.ResponseError) and bool(_NO_HELLO.search(str(error)))


def failure(op: Request[Any], maybe_ran: bool, trouble: BaseException | None, shown: str) -> RegistryError:
    """Return the public error of a call that is not retried any more.

    Args:
        op: The request.
        maybe_ran: Whether the server may have run it.
        trouble: The last error.
        shown: Displayed address of the server.
    """
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
    """Type of the sentinel for a call without an outcome."""


PENDING: Final = _Pending()


class PendingCall(Generic[T]):
    """One request until its outcome.

    Attributes:
        op: The request.
        outcome: The decoded reply, or the error that the caller gets; `PENDING`: to be sent, or sent again.
        trouble: The last error, while there is no reply.
    """

    __slots__ = ("_maybe_ran", "_refused", "op", "outcome", "trouble")

    def __init__(self, op: Request[T]) -> None:
        self.op = op
        self.outcome: T | Exception | _Pending = PENDING
        self.trouble: Exception | None = None
        self._maybe_ran = False
        self._refused = 0  # number of temporary refusals

    def answered(self, reply: Any, shown: str) -> None:
        """Handle the server's reply; an error reply is an exception."""
        if isinstance(reply, Exception):
            self.failed(reply, shown)
            return
        try:
            self.outcome = self.op.head.read(self.op, reply)
        except Exception as error:
            self.outcome = error

    def failed(self, error: Exception, shown: str, *, sent: bool = True) -> None:
        """Handle an error of redis-py.

        Args:
            error: The error.
            shown: Displayed address of the server.
            sent: Whether the request was sent, so that it may have run without a reply. Defaults to True.
        """
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
        """Return whether to send the request again.

        Args:
            tried: Number of times that it was sent.
            attempts: Maximum of that number, not counting temporary refusals.
            ends: Time (`now`) until which a temporary refusal is retried.
        """
        if isinstance(self.trouble, PASSING):
            return tried < attempts or now() < ends
        return tried - self._refused < attempts

    def give_up(self, shown: str, error: RegistryError | None = None) -> None:
        """Set the outcome to an error, unless there is an outcome.

        Args:
            shown: Displayed address of the server.
            error: The outcome if the request has not run. Defaults to None: made from `trouble`.
        """
        if self.outcome is PENDING:
            if error is None or self._maybe_ran:
                error = failure(self.op, self._maybe_ran, self.trouble, shown)
                error.__cause__ = self.trouble
            self.outcome = error


def too_old(info: str) -> str | None:
    """Return product and version of a server below version 7, or of an unknown one; None for a newer server.

    Args:
        info: The reply to INFO of a server that can't read a script.
    """
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    product = "valkey" if "valkey_version" in fields else "redis"
    version = fields.get(f"{product}_version", "unknown")
    major = version.split(".")[0]
    return f"{product} {version}" if not major.isdigit() or int(major) < 7 else None
