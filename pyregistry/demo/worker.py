"""The replica process of the demo. It obtains its models as an inference server does.

It reads its job and its orders from standard input, and reports to standard output.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec

from pyregistry.demo.file_server import MANIFEST, REPLICA_HEADER, TOKEN_HEADER
from pyregistry.demo.ipc import (
    Complete,
    File,
    Job,
    Order,
    Published,
    Ready,
    Report,
    Touched,
    Verified,
    Won,
)
from pyregistry.registry import Registry
from pyregistry.stores.folder import FolderStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyregistry._coordination.lease import OwnedClaim

_CHUNK = 32 * 1024
_HTTP_SECONDS = 30.0

# Without the proxy of the environment, because the file server is on this machine.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Replica:
    """An inference server that obtains models in a folder shared with other replicas."""

    def __init__(self, job: Job, registry: Registry) -> None:
        self._job = job
        self._registry = registry
        self._store = FolderStore(job.cache)
        self._downloaded: dict[int, float] = {}  # end of the download by model, on the monotonic clock
        with self._open(MANIFEST) as response:
            self._manifest = msgspec.json.decode(response.read(), type=dict[str, File])

    def obtain_all(self) -> None:
        """Obtain every model: download it, or wait for the replica that does.

        It has no timeout: the demo ends this process when its own timeout is over.
        """
        count = len(self._job.models)
        for place in range(count):
            # Each replica begins with another model, so that all of them have one to download.
            self._obtain((self._job.number - 1 + place) % count)

    def touch(self, number: int) -> None:
        """Touch a model and report it."""
        model = self._job.models[number]
        self._registry.touch_model(model.name, model.provider)
        report(Touched(number))

    def _obtain(self, number: int) -> None:
        model = self._job.models[number]
        if self._job.ignores_claims:
            self._download_unclaimed(number)
        began = time.monotonic()
        record = self._registry.ensure(
            model.name,
            model.provider,
            partial(self._download, number),
            store=self._store,
            lease=self._job.lease,
            expected_bytes=self._manifest[model.key].size,
            touch=False,  # a touch in the background could follow the touches whose order is checked
        )
        had = time.monotonic()
        if number in self._downloaded:
            report(Published(number, self._downloaded[number]))
        found = self._read(self._store.path(record) / model.key)
        self._registry.touch_model(model.name, model.provider)
        report(Verified(number, found, began, had))

    def _download(self, number: int, claim: OwnedClaim, folder: Path) -> None:
        """Download into the staging folder of this claim. The store publishes it after the return.

        Raises:
            OSError: The file differs from the manifest, or the claim was lost.
        """
        assert claim.lease_expires_at is not None, "it was claimed with a lease"
        report(
            Won(
                number,
                claim.token,
                claim.attempts,
                claim.lease_expires_at,
                claim.taken_over,
                claim.previous_owner,
                claim.previous_bytes_done,
            )
        )
        key = self._job.models[number].key
        found = self._fetch(key, folder / key, claim)
        if found != self._manifest[key]:
            raise OSError(f"{key} came as {found}, not as {self._manifest[key]}")
        self._downloaded[number] = time.monotonic()

    def _fetch(self, key: str, path: Path, claim: OwnedClaim | None = None) -> File:
        """Download a file, and report progress to the claim, if any.

        Raises:
            OSError: The claim was lost.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        token = None if claim is None else claim.token
        with self._open(key, token) as response, path.open("wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                if claim is not None:
                    if claim.lost.is_set():
                        raise OSError("somebody else has the claim by now")
                    claim.report(size)
        return File(size, digest.hexdigest())

    def _download_unclaimed(self, number: int) -> None:
        """Violate the protocol for tests: download a model without its claim, directly to a published path."""
        key = self._job.models[number].key
        self._fetch(key, Path(self._job.cache) / "unclaimed" / key)

    def _read(self, path: Path) -> File:
        """Read a published file, as a use of the model."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            return File(file.tell(), digest.hexdigest())

    def _open(self, path: str, token: int | None = None) -> Any:
        headers = {REPLICA_HEADER: str(self._job.number)}
        if token is not None:
            headers[TOKEN_HEADER] = str(token)
        request = urllib.request.Request(f"{self._job.files_url}/{path}", headers=headers)
        return _http.open(request, timeout=_HTTP_SECONDS)


def report(what: Report) -> None:
    """Write a report to the demo."""
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


def follow(stdin: Iterator[bytes], orders: SimpleQueue[Order]) -> None:
    """Queue the orders. Exit the process if they end without "end", because the demo was then killed."""
    for line in stdin:
        order = msgspec.json.decode(line, type=Order)
        orders.put(order)
        if order.do == "end":
            return
    os._exit(1)


def main() -> None:
    """Do the job that standard input describes."""
    # Unbuffered, because a thread that blocks in a buffered read is a fatal error when the interpreter exits.
    stdin = iter(open(0, "rb", buffering=0, closefd=False))  # noqa: SIM115 - it is open already
    job = msgspec.json.decode(next(stdin), type=Job)
    orders = SimpleQueue[Order]()
    threading.Thread(target=follow, args=(stdin, orders), daemon=True).start()
    owner = f"replica {job.number} (pid {os.getpid()})"
    with Registry.from_url(job.url, job.namespace, owner=owner) as registry:
        replica = Replica(job, registry)
        report(Ready())
        while (order := orders.get()).do != "end":
            if order.do == "go":
                replica.obtain_all()
                report(Complete())
            else:
                replica.touch(order.model)


if __name__ == "__main__":
    main()
