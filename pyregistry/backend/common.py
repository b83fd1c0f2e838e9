"""What the contracts of both clients have in common."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

from pyregistry.backend.values import ModelState
from pyregistry.models import ModelRef, RegistryEvent

__all__ = ["BackendEvent", "Epoch", "KnownAnswers", "Verb"]


class BackendEvent(Protocol):
    """One change of one model, in the order in which the registry made it."""

    @property
    def entry(self) -> str:
        """The model (`ModelKey.entry`)."""

    @property
    def ref(self) -> ModelRef:
        """The model."""

    def state(self) -> ModelState:
        """The state of the model after the event, as of when it was made.

        It has the whole record where the event is a use of the model: all but RENEWED, RELEASED and DELETED.
        """

    def event(self) -> RegistryEvent:
        """The event in its public form. Of a deleted record it tells what was there."""


class Epoch(Protocol):
    """A span of time for which known answers are valid."""

    until: float
    """Until when (`_core.clock.now`) they may be given without `AsyncAnswerCache.validate`."""


class KnownAnswers(Protocol):
    """Decoded answers by the question, and their epoch. A hit is one dict lookup, without a call."""

    @property
    def answers(self) -> Mapping[Hashable, object]:
        """The answers of `AsyncAnswerCache.is_downloaded`."""

    @property
    def epoch(self) -> Epoch:
        """The current epoch. Read it before the answer: the answer then is as new as what vouches for it."""


# Any: what a verb is called on is the backend of either kind.
Verb = Callable[[Any], Any]
"""A verb with its arguments, which is given the backend to run on."""
