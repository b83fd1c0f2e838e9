"""What the demo and its replicas say to each other, one JSON object a line."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from pyregistry.models import Provider


class Model(msgspec.Struct, frozen=True):
    """A model of the demo.

    Attributes:
        provider: where it comes from.
        name: its name there.
    """

    provider: Provider
    name: str

    @property
    def key(self) -> str:
        """Its name as a part of a path."""
        return f"{self.provider}--{self.name.replace('/', '--')}"


class File(msgspec.Struct, frozen=True):
    """What a whole file is: its size in bytes, and the SHA-256 of its content in hexadecimal."""

    size: int
    sha256: str


class Job(msgspec.Struct, frozen=True):
    """What a replica is told first.

    Attributes:
        number: which replica it is, from 1.
        url: the registry's server.
        namespace: the registry there.
        files_url: the file server.
        cache: the folder that all replicas share.
        models: what it wants.
        lease: the length of its claims, in seconds.
        ignores_claims: whether it downloads what others own: it breaks the promises, for the tests.
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
    """What a replica is to do next; ``model`` is the one to touch."""

    do: Literal["go", "touch", "end"]
    model: int = 0


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A replica is connected, and waits for its order to go."""


class Won(msgspec.Struct, frozen=True, tag=True):
    """A replica has got the claim of a model (a number: its place in the job)."""

    model: int
    token: int
    attempts: int
    lease_expires_at: datetime
    taken_over: bool = False
    previous_owner: str | None = None
    previous_bytes_done: int | None = None


class Published(msgspec.Struct, frozen=True, tag=True):
    """A replica has downloaded a model, and said so.

    Attributes:
        model: which.
        downloaded: when its download had ended, by the machine's monotonic clock.
    """

    model: int
    downloaded: float


class Verified(msgspec.Struct, frozen=True, tag=True):
    """A replica has found a model DOWNLOADED, and has read the file at its location.

    Attributes:
        model: which.
        found: the file.
        began: when it began to want it, by the machine's monotonic clock.
        had: when it had it.
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
"""What a replica says."""
