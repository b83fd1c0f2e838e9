"""The contract: `AsyncBackend` for the asyncio client, `Backend` for the blocking one. See `protocol_async`."""

from __future__ import annotations

from pyregistry.backend.common import BackendEvent, Epoch, KnownAnswers, Verb
from pyregistry.backend.protocol_async import (
    AsyncAnswerCache,
    AsyncBackend,
    AsyncEventSource,
)
from pyregistry.backend.protocol_sync import AnswerCache, Backend, EventSource

__all__ = [
    "AnswerCache",
    "AsyncAnswerCache",
    "AsyncBackend",
    "AsyncEventSource",
    "Backend",
    "BackendEvent",
    "Epoch",
    "EventSource",
    "KnownAnswers",
    "Verb",
]
