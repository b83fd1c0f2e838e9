"""An inference server that has its models before it answers, and says which of them are in use.

Any number of replicas on one store download each model once::

    export PYREGISTRY_URL=redis://... PYREGISTRY_NAMESPACE=shared-cache
    export MODELS="acme/small acme/large" MODELS_ROOT=/models
    export MODEL_URL="https://models.example.com/{name}/model.bin"
    uvicorn --app-dir examples fastapi_server:app
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
from fastapi import FastAPI, HTTPException

from pyregistry import (
    BackendConfig,
    FolderStore,
    OwnedClaim,
    create_async_registry_backend,
    release_on_signal,
)

PROVIDER: Final = "S3"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The server answers no request before all of its models are there."""
    store = FolderStore(os.environ["MODELS_ROOT"])
    config = BackendConfig.from_env(touch_interval=1.0)  # to say that a model is in use takes no time then
    async with await create_async_registry_backend(config) as registry:
        # On SIGTERM uvicorn waits for this function, which waits for a download: the claim is given back at once.
        with release_on_signal(registry):
            app.state.registry = registry
            app.state.files = {}
            for name in os.environ["MODELS"].split():
                record = await registry.ensure(name, PROVIDER, fetch, store=store, stall_timeout=300)
                app.state.files[name] = store.path(record) / "model.bin"
            yield


async def fetch(claim: OwnedClaim, folder: Path) -> None:
    """Downloads one model; only the owner of the claim comes here, and is cancelled if it loses it."""
    url = os.environ["MODEL_URL"].format(name=claim.model_name)
    async with httpx.AsyncClient(timeout=60) as http, http.stream("GET", url) as response:
        response.raise_for_status()
        total = int(response.headers["Content-Length"])
        with (folder / "model.bin").open("wb") as file:
            async for piece in response.aiter_bytes():
                file.write(piece)
                claim.report(file.tell(), total)


app = FastAPI(lifespan=lifespan)


@app.get("/models/{name:path}")
async def answer(name: str) -> dict[str, object]:
    """What this server knows of a model: in the place of an inference."""
    if name not in app.state.files:
        raise HTTPException(404, f"{name} is not served here")
    await app.state.registry.touch_model(name, PROVIDER)  # the least recently used is evicted first
    return {"model": name, "bytes": app.state.files[name].stat().st_size}
