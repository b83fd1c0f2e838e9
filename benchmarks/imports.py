"""How long imports take: of both clients, and of what they need in any case; each in a new process.

``python -m benchmarks.imports`` measures without a server and prints medians and minimums.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from benchmarks.measure import Figure, number, progress
from benchmarks.options import Options
from benchmarks.servers import Server

TABLE = "Imports, a new process each"
WHAT = "import"
CLIENTS = "pyregistry, both clients"
NEEDED = "redis.asyncio and msgspec"
STATEMENTS = {
    CLIENTS: "from pyregistry import AsyncRegistry, Registry",
    NEEDED: "import redis.asyncio, msgspec",
    "pyregistry, no name used": "import pyregistry",
    "pyregistry, the command line": "import pyregistry.cli.app",
}
TURNS = 31


def run(server: Server, options: Options) -> list[Figure]:
    """In turn, so that other load of the machine meets all of them alike. The server has no part in it."""
    figures = measured(server.name, options.calls(TURNS))
    progress(TABLE, server, f"{len(figures[0].rounds)} processes each")
    return figures


def measured(server: str, turns: int) -> list[Figure]:
    """One row for each statement."""
    rows = {who: Figure(TABLE, server, WHAT, who) for who in STATEMENTS}
    for statement in STATEMENTS.values():
        _milliseconds(statement)  # its bytecode is written, and its files are in memory
    for turn in range(turns):
        for who, row in rows.items():
            row.rounds.append(turn)
            row.add(import_ms=_milliseconds(STATEMENTS[who]))
    return list(rows.values())


def _milliseconds(statement: str) -> float:
    """The time of a statement in a new process, without the start of Python itself."""
    program = f"import time; begun = time.perf_counter(); {statement}; print(time.perf_counter() - begun)"
    # Without bytecode each process would compile the package anew, which an installed one never does.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env
    )
    return float(result.stdout) * 1000


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports", description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS, help="processes of each statement (31)")
    rows = {figure.who: figure for figure in measured("", parser.parse_args().turns)}
    needed = rows[NEEDED].measures["import_ms"]
    for who, row in rows.items():
        values = row.measures["import_ms"]
        ratio = statistics.median(ours / theirs for ours, theirs in zip(values, needed, strict=True))
        print(
            f"{who:30} median {number(statistics.median(values)):>5} ms, "
            f"minimum {number(min(values)):>5} ms, ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
