"""Reads the Lua scripts: their headers, the prelude in front, the text that Redis runs, and its SHA1.

The header of a script is its contract, and the only place where the positions of keys and arguments are
written: the Lua bindings are generated from it, and `Script.command` counts and orders by it. A script whose
header does not fit fails at import.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pyregistry._redis.protocol.records import StoredRecord

BATCH = 64
"""The most items that one script call takes; the prelude refuses more."""

_TYPES = ("str", "word", "int", "int?", "flag")
_HEADER_LINE = re.compile(
    r"^-- (Prelude|Keys|Args|Item keys|Item args|Reply|Errors|Re-send|Event|Row): ?(.*)$"
)
_SECTIONS = ("clock", "rights", "server", "records", "status", "numbers", "batch")
_REQUIRED = {"Prelude", "Keys", "Args", "Reply", "Errors", "Re-send", "Event"}
_ELEMENT = re.compile(r"\[([A-Z][A-Z_]*)\]")
_FUNCTION = re.compile(
    r"(?m)(?:^--.*\n)*^(?:local )?function (\w+)\([^)]*\)(?: .* end|\n(?:(?: .*)?\n)*^end)\n+"
)
_POSITIONS = {name.upper(): at for at, name in enumerate(StoredRecord.__struct_fields__, start=1)}
_DEFAULTS = StoredRecord.__struct_defaults__


@dataclass(frozen=True, slots=True)
class Arg:
    """An argument: its name, and which text it takes (`_TYPES`)."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the state table."""

    state: str
    becomes: str
    reply: str


@dataclass(frozen=True, slots=True)
class Script:
    """One version of one script."""

    name: str
    version: int
    text: str
    sha: str
    writes: bool
    keys: tuple[str, ...]
    args: tuple[Arg, ...]
    item_keys: tuple[str, ...]
    item_args: tuple[Arg, ...]
    rows: tuple[Row, ...]
    event: str

    def __repr__(self) -> str:
        return f"{self.name}.v{self.version}"


