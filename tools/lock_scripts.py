"""Writes ``lua/scripts.lock`` and the state table of ``lua/README.md`` from the scripts' headers.

Run it after a change of a script that is not released yet. A released one is frozen: write a new version.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from pyregistry._redis.protocol.scripts import Script, load, lock_lines

LUA = Path(__file__).parent.parent / "lua"
BEGIN, END = "<!-- state table: begin -->\n", "<!-- state table: end -->\n"


def all_scripts() -> list[Script]:
    """Every script in the folder, in the order of their names and versions."""
    found = (re.fullmatch(r"(\w+)\.v(\d+)\.lua", path.name) for path in sorted(LUA.iterdir()))
    return [load(match[1], int(match[2])) for match in found if match and match[1] != "prelude"]


def state_table(scripts: list[Script]) -> str:
    """The rows of all headers as one Markdown table."""
    lines = ["| script | from | to | reply |", "|---|---|---|---|"]
    lines += [
        f"| {script!r} | {row.state} | {row.becomes} | {row.reply} |"
        for script in scripts
        for row in script.rows
    ]
    return "\n".join(lines) + "\n"


def readme_with_table(readme: str, scripts: list[Script]) -> str:
    """The README with its table made anew."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + state_table(scripts) + END + after


def main() -> None:
    """Write both files."""
    scripts = all_scripts()
    (LUA / "scripts.lock").write_text(lock_lines(scripts))
    readme = LUA / "README.md"
    readme.write_text(readme_with_table(readme.read_text("utf-8"), scripts))


if __name__ == "__main__":
    main()
