"""A replica in a process of its own: ``python -m tests.support.replica URL NAMESPACE NAME [options as JSON]``.

It wants the model ``org/model`` and says on its standard output, a JSON array a line, what happens to it:
``["begins", token, previous owner]``, ``["has", token, owner]``, ``["failed", error]``. A download that it owns waits
for a line on the standard input, reporting progress, and stops when its claim is lost.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyregistry import AsyncRegistry, FolderStore, OwnedClaim, Registry, RegistryError
from tests.support.faults.proxy import SECONDS, until

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

MODEL: Final = ("org/model", "HuggingFace")


def say(*words: Any) -> None:
    print(json.dumps(words), flush=True)


def read(lines: threading.Event) -> None:
    sys.stdin.readline()
    lines.set()


def main() -> None:
    url, namespace, name, more = sys.argv[1:]
    options: dict[str, Any] = json.loads(more)
    store = FolderStore(options.pop("store")) if "store" in options else None
    told = threading.Event()
    threading.Thread(target=read, args=(told,), daemon=True).start()

    ends: list[threading.Event] = []

    def download(claim: OwnedClaim, folder: Path | None = None) -> None:
        end = threading.Event()
        ends.append(end)
        try:
            work(claim, folder)
        finally:
            end.set()

    def work(claim: OwnedClaim, folder: Path | None) -> None:
        if folder is not None:
            (folder / "weights").write_text(name)
        # Said last: whoever hears it may stop this process, and then its folder is swept away under it.
        say("begins", claim.token, claim.previous_owner)
        at = 0
        while not told.wait(0.02):
            at += 1
            claim.report(at, 1000)
            if claim.lost.is_set():
                say("lost", claim.token, claim.lost.why)
                return
        say("ends", claim.token)

    async def ensure_async() -> Any:
        async with AsyncRegistry.from_url(url, namespace, owner=name) as registry:
            return await registry.ensure(*MODEL, download, store=store, **options)

    try:
        if options.pop("asyncio", False):
            record = asyncio.run(ensure_async())
        else:
            with Registry.from_url(url, namespace, owner=name) as registry:
                record = registry.ensure(*MODEL, download, store=store, **options)
        say("has", record.token, record.owner)
    except RegistryError as error:
        say("failed", f"{type(error).__name__}: {error}")
    for end in ends:  # on asyncio who loses his claim may go on before the thread of his download has noticed
        end.wait(SECONDS)


class Replica:
    """Such a process, from outside; a context manager that ends it."""

    def __init__(self, url: str, namespace: str, name: str, **options: Any) -> None:
        command = [sys.executable, "-m", "tests.support.replica", url, namespace, name, json.dumps(options)]
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.said: list[list[Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            print(self.name, "says", line, end="")  # for the report of a test that failed
            self.said.append(json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(SECONDS)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def hear(self, word: str) -> list[Any]:
        """Wait until it says this."""
        return until(
            lambda: next((said for said in self.said if said[0] == word), []),
            f"{self.name} says {word}",
            60.0,
        )

    def has_said(self, word: str) -> bool:
        return any(said[0] == word for said in self.said)

    def go_on(self) -> None:
        """Let its download end."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


if __name__ == "__main__":
    main()
