"""Generate the blocking modules from the asyncio modules, so that both stay identical in behaviour.

``python tools/unasync.py`` writes the modules. ``--check`` only compares; the tests run it. Code for asyncio alone is
enclosed in two comments, ``# --- asyncio only: begin`` and ``# --- asyncio only: end``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent / "pyregistry"
FILES = {
    "_redis/transport/exchange_async.py": "_redis/transport/exchange_sync.py",
    "_redis/transport/pooled_async.py": "_redis/transport/pooled_sync.py",
    "backend/protocol_async.py": "backend/protocol_sync.py",
    "_redis/backend_async.py": "_redis/backend_sync.py",
    "_redis/transport/pubsub_async.py": "_redis/transport/pubsub_sync.py",
    "_coordination/session_async.py": "_coordination/session_sync.py",
    "_redis/cache/cached_reads_async.py": "_redis/cache/cached_reads_sync.py",
    "_coordination/subscriber_async.py": "_coordination/subscriber_sync.py",
    "_coordination/store_identity_async.py": "_coordination/store_identity_sync.py",
    "_coordination/owner_async.py": "_coordination/owner_sync.py",
    "_coordination/ensure_async.py": "_coordination/ensure_sync.py",
    "_coordination/download_async.py": "_coordination/download_sync.py",
    "_coordination/touch_buffer_async.py": "_coordination/touch_buffer_sync.py",
    "huggingface/branch_async.py": "huggingface/branch_sync.py",
    "aio.py": "registry.py",
}
# Twins that are written by hand, because asyncio and threads need different code there.
BY_HAND = {
    "_coordination/supervise_async.py",
    "_redis/cache/tracking_async.py",
    "_redis/transport/connection_async.py",
}
HEADER = "# Made from {source} by tools/unasync.py: change that one.\n"

RULES = [
    # The blocking client takes the fast path, also on a redis-py client of the caller's.
    (r"\breturn cls\(source, ops, AsyncTransport\(", "return cls(source, ops, FastPathTransport("),
    # Code for asyncio alone.
    (r"(?ms)^ *# --- asyncio only: begin$.*?^ *# --- asyncio only: end\n", ""),
    (r"(?m)^ {12}transport: .*\n(?: {16}.*\n)*", ""),  # this option exists in the asyncio client alone
    (r"await in_a_task\((.*)\)", r"\1"),
    (r"await asyncio\.to_thread\(([\w.]+)\)", r"\1()"),
    # Keywords, protocols, and names by their prefix or suffix.
    (r"\bawait ", ""),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"__a(enter|exit|iter|next)__", r"__\1__"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\baclose\b", "close"),
    (r"\bAsync([A-Z]\w+)", r"\1"),
    (r"\b(\w+)_async\b", r"\1_sync"),
    (r"\basync_", "sync_"),
    # The runtime.
    (r"\b_runtime\.aio\b", "_runtime.threads"),
    (r"\bredis\.asyncio\b", "redis"),
    (r"\basyncio\.Lock\b", "threading.Lock"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"(?m)^import asyncio\n", "import threading\nimport time\n"),
    # Text in docstrings.
    (r"\b([Aa])n async context manager\b", r"\1 context manager"),
    (r"\basync iterator\b", "iterator"),
    (r"\basyncio client\b", "blocking client"),
    (
        r"download: Plain or async function\. .*\n( +)An async one is cancelled when the claim is lost\.",
        r"download: Plain function. It runs in the caller's thread.\n\1It must stop once ``claim.lost`` is set.",
    ),
    (r"verify: Plain or async function\.", "verify: Plain function."),
    # Replacements that exist in the blocking client alone.
    (
        r"from pyregistry\._redis\.transport\.multiplexed import MultiplexedTransport\n",
        "from pyregistry._redis.transport.fast_path_sync import MultiplexedTransport\n",
    ),
    (r"\bMultiplexedTransport\b", "FastPathTransport"),
    (r"\bcall = self\._backend\.claim\(", "result = self._backend.claim("),
    (r"\bAwaitable\[([\w\[\] |]+?)\](?=[:\]])", r"\1"),
    (r"source: ClientEndpoint \| UrlEndpoint\b", "source: ClientEndpoint | OwnEndpoint"),
    (r"\bimport ClientEndpoint, UrlEndpoint\b", "import ClientEndpoint, OwnEndpoint"),
    (r"\bcreate_async_registry_backend\b", "create_registry_backend"),
]


def translated(name: str, used: Counter[str]) -> str:
    """Return the blocking form of one file, formatted by ruff.

    Args:
        name: Path of the asyncio module, relative to the package.
        used: Receives the number of replacements of each rule.
    """
    text = (ROOT / name).read_text("utf-8")
    for pattern, replacement in RULES:
        text, count = re.subn(pattern, replacement, text)
        used[pattern] += count
    text = HEADER.format(source=name) + text
    for command in (["check", "--select", "I,F401,F811", "--fix", "--quiet"], ["format", "--quiet"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(ROOT / FILES[name]), "-"],
            input=text, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    return text


def main() -> int:
    """Write the modules, or compare them with ``--check``.

    Returns:
        The exit code: 1 if a module differs or a rule matches nothing, else 0.
    """
    stale = 0
    used = Counter[str]()
    for name, made in FILES.items():
        wanted = translated(name, used)
        if "--check" in sys.argv[1:]:
            if (ROOT / made).read_text("utf-8") != wanted:
                print(f"{made} is not what {name} says: run python tools/unasync.py")
                stale = 1
        else:
            (ROOT / made).write_text(wanted)
    found = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*_async.py")}
    for name in sorted(found ^ (BY_HAND | FILES.keys() - {"aio.py"})):
        print(f"{name} is neither in FILES nor in BY_HAND, or does not exist")
        stale = 1
    for pattern, _ in RULES:
        if not used[pattern]:
            print(f"a rule that matches nothing: {pattern}")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
