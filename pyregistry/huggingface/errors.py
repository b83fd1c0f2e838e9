"""What can go wrong with a snapshot, and whose fault it is: the hub's answer, its absence, or this machine's."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from pyregistry.errors import RegistryError

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_REFUSED = (401, 403, 404, 410)
_LATER = (408, 429)  # and all that begin with 5
_LOCAL = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.EACCES, errno.EPERM)
# By their names: which of these huggingface_hub uses depends on its version.
_CLIENTS = ("httpx", "httpx2", "requests")
_NO_ANSWER = ("TransportError", "ConnectionError", "Timeout")


class SnapshotFailed(RegistryError):
    """A snapshot could not be downloaded; to try again may help.

    Attributes:
        hub_away: the hub was not reached, or answered 429 or 5xx; or ``HF_HUB_OFFLINE`` is set.
    """

    hub_away: bool = False


class SnapshotRefused(SnapshotFailed):
    """The hub says no: no such repository or revision, or not with this token. To try again does not help."""


class NoFiles(Exception):
    """There is nothing to download."""


def without_secrets(text: str, token: str | bool | None) -> str:
    """A text that does not show a token: neither this one nor one that looks like one."""
    if isinstance(token, str) and token:
        text = text.replace(token, "***")
    return _TOKEN.sub("***", text)


def is_permanent(error: BaseException | None, endpoint: str) -> bool:
    """Whether the hub has said no, or the job makes no sense; what wraps an answer counts like the answer."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, (NoFiles, HFValidationError)):
            return True
        if isinstance(error, OfflineModeIsEnabled):
            return False
        response = getattr(error, "response", None)
        if response is not None and response.status_code in _REFUSED:
            # What another host refuses was a link that is over.
            return urlsplit(str(response.url)).netloc == urlsplit(endpoint).netloc
        error = error.__cause__
    return False


def is_away(error: BaseException) -> bool:
    """Whether the hub gave no answer, or one that asks to come later: 408, 429, 5xx."""
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
    """Whether another machine may succeed: no descriptors, memory or threads here, or no right to write."""
    return any(
        isinstance(each, MemoryError)
        or (isinstance(each, OSError) and each.errno in _LOCAL)
        or (isinstance(each, RuntimeError) and "start new thread" in str(each))
        for each in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
