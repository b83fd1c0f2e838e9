"""How many clients listen to the events of a namespace: those that wait, watch, or show an overview."""

from __future__ import annotations

from pyregistry.registry import Registry

__all__ = ["listeners_of", "listening_words"]


def listeners_of(registry: Registry) -> int | None:
    """How many clients listen to a registry's namespace, whichever model they wait for.

    A client has one subscription, however many of its tasks wait. The server that is asked counts its own: clients
    subscribe at the primary.

    Returns:
        The number; ``None``: the user may not ask.
    """
    return registry._backend.listeners()


def listening_words(count: int, *, also_this: bool = False) -> str:
    """That number, in words."""
    clients = "1 client listens" if count == 1 else f"{count:,} clients listen"
    return f"{clients}{', this too' if also_this else ''}"
