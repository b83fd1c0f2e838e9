"""Find the namespaces of a server that have records, with SCAN where the user may use it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec
from rich.console import RenderableType
from rich.text import Text

from pyregistry._core.values import DEFAULT_TIMEOUT
from pyregistry._redis import administration
from pyregistry.cli.output import aligned, tabbed, to_json
from pyregistry.config import BackendConfig
from pyregistry.errors import RegistryError

__all__ = ["Namespace", "Namespaces", "elsewhere", "find"]

_HINT_SECONDS = 1.0
_HINTS = 10


class Namespace(msgspec.Struct, frozen=True):
    """A namespace that has records.

    Attributes:
        namespace: Its name.
        models: Number of its records; None if the user may not count them.
    """

    namespace: str
    models: int | None


def find(config: BackendConfig, seconds: float | None = None) -> tuple[list[Namespace], bool]:
    """Find the namespaces that have records. Writes nothing to the server.

    Args:
        config: The server.
        seconds: Maximum duration, in seconds. Defaults to no limit.

    Returns:
        The namespaces, and whether the search was complete.

    Raises:
        AccessDenied: The user may not use SCAN, or may not connect.
        RegistryError: As for every call of a client.
    """
    timeout = config.options.get("timeout", DEFAULT_TIMEOUT)
    found, complete = administration.namespaces(config.url, config.namespace, timeout, seconds)
    return [Namespace(name, models) for name, models in found.items()], complete


def elsewhere(config: BackendConfig) -> str:
    """Describe an empty namespace: name other namespaces that have records. The search is limited to 1 s."""
    words = f"the namespace {config.namespace} has no records"
    try:
        found, complete = find(config, _HINT_SECONDS)
    except RegistryError:
        return words  # the search for other namespaces failed; that this one is empty is known
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
    """A list of namespaces, in three forms."""

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
