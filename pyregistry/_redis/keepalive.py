"""The blocking backend that keeps the claims of either client alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pyregistry._redis.protocol.requests import RequestFactory
from pyregistry._redis.transport.endpoint import ClientEndpoint, OwnEndpoint
from pyregistry._redis.transport.pooled_sync import Transport

B = TypeVar("B")


def keepalive_backend(
    make: Callable[[OwnEndpoint, RequestFactory, Transport], B],
    source: ClientEndpoint | OwnEndpoint,
    ops: RequestFactory,
    timeout: float,
) -> B:
    """A blocking backend with connections of its own. See `AsyncBackend.for_keepalive`.

    A request goes out twice, and is not repeated while the server refuses it for now: the keepalive repeats it.
    """
    hurried = source.hurried(timeout)
    return make(hurried, ops, Transport(hurried, ops, attempts=2, patience=0.0))
