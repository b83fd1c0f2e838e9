"""Generate the options of each command in docs/reference/cli.md from the commands themselves.

python -m tools.cli_reference            write the page
python -m tools.cli_reference --check    compare only; exit code 1 if the page differs
"""

from __future__ import annotations

import re
import sys
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import typer.main

import pyregistry.cli.app  # noqa: F401 - registers the commands and the common options
from pyregistry.cli.command import app

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "cli.md"
BEGIN, END = "<!-- options: begin -->\n", "<!-- options: end -->\n"
COMMON = ("--url", "--namespace", "--timeout", "--json", "--verbose")
# Options of a command that share the name of a common option but have another meaning.
OWN = {"run": {"--timeout"}, "demo": {"--url", "--namespace"}}
HELP = "| `-h`, `--help` | Show the help. |\n"


def options() -> str:
    """Return a section of the common options, then one for each command."""
    group: Any = typer.main.get_command(app)
    sections = ["### Common options\n\n" + _table(group.params, lambda name: name in COMMON) + HELP]
    for name, command in group.commands.items():
        summary = (command.help or "").partition("\n")[0].strip()
        common = set(COMMON) - OWN.get(name, set())
        own = _table(command.params, lambda option, common=common: option not in common)
        usage = f"pyregistry {name} " + " ".join(
            _usage(param) for param in command.params if _is_argument(param)
        )
        sections.append(f"### {name}\n\n{summary}\n\n`{usage.strip()}`\n" + (f"\n{own}" if own else ""))
    return "\n".join(sections)


def _is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


def _usage(param: Any) -> str:
    word = param.metavar or (param.name or "").upper()
    return (word if param.required else f"[{word.strip('[]')}]") + (" ..." if param.nargs == -1 else "")


def _table(params: list[Any], wanted: Any) -> str:
    rows = []
    for param in params:
        if (
            _is_argument(param)
            or param.hidden
            or not all(wanted(name) or not name.startswith("--") for name in param.opts)
        ):
            continue
        names = ", ".join(f"`{name}`" for name in sorted([*param.opts, *param.secondary_opts], key=len))
        takes = "" if param.is_flag or param.count else f" {param.metavar or _type(param)}"
        text = " ".join((param.help or "").split()).replace("|", "\\|")
        default = param.default
        if default and default is not True and "[default" not in text:
            text += f" [default: {getattr(default, 'value', default)}]"
        rows.append(f"| {names}{takes} | {text} |")
    return "\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n" if rows else ""


def _type(param: Any) -> str:
    kind = param.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "\\|".join(str(each.value) for each in kind)
    return {int: "N", float: "N", str: "TEXT", Path: "PATH"}.get(kind) or "\\|".join(map(str, get_args(kind)))


def page_with_options(page: str) -> str:
    """Return the page with its options regenerated.

    Raises:
        ValueError: The page lacks the marks around the options.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} lacks the marks of the options")
    return before + BEGIN + "\n" + re.sub(r"\n{3,}", "\n\n", options()) + "\n" + END + after


def main() -> int:
    """Write the page, or compare it with ``--check``; return the exit code."""
    page = PAGE.read_text("utf-8")
    wanted = page_with_options(page)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(wanted, "utf-8")
    elif page != wanted:
        print(f"{PAGE.relative_to(ROOT)} lacks an option of a command: run python -m tools.cli_reference")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
