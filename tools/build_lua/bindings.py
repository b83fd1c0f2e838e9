"""Generate the Lua that checks the numbers of keys and arguments, and binds a local to each."""

from __future__ import annotations

from typing import NamedTuple

from tools.build_lua.contract import Arg, Contract

BATCH = 64
"""The largest number of items of a call; `pyregistry` has the same constant."""


class Bindings(NamedTuple):
    """Generated Lua: what binds the shared keys and arguments, and what binds those of an item."""

    shared: str
    item: str


def bindings(contract: Contract) -> Bindings:
    """Generate the bindings of a script."""
    shared = _check_counts(contract)
    shared += [f"local {key} = KEYS[{at}]" for at, key in enumerate(contract.keys, start=1)]
    for at, arg in enumerate(contract.args, start=1):
        first, *more = _bind(arg, f"ARGV[{at}]")
        shared += [f"local {first}", *more]
    if not contract.item_keys:
        return Bindings(_lines(shared), "")
    # The last text of an argument is kept: items often have the same, and then it is not parsed again.
    last = {arg.name: f"last_{arg.name}" for arg in contract.item_args if arg.type not in ("str", "word")}
    for names in (contract.item_keys, [arg.name for arg in contract.item_args], list(last.values())):
        if names:
            shared.append(f"local {', '.join(names)}")
    before, each = len(contract.keys), len(contract.item_keys)
    position = f"item * {each}" if each > 1 else "item"
    item = []
    for at, key in enumerate(contract.item_keys, start=1):
        offset = before - each + at
        item.append(f"{key} = KEYS[{f'{offset} + ' if offset else ''}{position}]")
    if contract.item_args:
        item.append(f"local a = {len(contract.args)} + (item - 1) * {len(contract.item_args)}")
    for at, arg in enumerate(contract.item_args, start=1):
        text = f"ARGV[a + {at}]"
        if arg.name in last:
            parse = [f"{last[arg.name]} = {text}", *_parse(arg, last[arg.name])]
            item += [f"if {text} ~= {last[arg.name]} then", *(f"  {line}" for line in parse), "end"]
        else:
            item += _bind(arg, text)
    return Bindings(_lines(shared), _lines(item))


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _check_counts(contract: Contract) -> list[str]:
    """Generate what refuses a wrong number of keys or arguments."""
    keys, args = len(contract.keys), len(contract.args)
    if not contract.item_keys:
        wrong, right = f"#KEYS ~= {keys} or #ARGV ~= {args}", f"{keys} keys and {args} arguments"
        lines = []
    else:
        each = len(contract.item_keys)
        lines = [f"local items = (#KEYS - {keys}) / {each}" if each > 1 else f"local items = #KEYS - {keys}"]
        counted = f"{args} + items * {len(contract.item_args)}" if contract.item_args else str(args)
        whole = "items % 1 ~= 0 or " if each > 1 else ""
        wrong = f"{whole}items < 1 or items > {BATCH} or #ARGV ~= {counted}"
        right = f"1 to {BATCH} items"
    return [
        *lines,
        f"if {wrong} then",
        f"  error({{err = 'ERR pyregistry: {contract.script} takes {right}, not '",
        "    .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments'}, 0)",
        "end",
    ]


def _refuse(wrong: str, why: str) -> list[str]:
    """Generate what ends a wrong call, in place: a call would pay for creating a function even if it is right."""
    return [f"if {wrong} then", f"  error({{err = 'ERR pyregistry: {why}'}}, 0)", "end"]


def _bind(arg: Arg, text: str) -> list[str]:
    """Generate what assigns an argument to its name."""
    if arg.type == "str":
        return [f"{arg.name} = {text}"]
    if arg.type == "word":
        return [f"{arg.name} = {text}", *_refuse(f"{arg.name} == ''", f"{arg.name} is empty")]
    return _parse(arg, text)


def _parse(arg: Arg, text: str) -> list[str]:
    """Generate what makes a number or a boolean of a text."""
    name = arg.name
    if arg.type == "flag":
        wrong = f"not {name} and {text} ~= '0'"
        return [f"{name} = {text} == '1'", *_refuse(wrong, f"{name} is neither 0 nor 1")]
    wrong = f"{name} < 0 or {name} > MAX_INT or {name} % 1 ~= 0"
    given = f"{name} and ({wrong}) or not {name} and {text} ~= ''"
    wrong = given if arg.type == "int?" else f"not {name} or {wrong}"
    return [
        f"{name} = tonumber({text})",
        *_refuse(wrong, f"{name} is not a whole number of 0 to 2^53 - 1"),
    ]
