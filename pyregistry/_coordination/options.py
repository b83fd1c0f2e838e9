"""What a caller of `ensure` or `download` wants, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict, get_args

from pyregistry._core import validation as checks
from pyregistry._core.model_key import ModelKey
from pyregistry.errors import InvalidArgument
from pyregistry.retry import RetryPolicy

if TYPE_CHECKING:
    from pathlib import Path

    from pyregistry._coordination.lease import OwnedClaim
    from pyregistry.models import ModelRecord
    from pyregistry.stores.folder import FolderStore

VISIBILITY_TIMEOUT: Final = 60.0
"""Seconds in which what was finished may still come to be seen, where nobody says how long."""

SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds that the downloads of a client which shuts down have to end."""

OnUnavailable = Literal["raise", "verify"]
OnUnproven = Literal["cancel", "continue"]

DownloadFunction: TypeAlias = "Callable[[OwnedClaim], object]"
"""What `ensure` runs without a store; plain, or async for an `AsyncRegistry`."""

StagedDownloadFunction: TypeAlias = "Callable[[OwnedClaim, Path], object]"
"""What `ensure` runs with a store: it writes into the folder."""


class EnsureOptions(TypedDict, total=False):
    """What `Registry.ensure` takes beyond the model and its files, and means there."""

    lease: float
    owner: str | None
    timeout: float | None
    stall_timeout: float | None
    visibility_timeout: float
    on_unavailable: OnUnavailable
    on_unproven: OnUnproven
    touch: bool


class ModelOptions(EnsureOptions, total=False):
    """All that `Registry.ensure` takes by name but the store, on which the function depends."""

    revision: str | None
    subset: str | None
    verify: Callable[[ModelRecord], Any] | None
    retry: RetryPolicy | None
    expected_bytes: int | None


@dataclass(frozen=True)
class EnsureRequest:
    """One model, and how to come to it. The meaning of each is told at `AsyncRegistry.ensure`.

    `ready` (plain or async) is called before a claim is asked for; it raises `LocalFault` where this machine can't
    download.
    """

    target: ModelKey
    lease: float
    owner: str | None
    expected_bytes: int | None
    retry: RetryPolicy | None
    verify: Callable[..., Any] | None
    store: FolderStore | None
    visibility_timeout: float
    timeout: float | None
    stall_timeout: float | None
    on_unavailable: OnUnavailable
    on_unproven: OnUnproven
    touch: bool
    ready: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        if self.lease is None:
            raise InvalidArgument("lease", "must be a number of seconds: a claim for ever can't be replaced")
        checks.microseconds("lease", self.lease)
        checks.microseconds("visibility_timeout", self.visibility_timeout, zero=True)
        if self.timeout is not None:
            checks.microseconds("timeout", self.timeout, zero=True)
        if self.stall_timeout is not None:
            checks.microseconds("stall_timeout", self.stall_timeout)
        if self.retry is not None and not isinstance(self.retry, RetryPolicy):
            raise InvalidArgument("retry", f"must be a RetryPolicy, not {type(self.retry).__name__}")
        if not isinstance(self.touch, bool):
            raise InvalidArgument("touch", f"must be True or False, not {self.touch!r}")
        for name, words in (("on_unavailable", OnUnavailable), ("on_unproven", OnUnproven)):
            if getattr(self, name) not in get_args(words):
                raise InvalidArgument(name, f"must be one of {', '.join(get_args(words))}")
        if self.on_unavailable == "verify" and self.verify is None and self.store is None:
            raise InvalidArgument("on_unavailable", "'verify' needs verify= or store=")

    @property
    def bound(self) -> bool:
        """Whether an owner stops that can't prove its lease."""
        return self.on_unproven == "cancel"
