"""The errors that pyregistry raises. Their attributes hold the details that a caller may need.

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
        results: Results of a call for many models at the time of its failure, in order. ``None`` stands for a model
            that failed or was not reached. Empty for calls for one model.
    """

    results: Sequence[object] = ()


class _OfOneModel(Exception):
    """Mixin of errors about one model."""

    def __init__(self, message: str, *, model_name: str, provider: str) -> None:
        super().__init__(message)
        self.model_name = model_name
        self.provider = provider


class InvalidArgument(RegistryError, ValueError):
    """An argument is out of its range or of the wrong form. Nothing was sent.

    Attributes:
        argument: Name of the argument.
    """

    def __init__(self, argument: str, why: str) -> None:
        super().__init__(f"{argument}: {why}")
        self.argument = argument


class InvalidModelName(InvalidArgument):
    """A model name is empty, too long, not valid UTF-8, or contains control characters."""


class ConfigurationError(RegistryError):
    """The URL, the environment or the options are invalid or contradict each other."""


class CacheMismatch(ConfigurationError):
    """A folder is not the cache of this namespace: it was replaced, or another namespace uses it."""


class RegistryClosed(RegistryError):
    """The client was closed, or was made in another process or event loop."""


class RegistryUnavailable(RegistryError):
    """No server answered, and nothing was changed. The call may be retried.

    Attributes:
        timed_out: Whether the server did not reply in time. False: a connection was refused or lost.
    """

    timed_out = False


class NotNow(RegistryUnavailable):
    """The server refused the call temporarily, and nothing was changed. The call may be retried.

    The message contains the server's reply: ``NOREPLICAS`` (too few replicas for ``min-replicas-to-write``), ``BUSY``
    (a long-running script of another program), ``MISCONF`` (the server can't persist), ``LOADING``, ``READONLY``,
    ``MASTERDOWN``, ``TRYAGAIN``, ``CLUSTERDOWN``.
    """


class EmbeddedUnavailable(RegistryUnavailable):
    """The embedded server is not installed, or did not start."""


class OutcomeUnknown(RegistryError):
    """The call was sent, no reply came, and the call is not idempotent.

    The server may or may not have carried it out. Read the record before a retry.

    Attributes:
        operation: Name of the call.
    """

    def __init__(self, operation: str, why: str) -> None:
        super().__init__(f"{operation} may or may not have been carried out: {why}")
        self.operation = operation


class ServerRefused(RegistryError):
    """The server answered with an error and changed nothing."""


class AccessDenied(ServerRefused):
    """The credentials are wrong, or the user lacks a permission that pyregistry needs."""


class StaleCredentials(NotNow, AccessDenied):
    """The server refused the credentials of a credential provider on each retry.

    They are wrong, or outdated during a rotation. A refused user and password that were given directly raise
    `AccessDenied` at once.
    """


class ServerTooOld(ServerRefused):
    """The server is older than Redis 7.0 or Valkey 7.2.

    Attributes:
        version: Product and version that the server reports, such as ``redis 6.2.14``.
    """

    def __init__(self, version: str) -> None:
        super().__init__(f"pyregistry needs Redis 7.0 or Valkey 7.2, or newer; this is {version}")
        self.version = version


class SchemaTooNew(ServerRefused):
    """A newer pyregistry wrote the namespace.

    Attributes:
        found: Schema version of the namespace.
        supported: Newest schema version that this pyregistry supports.
    """

    def __init__(self, found: int, supported: int) -> None:
        super().__init__(
            f"the namespace has schema {found}; this pyregistry knows {supported} at most: upgrade it"
        )
        self.found = found
        self.supported = supported


class OutOfMemory(ServerRefused):
    """The server's memory is full, and its policy forbids eviction."""


class RecordRefused(_OfOneModel, RegistryError):
    """The state of the record forbids the call.

    Attributes:
        model_name: Model name.
        provider: Provider of the model.
    """


class EvictionInProgress(RecordRefused):
    """The model's files are being removed under a lease that has not ended."""


class ModelHeld(RecordRefused):
    """The model's files are held against removal."""


class DamagedRecord(RecordRefused):
    """The stored value can't be read. ``delete_model(..., force=True)`` removes it."""


class LocalFault(RegistryError):
    """This machine can't download, for example because a folder is not writable or file descriptors are missing.

    The fault is not recorded for the fleet. The claim was released or never requested, and other replicas can
    download. The message names the fault; ``__cause__`` is the original error.
    """


class DownloadFailed(RegistryError):
    """The model is in ERROR. A retry is forbidden, or not allowed before the cool-down ends (``record.retry_at``).

    If the download failed in this call, ``__cause__`` is its exception.

    Attributes:
        record: The record, with the message of the owner that failed.
    """

    def __init__(self, message: str, record: ModelRecord) -> None:
        super().__init__(message)
        self.record = record


class ClaimLost(_OfOneModel, RegistryError):
    """Another owner has taken over the claim, or this owner can no longer prove it.

    Attributes:
        model_name: Model name.
        provider: Provider of the model.
    """


class WaitTimedOut(_OfOneModel, RegistryError, TimeoutError):
    """No owner finished the download within the caller's timeout.

    Attributes:
        model_name: Model name.
        provider: Provider of the model.
    """
