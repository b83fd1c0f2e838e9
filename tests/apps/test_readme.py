"""The snippets of the README run, in order, as one program; and the README names what there is."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from pyregistry import AccessDenied, AsyncRegistry, Claimed, Registry, RegistryEvent, WaitTimedOut
from pyregistry.embedded import stop_shared
from tests.conftest import MakeServer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_python_snippets_run(tmp_path: Path) -> None:
    hot_path = (ROOT / "docs" / "hot-path.md").read_text("utf-8")
    snippets = re.findall(r"```python\n(.*?)```", README + hot_path, re.DOTALL)
    assert len(snippets) == 5
    data, runtime = tmp_path / "data", tmp_path / "run"
    runtime.mkdir(mode=0o700)
    environment = {"XDG_DATA_HOME": str(data), "XDG_RUNTIME_DIR": str(runtime), "PATH": "/usr/bin:/bin"}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", "\n".join(snippets)],
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
    assert "org/model DOWNLOADED StatusCounts(downloading=0, downloaded=1, error=0)" in done.stdout
    assert re.search(r"/model-cache/HuggingFace=org%2Fmodel/(\d+) 14 \1$", done.stdout, re.MULTILINE)
    assert re.search(r"^DOWNLOADED org--other/(\d+) \1$", done.stdout, re.MULTILINE)


def test_the_methods_that_are_named_exist() -> None:
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


def test_links_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "lua" / "README.md"]:
        for link in re.findall(r"\]\((?!http)([^)#]+)", document.read_text("utf-8")):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_rights_that_are_documented_are_enough_and_needed(make_server: MakeServer) -> None:
    text = (ROOT / "docs" / "operation.md").read_text("utf-8")
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
