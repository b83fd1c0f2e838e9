"""Which namespaces of a server have records: SCAN tells, where it is allowed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec
from rich.console import RenderableType
from rich.text import Text

from pyregistry._core.values import STATUSES
from pyregistry.cli.output import aligned, tabbed, to_json
from pyregistry.cli.plain import PlainServer, plain_server
from pyregistry.config import BackendConfig
from pyregistry.errors import AccessDenied, RegistryError, ServerRefused

__all__ = ["Namespace", "Namespaces", "elsewhere", "find"]

# A namespace has these sorted sets as long as they have members. Its records are keys too, and far more.
_MATCH = ("MATCH", "pyregistry:{*}:[de]*", "COUNT", 1000, "TYPE", "zset")
_KEY = re.compile(rb"pyregistry:\{([A-Za-z0-9._-]{1,64})\}:(downloading|downloaded|error|evicting)")
_HINT_SECONDS = 1.0
_HINTS = 10


class Namespace(msgspec.Struct, frozen=True):
    """One namespace with records.

    Attributes:
        namespace: its name.
        models: how many records it has; ``None``: this user may not count them.
    """

    namespace: str
    models: int | None


def find(config: BackendConfig, seconds: float | None = None) -> tuple[list[Namespace], bool]:
    """The namespaces that have records, and whether these are all.

    Args:
        config: which server. Nothing is written to it.
        seconds: look no longer; ``None``: to the end.

    Raises:
        AccessDenied: the user may not use SCAN, or not connect.
        RegistryError: as every call of a client.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    with plain_server(config) as server:
        found = dict[str, int | None]()
        cursor: bytes = b"0"
        while True:
            try:
                cursor, keys = server.ask("namespaces", "SCAN", cursor, *_MATCH)
            except AccessDenied as error:
                raise AccessDenied(
                    f"namespaces are found with SCAN, which is not allowed here: {error}"
                ) from error
            names = (match[1].decode() for key in keys if (match := _KEY.fullmatch(key)))
            for name in names:
                found.setdefault(name, None)
            if cursor == b"0" or (deadline is not None and time.monotonic() > deadline):
                break
        return [Namespace(name, _models(server, name)) for name in sorted(found)], cursor == b"0"


def _models(server: PlainServer, namespace: str) -> int | None:
    keys = [f"pyregistry:{{{namespace}}}:{status.lower()}" for status in STATUSES]
    try:
        counts: list[int] = [server.ask("namespaces", "ZCARD", key) for key in keys]
        return sum(counts)
    except ServerRefused:
        return None  # a user of another namespace


def elsewhere(config: BackendConfig) -> str:
    """What is said of an empty namespace: which others have records, as far as that can be told quickly."""
    words = f"the namespace {config.namespace} has no records"
    try:
        found, complete = find(config, _HINT_SECONDS)
    except RegistryError:
        return words  # that it is empty is known all the same
    others = [each for each in found if each.namespace != config.namespace]
    if not others:
        return f"{words}, nor has any other of this server" if complete else words
    named = ", ".join(
        each.namespace if each.models is None else f"{each.namespace} ({each.models:,})"
        for each in others[:_HINTS]
    )
    more = f", and {len(others) - _HINTS} more" if len(others) > _HINTS else ""
    return f"{words}; others have: {named}{more} (--namespace NAME)"


@dataclass(frozen=True)
class Namespaces:
    """A list of them, in three forms."""

    found: list[Namespace]

    def json(self) -> Iterable[bytes]:
        yield to_json(self.found)

    def lines(self) -> Iterator[str]:
        yield tabbed(("NAMESPACE", "MODELS"))
        for each in self.found:
            yield tabbed((each.namespace, each.models))

    def screen(self) -> RenderableType:
        if not self.found:
            return Text("no namespace of this server has records", style="dim")
        rows = [(each.namespace, "?" if each.models is None else f"{each.models:,}") for each in self.found]
        return aligned(("NAMESPACE", "MODELS"), rows)
