"""Draws what was measured, where matplotlib is installed (the extra `benchmarks`)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import aims, claims, hotpath, rust, scripts, seed
from benchmarks.measure import Figure
from benchmarks.report import plot_name

OURS, OTHERS = "#c8102e", "#8a94a6"
PEERS = (aims.OURS, aims.UVLOOP, aims.RUST_04, aims.RUST_07)
BARS = {
    claims.FRESH: ("claims-fresh-500", "per_second", "claims/s"),
    claims.CONTENDED: ("claims-contended", "per_second", "claims/s"),
    hotpath.TABLE: ("hot-path", "per_second", "requests/s"),
    scripts.TABLE: ("scripts", "script_us", "us in the server, for one item"),
}


def draw(folder: Path, figures: Sequence[Figure]) -> None:
    """All plots of which there are figures, one for each server."""
    if find_spec("matplotlib") is None:
        print("no plots: matplotlib is not installed (pip install 'pyregistry-redis[benchmarks]')")
        return
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    tables = dict.fromkeys((figure.table, figure.server) for figure in figures)
    for table, server in tables:
        rows = [row for row in figures if (row.table, row.server) == (table, server) and row.measures]
        if table == claims.FRESH:
            _by_tasks(pyplot, folder / plot_name("claims-fresh", server), f"{table}, {server}", rows)
        if table in BARS:
            word, measure, unit = BARS[table]
            _bars(pyplot, folder / plot_name(word, server), f"{table}, {server}", _most(rows), measure, unit)
        elif table == rust.TABLE:
            _bars(
                pyplot,
                folder / plot_name("rust", server),
                f"{table}, {server}",
                _most(rows),
                "per_second",
                "calls/s",
            )
        elif table == seed.GROWTH:
            _growth(pyplot, folder / plot_name("growth", server), f"{table}, {server}", rows)


def _most(rows: Sequence[Figure]) -> list[Figure]:
    """Those with the most tasks there are for their operation, and the fewest records."""
    found = []
    for row in rows:
        same = [each for each in rows if each.what == row.what and each.who == row.who]
        most = max(each.at.get("tasks", 0) for each in same)
        least = min(each.at.get("records", 0) for each in same)
        if row.at.get("tasks", 0) == most and row.at.get("records", 0) == least:
            found.append(row)
    return found


def _bars(pyplot: Any, path: Path, title: str, rows: Sequence[Figure], measure: str, unit: str) -> None:
    """One bar for each row, the first on top; ours stand out. A log scale where the values are far apart."""
    rows = [row for row in rows if row.median(measure)]
    if not rows:
        return
    several = len({row.what for row in rows}) > 1
    most = max(row.at.get("tasks", 0) for row in rows)
    labels = [f"{row.what}: {row.who}" if several else row.who for row in rows]
    labels = [
        label if row.at.get("tasks", 0) == most else f"{label} ({row.at['tasks']} tasks)"
        for label, row in zip(labels, rows, strict=True)
    ]
    values = [row.median(measure) or 0.0 for row in rows]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.32 * len(rows)), layout="constrained")
    colors = [OURS if row.who.startswith("pyregistry") else OTHERS for row in rows]
    bars = axes.barh(range(len(rows)), values, color=colors)
    axes.bar_label(
        bars, labels=[f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values], padding=3
    )
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.set_title(f"{title}, {most} tasks" if most else title)
    axes.set_xlabel(unit)
    if max(values) > 30 * min(values):
        axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _by_tasks(pyplot: Any, path: Path, title: str, rows: Sequence[Figure]) -> None:
    """A group of bars for each number of tasks beyond one: ours, and the originals'."""
    everybody = dict(zip(PEERS, (OURS, "#e8798a", "#4a5568", OTHERS), strict=True))
    sizes = sorted({row.at["tasks"] for row in rows if row.who in everybody} - {1})
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    width = 0.8 / len(everybody)
    for at, (who, color) in enumerate(everybody.items()):
        found = {row.at["tasks"]: row.median("per_second") or 0.0 for row in rows if row.who == who}
        places = [group + (at - (len(everybody) - 1) / 2) * width for group in range(len(sizes))]
        bars = axes.bar(places, [found.get(size, 0.0) for size in sizes], width, label=who, color=color)
        axes.bar_label(bars, fmt="{:,.0f}", rotation=90, padding=3, fontsize=8)
    axes.set_xticks(range(len(sizes)), [f"{size} tasks" for size in sizes])
    axes.set(title=title, ylabel="claims/s")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=len(everybody), frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _growth(pyplot: Any, path: Path, title: str, rows: Sequence[Figure]) -> None:
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for what, style in (("lru_head", "o-"), ("counts", "s--")):
        for who in dict.fromkeys(row.who for row in rows):
            line = [row for row in rows if row.what == what and row.who == who]
            sizes = [row.at["records"] for row in line]
            values = [(row.median("p50_us") or 0.0) / 1e6 for row in line]
            axes.plot(
                sizes, values, style, label=f"{what}: {who}", color=OURS if who == seed.OURS else OTHERS
            )
    axes.set(xscale="log", yscale="log", xlabel="records", ylabel="seconds for a call", title=title)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
