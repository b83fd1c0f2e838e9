"""The docs: their snippets run, their links lead somewhere, and they name what there is."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
import typer.main

from pyregistry import AccessDenied, AsyncRegistry, Claimed, Registry, RegistryEvent, WaitTimedOut
from pyregistry.cli.command import app
from pyregistry.embedded import stop_shared
from tests.conftest import MakeServer
from tests.support.hub import Hub
from tools import cli_reference
from tools.cli_reference import COMMON

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "lua" / "README.md",
        ROOT / "examples" / "README.md",
    ]
)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Where the models of the snippets come from."""
    with Hub() as hub:
        yield hub


@pytest.fixture
def runtime() -> Iterator[str]:
    """A runtime folder, whose path is short enough for a socket in it."""
    with tempfile.TemporaryDirectory() as path:
        yield path


# The pages with their code, and what each must print.
PRINTS = {
    "README.md": [
        r"/model-cache/HuggingFace=org%2Fmodel/(\d+) 14 \1$",
        r"^org/model DOWNLOADED StatusCounts\(downloading=0, downloaded=1, error=0\)$",
        r"^DOWNLOADED org--other/(\d+) \1$",
    ],
    "docs/tutorial.md": [
        r"^replica 3: 500 bytes, downloaded by (replica \d)$",
        r"^DOWNLOADED 500 HuggingFace=org%2Fmodel/\d+$",
        r"^took over from crashed$",
    ],
    "docs/how-to/download-once.md": [r"^RegistryEvent\(kind=<EventKind.SET: 'set'>"],
    "docs/how-to/hugging-face.md": [r"models/HuggingFace\S+=org%2Fmodel/\d+$"],
    "docs/how-to/serve-requests.md": [r"^0 answers were stale$"],
    "docs/how-to/share-files.md": [],
}
LANGUAGES = {"", "console", "python", "sh", "yaml"}


def code_of(page: str) -> str:
    """All Python of a page as one program; comments ``<!-- python`` hold what a reader need not see."""
    text = (ROOT / page).read_text("utf-8")
    found = re.findall(r"^(?:```|<!-- )python\n(.*?)^(?:```|-->)", text, re.DOTALL | re.MULTILINE)
    return "\n".join(found)