def lua_folder() -> Path:
    """Where the scripts are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[2]
    for folder in (package / "lua", package.parent / "lua"):
        if (folder / "scripts.lock").is_file():
            return folder
    raise FileNotFoundError(f"the Lua scripts of pyregistry are not beside {package}")


def _args_of(words: str, where: str) -> tuple[Arg, ...]:
    args = []
    for part in _names_of(words):
        name, _, kind = part.partition(":")
        if kind not in _TYPES or not name.isidentifier():
            raise ValueError(f"{where}: {part!r} is not name:type with a type of {', '.join(_TYPES)}")
        args.append(Arg(name, kind))
    return tuple(args)


def _names_of(words: str) -> tuple[str, ...]:
    return () if words in ("", "none") else tuple(part.strip() for part in words.split(","))


def _counts(script: str, keys: int, args: int, item_keys: int, item_args: int) -> list[str]:
    """The generated Lua that refuses a call with a wrong number of keys or arguments."""
    if not item_keys:
        wrong, right = f"#KEYS ~= {keys} or #ARGV ~= {args}", f"{keys} keys and {args} arguments"
        lines = []
    else:
        lines = [f"local items = (#KEYS - {keys}) / {item_keys}"]
        wrong = f"items % 1 ~= 0 or items < 1 or items > {BATCH} or #ARGV ~= {args} + items * {item_args}"
        right = f"1 to {BATCH} items"
    why = f"{script} takes {right}, not ' .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments"
    return [*lines, *_refused(wrong, why)]


def _refused(wrong: str, why: str) -> list[str]:
    """The generated Lua that ends a wrong call. In place: a function that few calls need costs each of them."""
    return [f"if {wrong} then", f"  error({{err = 'ERR pyregistry: {why}'}}, 0)", "end"]


def _read(arg: Arg, position: str, last: str = "") -> list[str]:
    """The generated Lua that reads an argument; ``last``: where its last text is, which is not read twice."""
    name, text = arg.name, f"ARGV[{position}]"
    if last:
        parse = [f"{last} = {text}", *_parsed(arg, last)]
        return [f"if {text} ~= {last} then", *(f"  {line}" for line in parse), "end"]
    if arg.type == "str":
        return [f"{name} = {text}"]
    if arg.type == "word":
        return [f"{name} = {text}", *_refused(f"{name} == ''", f"{name} is empty")]
    return _parsed(arg, text)


def _parsed(arg: Arg, text: str) -> list[str]:
    """The generated Lua that makes a number or a boolean of a text."""
    name = arg.name
    if arg.type == "flag":
        return [
            f"{name} = {text} == '1'",
            *_refused(f"not {name} and {text} ~= '0'", f"{name} is neither 0 nor 1"),
        ]
    wrong = f"{name} < 0 or {name} > MAX_INT or {name} % 1 ~= 0"
    wrong = (
        f"{name} and ({wrong}) or not {name} and {text} ~= ''"
        if arg.type == "int?"
        else f"not {name} or {wrong}"
    )
    return [
        f"{name} = tonumber({text})",
        *_refused(wrong, f"{name} is not a whole number of 0 to 2^53 - 1"),
    ]


class _Bound(NamedTuple):
    """Generated Lua: what reads the shared keys and arguments, and what reads those of an item."""

    shared: list[str]
    item: list[str]


def _bindings(script: str, header: dict[str, str]) -> _Bound:
    """The generated Lua: a local for each key and argument."""
    keys, item_keys = _names_of(header["Keys"]), _names_of(header.get("Item keys", ""))
    args = _args_of(header["Args"], script)
    item_args = _args_of(header.get("Item args", ""), script)
    names = [*keys, *item_keys, *(arg.name for arg in (*args, *item_args))]
    if wrong := [name for name in names if not name.isidentifier() or names.count(name) > 1]:
        raise ValueError(f"{script}: {', '.join(wrong)}: not a name, or a name twice")
    if item_args and not item_keys:
        raise ValueError(f"{script}: arguments of an item, and no key of an item")
    shared = _counts(script, len(keys), len(args), len(item_keys), len(item_args))
    shared += [f"local {key} = KEYS[{at}]" for at, key in enumerate(keys, start=1)]
    for at, arg in enumerate(args, start=1):
        shared += [f"local {arg.name}", *_read(arg, str(at))]
    if not item_keys:
        return _Bound(shared, [])
    last = {arg.name: f"last_{arg.name}" for arg in item_args if arg.type not in ("str", "word")}
    shared.append(f"local {', '.join([*item_keys, *(arg.name for arg in item_args), *last.values()])}")
    item = [
        f"{key} = KEYS[{len(keys) - len(item_keys) + at} + item * {len(item_keys)}]"
        for at, key in enumerate(item_keys, start=1)
    ]
    if item_args:
        item.append(f"local a = {len(args)} + (item - 1) * {len(item_args)}")
    for at, arg in enumerate(item_args, start=1):
        item += _read(arg, f"a + {at}", last.get(arg.name, ""))
    return _Bound(shared, item)


def _with_layout(code: str, source: str) -> str:
    """The Lua with what it has to know of a record: where elements are, how many the source names, their defaults."""
    known = max((_POSITIONS[name] for name in _ELEMENT.findall(source)), default=0)
    blank = ", ".join("''" if default == "" else str(default) for default in _DEFAULTS[:known])
    code = re.sub(r"\bBLANK\b", blank, re.sub(r"\bKNOWN\b", str(known), code))
    return _ELEMENT.sub(lambda found: f"[{_POSITIONS[found[1]]}]", code)


def _without_idle(code: str) -> str:
    """The Lua without the functions (and what is said of them) that nothing needs."""
    while True:
        said = re.sub(r"--.*|(?m:^local [\w, ]+$)", "", code)  # no comments, no mere declarations
        idle = [
            found[0]
            for found in _FUNCTION.finditer(code)
            if len(re.findall(rf"\b{found[1]}\b", said)) == 1  # where it is made
        ]
        if not idle:
            return code
        for text in idle:
            code = code.replace(text, "")


def _sections(prelude: str, version: str) -> tuple[str, dict[str, str]]:
    """What comes first, and the sections by their names."""
    front, *parts = re.split(r"(?m)^--@section (\w+)\n\n", prelude)
    if tuple(parts[::2]) != _SECTIONS:
        raise ValueError(f"prelude {version}: its sections are not {', '.join(_SECTIONS)}")
    return front, dict(zip(parts[::2], parts[1::2], strict=True))


def _put(text: str, where: str, **lines: str) -> str:
    """The text with each of these in the place of the line that is named like it."""
    if missing := [name for name in lines if len(re.findall(rf"(?m)^ *--@{name}$", text)) != 1]:
        raise ValueError(f"{where}: not one line --@{missing[0]}")
    return re.sub(rf"(?m)^ *--@({'|'.join(lines)})\n", lambda found: lines[found[1]], text)


def _put_together(script: str, prelude: str, header: dict[str, str], body: str) -> str:
    """The text that runs, but for its first line and the names of elements."""
    front, sections = _sections(prelude, header["Prelude"])
    shared, item = _bindings(script, header)
    sections["item"] = "\n".join([*item, ""])
    early, _, late = body.rpartition("\n--@records\n")
    if re.search(r"(?m)^function judge\(", body):
        early, _, absent = early.partition("\n--@absent\n")
        lines = {name: sections[name] for name in ("item", "clock", "records", "numbers")}
        rest = early + _put(sections["batch"], script, **lines, absent=absent, script=late)
    else:
        said = {name: text for name, text in sections.items() if re.search(rf"(?m)^ *--@{name}$", body)}
        rest = sections["records"] + _put(body, script, **said)
    return _without_idle(_put(front, script, bindings="\n".join([*shared, ""])) + rest)


def compose(name: str, version: int, source: str, preludes: Path) -> Script:
    """A script from its source.

    Raises:
        ValueError: the header does not fit, or the source names what a record does not have.
        FileNotFoundError: there is no such prelude.
    """
    script = f"{name}.v{version}"
    shebang, _, body = source.partition("\n")
    if not re.fullmatch(r"#!lua(?: flags=[a-z,-]+)?", shebang):
        raise ValueError(f"{script}: the first line is not `#!lua` with flags")
    writes = "no-writes" not in shebang
    header: dict[str, str] = {}
    rows = []
    for line in body.splitlines():
        if not line.startswith("--"):
            break
        found = _HEADER_LINE.match(line)
        if not found:
            continue
        field, text = found.groups()
        if field == "Row":
            state, becomes, reply = text.split(" | ")
            rows.append(Row(state, becomes, reply))
        elif field in header:
            raise ValueError(f"{script}: {field} is said twice")
        else:
            header[field] = text
    if missing := _REQUIRED - header.keys():
        raise ValueError(f"{script}: the header lacks {', '.join(sorted(missing))}")
    prelude = (preludes / f"prelude.v{int(header['Prelude'])}.lua").read_text("utf-8")
    if unknown := set(_ELEMENT.findall(prelude + body)) - _POSITIONS.keys():
        raise ValueError(f"{script}: a record has no {', '.join(sorted(unknown))}")
    code = _put_together(script, prelude, header, body)
    text = f"{shebang}\n{_with_layout(code, prelude + body)}"
    return Script(
        name=name,
        version=version,
        text=text,
        sha=hashlib.sha1(text.encode()).hexdigest(),
        writes=writes,
        keys=_names_of(header["Keys"]),
        args=_args_of(header["Args"], script),
        item_keys=_names_of(header.get("Item keys", "")),
        item_args=_args_of(header.get("Item args", ""), script),
        rows=tuple(rows),
        event=header["Event"],
    )


@cache
def load(name: str, version: int) -> Script:
    """One version of a script, from the folder of scripts."""
    folder = lua_folder()
    return compose(name, version, (folder / f"{name}.v{version}.lua").read_text("utf-8"), folder)


def lock_lines(scripts: Sequence[Script]) -> str:
    """What ``scripts.lock`` says of these scripts: name, version and SHA1 of the composed text."""
    return "".join(
        f"{script.name} {script.version} {script.sha}\n"
        for script in sorted(scripts, key=lambda script: (script.name, script.version))
    )
