"""Writes what was measured: `results.json`, `tables.md`, and the plots."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyregistry
from benchmarks import claims, hotpath, rust
from benchmarks.aims import AIMS, LIMIT, OURS, POOL, RUST_04, RUST_07, UVLOOP, Row
from benchmarks.measure import Figure, number
from benchmarks.options import Options

PACKAGES = (
    "redis",
    "hiredis",
    "msgspec",
    "coredis",
    "valkey-glide",
    "python-redis-lock",
    "uvloop",
    "matplotlib",
)
MEASURES = {
    "per_second": "per second",
    "mean_us": "mean, us",
    "p50_us": "p50, us",
    "p99_us": "p99, us",
    "max_us": "max, us",
    "client_us": "client CPU, us",
    "server_us": "server CPU, us",
    "script_us": "script, us",
    "commands_per_call": "commands per request",
    "commands_per_second": "commands/s",
    "bytes": "bytes",
    "import_ms": "import, ms",
}


COLUMNS = (OURS, UVLOOP, RUST_04, RUST_07, POOL, "valkey-glide", LIMIT, hotpath.NEAR)
ROWS = (
    *((f"fresh claims, {tasks} tasks", claims.FRESH, "claim_fresh", tasks) for tasks in (16, 50, 100, 500)),
    ("claims of one model", claims.CONTENDED, "claim_contended", 500),
    ("touches of one model", rust.TABLE, "touch_model", 500),
    ("status of one model", rust.TABLE, "get_status", 500),
    ("is it there, and a touch", hotpath.TABLE, "hot_path", 500),
)
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def facts(command: str, options: Options) -> dict[str, Any]:
    """The machine, the versions, and what was run."""
    versions: dict[str, str] = {"pyregistry": pyregistry.__version__, "Python": platform.python_version()}
    versions.update({package: _version(package) for package in PACKAGES})
    for program in ("redis-benchmark", "cargo"):
        versions[program] = _said(program, "--version")
    return {
        "command": command,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "rounds": " to ".join(map(str, dict.fromkeys((options.rounds.least, options.rounds.most)))),
        "quick": options.quick,
        "machine": f"{os.cpu_count()} cores, {_processor()}, {platform.system()} {platform.release()}",
        "versions": versions,
    }


def write(folder: Path, about: dict[str, Any], figures: Sequence[Figure]) -> None:
    """All but the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(figure), "medians": _medians(figure)} for figure in figures]
    text = json.dumps({**about, "figures": rows}, indent=1) + "\n"
    (folder / "results.json").write_text(text, "utf-8")
    (folder / "tables.md").write_text(markdown(about, figures), "utf-8")


def markdown(about: dict[str, Any], figures: Sequence[Figure]) -> str:
    """All tables."""
    versions = ", ".join(f"{name} {said}" for name, said in about["versions"].items())
    lines = [
        "# Figures",
        "",
        f"Made by `{about['command']}` on {about['date']}; do not edit. How to read it: [README](README.md).",
        "",
        f"- Machine: {about['machine']}; clients and server share it.",
        f"- Versions: {versions}.",
        f"- Medians of {about['rounds']} rounds, side by side and in turn.",
    ]
    if about["quick"]:
        lines.append("- **A quick run, to see that it works: these figures mean nothing.**")
    lines += _aims(figures)
    seen = dict.fromkeys((figure.table, figure.server) for figure in figures)
    for table, server in seen:
        rows = [figure for figure in figures if (figure.table, figure.server) == (table, server)]
        lines += ["", f"## {table} ({server})", "", *_table(rows)]
    return "\n".join(lines) + "\n"


def summary(about: dict[str, Any], figures: Sequence[Figure], plots: str) -> str:
    """The main table and plot, for the project's README; ``plots``: where those are."""
    server = next((figure.server for figure in figures), "")
    rows = [_line(["calls/s; 500 tasks, or as said", *COLUMNS]), _line(["---", *("---:" for _ in COLUMNS)])]
    for text, table, what, tasks in ROWS:
        cells = [text]
        for who in COLUMNS:
            figure = Row(table, what, who, (("tasks", tasks),)).find(figures, server)
            value = figure.median("per_second") if figure else None
            cells.append("" if value is None else number(value))
        rows.append(_line(cells))
    name = plot_name("claims-fresh", server)
    return "\n".join(
        [
            f"{server}, {about['machine']}, medians of {about['rounds']} rounds in one run ({about['date']}):",
            "",
            *rows,
            "",
            f"![Fresh claims a second]({plots}/{name})",
        ]
    )


def show(readme: Path, text: str) -> None:
    """Put it between the marks of the README."""
    old = readme.read_text("utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme}: the marks {BEGIN} and {END} are not there")
    readme.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")


def plot_name(word: str, server: str) -> str:
    """The file of a plot."""
    return f"{word}-{re.sub(r'[^a-z0-9]+', '-', server.lower()).strip('-')}.png"


def _aims(figures: Sequence[Figure]) -> list[str]:
    lines = ["", "## Aims", "", "| aim | server | limit | measured | |", "| --- | --- | ---: | ---: | --- |"]
    for aim in AIMS:
        servers = dict.fromkeys(figure.server for figure in figures if figure.server.startswith(aim.server))
        for server in servers:
            value = aim.value(figures, server)
            limit = f"{'>=' if aim.least else '<='} {aim.limit:,g}"
            said = "-" if value is None else number(value)
            verdict = "not measured" if value is None else "kept" if aim.is_kept(value) else "**broken**"
            lines.append(f"| {aim.text} | {server} | {limit} | {said} | {verdict} |")
    return lines


def _table(rows: Sequence[Figure]) -> list[str]:
    conditions = list(dict.fromkeys(name for row in rows for name in row.at))
    measures = [name for name in MEASURES if any(name in row.measures for row in rows)]
    names = ["what", *conditions, "who", *(MEASURES[name] for name in measures)]
    noted = any(row.note for row in rows)
    align = ["---", *("---:" for _ in conditions), "---", *("---:" for _ in measures)]
    lines = [_line([*names, "note"] if noted else names), _line([*align, "---"] if noted else align)]
    for row in rows:
        cells = [row.what, *(f"{row.at[name]:,}" if name in row.at else "" for name in conditions), row.who]
        for name in measures:
            value = row.median(name)
            cells.append("" if value is None else number(value))
        lines.append(_line([*cells, row.note] if noted else cells))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _medians(figure: Figure) -> dict[str, float | None]:
    return {name: figure.median(name) for name in figure.measures}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _said(program: str, *arguments: str) -> str:
    if shutil.which(program) is None:
        return "not installed"
    result = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip().removeprefix(program).strip() or "of unknown version"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if sys.platform == "linux" and info.exists():
        for line in info.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