def test_all_code_is_run() -> None:
    """A page with Python is among the pages that are run; other languages are known."""
    assert {page for page in PAGES if code_of(page)} == set(PRINTS)
    for page in PAGES:
        fences = re.findall(r"^```(.*)$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
        assert {*fences} <= LANGUAGES, page
        assert len(fences) % 2 == 0, page


@pytest.mark.parametrize("page", PRINTS)
def test_the_python_snippets_run(page: str, tmp_path: Path, runtime: str, hub: Hub) -> None:
    """The snippets of a page run, in order, as one program, on the embedded server of a new user."""
    hub.push("org/model", {"config.json": b"{}", "model.bin": b"old", "model.safetensors": b"new"})
    data = tmp_path / "data"
    environment = {
        "XDG_DATA_HOME": str(data),
        "XDG_RUNTIME_DIR": runtime,
        "PATH": "/usr/bin:/bin",
        "HF_ENDPOINT": hub.url,
        "HOME": str(tmp_path),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code_of(page)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        stop_shared(data / "pyregistry")
    assert done.returncode == 0, done.stderr
    for pattern in PRINTS[page]:
        assert re.search(pattern, done.stdout, re.MULTILINE), f"{pattern} in {done.stdout}"


def test_the_methods_that_are_named_exist() -> None:
    """The README's table of methods names all public methods, and no others."""
    table = README.partition("## Methods")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    missing = {name for name in named if not hasattr(Registry, name)}
    assert not missing
    public = {name for name in dir(AsyncRegistry) if not name.startswith("_")}
    assert public - named == {"close", "connect", "namespace", "owner", "server_version", "stale_answers"}


async def ask_from_memory(url: str) -> None:
    async with AsyncRegistry.from_url(url, "shared-cache", near_cache=True) as registry:
        assert not await registry.is_downloaded("m")


def anchors_of(path: Path) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Each relative link leads to a file, and each anchor to a heading of a page."""
    path = ROOT / page
    for link, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", path.read_text("utf-8")):
        target = path.parent / link if link else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), f"{link}#{anchor}"


def test_the_modules_that_are_named_exist() -> None:
    """Paths below a package that the pages name in code are modules or packages."""
    packages = {path.name for path in (ROOT / "pyregistry").iterdir() if (path / "__init__.py").exists()}
    for page in ["CONTRIBUTING.md", "docs/explanation/architecture.md"]:
        for path in re.findall(r"`(?:pyregistry/)?(\w+(?:/\w+)+)", (ROOT / page).read_text("utf-8")):
            if path.partition("/")[0] in packages:
                assert (ROOT / "pyregistry" / path).is_dir() or (ROOT / f"pyregistry/{path}.py").exists(), (
                    path
                )


def test_every_page_is_in_the_navigation() -> None:
    """The site shows each page, and every page of the site is there."""
    named = set(re.findall(r"[\w/-]+\.md\b", (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]))
    assert named == {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}


def test_the_commands_that_are_named_exist() -> None:
    """In each page, commands after ``pyregistry`` in code exist, and have the options that follow."""
    commands: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group
    ways = set(COMMON) | {"--version", "--help", "--install-completion", "-v", "-h"}
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8").replace("\\\n", "")
        for name, rest in re.findall(r"(?:^|[`(\s])pyregistry ([a-z][a-z-]+)\b([^`|;&\n)]*)", code_in(text)):
            assert name in commands, f"{page}: pyregistry {name}"
            known = {
                option for param in commands[name].params for option in param.opts + param.secondary_opts
            }
            asked = re.findall(r"(?<=\s)--?[a-z][a-z-]*", re.split(r" -- |\$\(", rest)[0])
            assert {*asked} <= known | ways, f"{page}: pyregistry {name}{rest}"


def code_in(text: str) -> str:
    """What a page has in backticks, and in fences of a shell."""
    fences = "\n".join(re.findall(r"^```(?:sh|yaml)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    return fences + "\n" + "\n".join(re.findall(r"`[^`\n]+`", text))


def test_the_options_in_the_reference_are_those_of_the_commands() -> None:
    """The generated part of docs/reference/cli.md is up to date."""
    page = cli_reference.PAGE.read_text("utf-8")
    assert cli_reference.page_with_options(page) == page


def test_the_rights_that_are_documented_are_enough_and_needed(make_server: MakeServer) -> None:
    """The ACL line of the docs gives every right that is needed, and no other."""
    text = (ROOT / "docs" / "how-to" / "operate.md").read_text("utf-8")
    found = re.search(r"ACL SETUSER app on >\.\.\. (.*?)```", text, re.DOTALL)
    assert found
    rights = found[1].split()
    server = make_server()
    url = server.url.replace("redis://", "redis://app:pw@")

    def let(*rules: str) -> None:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("ACL", "SETUSER", "app", *rules)

    let("on", ">pw", *rights)
    with Registry.from_url(url, "shared-cache") as registry:
        result = registry.try_claim_for_download("m", "S3", lease=60)
        assert isinstance(result, Claimed)
        registry.refresh_download_claim(result.claim, bytes_done=1)
        assert registry.finish_download_claim(result.claim, "ERROR")
        claim = registry.try_reset_error_for_retry("m", "S3", lease=60)
        assert claim is not None
        assert registry.release_download_claim(claim)
        registry.set_status("m", "S3", "DOWNLOADED")
        assert registry.touch_model("m")
        assert registry.get_status("m") == "DOWNLOADED"
        assert len(registry.get_models_by_last_used()) == 1
        assert registry.get_status_counts() == (0, 1, 0)
        assert registry.delete_model("m") == 1
    asyncio.run(ask_from_memory(url))
    # SCRIPT LOAD is asked for by a server without the scripts alone; @connection is redis-py's own need.
    # What waits needs two more, without which the rest works.
    waiting = ("+ssubscribe", "+sunsubscribe")
    unasked = ("+@connection", "+script|load", *waiting)
    for right in (each for each in rights if each[0] == "+" and each not in unasked):
        let(f"-{right[1:]}")
        with pytest.raises(AccessDenied, match=f"(?i){right[1:]}"), Registry.from_url(url, "shared-cache"):
            pass
        let(right)
    with pytest.raises(AccessDenied), Registry.from_url(url, "another"):
        pass
    assert set(waiting) <= set(rights)
    with Registry.from_url(url, "shared-cache", timeout=1.0) as registry, registry.watch() as events:
        registry.set_status("m", "S3", "DOWNLOADED")
        assert isinstance(next(iter(events)), RegistryEvent)
        registry.delete_model("m")
    let("-ssubscribe")
    with Registry.from_url(url, "shared-cache", timeout=1.0) as registry:
        assert isinstance(registry.try_claim_for_download("m", "S3", lease=60), Claimed)
        with pytest.raises(AccessDenied, match=r"(?i)ssubscribe"):
            registry.ensure("m", "S3", print)
        let("+ssubscribe")
        with pytest.raises(WaitTimedOut):
            registry.ensure("m", "S3", print, timeout=0.1)
