"""How much is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measure import Figure


@dataclass(frozen=True)
class Rounds:
    """How many rounds a job takes.

    Attributes:
        least: so many in any case.
        most: and no more than so many,
        undecided: as long as this says of the job's figures that a ratio is too close to its aim.
    """

    least: int
    most: int
    undecided: Callable[[Sequence[Figure]], bool]

    def go_on(self, done: int, figures: Sequence[Figure]) -> bool:
        """Whether one more is due after so many."""
        return done < self.least or (done < self.most and self.undecided(figures))


@dataclass(frozen=True)
class Options:
    """How much is measured.

    Attributes:
        least: how often each contender takes its turn.
        undecided: whether figures are too close to an aim for so few.
        quick: a twentieth of the calls, and fewer sizes: to see that it works, not to quote.
    """

    least: int = 5
    undecided: Callable[[Sequence[Figure]], bool] = lambda _: False
    quick: bool = False

    @property
    def rounds(self) -> Rounds:
        """Three times as many where a ratio is close to its aim."""
        return Rounds(self.least, self.least if self.quick else 3 * self.least, self.undecided)

    @property
    def few_rounds(self) -> Rounds:
        """Where nothing is held against an aim."""
        return Rounds(min(self.least, 3), min(self.least, 3), self.undecided)

    @property
    def tasks(self) -> tuple[int, ...]:
        """How many tasks ask at once."""
        return (1, 500) if self.quick else (1, 16, 50, 100, 500)

    @property
    def few_and_many_tasks(self) -> tuple[int, ...]:
        """The same where what lies between tells nothing more."""
        return (1, 500) if self.quick else (1, 50, 500)

    @property
    def processes(self) -> tuple[int, ...]:
        """How many processes contend."""
        return (1, 2) if self.quick else (1, 2, 4)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many records there are."""
        return (1_000, 10_000) if self.quick else (1_000, 10_000, 100_000, 1_000_000)

    def calls(self, full: int) -> int:
        """How many calls are made where a full run makes so many."""
        return max(full // 20, 1) if self.quick else full
