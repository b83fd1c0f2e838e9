"""What a scenario is, and what it runs on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

from pyregistry._core.model_key import ModelKey
from pyregistry.backend.protocol_sync import Backend, EventSource

__all__ = ["Scenario", "Context", "Subject", "Unsupported", "scenario", "scenarios_of"]

T = TypeVar("T")


class Unsupported(Exception):
    """The subject can't bring about a state that the scenario needs."""


@dataclass(frozen=True)
class Subject:
    """The backend that is examined.

    Attributes:
        make: makes a new client with this owner. All clients are of one registry, which is empty at first. The scenario
            connects and closes them.
        hold: holds the files of a model for so many seconds. Defaults to not supported.
        evict: makes a DOWNLOADED record EVICTING, for so many seconds. Defaults to not supported.
        damage: makes a record unreadable. Defaults to not supported.
    """

    make: Callable[[str], Backend]
    hold: Callable[[ModelKey, float], object] | None = None
    evict: Callable[[ModelKey, float], object] | None = None
    damage: Callable[[ModelKey], object] | None = None


class Context:
    """What one run of a scenario has: clients of the subject, which are closed when it ends."""

    def __init__(self, subject: Subject, stack: ExitStack) -> None:
        self._subject = subject
        self._stack = stack

    def client(self, owner: str = "one") -> Backend:
        """A new connected client."""
        backend = self._subject.make(owner)
        self._stack.callback(backend.close)
        backend.connect()
        return backend

    def subscribe(self, backend: Backend) -> EventSource:
        """An open subscription."""
        source = backend.events()
        self._stack.callback(source.close)
        source.open()
        return source

    def hold(self, key: ModelKey, seconds: float) -> None:
        """Hold a model's files."""
        self._needed(self._subject.hold)(key, seconds)

    def evict(self, key: ModelKey, seconds: float) -> None:
        """Begin an eviction."""
        self._needed(self._subject.evict)(key, seconds)

    def damage(self, key: ModelKey) -> None:
        """Make a record unreadable."""
        self._needed(self._subject.damage)(key)

    def _needed(self, way: T | None) -> T:
        if way is None:
            raise Unsupported("the subject does not say how")
        return way


@dataclass(frozen=True)
class Scenario:
    """One property of the contract, and how to see that it holds.

    Attributes:
        name: names it.
        text: the property, in one sentence.
        run: asserts it.
    """

    name: str
    text: str
    run: Callable[[Context], None]

    def __call__(self, subject: Subject) -> None:
        """Run it on an empty registry.

        Raises:
            AssertionError: the property does not hold.
            Unsupported: the subject can't bring about what it needs.
        """
        try:
            with ExitStack() as stack:
                self.run(Context(subject, stack))
        except AssertionError as error:
            # Outside of pytest a plain `assert` has no text.
            raise AssertionError(f"{self.name}: {self.text}\n{error}") from error

    def __str__(self) -> str:
        return self.name


def scenario(run: Callable[[Context], None]) -> Scenario:
    """Make a scenario of a function; its docstring is the property."""
    return Scenario(run.__name__, " ".join((inspect.getdoc(run) or "").split()), run)


def scenarios_of(*modules: ModuleType) -> tuple[Scenario, ...]:
    """The scenarios of some modules, in the order in which they stand there."""
    return tuple(each for module in modules for each in vars(module).values() if isinstance(each, Scenario))
