"""A download that the test controls, and a claim of its model."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

from pyregistry import Claimed, OwnedClaim, Registry, RetryPolicy
from tests.support.faults.proxy import until

MODEL: Final = ("org/model", "HuggingFace")
MOST_BATCHES = RetryPolicy(first_delay=0.0)


class Downloads:
    """A download that counts how often it was begun, and waits for the test where it is told to."""

    def __init__(self) -> None:
        self.claims: list[OwnedClaim] = []
        self.begun = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.error: BaseException | None = None

    def __call__(self, claim: OwnedClaim, folder: Path | None = None) -> None:
        self.claims.append(claim)
        if folder is not None:
            (folder / "weights").write_bytes(b"x" * 14)
        self.begun.set()
        until(lambda: self.go.is_set() or claim.lost.is_set(), "the test lets it go")
        if self.error is not None:
            raise self.error


def claimed(registry: Registry, **options: Any) -> Any:
    result = registry.try_claim_for_download(*MODEL, **{"lease": 60.0, **options})
    assert isinstance(result, Claimed)
    return result.claim


def listens(other: Registry) -> bool:
    """Whether anybody hears what happens in the namespace."""
    return bool(other._backend.listeners())
