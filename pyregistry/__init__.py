"""A distributed registry of model downloads on Redis: exactly one replica downloads, the others know."""

from __future__ import annotations

from pyregistry._coordination.lease import LossSignal, OwnedClaim
from pyregistry._signals import release_on_signal
from pyregistry.aio import AsyncRegistry, create_async_registry_backend
from pyregistry.config import BackendConfig
from pyregistry.errors import (
    AccessDenied,
    CacheMismatch,
    ClaimLost,
    ConfigurationError,
    DamagedRecord,
    DownloadFailed,
    EmbeddedUnavailable,
    EvictionInProgress,
    InvalidArgument,
    InvalidModelName,
    LocalFault,
    ModelHeld,
    NotNow,
    OutcomeUnknown,
    OutOfMemory,
    RecordRefused,
    RegistryClosed,
    RegistryError,
    RegistryUnavailable,
    SchemaTooNew,
    ServerRefused,
    ServerTooOld,
    StaleCredentials,
    WaitTimedOut,
)
from pyregistry.models import (
    AlreadyExists,
    Claim,
    Claimed,
    EventGap,
    EventKind,
    ModelProvider,
    ModelRecord,
    ModelRef,
    ModelStatus,
    Provider,
    ProviderLike,
    RegistryEvent,
    StatusCounts,
)
from pyregistry.registry import Registry, create_registry_backend
from pyregistry.retry import RetryPolicy
from pyregistry.store import FolderStore

__version__ = "0.1.0"

__all__ = [
    # clients
    "AsyncRegistry",
    "BackendConfig",
    "Registry",
    "create_async_registry_backend",
    "create_registry_backend",
    "release_on_signal",
    # one download per fleet
    "FolderStore",
    "LossSignal",
    "OwnedClaim",
    "RetryPolicy",
    # models
    "AlreadyExists",
    "Claim",
    "Claimed",
    "EventGap",
    "EventKind",
    "ModelProvider",
    "ModelRecord",
    "ModelRef",
    "ModelStatus",
    "Provider",
    "ProviderLike",
    "RegistryEvent",
    "StatusCounts",
    # errors
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
