"""The files around the code: workflows, attributes of files, subjects of commits."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from tools import commit_subject, state_diagram, unasync

ROOT = Path(__file__).parents[2]


def test_the_workflow_runs_each_step_of_ci() -> None:
    """The workflow has a job for each step that .ci/run defines."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    run = (ROOT / ".ci/run").read_text("utf-8")
    defined = set(re.findall(r"^step_(\w+)\(\)", run, re.MULTILINE))
    assert set(workflow["jobs"]["step"]["strategy"]["matrix"]["step"]) == defined


def test_generated_files_are_marked() -> None:
    """.gitattributes marks each generated module, and no path that is missing."""
    lines = (ROOT / ".gitattributes").read_text("utf-8").splitlines()
    marked = {line.split()[0] for line in lines if line.endswith(" linguist-generated")}
    modules = {path for path in marked if path.startswith("pyregistry/")}
    assert modules == {f"pyregistry/{made}" for made in unasync.FILES.values()}
    for path in marked - {"lua/dist/**"}:
        assert list(ROOT.glob(path)), path


def test_each_test_states_its_property() -> None:
    """Every test has a docstring, a sentence that says what holds."""
    missing = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in ROOT.glob("tests/**/test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert not missing


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("Add a verb", None),
        ("Add a verb\n\nBecause it is missing.", None),
        ("# a comment\nAdd a verb\n", None),
        ("Merge branch 'main' of " + "x" * 60, None),
        ("x" * 72, None),
        ("x" * 73, "73 characters"),
        ("", "empty"),
        ("Add a verb.", "full stop"),
        ("Add a verb\nBecause it is missing.", "not empty"),
    ],
)
def test_the_subject_of_a_commit_is_checked(message: str, fault: str | None) -> None:
    """A subject is a line of at most 72 characters, without a full stop."""
    found = commit_subject.faults(message)
    assert not found if fault is None else fault in " ".join(found)


def test_the_state_diagram_is_that_of_the_headers() -> None:
    """The diagram and the table of docs/reference/lua.md follow from the headers."""
    table = state_diagram.rows()
    assert len(table) > 30
    assert state_diagram.DIAGRAM.read_text("utf-8") == state_diagram.svg(table)
    page = state_diagram.PAGE.read_text("utf-8")
    assert state_diagram.page_with_table(page, table) == page
    drawn = state_diagram.arrows(table)
    assert drawn["absent", "DOWNLOADING"] == ["claim.v1"]
    assert drawn["ERROR", "DOWNLOADING"] == ["retry.v1"]


def test_a_row_that_cannot_be_drawn_is_an_error() -> None:
    """A row of an unknown form is no silent gap in the diagram."""
    with pytest.raises(ValueError, match="cannot be drawn"):
        state_diagram.arrows([state_diagram.Row("new.v1", "a new state", "another", "done")])
