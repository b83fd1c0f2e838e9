"""What a look at a registry finds."""

from __future__ import annotations

from enum import Enum

import msgspec

from pyregistry.models import ModelRef

__all__ = ["EXAMPLES", "Finding", "Level"]

EXAMPLES = 10
"""How many models a finding names at most."""


class Level(str, Enum):
    """How bad it is. WARNING and ERROR ask for something to be done."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    def __str__(self) -> str:
        return self.value


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        level: how bad it is.
        check: what was looked at, in a word.
        message: what was found.
        advice: what to do; empty where nothing is to be done.
        models: whom it is about; the first ten, where there are more.
    """

    level: Level
    check: str
    message: str
    advice: str = ""
    models: tuple[ModelRef, ...] = ()

    @property
    def is_wrong(self) -> bool:
        """Whether something should be done."""
        return self.level in (Level.WARNING, Level.ERROR)
