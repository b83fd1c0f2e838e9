"""The benchmarks: ``python -m benchmarks``; ``docs/benchmarks/README.md`` says how to read what comes out.

It starts the servers that it needs: Redis, where redis-server is on PATH, and the embedded Valkey. Everything
is measured side by side and in turn, and the files are those of one run: a run of one subject leaves no
figures of another. The Rust peers are built by the first full run; a quick one only uses what is built.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    aims,
    blocking,
    claims,
    hotpath,
    imports,
    memory,
    operations,
    plots,
    report,
    rust,
    scripts,
    seed,
)
from benchmarks.measure import Figure
from benchmarks.options import Options
from benchmarks.servers import Server, binaries, serve

OUT = Path("docs/benchmarks")
MAIN = {"claims", "rust", "hotpath"}  # what the README shows
SUBJECTS: dict[str, Callable[[Server, Options], list[Figure]]] = {
    "claims": claims.run,
    "operations": operations.run,
    "blocking": blocking.run,
    "rust": rust.run,
    "seed": seed.run,
    "hotpath": hotpath.run,
    "memory": memory.run,
    "scripts": scripts.run,
    "imports": imports.run,
}


def main(arguments: list[str]) -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subject", nargs="*", help=f"{', '.join(SUBJECTS)} (all)")
    parser.add_argument("--quick", action="store_true", help="a small part, to see that it works")
    parser.add_argument(
        "--rounds",
        type=int,
        help="turns of each contender, three times as many where it is close (5; with --quick 3)",
    )
    parser.add_argument("--binary", help="the only server to measure: a program, or 'embedded'")
    parser.add_argument(
        "--out", type=Path, default=OUT, help="the folder (docs/benchmarks; then the README shows it too)"
    )
    options = parser.parse_args(arguments)
    chosen = [each for each in SUBJECTS if not options.subject or each in options.subject]
    if unknown := set(options.subject) - SUBJECTS.keys():
        parser.error(f"unknown subject: {', '.join(sorted(unknown))}")
    how = Options(options.rounds or (3 if options.quick else 5), aims.undecided, options.quick)
    about = report.facts(shlex.join(["python", "-m", "benchmarks", *arguments]), how)
    figures: list[Figure] = []
    for binary in binaries(options.binary):
        with serve(binary) as server:
            for subject in chosen:
                figures += SUBJECTS[subject](server, how)
                report.write(options.out, about, figures)  # what is measured is kept, whatever comes
    plots.draw(options.out, figures)
    if options.out == OUT and set(chosen) >= MAIN and not options.quick:
        report.show(Path("README.md"), report.summary(about, figures, OUT.as_posix()))
    print(f"{options.out / 'tables.md'}: {len(figures)} rows")


if __name__ == "__main__":
    main(sys.argv[1:])
