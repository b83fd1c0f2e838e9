"""A distributed registry of model downloads on Redis: exactly one replica downloads, the others know.

The modules are imported when a public name is used first.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyregistry._runtime import greenlets as _greenlets  # noqa: F401  # remembers what is patched when the package is imported

if TYPE_CHECKING:
    from pyregistry._signals import release_on_signal
    from pyregistry.aio import AsyncRegistry, create_async_registry_backend
    from pyregistry.claims import LossSignal, Lost, OwnedClaim
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
    "Lost",
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

# Where the public names are, the modules that import least first.
_MODULES = ("models", "errors", "retry", "config", "store", "claims", "_signals", "registry", "aio")


def __getattr__(name: str) -> Any:
    """Import the module of a public name, or a public module."""
    if name == "policy" or (name in _MODULES and not name.startswith("_")):
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        for module in _MODULES:
            names = vars(import_module(f"{__name__}.{module}"))
            if name in names:
                return globals().setdefault(name, names[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
