"""Writes the blocking half of the library from the asyncio half: they can't drift apart.

``python tools/unasync.py`` writes, ``--check`` only compares (the tests do that). What asyncio alone needs
stands between two comments, ``# --- asyncio only: begin`` and ``# --- asyncio only: end``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent / "pyregistry"
FILES = {
    "_transport_async.py": "_transport_sync.py",
    "_listen_async.py": "_listen_sync.py",
    "_flight_async.py": "_flight_sync.py",
    "_touch_async.py": "_touch_sync.py",
    "_recall_async.py": "_recall_sync.py",
    "_branch_async.py": "_branch_sync.py",
    "aio.py": "registry.py",
}
HEADER = "# Made from {source} by tools/unasync.py: change that one.\n"

RULES = [
    (r"(?ms)^ *# --- asyncio only: begin$.*?^ *# --- asyncio only: end\n", ""),
    (r"(?m)^ {12}transport: .*\n(?: {16}.*\n)*", ""),  # an option of the asyncio client alone
    (r"from pyregistry\._mux import MuxTransport\n", "from pyregistry._lone import LoneTransport\n"),
    (r"\bAsyncTransport\] = AsyncTransport\b", "AsyncTransport] = LoneTransport"),
    (r"\bcall = self\._transport\.claim\(", "result = self._transport.claim("),
    (r"await _in_a_task\((.*)\)", r"\1"),
    (r"await asyncio\.to_thread\(([\w.]+)\)", r"\1()"),
    (r"\bawait ", ""),
    (r"\basync (def|with|for)\b", r"\1"),
    (
        r"\bAsync(Registry|Transport|Iterator|Listener|EventStream|Flight|Download|Toucher|Recalls|Resolver)\b",
        r"\1",
    ),
    (r"__a(enter|exit|iter|next)__", r"__\1__"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\baclose\b", "close"),
    (r"\b_(transport|lines|listen|flight|touch|wait|memory|recall|branch)_async\b", r"_\1_sync"),
    (r"\b([Aa])n async context manager\b", r"\1 context manager"),
    (
        r"download: plain or async; .*\n( +)lost; in a thread it has to look at",
        r"download: a plain function; it runs in the caller's thread. When the claim is\n\1lost it has to stop: see",
    ),
    (r"verify: plain or async, ", "verify: a plain function, "),
    (r"\basync iterator\b", "iterator"),
    (r"(?m)^import asyncio\nimport logging\n", "import logging\nimport time\n"),
    (r"\bredis\.asyncio\b", "redis"),
    (r"\basyncio\.Lock\b", "threading.Lock"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"(?m)^import asyncio\nimport ctypes\n", "import threading\nimport time\n"),
    (r"\basync_pool\b", "sync_pool"),
    (r"source: ClientSource \| UrlSource,(\s+)ops", r"source: ClientSource | OwnSource,\1ops"),
    (r"\bimport ClientSource, UrlSource\b", "import ClientSource, OwnSource"),
    (r"\bpyregistry\.aio\b", "pyregistry.registry"),
    (r"\basyncio client\b", "blocking client"),
    (r"\bcreate_async_registry_backend\b", "create_registry_backend"),
]


def translated(name: str) -> str:
    """The blocking form of one file, as ruff formats it."""
    text = (ROOT / name).read_text("utf-8")
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    text = HEADER.format(source=name) + text
    for command in (["check", "--select", "I,F401", "--fix", "--quiet"], ["format", "--quiet"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(ROOT / FILES[name]), "-"],
            input=text, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    return text


def main() -> int:
    """Write or compare; exit code 1 if something differs."""
    stale = 0
    for name, made in FILES.items():
        wanted = translated(name)
        if "--check" in sys.argv[1:]:
            if (ROOT / made).read_text("utf-8") != wanted:
                print(f"{made} is not what {name} says: run python tools/unasync.py")
                stale = 1
        else:
            (ROOT / made).write_text(wanted)
    return stale


if __name__ == "__main__":
    sys.exit(main())
