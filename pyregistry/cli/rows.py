"""Tables for a terminal in which nothing is lost: what has no room beside the rest goes on in the lines below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

__all__ = ["Block", "Row", "Rows", "below", "fitted"]

_GAP = "  "
_BESIDE = 24  # the least room beside a name that is kept for details
_NAME = 20  # the least room of a name

Block = list[Text]
"""The lines of one row."""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: goes on in the next line where it is too long.
        cells: short, never cut.
        details: each beside the rest of its line where there is room, else below it.
    """

    name: Text
    cells: Sequence[Text]
    details: Sequence[Text] = ()


@dataclass(frozen=True)
class Rows:
    """A table of rows, whose lines are made for one width.

    Attributes:
        heads: of the name, of the cells, of the details.
        right: heads of cells that stand at the right.
        rows: what is in it.
    """

    heads: tuple[str, Sequence[str], str]
    right: frozenset[str]
    rows: Sequence[Row]

    def blocks(self, console: Console, width: int, most: int | None) -> Iterator[Block]:
        """The lines of the head, then those of each row.

        Args:
            console: what they are for.
            width: how long a line may be.
            most: into how many lines a detail goes; ``None``: as many as it needs.
        """
        first, heads, last = self.heads
        widths = [
            max(len(head), *(row.cells[at].cell_len for row in self.rows), 0) for at, head in enumerate(heads)
        ]
        room = width - sum(widths) - len(_GAP) * len(widths)
        natural = max(len(first), *(row.name.cell_len for row in self.rows), 0)
        name = natural if natural + len(_GAP) + _BESIDE <= room else max(min(natural, room), _NAME)

        def line(text: Text, cells: Sequence[Text]) -> Text:
            whole = text.copy()
            whole.pad_right(name - text.cell_len)
            for head, cell, size in zip(heads, cells, widths, strict=True):
                pad = " " * (size - cell.cell_len)
                whole.append(_GAP)
                whole.append_text(Text(pad) + cell if head in self.right else cell + Text(pad))
            return whole

        top = line(Text(first), [Text(head) for head in heads]).append(_GAP + last)
        top.stylize("bold")
        top.truncate(width)
        yield [top]
        for row in self.rows:
            names = list(row.name.wrap(console, name, overflow="fold"))
            block = [line(names[0], row.cells), *names[1:]]
            rest = list(row.details)
            beside = width - block[0].cell_len - len(_GAP)
            if rest and rest[0].cell_len <= beside:
                block[0].append(_GAP).append_text(rest.pop(0))
            for detail in rest:
                block += below(console, detail, width, most)
            yield block


def below(console: Console, detail: Text, width: int, most: int | None) -> Block:
    """The lines of a detail that stands below its row.

    Args:
        console: what they are for.
        detail: the text.
        width: how long a line may be.
        most: into how many lines it goes; ``None``: as many as it needs.
    """
    lines = list(detail.wrap(console, width - len(_GAP), overflow="fold"))
    if most is not None and len(lines) > most:
        lines = lines[:most]
        lines[-1].truncate(width - len(_GAP) - 1)
        lines[-1].rstrip()
        lines[-1].append("…")
    return [Text(_GAP).append_text(each) for each in lines]


def fitted(blocks: Sequence[Block], lines: int) -> list[Block]:
    """As many of these as fit into so many lines: one at least, if need be cut."""
    found: list[Block] = []
    for block in blocks:
        if found and len(block) > lines:
            break
        found.append(block[: max(lines, 1)])
        lines -= len(found[-1])
    return found
