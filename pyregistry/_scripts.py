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

from pyregistry._wire import StoredRecord

BATCH = 64
"""The most items that one script call takes; the prelude refuses more."""

_TYPES = ("str", "word", "int", "int?", "flag")
_HEADER_LINE = re.compile(
    r"^-- (Prelude|Keys|Args|Item keys|Item args|Reply|Errors|Re-send|Event|Row): ?(.*)$"
)
_REQUIRED = {"Prelude", "Keys", "Args", "Reply", "Errors", "Re-send", "Event"}
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
    package = Path(__file__).parent
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


def _bindings(script: str, header: dict[str, str], writes: bool, source: str) -> str:
    """The generated Lua: a local for each key, argument and record position that the source names."""
    keys, item_keys = _names_of(header["Keys"]), _names_of(header.get("Item keys", ""))
    args = _args_of(header["Args"], script)
    item_args = _args_of(header.get("Item args", ""), script)
    names = [*keys, *item_keys, *(arg.name for arg in (*args, *item_args))]
    if wrong := [name for name in names if not name.isidentifier() or names.count(name) > 1]:
        raise ValueError(f"{script}: {', '.join(wrong)}: not a name, or a name twice")
    if item_args and not item_keys:
        raise ValueError(f"{script}: arguments of an item, and no key of an item")
    if unknown := set(re.findall(r"\[([A-Z][A-Z_]*)\]", source)) - _POSITIONS.keys():
        raise ValueError(f"{script}: a record has no {', '.join(sorted(unknown))}")

    def read(arg: Arg, position: str) -> str:
        if arg.type == "str":
            return f"ARGV[{position}]"
        return f"{arg.type.replace('int?', 'int_or_nil')}(ARGV[{position}], '{arg.name}')"

    counts = ", ".join(str(len(names)) for names in (keys, args, item_keys, item_args))
    lines = [
        f"local items = count_items('{script}', {counts})",
        f"local WRITES = {str(writes).lower()}",
    ]
    used = [name for name in _POSITIONS if re.search(rf"\[{name}\]", source)]
    if used:
        lines.append(f"local {', '.join(used)} = {', '.join(str(_POSITIONS[name]) for name in used)}")
        last = max(_POSITIONS[name] for name in used)
        defaults = ("''" if default == "" else str(default) for default in _DEFAULTS[:last])
        lines.append(f"local BLANK = {{{', '.join(defaults)}}}")
    lines += [f"local {key} = KEYS[{at}]" for at, key in enumerate(keys, start=1)]
    lines += [f"local {arg.name} = {read(arg, str(at))}" for at, arg in enumerate(args, start=1)]
    item_names = [*item_keys, *(arg.name for arg in item_args)]
    if item_names:
        lines.append(f"local {', '.join(item_names)}")
        lines.append("local function bind(item)")
        lines.append(f"  local k = {len(keys)} + (item - 1) * {len(item_keys)}")
        lines.append(f"  local a = {len(args)} + (item - 1) * {len(item_args)}")
        lines += [f"  {key} = KEYS[k + {at}]" for at, key in enumerate(item_keys, start=1)]
        lines += [f"  {arg.name} = {read(arg, f'a + {at}')}" for at, arg in enumerate(item_args, start=1)]
        lines.append("end")
    return "\n".join(lines)


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
    bindings = _bindings(script, header, writes, prelude + body)
    front, marker, rest = prelude.partition("\n--@bindings\n")
    if not marker:
        raise ValueError(f"prelude {header['Prelude']}: there is no line --@bindings")
    text = f"{shebang}\n{front}\n{bindings}\n{rest}\n{body}"
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
