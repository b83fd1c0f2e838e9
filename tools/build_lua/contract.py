"""Read the contract of a script from its header."""

from __future__ import annotations

import re
from dataclasses import dataclass

TYPES = ("str", "word", "int", "int?", "flag")
"""The types of arguments; ``lua/README.md`` describes them."""

_LINE = re.compile(r"^-- (Template|Keys|Args|Item keys|Item args|Reply|Errors|Re-send|Event|Row): ?(.*)$")
_REQUIRED = {"Template", "Keys", "Args", "Reply", "Errors", "Re-send", "Event"}


@dataclass(frozen=True, slots=True)
class Arg:
    """The name and the type of an argument."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the state table."""

    state: str
    becomes: str
    reply: str


@dataclass(frozen=True, slots=True)
class Contract:
    """The header of one version of one script.

    Attributes:
        script: name and version, as in ``claim.v1``.
        shebang: the first line, with the flags.
        comment: the header as it is written, without the first line.
        template: the name of the template.
        keys: the shared keys, in order.
        args: the shared arguments, in order.
        item_keys: the keys of each item.
        item_args: the arguments of each item.
        rows: the rows of the state table.
        event: the kinds of events that the script publishes.
    """

    script: str
    shebang: str
    comment: str
    template: str
    keys: tuple[str, ...]
    args: tuple[Arg, ...]
    item_keys: tuple[str, ...]
    item_args: tuple[Arg, ...]
    rows: tuple[Row, ...]
    event: str

    @property
    def writes(self) -> bool:
        """Whether the script may write."""
        return "no-writes" not in self.shebang


def read_contract(script: str, source: str) -> tuple[Contract, str]:
    """Return the contract of a script, and the text after its header.

    Raises:
        ValueError: the header does not fit.
    """
    shebang, _, rest = source.partition("\n")
    if not re.fullmatch(r"#!lua(?: flags=[a-z,-]+)?", shebang):
        raise ValueError(f"{script}: the first line is not `#!lua` with flags")
    comment = re.match(r"(?:--.*\n)*", rest)
    assert comment is not None
    fields: dict[str, str] = {}
    rows = []
    for line in comment[0].splitlines():
        found = _LINE.match(line)
        if not found:
            continue
        field, text = found.groups()
        if field == "Row":
            state, becomes, reply = text.split(" | ")
            rows.append(Row(state, becomes, reply))
        elif field in fields:
            raise ValueError(f"{script}: {field} is given twice")
        else:
            fields[field] = text
    if missing := _REQUIRED - fields.keys():
        raise ValueError(f"{script}: the header lacks {', '.join(sorted(missing))}")
    contract = Contract(
        script=script,
        shebang=shebang,
        comment=comment[0],
        template=fields["Template"],
        keys=_names(fields["Keys"]),
        args=_args(fields["Args"], script),
        item_keys=_names(fields.get("Item keys", "")),
        item_args=_args(fields.get("Item args", ""), script),
        rows=tuple(rows),
        event=fields["Event"],
    )
    _check_names(contract)
    return contract, rest[comment.end() :]


def _check_names(contract: Contract) -> None:
    names = [*contract.keys, *contract.item_keys]
    names += [arg.name for arg in (*contract.args, *contract.item_args)]
    if wrong := [name for name in names if not name.isidentifier() or names.count(name) > 1]:
        raise ValueError(f"{contract.script}: {', '.join(wrong)}: not a name, or a name twice")
    if contract.item_args and not contract.item_keys:
        raise ValueError(f"{contract.script}: arguments of an item, and no key of an item")


def _args(words: str, script: str) -> tuple[Arg, ...]:
    args = []
    for part in _names(words):
        name, _, kind = part.partition(":")
        if kind not in TYPES or not name.isidentifier():
            raise ValueError(f"{script}: {part!r} is not name:type with a type of {', '.join(TYPES)}")
        args.append(Arg(name, kind))
    return tuple(args)


def _names(words: str) -> tuple[str, ...]:
    return () if words in ("", "none") else tuple(part.strip() for part in words.split(","))
