"""The parts of a client that tests look at: what no public name tells."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pyregistry import AsyncRegistry, Registry
from pyregistry._coordination.keepalive import Keepalive
from pyregistry._core.clock import now
from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.transport.pending import Batch

# Any: tests look at attributes that no protocol names, on either client or a facade of the asyncio one.
AnyClient = Registry | AsyncRegistry | Any


def _backend_of(registry: AnyClient) -> Any:
    return registry._backend


def ops_of(registry: AnyClient) -> RequestFactory:
    """What makes the requests of a client on Redis."""
    ops: RequestFactory = _backend_of(registry).ops
    return ops


def transport_of(registry: AnyClient) -> Any:
    """What sends them."""
    return _backend_of(registry).transport


def subscriber_of(registry: AnyClient) -> Any:
    """The subscription of a client."""
    return registry._session.subscriber


def keepalive_of(registry: AnyClient) -> Keepalive:
    """The claims that a client keeps alive."""
    keepalive: Keepalive = registry._session.keepalive
    return keepalive


def event_connection_of(registry: AnyClient) -> Any:
    """The connection that the subscription of a client reads from; ``None``: there is none now."""
    beside = subscriber_of(registry)._beside
    interrupt = None if beside is None else beside.interrupt
    return None if interrupt is None else interrupt.__self__._connection


def lease_time_of(registry: Registry) -> datetime:
    """The registry's clock."""
    return registry._backend.lease_time()


def waits(registry: Registry | AsyncRegistry, entry: str = "HuggingFace:org/model") -> bool:
    """Whether somebody has asked for this model after the subscription was there, and now waits to be told."""
    waiting = subscriber_of(registry).waiters._entries.get(entry)
    return waiting is not None and waiting.view is not None and waiting.view.until > now()


def under_way(registry: AsyncRegistry) -> list[int]:
    """How many items each command carries that the server has not answered."""
    transport: Any = transport_of(registry)
    return [batch.items for batch in transport._pipe.awaited(Batch)]
