"""Take a claim or a record out of a result, and wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pyregistry import AlreadyExists, Claim, Claimed, ModelProvider, ModelRecord, Registry

HF = ModelProvider.HUGGING_FACE
SHORT = 0.15  # seconds: a lease that a test waits for


def claimed(result: Claimed | AlreadyExists) -> Claim:
    assert isinstance(result, Claimed), result
    return result.claim


def eventually(condition: Callable[[], object], limit: float = 10.0) -> None:
    """Wait until it holds; fail if it does not within the limit."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def record_of(registry: Registry, name: str, **which: Any) -> ModelRecord:
    record = registry.get_model_record(name, **which)
    assert record is not None
    return record
