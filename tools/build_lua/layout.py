"""Read the layout of a record, and put its positions in the place of names in Lua."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_ELEMENT = re.compile(r"\[([A-Z][A-Z_]*)\]")


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a record: its name, and its value where it is not stored."""

    name: str
    default: str | int


@dataclass(frozen=True, slots=True)
class Layout:
    """The elements of a record, in order."""

    elements: tuple[Element, ...]

    def names_in(self, code: str) -> set[str]:
        """Return the names of elements in a Lua text."""
        return {name.lower() for name in _ELEMENT.findall(code)}

    def applied(self, code: str, script: str, source: str) -> str:
        """Return the Lua with positions for names, and with defaults for ``BLANK``.

        ``KNOWN`` is the largest position that the source names: elements after it are not known to the script, so a
        new element changes no text that does not name it.

        Raises:
            ValueError: the source names an element that a record does not have.
        """
        positions = {element.name: at for at, element in enumerate(self.elements, start=1)}
        if unknown := self.names_in(source) - positions.keys():
            raise ValueError(f"{script}: a record has no {', '.join(sorted(unknown)).upper()}")
        known = max((positions[name] for name in self.names_in(source)), default=0)
        blank = ", ".join("''" if each.default == "" else str(each.default) for each in self.elements[:known])
        code = _ELEMENT.sub(lambda found: f"[--[[{found[1]}]] {positions[found[1].lower()]}]", code)
        return re.sub(r"\bBLANK\b", blank, re.sub(r"\bKNOWN\b", str(known), code))


def read_layout(path: Path) -> Layout:
    """Read ``record.toml``.

    Raises:
        ValueError: a name twice, no name, or a default that is neither ``""`` nor 0.
    """
    with path.open("rb") as file:
        raw: dict[str, Any] = tomllib.load(file)
    elements = tuple(Element(each["name"], each["default"]) for each in raw["element"])
    names = [element.name for element in elements]
    for element in elements:
        if not re.fullmatch(r"[a-z][a-z_]*", element.name) or names.count(element.name) > 1:
            raise ValueError(f"{path.name}: {element.name!r} is not a name, or a name twice")
        if isinstance(element.default, bool) or element.default not in ("", 0):
            raise ValueError(f'{path.name}: the default of {element.name} is neither "" nor 0')
    return Layout(elements)


def differences(layout: Layout, names: tuple[str, ...], defaults: tuple[Any, ...]) -> list[str]:
    """Return in which elements a Struct of Python differs from the layout."""
    ours = [(element.name, element.default) for element in layout.elements]
    theirs = list(zip(names, defaults, strict=True))
    return [
        f"element {at + 1}: {ours[at] if at < len(ours) else 'none'} in record.toml, "
        f"{theirs[at] if at < len(theirs) else 'none'} in Python"
        for at in range(max(len(ours), len(theirs)))
        if ours[at : at + 1] != theirs[at : at + 1]
    ]
