"""Errors of snapshots, classified by cause: the hub refused, the hub is unavailable, or a local fault."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from pyregistry.errors import RegistryError

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_REFUSED = (401, 403, 404, 410)
_LATER = (408, 429)  # and 5xx
_LOCAL = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.EACCES, errno.EPERM)
# Matched by name, because the HTTP client of huggingface_hub depends on its version.
_CLIENTS = ("httpx", "httpx2", "requests")
_NO_ANSWER = ("TransportError", "ConnectionError", "Timeout")


class SnapshotFailed(RegistryError):
    """A snapshot could not be downloaded. A retry may succeed.

    Attributes:
        hub_away: Whether the hub was unreachable or answered 429 or 5xx, or ``HF_HUB_OFFLINE`` is set.
    """

    hub_away: bool = False


class SnapshotRefused(SnapshotFailed):
    """The hub refused: the repository or revision does not exist, or the token has no access. Not retried."""


class NoFiles(Exception):
    """The patterns match no file."""


def without_secrets(text: str, token: str | bool | None) -> str:
    """Return a text with this token, and all strings in the form of a token, masked."""
    if isinstance(token, str) and token:
        text = text.replace(token, "***")
    return _TOKEN.sub("***", text)


def is_permanent(error: BaseException | None, endpoint: str) -> bool:
    """Return whether the hub refused or the job is invalid. An error that wraps a response counts like it."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, (NoFiles, HFValidationError)):
            return True
        if isinstance(error, OfflineModeIsEnabled):
            return False
        response = getattr(error, "response", None)
        if response is not None and response.status_code in _REFUSED:
            # A refusal by another host means an expired link, which a retry renews.
            return urlsplit(str(response.url)).netloc == urlsplit(endpoint).netloc
        error = error.__cause__
    return False


def is_away(error: BaseException) -> bool:
    """Return whether the hub did not answer, or answered with a temporary error: 408, 429, 5xx."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        if response is not None:
            status = int(response.status_code)
            return status in _LATER or status >= 500
        if isinstance(each, (ConnectionError, TimeoutError)):
            return True
        if any(
            base.__name__ in _NO_ANSWER and base.__module__.partition(".")[0] in _CLIENTS
            for base in type(each).__mro__
        ):
            return True
    return False


def is_local(error: BaseException) -> bool:
    """Return whether the fault is local: no descriptors, memory, threads or write permission on this machine."""
    return any(
        isinstance(each, MemoryError)
        or (isinstance(each, OSError) and each.errno in _LOCAL)
        or (isinstance(each, RuntimeError) and "start new thread" in str(each))
        for each in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
