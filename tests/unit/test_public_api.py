"""The public names and their signatures, as `public_api.txt` records them.

A change of the public API shows as a change of that file: run `python -m tests.unit.test_public_api`, and say in the
CHANGELOG what changed.
"""

from __future__ import annotations

import enum
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import KINDS

pytestmark = pytest.mark.server(*KINDS)
MODULES = (
    "pyregistry",
    "pyregistry.aio",
    "pyregistry.config",
    "pyregistry.embedded",
    "pyregistry.errors",
    "pyregistry.huggingface",
    "pyregistry.models",
    "pyregistry.retry",
    "pyregistry.registry",
    "pyregistry.retry",
    "pyregistry.store",
    "pyregistry.testing",
)
RECORDED = Path(__file__).with_name("public_api.txt")


def _signature(function: Any) -> str:
    """The parameters by name and kind; those with a default are marked, because its repr differs between Pythons."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C, and without one
        return "(...)"
    parts: list[str] = []
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and "*" not in parts and not any(p.startswith("*") for p in parts):
            parts.append("*")
        star = "*" if each.kind is each.VAR_POSITIONAL else "**" if each.kind is each.VAR_KEYWORD else ""
        parts.append(star + each.name + ("" if each.default is each.empty else "=..."))
    return f"({', '.join(parts)})"


def _described(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield f"class {name}"
        if issubclass(value, enum.Enum):
            yield from (f"  {member}" for member in value.__members__)
            return
        if not issubclass(value, BaseException):
            yield f"  {name}{_signature(value)}"
        ours = [base for base in value.__mro__ if base.__module__.startswith("pyregistry")]
        members = {name for base in ours for name in (*vars(base), *getattr(base, "__annotations__", {}))}
        for attribute in sorted(members):
            if not attribute.startswith("_"):
                found = inspect.getattr_static(value, attribute, None)
                of = getattr(found, "__func__", found)
                yield f"  {attribute}{_signature(of) if inspect.isfunction(of) else ''}"
    elif inspect.isfunction(value):
        yield f"def {name}{_signature(value)}"
    else:
        yield name


def described() -> str:
    """All public modules, a line for each name."""
    lines: list[str] = []
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        lines.append(f"# {module_name}")
        for name in sorted(module.__all__):
            lines += _described(name, getattr(module, name))
        lines.append("")
    return "\n".join(lines)


def test_the_public_api_is_what_is_recorded() -> None:
    """No public name, member or parameter comes, goes or changes without a change of the record."""
    assert described() == RECORDED.read_text("utf-8")


if __name__ == "__main__":
    RECORDED.write_text(described(), "utf-8")
