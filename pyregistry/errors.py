"""The errors that pyregistry raises; what a caller may need is on them as attributes.

::

    RegistryError
    ├── InvalidArgument (also a ValueError)      the call is wrong; nothing was sent
    │   └── InvalidModelName
    ├── ConfigurationError                       the URL, the environment or the options make no sense
    │   └── CacheMismatch                        a folder that is not the cache of this namespace
    ├── RegistryClosed                           the client was closed, or belongs to another process or loop
    ├── RegistryUnavailable                      nobody answered; nothing was changed
    │   ├── NotNow                               a server answered that it can't now: nothing was changed
    │   │   └── StaleCredentials (also an AccessDenied)  a provider's credentials were refused, time and again
    │   └── EmbeddedUnavailable                  the embedded server is not installed or does not start
    ├── OutcomeUnknown                           sent, and no answer came: it may have been carried out
    ├── ServerRefused                            the server said no; nothing was changed
    │   ├── AccessDenied                         wrong credentials, or a user who lacks rights
    │   ├── ServerTooOld                         older than Redis 7.0 or Valkey 7.2
    │   ├── SchemaTooNew                         the namespace was written by a newer pyregistry
    │   └── OutOfMemory                          the server's memory is full (and nothing may be evicted)
    ├── DownloadFailed                           the download ended in an error, and is not retried (now)
    ├── LocalFault                               this machine can't do what a download needs; others can go on
    ├── ClaimLost                                the claim is somebody else's by now, or can't be proved
    ├── WaitTimedOut (also a TimeoutError)       nobody finished the download in time
    └── RecordRefused                            the record's state forbids it; nothing was changed
        ├── EvictionInProgress
        ├── ModelHeld
        └── DamagedRecord                        the stored value can't be read
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyregistry.models import ModelRecord

__all__ = [
    "AccessDenied",
    "CacheMismatch",
    "ClaimLost",
    "ConfigurationError",
    "DamagedRecord",
    "DownloadFailed",
    "EmbeddedUnavailable",
    "EvictionInProgress",
    "InvalidArgument",
    "InvalidModelName",
    "LocalFault",
    "ModelHeld",
    "NotNow",
    "OutOfMemory",
    "OutcomeUnknown",
    "RecordRefused",
    "RegistryClosed",
    "RegistryError",
    "RegistryUnavailable",
    "SchemaTooNew",
    "ServerRefused",
    "ServerTooOld",
    "StaleCredentials",
    "WaitTimedOut",
]


class RegistryError(Exception):
    """The root of all errors of pyregistry.

    Attributes:
        results: what a call for many models had achieved when it failed, in order; ``None`` in it stands for
            a model that failed or was not reached. Empty for calls for one model.
    """

    results: Sequence[object] = ()


class _OfOneModel(Exception):
    """What errors have that are about one model."""

    def __init__(self, message: str, *, model_name: str, provider: str) -> None:
        super().__init__(message)
        self.model_name = model_name
        self.provider = provider


class InvalidArgument(RegistryError, ValueError):
    """An argument is out of its range or of the wrong form. Nothing was sent.

    Attributes:
        argument: the name of the argument.
    """

    def __init__(self, argument: str, why: str) -> None:
        super().__init__(f"{argument}: {why}")
        self.argument = argument


class InvalidModelName(InvalidArgument):
    """A model name is empty, too long, not valid UTF-8, or holds control characters."""


class ConfigurationError(RegistryError):
    """The URL, the environment or the options contradict each other or make no sense."""


class CacheMismatch(ConfigurationError):
    """A folder is not the cache that this namespace stands for: it was replaced, or another one uses it."""


class RegistryClosed(RegistryError):
    """The client was closed, or was made in another process or event loop."""


class RegistryUnavailable(RegistryError):
    """No server answered, and nothing was changed: the call may be made again.

    Attributes:
        timed_out: whether the server was silent, rather than that a connection was refused or has ended.
    """

    timed_out = False


class NotNow(RegistryUnavailable):
    """The server refused, nothing was changed, and the refusal passes by itself: the call may be made again.

    Its words are in the message: ``NOREPLICAS`` (too few replicas for ``min-replicas-to-write``), ``BUSY`` (a script of
    another program runs for long), ``MISCONF`` (it can't persist), ``LOADING``, ``READONLY``, ``MASTERDOWN``,
    ``TRYAGAIN``, ``CLUSTERDOWN``.
    """


class EmbeddedUnavailable(RegistryUnavailable):
    """The embedded server is not installed, or did not start."""


class OutcomeUnknown(RegistryError):
    """The call was sent, no answer came, and it must not be sent twice.

    It may or may not have been carried out: read the record, then decide.

    Attributes:
        operation: what was called.
    """

    def __init__(self, operation: str, why: str) -> None:
        super().__init__(f"{operation} may or may not have been carried out: {why}")
        self.operation = operation


class ServerRefused(RegistryError):
    """The server answered with an error, and changed nothing."""


class AccessDenied(ServerRefused):
    """Wrong credentials, or the user lacks a right that pyregistry needs."""


class StaleCredentials(NotNow, AccessDenied):
    """What a credential provider gave was refused, on each try: wrong, or too old while the credentials are changed.

    A user and password that were given themselves are an `AccessDenied` at once.
    """


class ServerTooOld(ServerRefused):
    """The server is older than Redis 7.0 or Valkey 7.2.

    Attributes:
        version: what the server says that it is, such as ``redis 6.2.14``.
    """

    def __init__(self, version: str) -> None:
        super().__init__(f"pyregistry needs Redis 7.0 or Valkey 7.2, or newer; this is {version}")
        self.version = version


class SchemaTooNew(ServerRefused):
    """The namespace was written by a newer pyregistry.

    Attributes:
        found: the schema version of the namespace.
        supported: the newest one that this pyregistry knows.
    """

    def __init__(self, found: int, supported: int) -> None:
        super().__init__(
            f"the namespace has schema {found}; this pyregistry knows {supported} at most: upgrade it"
        )
        self.found = found
        self.supported = supported


class OutOfMemory(ServerRefused):
    """The server's memory is full, and its policy is to evict nothing."""


class RecordRefused(_OfOneModel, RegistryError):
    """The state of the record forbids the call.

    Attributes:
        model_name: the model.
        provider: its provider.
    """


class EvictionInProgress(RecordRefused):
    """The model's files are being removed, under a lease that still holds."""


class ModelHeld(RecordRefused):
    """Somebody holds the model's files against removal."""


class DamagedRecord(RecordRefused):
    """The stored value can't be read; ``delete_model(..., force=True)`` removes it."""


class LocalFault(RegistryError):
    """This machine can't do what a download needs: a folder can't be written to, descriptors are missing, and the like.

    The fleet is told nothing: the claim was given back, or not asked for, and other replicas can go on. What was
    wrong is in the message, and the error behind it is the ``__cause__``.
    """


class DownloadFailed(RegistryError):
    """The model is in ERROR: it can't be retried, or not before a cool-down is over (``record.retry_at``).

    The exception of a download that failed in this very call is its ``__cause__``.

    Attributes:
        record: the record, with the message of whoever failed.
    """

    def __init__(self, message: str, record: ModelRecord) -> None:
        super().__init__(message)
        self.record = record


class ClaimLost(_OfOneModel, RegistryError):
    """The claim is somebody else's by now, or its owner can't prove it any more.

    Attributes:
        model_name: the model.
        provider: its provider.
    """


class WaitTimedOut(_OfOneModel, RegistryError, TimeoutError):
    """Nobody finished the download in the time that the caller could wait.

    Attributes:
        model_name: the model.
        provider: its provider.
    """
