"""Validated options of `ensure` and `download`."""

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
"""Default seconds within which the files of a finished download must become visible."""

SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds within which downloads must end when their client shuts down."""

OnUnavailable = Literal["raise", "verify"]
OnUnproven = Literal["cancel", "continue"]

DownloadFunction: TypeAlias = "Callable[[OwnedClaim], object]"
"""Function that `ensure` runs without a store; plain, or async for an `AsyncRegistry`."""

StagedDownloadFunction: TypeAlias = "Callable[[OwnedClaim, Path], object]"
"""Function that `ensure` runs with a store. It writes into the given folder."""


class EnsureOptions(TypedDict, total=False):
    """Options of `Registry.ensure` beyond the model and its files. `Registry.ensure` documents them."""

    lease: float
    owner: str | None
    timeout: float | None
    stall_timeout: float | None
    visibility_timeout: float
    on_unavailable: OnUnavailable
    on_unproven: OnUnproven
    touch: bool


class ModelOptions(EnsureOptions, total=False):
    """All keyword arguments of `Registry.ensure` except the store, which determines the type of the function."""

    revision: str | None
    subset: str | None
    verify: Callable[[ModelRecord], Any] | None
    retry: RetryPolicy | None
    expected_bytes: int | None


@dataclass(frozen=True)
class EnsureRequest:
    """The validated arguments of one call for one model. `AsyncRegistry.ensure` documents them.

    Attributes:
        ready: Function, plain or async, that is called before a claim. It raises `LocalFault` if this machine can't
            download.

    Raises:
        InvalidArgument: An argument is invalid.
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
        """Whether an owner stops when it can't prove its lease."""
        return self.on_unproven == "cancel"
