"""Count the clients that subscribe to the events of a namespace: they wait, watch, or show an overview."""

from __future__ import annotations

from pyregistry.registry import Registry

__all__ = ["listeners_of", "listening_words"]


def listeners_of(registry: Registry) -> int | None:
    """Return the number of clients that subscribe to a registry's namespace, for any model.

    A client has one subscription for all of its waiting tasks. A server counts its own subscribers only; clients
    subscribe on the primary.

    Returns:
        The number; None if the user may not ask.
    """
    return registry._backend.listeners()


def listening_words(count: int, *, also_this: bool = False) -> str:
    """Describe a number of listeners.

    Args:
        count: The number.
        also_this: Whether this process is one of them. Defaults to False.
    """
    clients = "1 client listens" if count == 1 else f"{count:,} clients listen"
    return f"{clients}{', this too' if also_this else ''}"
