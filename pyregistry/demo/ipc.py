"""Messages between the demo and its replicas, one JSON object a line."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from pyregistry.models import Provider


class Model(msgspec.Struct, frozen=True):
    """A model of the demo.

    Attributes:
        provider: Its provider.
        name: Its name at the provider.
    """

    provider: Provider
    name: str

    @property
    def key(self) -> str:
        """Provider and name as one part of a path."""
        return f"{self.provider}--{self.name.replace('/', '--')}"


class File(msgspec.Struct, frozen=True):
    """A complete file: its size in bytes, and the SHA-256 of its content in hexadecimal."""

    size: int
    sha256: str


class Job(msgspec.Struct, frozen=True):
    """The first message to a replica.

    Attributes:
        number: Number of the replica, from 1.
        url: URL of the registry's server.
        namespace: Namespace of the registry.
        files_url: Base URL of the file server.
        cache: Folder that all replicas share.
        models: The models that it wants.
        lease: Length of its leases, in seconds.
        ignores_claims: Whether it also downloads models that others own, which breaks promises. For tests. Defaults to
            False.
    """

    number: int
    url: str
    namespace: str
    files_url: str
    cache: str
    models: list[Model]
    lease: float
    ignores_claims: bool = False


class Order(msgspec.Struct, frozen=True):
    """The next action of a replica. ``model`` is the number of the model to touch; defaults to 0."""

    do: Literal["go", "touch", "end"]
    model: int = 0


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A replica is connected and waits for the order "go"."""


class Won(msgspec.Struct, frozen=True, tag=True):
    """A replica has won the claim of a model. ``model`` is the model's index in the job."""

    model: int
    token: int
    attempts: int
    lease_expires_at: datetime
    taken_over: bool = False
    previous_owner: str | None = None
    previous_bytes_done: int | None = None


class Published(msgspec.Struct, frozen=True, tag=True):
    """A replica has downloaded and published a model.

    Attributes:
        model: Number of the model.
        downloaded: End of its download, in seconds of the machine's monotonic clock.
    """

    model: int
    downloaded: float


class Verified(msgspec.Struct, frozen=True, tag=True):
    """A replica has found a model DOWNLOADED, and has read the file at its location.

    Attributes:
        model: Number of the model.
        found: The file.
        began: Start of its `ensure` call, in seconds of the machine's monotonic clock.
        had: End of that call, by the same clock.
    """

    model: int
    found: File
    began: float = 0.0
    had: float = 0.0


class Complete(msgspec.Struct, frozen=True, tag=True):
    """A replica has verified all models."""


class Touched(msgspec.Struct, frozen=True, tag=True):
    """A replica has touched a model."""

    model: int


Report = Ready | Won | Published | Verified | Complete | Touched
"""A message from a replica."""
