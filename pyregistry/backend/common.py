"""Types that the contracts of both clients share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

from pyregistry.backend.values import ModelState
from pyregistry.models import ModelRef, RegistryEvent

__all__ = ["BackendEvent", "Epoch", "KnownAnswers", "Verb"]


class BackendEvent(Protocol):
    """One change of one model. Events have the order in which the registry made the changes."""

    @property
    def entry(self) -> str:
        """The entry of the model, as in `ModelKey.entry`."""

    @property
    def ref(self) -> ModelRef:
        """The model."""

    def state(self) -> ModelState:
        """Return the state of the model after the event, as of the time of the change.

        The state includes the whole record if the event is a use of the model: all but RENEWED, RELEASED and DELETED.
        """

    def event(self) -> RegistryEvent:
        """Return the event in its public form. The event of a deletion describes the deleted record."""


class Epoch(Protocol):
    """A span of time in which known answers are valid."""

    until: float
    """End of the span, by `_core.clock.now`. Until then the answers are valid without `AsyncAnswerCache.validate`."""


class KnownAnswers(Protocol):
    """Decoded answers keyed by question, and their epoch. A hit is one dict lookup, without a call."""

    @property
    def answers(self) -> Mapping[Hashable, object]:
        """The answers of `AsyncAnswerCache.is_downloaded`."""

    @property
    def epoch(self) -> Epoch:
        """The current epoch. Read it before the answer, so that the answer is at least as new as the epoch."""


# Any, because a verb is called with a backend of either kind.
Verb = Callable[[Any], Any]
"""A verb with its arguments bound. It takes the backend to run on."""
