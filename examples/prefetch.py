"""A job that fills a store with many models, a few at a time.

Jobs that run at once share the work: each model is downloaded by one of them. ::

    export PYREGISTRY_URL=redis://... PYREGISTRY_NAMESPACE=shared-cache
    python examples/prefetch.py models.txt --store /models --url 'https://models.example.com/{name}/model.bin'
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from functools import partial
from pathlib import Path

import httpx

from pyregistry import (
    BackendConfig,
    FolderStore,
    OwnedClaim,
    RegistryError,
    RetryPolicy,
    create_async_registry_backend,
    release_on_signal,
)

RETRY = RetryPolicy(permanent=(LookupError,))


async def fetch(http: httpx.AsyncClient, url: str, claim: OwnedClaim, folder: Path) -> None:
    """Downloads one model."""
    async with http.stream("GET", url.format(name=claim.model_name)) as response:
        if response.status_code in (401, 403, 404, 410):
            raise LookupError(f"the source answers {response.status_code}")  # it will not answer otherwise
        response.raise_for_status()
        total = int(response.headers["Content-Length"])
        with (folder / "model.bin").open("wb") as file:
            async for piece in response.aiter_bytes():
                file.write(piece)
                claim.report(file.tell(), total)


async def prefetch(names: list[str], store: FolderStore, url: str, at_once: int) -> int:
    """Has all of the models there; returns how many are not."""
    random.shuffle(names)  # jobs that go the same way would only wait for each other
    places = asyncio.Semaphore(at_once)
    async with (
        await create_async_registry_backend(BackendConfig.from_env()) as registry,
        httpx.AsyncClient(timeout=60) as http,
    ):
        release_on_signal(registry)  # other jobs go on at once with what this one was downloading

        async def one(name: str) -> bool:
            async with places:
                try:
                    download = partial(fetch, http, url)
                    record = await registry.ensure(
                        name, "S3", download, store=store, stall_timeout=300, retry=RETRY
                    )
                except RegistryError as error:
                    print(f"{name}: {error}", file=sys.stderr)
                    return False
            if record.owner == registry.owner:
                print(f"downloaded {name}", flush=True)
            return True

        return (await asyncio.gather(*map(one, names))).count(False)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fills a store with many models, a few at a time.")
    parser.add_argument("models", type=Path, help="a file with the name of a model on each line")
    parser.add_argument("--store", type=FolderStore, required=True, help="the folder that is filled")
    parser.add_argument("--url", required=True, help="where a model is; {name} stands for its name")
    parser.add_argument("--at-once", type=int, default=8, help="so many at a time")
    given = parser.parse_args()
    failed = asyncio.run(prefetch(given.models.read_text().split(), given.store, given.url, given.at_once))
    sys.exit(f"{failed} models are missing" if failed else 0)


if __name__ == "__main__":
    main()
