"""Findings of a check of a registry."""

from __future__ import annotations

from enum import Enum

import msgspec

from pyregistry.models import ModelRef

__all__ = ["EXAMPLES", "Finding", "Level"]

EXAMPLES = 10
"""Maximum number of models that a finding names."""


class Level(str, Enum):
    """Severity of a finding. WARNING and ERROR require an action."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    def __str__(self) -> str:
        return self.value


class Finding(msgspec.Struct, frozen=True):
    """The result of one check.

    Attributes:
        level: Severity.
        check: Name of the check, in one word.
        message: The result.
        advice: The required action. Defaults to empty: none.
        models: The affected models, at most the first ten. Defaults to none.
    """

    level: Level
    check: str
    message: str
    advice: str = ""
    models: tuple[ModelRef, ...] = ()

    @property
    def is_wrong(self) -> bool:
        """Whether the finding requires an action."""
        return self.level in (Level.WARNING, Level.ERROR)
