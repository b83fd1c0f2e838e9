"""Reads the Lua scripts: the exact text that Redis runs, and its SHA1.

``tools/build_lua`` composes the texts, and checks their headers. The header of a script is its contract:
``lua/README.md`` describes it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

BATCH: Final = 64
"""Maximum number of items in one script call. The scripts refuse more."""


@dataclass(frozen=True, slots=True)
class Script:
    """One version of one script."""

    name: str
    version: int
    text: str
    sha: str
    writes: bool

    def __repr__(self) -> str:
        return f"{self.name}.v{self.version}"


@cache
def lua_folder() -> Path:
    """Return the folder of the scripts: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[2]
    for folder in (package / "lua", package.parent / "lua"):
        if (folder / "scripts.lock").is_file():
            return folder
    raise FileNotFoundError(f"the Lua scripts of pyregistry are not beside {package}")


@cache
def load(name: str, version: int) -> Script:
    """Read one version of a script."""
    text = (lua_folder() / "dist" / f"{name}.v{version}.lua").read_bytes()
    return script_of(name, version, text.decode())


def script_of(name: str, version: int, text: str) -> Script:
    """Return the script of a composed text."""
    sha = hashlib.sha1(text.encode()).hexdigest()
    writes = "no-writes" not in text.partition("\n")[0]
    return Script(name, version, text, sha, writes)
