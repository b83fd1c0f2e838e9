"""What a type checker says of calls: mypy on snippets. Each line that is wrong says so in a comment."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server("embedded")  # one Python is enough: mypy is told the oldest
ROOT = Path(__file__).parents[2]
SNIPPETS = """\
from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from pyregistry import (
    AsyncRegistry, FolderStore, ModelProvider, ModelRef, OwnedClaim, Provider, ProviderLike, Registry,
)
from pyregistry.huggingface import ensure_snapshot

CONSTANT: Final = "S3"


class Downloader:
    def __call__(self, claim: OwnedClaim, folder: Path | None = None) -> int:
        return claim.token


def plain(claim: OwnedClaim) -> None: ...
def into(claim: OwnedClaim, folder: Path) -> None: ...
def three(claim: OwnedClaim, folder: Path, more: int) -> None: ...
async def plain_async(claim: OwnedClaim) -> None: ...
async def into_async(claim: OwnedClaim, folder: Path) -> None: ...


def blocking(registry: Registry, store: FolderStore, maybe: FolderStore | None, word: str) -> None:
    registry.ensure("m", "S3", plain)
    registry.ensure("m", "S3", into, store=store)
    registry.ensure("m", "S3", Downloader())
    registry.ensure("m", "S3", Downloader(), store=store)
    registry.ensure("m", "S3", Downloader(), store=maybe)
    registry.ensure("m", "S3", partial(three, more=1), store=store, lease=60.0, touch=False)
    registry.ensure("m", "S3", lambda claim: claim.report(1))
    registry.ensure("m", "S3", lambda claim, folder: folder.exists(), store=store)
    with ThreadPoolExecutor() as pool:
        pool.submit(registry.ensure, "m", "S3", into, store=store)
    registry.ensure("m", "S3", into)  # wrong
    registry.ensure("m", "S3", plain, store=store)  # wrong
    registry.ensure("m", "S3", three, store=store)  # wrong
    registry.ensure("m", "S3", lambda: None)  # wrong
    registry.ensure("m", "S3", "wget")  # wrong
    registry.ensure("m", "S3", plain, store=maybe)  # wrong
    registry.ensure("m", "S3", plain, leese=60.0)  # wrong
    registry.ensure("m", "S3", plain, on_unavailable="hope")  # wrong


def providers(registry: Registry, word: str) -> None:
    registry.ensure("m", ModelProvider.NGC, plain)
    registry.ensure("m", CONSTANT, plain)
    registry.ensure("m", Provider(word), plain)
    registry.ensure("m", "s3", plain)  # wrong
    registry.ensure("m", word, plain)  # wrong
    registry.try_claim_for_download("m", "HugingFace")  # wrong
    registry.download("m", "HugingFace")  # wrong
    registry.is_downloaded("m", "HugingFace")  # wrong
    registry.set_status("m", "HugingFace", "DOWNLOADED")  # wrong
    registry.touch_model("m", "HugingFace")  # wrong
    registry.watch("m", "HugingFace")  # wrong
    ModelRef("m", "HugingFace")  # wrong
    likes: ProviderLike = "Gcs"
    registry.get_status("m", likes)
    for record in registry.get_models_by_last_used():
        registry.touch_model(record.model_name, record.provider, revision=record.revision)
    registry.touch_models(["m", ("m", "S3"), ModelRef("m", "S3")])
    pairs = [("m", "S3")]
    registry.try_claim_many(pairs)


async def on_a_loop(registry: AsyncRegistry, store: FolderStore) -> None:
    await registry.ensure("m", "S3", plain)
    await registry.ensure("m", "S3", plain_async)
    await registry.ensure("m", "S3", into, store=store)
    await asyncio.create_task(registry.ensure("m", "S3", into_async, store=store))
    await registry.ensure("m", "S3", into_async)  # wrong
    await registry.ensure("m", "S3", plain_async, store=store)  # wrong
    await registry.ensure("m", "s3", plain_async)  # wrong
    await registry.get_status("m", "HugingFace")  # wrong


def snapshots(registry: Registry, store: FolderStore) -> None:
    ensure_snapshot(registry, "org/model", store=store, touch=False, timeout=60.0)
    ensure_snapshot(registry, "org/model", touch="no")  # wrong
"""


def test_what_is_wrong_is_an_error_and_nothing_else(tmp_path: Path) -> None:
    """mypy reports the lines marked as wrong and no others."""
    snippets = tmp_path / "snippets.py"
    snippets.write_text(SNIPPETS)
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10", "--cache-dir", str(tmp_path / "cache"),
         "--config-file", "", str(snippets)],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=110,
    )  # fmt: skip
    found = {int(number) for number in re.findall(r"snippets\.py:(\d+): error", ended.stdout)}
    lines = SNIPPETS.splitlines()
    wanted = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert {lines[number - 1] for number in found} == {lines[number - 1] for number in wanted}, ended.stdout
    assert ended.stderr == ""
