"""The files that are made of the Lua sources."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools.build_lua.compose import Composer
from tools.build_lua.contract import Contract, read_contract
from tools.build_lua.layout import read_layout

LUA = Path(__file__).parents[2] / "lua"
BEGIN, END = "<!-- state table: begin -->\n", "<!-- state table: end -->\n"


def build(folder: Path) -> dict[Path, str]:
    """Return the text of every file that is made: the scripts, the lock, and the README with its state table."""
    texts = compose_all(folder)
    made = {folder / "dist" / f"{script}.lua": text for script, text in texts.items()}
    readme = folder / "README.md"
    contracts = [read_contract(script, text)[0] for script, text in texts.items()]
    return {
        **made,
        folder / "scripts.lock": lock_lines(texts),
        readme: readme_with_table(readme.read_text("utf-8"), contracts),
    }


def compose_all(folder: Path) -> dict[str, str]:
    """Return the composed texts by script, in the order of names and versions."""
    composer = Composer(folder, read_layout(folder / "record.toml"))
    texts = {}
    for name, version, path in sorted(_sources(folder)):
        texts[f"{name}.v{version}"] = composer.compose(name, version, path.read_text("utf-8"))
    return texts


def lock_lines(texts: Mapping[str, str]) -> str:
    """Return the text of ``scripts.lock``: name, version and SHA1 of each composed text."""
    return "".join(
        f"{script.replace('.v', ' ')} {hashlib.sha1(text.encode()).hexdigest()}\n"
        for script, text in texts.items()
    )


def state_table(contracts: Iterable[Contract]) -> str:
    """Return the rows of all headers as one Markdown table."""
    lines = ["| script | from | to | reply |", "|---|---|---|---|"]
    lines += [
        f"| {contract.script} | {row.state} | {row.becomes} | {row.reply} |"
        for contract in contracts
        for row in contract.rows
    ]
    return "\n".join(lines) + "\n"


def readme_with_table(readme: str, contracts: Iterable[Contract]) -> str:
    """Return the README with a new table."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("README.md: the marks of the state table are not there")
    return before + BEGIN + state_table(contracts) + END + after


def _sources(folder: Path) -> Iterable[tuple[str, int, Path]]:
    for path in (folder / "src").iterdir():
        found = re.fullmatch(r"(\w+)\.v(\d+)\.lua", path.name)
        if not found:
            raise ValueError(f"src/{path.name} is not named <name>.v<N>.lua")
        yield found[1], int(found[2]), path
