"""Tables for a terminal. Names and details that do not fit beside the cells continue in the lines below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

__all__ = ["Block", "Row", "Rows", "below", "fitted"]

_GAP = "  "
_BESIDE = 24  # minimum width of details beside a row, in cells
_NAME = 20  # minimum width of a name, in cells

Block = list[Text]
"""The lines of one row."""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: Folds into the next lines if it is too long.
        cells: Short texts; never truncated.
        details: The first goes beside the cells if it fits there. All others go below the row. Defaults to none.
    """

    name: Text
    cells: Sequence[Text]
    details: Sequence[Text] = ()


@dataclass(frozen=True)
class Rows:
    """A table of rows, laid out for a given width.

    Attributes:
        heads: Column heads: of the name, of the cells, of the details.
        right: Heads of the right-aligned cells.
        rows: The rows.
    """

    heads: tuple[str, Sequence[str], str]
    right: frozenset[str]
    rows: Sequence[Row]

    def blocks(self, console: Console, width: int, most: int | None) -> Iterator[Block]:
        """Yield the lines of the head, then those of each row.

        Args:
            console: The console that wraps the text.
            width: Maximum length of a line, in cells.
            most: Maximum lines of one detail. None: no limit.
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
    """Return the lines of a detail below its row.

    Args:
        console: The console that wraps the text.
        detail: The text.
        width: Maximum length of a line, in cells.
        most: Maximum number of lines; an ellipsis marks the cut. None: no limit.
    """
    lines = list(detail.wrap(console, width - len(_GAP), overflow="fold"))
    if most is not None and len(lines) > most:
        lines = lines[:most]
        lines[-1].truncate(width - len(_GAP) - 1)
        lines[-1].rstrip()
        lines[-1].append("…")
    return [Text(_GAP).append_text(each) for each in lines]


def fitted(blocks: Sequence[Block], lines: int) -> list[Block]:
    """Return the first blocks that fit into `lines` lines. The first block is always kept, cut to fit if necessary."""
    found: list[Block] = []
    for block in blocks:
        if found and len(block) > lines:
            break
        found.append(block[: max(lines, 1)])
        lines -= len(found[-1])
    return found
