"""The benchmarks run, and write what they promise. Nothing here is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_run_writes_its_files(tmp_path: Path) -> None:
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
