"""What each process of the demo does; like this, an inference server gets its models.

It reads its job and its orders from standard input, and reports to standard output.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import threading
import time
import urllib.request
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec

from pyregistry.demo._files import MANIFEST, REPLICA_HEADER, TOKEN_HEADER
from pyregistry.demo._messages import (
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
from pyregistry.models import Claimed, ModelStatus
from pyregistry.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyregistry.models import Claim

_CHUNK = 32 * 1024
_HTTP_SECONDS = 30.0
_PROGRESS_SECONDS = 0.1  # between two renewals, far less than a lease
_POLL_SECONDS = (0.1, 0.2)  # with jitter: replicas that began together don't ask together for ever

# Whatever proxy the environment names: the file server is on this machine.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ClaimLost(Exception):
    """Somebody else owns the download by now."""


class Replica:
    """One inference server that wants some models in the folder that it shares with others."""

    def __init__(self, job: Job, registry: Registry) -> None:
        self._job = job
        self._registry = registry
        self._cache = Path(job.cache)
        with self._open(MANIFEST) as response:
            self._manifest = msgspec.json.decode(response.read(), type=dict[str, File])

    def obtain_all(self) -> None:
        """Claim every model, download what was won, and look again at the others until they are there.

        It has no limit of its own: who started this process ends it when its time is over.
        """
        missing = list(range(len(self._job.models)))
        while missing:
            for number in tuple(missing):
                model = self._job.models[number]
                # A claim that is not won changes nothing, so it is the question too; and it takes over
                # where the lease of an owner has ended.
                result = self._registry.try_claim_for_download(
                    model.name,
                    model.provider,
                    lease=self._job.lease,
                    expected_bytes=self._manifest[model.key].size,
                )
                if isinstance(result, Claimed):
                    self._download(number, result.claim)
                    break  # and begin again: an owner of those before may have been lost meanwhile
                if result.status is ModelStatus.DOWNLOADED:
                    self._verify(number)
                    missing.remove(number)
                elif self._job.ignores_claims:
                    self._download_unclaimed(number)
            else:
                time.sleep(random.uniform(*_POLL_SECONDS))

    def touch(self, number: int) -> None:
        """Say that a model is in use."""
        model = self._job.models[number]
        self._registry.touch_model(model.name, model.provider)
        report(Touched(number))

    def _download(self, number: int, claim: Claim) -> None:
        """Download into a path that only this claim has, and publish by one rename."""
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
        model = self._job.models[number]
        partial = self._cache / "staging" / model.key / f"{claim.token}.partial"
        location = f"models/{model.key}/{claim.token}"

        def renew(bytes_done: int) -> None:
            if self._registry.refresh_download_claim(claim, bytes_done=bytes_done) is None:
                raise ClaimLost(model.name)

        found = self._fetch(model.key, partial, renew, token=claim.token)
        if found != self._manifest[model.key]:
            raise OSError(f"{model.name} came as {found}, not as {self._manifest[model.key]}")
        renew(found.size)  # who has lost the claim must not publish
        published = self._cache / location
        published.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(published)
        if not self._registry.finish_download_claim(
            claim, ModelStatus.DOWNLOADED, size_bytes=found.size, location=location
        ):
            raise ClaimLost(model.name)
        report(Published(number))

    def _fetch(
        self, key: str, path: Path, on_progress: Callable[[int], None], *, token: int | None = None
    ) -> File:
        """Download a file; ``on_progress`` is told again and again how many bytes are done."""
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        told = time.monotonic()
        with self._open(key, token) as response, path.open("wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                if time.monotonic() - told > _PROGRESS_SECONDS:
                    told = time.monotonic()
                    on_progress(size)
        return File(size, digest.hexdigest())

    def _download_unclaimed(self, number: int) -> None:
        """What nobody may do: download what another owns, and in place."""
        key = self._job.models[number].key
        self._fetch(key, self._cache / "models" / key / "unclaimed", lambda _: None)

    def _verify(self, number: int) -> None:
        """Read what is DOWNLOADED, from where its record says, and use it."""
        model = self._job.models[number]
        record = self._registry.get_model_record(model.name, model.provider)
        assert record is not None, "nobody deletes in the demo"
        assert record.location is not None, "whoever finished it gave it"
        with (self._cache / record.location).open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            found = File(file.tell(), digest.hexdigest())
        self._registry.touch_model(model.name, model.provider)
        report(Verified(number, found))

    def _open(self, path: str, token: int | None = None) -> Any:
        headers = {REPLICA_HEADER: str(self._job.number)}
        if token is not None:
            headers[TOKEN_HEADER] = str(token)
        request = urllib.request.Request(f"{self._job.files_url}/{path}", headers=headers)
        return _http.open(request, timeout=_HTTP_SECONDS)


def report(what: Report) -> None:
    """Tell the demo."""
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


def follow(stdin: Iterator[bytes], orders: SimpleQueue[Order]) -> None:
    """Pass the orders on. If they stop before the last one the demo is gone, and this process goes too."""
    for line in stdin:
        order = msgspec.json.decode(line, type=Order)
        orders.put(order)
        if order.do == "end":
            return
    os._exit(1)


def main() -> None:
    """Do the job that standard input describes."""
    # Unbuffered: a thread that waits in a buffered read would be a fatal error at the end of Python.
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
