"""Add the server's address and advice to server errors, whose own texts have neither."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from pyregistry._core.urls import redacted
from pyregistry.config import BackendConfig
from pyregistry.errors import (
    ConfigurationError,
    NotNow,
    OutOfMemory,
    RegistryError,
    RegistryUnavailable,
    ServerRefused,
)

if TYPE_CHECKING:
    from pyregistry.doctor import Finding

__all__ = ["Told", "check_scheme", "clearer", "told"]

_PLAIN_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[0-9]+)?")
_SCHEMES = "redis:// or rediss:// (valkey://, valkeys://), redis+sentinel://, unix:// or embedded://"
_PASSWORD = (
    "write it into the environment: PYREGISTRY_URL=redis://USER:PASSWORD@HOST:PORT/0 (USER may be empty)"
)
_RIGHTS = "docs/how-to/operate.md, Rights, has the ACL line with all that the user needs"


class Told(NamedTuple):
    """A human-readable error.

    Attributes:
        message: The problem and its place.
        advice: The remedy. Defaults to "": the message includes it.
    """

    message: str
    advice: str = ""


class _Known(NamedTuple):
    """A known error of a server.

    Attributes:
        texts: Parts of the server's error text; one match suffices.
        words: Replaces the server's text; "" keeps it.
        advice: The remedy.
    """

    texts: tuple[str, ...]
    words: str
    advice: str


_REFUSED: tuple[_Known, ...] = (
    _Known(
        ("HELLO must be called with the client already authenticated", "NOAUTH", "Authentication required"),
        "the server wants a password, and the URL has none",
        _PASSWORD,
    ),
    _Known(
        ("WRONGPASS", "invalid username-password pair", "invalid password"),
        "the server refuses this user and password",
        f"{_PASSWORD}; %40 stands for @, %2F for /, %3F for ?, %23 for #",
    ),
    _Known(
        (
            "NOPERM",
            "needs a right",
            "No permissions",
            "has no permissions",
            "ACL failure",
            "The user executing",
        ),
        "",
        _RIGHTS,
    ),
    _Known(
        ("DB index is out of range",),
        "the server has no database with the number in the URL",
        "the number stands behind the port: redis://HOST:PORT/0",
    ),
    _Known(
        ("needs the command SENTINEL", "unknown command 'SENTINEL'", "unknown command `SENTINEL`"),
        "a server of models answers there, and no sentinel",
        "for that server itself write redis://HOST:PORT/0; sentinels listen on port 26379, as a rule",
    ),
    _Known(
        ("unknown command", "needs the command"),
        "",
        "a sentinel lacks most commands: for a service under Sentinel write redis+sentinel://HOST:26379/SERVICE/0; "
        "a proxy has to pass them on",
    ),
)
_UNAVAILABLE: tuple[_Known, ...] = (
    _Known(("Connection refused",), "", "look whether the server runs, and whether host and port are right"),
    _Known(
        ("Name or service not known", "nodename nor servname", "No address associated", "name resolution"),
        "",
        "look whether the name of the host is right, and known on this machine",
    ),
    _Known(
        ("No such file or directory",),
        "",
        "look whether the server runs, and whether the socket's path is right",
    ),
    _Known(
        ("no sentinel knows a primary",),
        "",
        "look whether the sentinels run, and whether the service is right",
    ),
    _Known(
        ("Timeout", "timed out", "Connection closed by server"),
        "",
        "look at the server and the network; a server without TLS does not answer rediss://, nor one with TLS redis://",
    ),
)
_NOT_NOW: tuple[_Known, ...] = (
    _Known(
        ("NOREPLICAS",),
        "",
        "it passes when a replica is back; as long as min-replicas-to-write asks for more than there are, it stays",
    ),
    _Known(("MISCONF",), "", "see the server's log: its last snapshot failed, often because a disk is full"),
    _Known(("BUSY",), "", "it passes when the script ends; SCRIPT KILL ends one that has not written"),
    _Known(
        ("READONLY", "read only replica"),
        "",
        "this is a replica, or a primary that was replaced: name the primary, or the sentinels",
    ),
)


def told(error: RegistryError, config: BackendConfig | None) -> Told:
    """Return the human-readable form of an error.

    Args:
        error: The error.
        config: The server of the call; None if unknown.
    """
    message = str(error)
    if isinstance(error, ConfigurationError) and message.startswith("not a URL of a Redis server"):
        return Told(message, "" if ";" in message else f"the schemes are {_SCHEMES}")
    if config is None or not isinstance(error, (ServerRefused, RegistryUnavailable)):
        return Told(message)
    server = redacted(config.url)
    if isinstance(error, OutOfMemory):
        advice = "raise its maxmemory, or remove what is not needed: pyregistry rm works on a full server too"
        return Told(f"{server}: the server's memory is full: {message}", advice)
    known = _NOT_NOW if isinstance(error, NotNow) else _UNAVAILABLE
    if isinstance(error, ServerRefused):
        known = _REFUSED
    found = next((each for each in known if any(text in message for text in each.texts)), _Known((), "", ""))
    message = found.words or message
    return Told(message if server in message else f"{server}: {message}", found.advice)


def clearer(finding: Finding, config: BackendConfig) -> Finding:
    """Return a finding of `doctor` with the text and advice of `told`, if the server refuses all use of it.

    Other findings are returned unchanged.
    """
    if not (finding.level.value == "error" and finding.check in ("server", "rights")):
        return finding
    message, advice = told(ServerRefused(finding.message), config)
    return msgspec.structs.replace(finding, message=message, advice=advice or finding.advice)


def check_scheme(url: str, told_by: str) -> None:
    """Reject a URL without a scheme, such as ``127.0.0.1:6379``.

    Args:
        url: The URL.
        told_by: The option or variable that holds it.

    Raises:
        ConfigurationError: The URL has no scheme. The message quotes the URL only if no part of it can be a password.
    """
    if "://" not in url:
        quoted = url if _PLAIN_HOST.fullmatch(url) else "HOST:PORT"
        raise ConfigurationError(
            f"{told_by} has no scheme: write redis://{quoted} (the schemes are {_SCHEMES})"
        )
