"""The benchmarks run, and write what they promise. Nothing here is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks import aims, blocking, claims, imports, report, texts
from benchmarks.measure import Figure
from benchmarks.options import Rounds

pytestmark = pytest.mark.server("embedded")  # not about the server
ROOT = Path(__file__).parents[2]


def test_the_readme_shows_what_was_measured() -> None:
    """The README and the tables show the figures of results.json."""
    written = json.loads((ROOT / "docs" / "benchmarks" / "results.json").read_text("utf-8"))
    names = {field.name for field in fields(Figure)}
    figures = [
        Figure(**{name: value for name, value in row.items() if name in names}) for row in written["figures"]
    ]
    shown = (ROOT / "README.md").read_text("utf-8").partition(report.BEGIN)[2].partition(report.END)[0]
    assert shown.strip() == report.summary(written, figures, "docs/benchmarks")
    assert (ROOT / "docs" / "benchmarks" / "tables.md").read_text("utf-8") == report.markdown(
        written, figures
    )


def test_a_readme_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    """A README without the marks raises and is not changed."""
    readme = tmp_path / "README.md"
    readme.write_text("nothing", "utf-8")
    with pytest.raises(ValueError, match="marks"):
        report.show(readme, "figures")
    assert readme.read_text("utf-8") == "nothing"
    readme.write_text(f"before {report.BEGIN} old {report.END} after", "utf-8")
    report.show(readme, "figures")
    assert readme.read_text("utf-8") == f"before {report.BEGIN}\nfigures\n{report.END} after"


def fresh(who: str, rounds: list[int], per_second: list[float]) -> Figure:
    at = {"tasks": 500}
    return Figure(claims.FRESH, "Redis 7.0", "claim_fresh", who, at, {"per_second": per_second}, rounds)


def test_a_ratio_is_that_of_the_rounds_in_which_both_took_part() -> None:
    """A ratio uses the rounds that both contenders took part in."""
    ours = fresh(aims.OURS, [0, 1, 2, 3], [60.0, 1.0, 1.0, 80.0])
    pool = fresh(aims.POOL, [0, 3], [20.0, 20.0])
    (aim,) = [aim for aim in aims.AIMS if aim.text == "Fresh claims, 500 tasks: against the redis-py pool"]
    assert aim.value([ours, pool], "Redis 7.0") == 3.5
    assert aim.value([ours], "Redis 7.0") is None


def test_rounds_go_on_while_a_ratio_is_close_to_its_aim() -> None:
    """Rounds continue while a ratio is close to its aim, up to a maximum."""
    rounds = Rounds(2, 4, aims.undecided)
    ours = fresh(aims.OURS, [0], [115.0])
    close, far = fresh(aims.RUST_04, [0], [100.0]), fresh(aims.RUST_04, [0], [10.0])
    assert [rounds.go_on(done, [ours, close]) for done in range(6)] == [True] * 4 + [False] * 2
    assert [rounds.go_on(done, [ours, far]) for done in range(6)] == [True] * 2 + [False] * 4


def test_the_comparison_of_sizes_runs() -> None:
    """benchmarks.scale runs and prints JSON."""
    command = [sys.executable, "-m", "benchmarks.scale", "--small", "100", "--large", "1000", "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    # Its limits are for a million records: here it only has to run.
    assert result.returncode in (0, 1), result.stderr
    assert json.loads(result.stdout)


@pytest.mark.parametrize("way", [[], ["--unix"]])
def test_the_parts_of_a_blocking_call_are_told(way: list[str]) -> None:
    """benchmarks.blocking prints the parts of every call."""
    options = ["--turns", "2", "--calls", "5", "--binary", "embedded", *way]
    command = [sys.executable, "-m", "benchmarks.blocking", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = [line.split("|")[1:-1] for line in result.stdout.splitlines() if line.startswith("|")]
    assert [cells[0].strip() for cells in rows[2:]] == list(blocking.ASKS) == list(blocking.CALLS)
    for _, *figures in rows[2:]:
        *measured, _reckoned = figures  # of so few calls it may be anything
        assert len(measured) == 5
        assert all(float(figure.split()[0]) > 0 for figure in measured)


def test_imports_are_measured() -> None:
    """`python -m benchmarks.imports` prints a row with a median for each statement."""
    command = [sys.executable, "-m", "benchmarks.imports", "--turns", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == len(imports.STATEMENTS)
    assert all("median" in line for line in result.stdout.splitlines())


def test_texts_are_compared() -> None:
    """`python -m benchmarks.texts` compares each call alone and in batches."""
    options = [str(ROOT / "lua" / "dist"), "--turns", "1", "--binary", "embedded"]
    command = [sys.executable, "-m", "benchmarks.texts", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1 + 2 * len(texts.WHATS)


def test_an_unknown_subject_is_told() -> None:
    """An unknown subject exits with 2 and a message."""
    command = [sys.executable, "-m", "benchmarks", "claims", "nothing"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "unknown subject: nothing" in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_run_writes_its_files(tmp_path: Path) -> None:
    """A quick run writes its results and tables."""
    options = ["--quick", "--rounds", "1", "--binary", "embedded", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks", "claims", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert written["quick"] is True
    assert written["command"].startswith("python -m benchmarks claims")
    ours = [row for row in written["figures"] if row["who"] == "pyregistry"]
    assert ours
    assert all(row["medians"]["per_second"] > 0 for row in ours)
    tables = (tmp_path / "tables.md").read_text("utf-8")
    assert "| claim_fresh | 500 | pyregistry |" in tables
    assert "not measured" in tables, "the aims of other subjects"
