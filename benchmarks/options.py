"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How much is measured.

    Attributes:
        rounds: how often each contender takes its turn.
        quick: a twentieth of the calls, and fewer sizes: to see that it works, not to quote.
    """

    rounds: int = 7
    quick: bool = False

    @property
    def many_rounds(self) -> int:
        """Twice as many: where what is measured is nearer to its aim than one turn is to the next."""
        return self.rounds if self.quick else 2 * self.rounds + 1

    @property
    def tasks(self) -> tuple[int, ...]:
        """How many tasks ask at once."""
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
