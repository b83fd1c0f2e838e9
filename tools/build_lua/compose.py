"""Compose the text of a script from its source, its template, and the includes."""

from __future__ import annotations

import re
from pathlib import Path

from tools.build_lua.bindings import bindings
from tools.build_lua.contract import Contract, read_contract
from tools.build_lua.layout import Layout

_MARK = re.compile(r"(?m)^( *)--@(?:include (\S+)|([a-z-]+)(\?)?)\n")
_HOOK = re.compile(r"(?m)^--@([a-z]+-[a-z]+)\n")
_FUNCTION = re.compile(
    r"(?m)(?:^ *--.*\n)*^(?P<indent> *)(?:local )?function (?P<name>\w+)\([^)]*\)"
    r"(?: .* end\n|\n(?:(?P=indent) .*\n|\n)*(?P=indent)end\n)\n*"
)
_CONSTANT = re.compile(r"(?m)(?:^--.*\n)*^local (?P<name>[A-Z][A-Z_]+) = \d+\n\n*")
_EMPTY_IF = re.compile(r"(?m)^( *)if .* then\n\1end\n")
_COMMENT = re.compile(r"--\[\[.*?\]\]|--.*")
_DECLARATION = re.compile(r"(?m)^ *local [\w, ]+$")


class Composer:
    """Compose scripts from the templates and includes of a folder, for one layout of a record."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._folder = folder
        self._layout = layout

    def compose(self, name: str, version: int, source: str) -> str:
        """Return the text that Redis runs.

        Raises:
            ValueError: the header, a hook, or the name of an element does not fit.
            FileNotFoundError: there is no such template or include.
        """
        script = f"{name}.v{version}"
        contract, body = read_contract(script, source)
        whole = self._whole(contract, body)
        code = _tidy(_without_unused(whole))
        made = f"-- Composed by tools/build_lua from src/{script}.lua: change that file."
        header = f"{contract.shebang}\n{contract.comment}--\n{made}\n"
        return f"{header}\n{self._layout.applied(code, script, whole)}"

    def _whole(self, contract: Contract, body: str) -> str:
        """Return the template with everything in its place."""
        script = contract.script
        template = self._read("templates", contract.template)
        hooks = _hooks(script, body)
        shared, item = bindings(contract)
        used: list[str] = []

        def put(found: re.Match[str]) -> str:
            indent, include, mark, optional = found.groups()
            if include:
                text = self._read("includes", include)
            else:
                used.append(mark)
                if mark == "bindings":
                    text = shared
                elif mark == "item":
                    text = item
                elif mark in hooks or optional:
                    text = hooks.get(mark, "")
                else:
                    raise ValueError(f"{script}: it lacks the hook --@{mark}")
            return _indented(_MARK.sub(put, text), indent)

        whole = _MARK.sub(put, template)
        if unknown := hooks.keys() - set(used):
            raise ValueError(f"{script}: {contract.template} has no hook --@{', --@'.join(sorted(unknown))}")
        for mark, times in (("bindings", 1), ("item", int(bool(contract.item_keys)))):
            if (found := used.count(mark)) != times:
                raise ValueError(f"{script}: --@{mark} stands {found} times and not {times}")
        if left := re.findall(r"(?m)^ *--@.*$", whole):
            raise ValueError(f"{script}: {left[0].strip()} is no hook, no include, and no binding")
        return whole

    def _read(self, kind: str, name: str) -> str:
        """Return a template or an include without its first comment, which is for the authors of scripts."""
        if not re.fullmatch(r"[a-z_]+(?:\.v\d+)?", name):
            raise ValueError(f"{name!r} is not the name of a file in {kind}")
        text = (self._folder / kind / f"{name}.lua").read_text("utf-8")
        return re.sub(r"\A(?:--(?!@).*\n)+\n+", "", text)


def _hooks(script: str, body: str) -> dict[str, str]:
    """Return the hooks of a script by name; the text before the first is ``at-start``."""
    first, *rest = _HOOK.split(body)
    names = rest[::2]
    hooks = {name: text.strip("\n") + "\n" for name, text in zip(names, rest[1::2], strict=True)}
    if len(hooks) != len(names):
        raise ValueError(f"{script}: a hook twice")
    if first.strip():
        if "at-start" in hooks:
            raise ValueError(f"{script}: text before --@at-start")
        hooks["at-start"] = first.strip("\n") + "\n"
    return hooks


def _indented(text: str, indent: str) -> str:
    return re.sub(r"(?m)^(?=.)", indent, text)


def _without_unused(code: str) -> str:
    """Return the Lua without functions and constants (and their comments) that nothing uses."""
    while True:
        words = _DECLARATION.sub("", _COMMENT.sub("", code))
        unused = [
            found[0]
            for pattern in (_FUNCTION, _CONSTANT)
            for found in pattern.finditer(code)
            if len(re.findall(rf"\b{found['name']}\b", words)) == 1  # its definition
        ]
        if not unused:
            return code
        for text in unused:
            code = code.replace(text, "")


def _tidy(code: str) -> str:
    """Return the Lua without empty branches, and without an empty line too many."""
    code = _EMPTY_IF.sub("", code)
    code = re.sub(r"\n{3,}", "\n\n", code)
    code = re.sub(r"(?m)(\b(?:then|do|else)\n)\n+", r"\1", code)
    return re.sub(r"\n+(\n *end\b)", r"\1", code).strip("\n") + "\n"
