"""The blocking backend that the keepalive of either client uses to renew claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.transport.endpoint import ClientEndpoint, OwnEndpoint
from pyregistry._redis.transport.pooled_sync import Transport

B = TypeVar("B")


def keepalive_backend(
    make: Callable[[OwnEndpoint, RequestFactory, Transport], B],
    source: ClientEndpoint | OwnEndpoint,
    ops: RequestFactory,
    timeout: float,
) -> B:
    """Make a blocking backend with its own connections. See `AsyncBackend.for_keepalive`.

    A request is sent at most twice, and a temporary refusal is not retried, because the keepalive itself repeats it.

    Args:
        make: Makes the backend.
        source: The server.
        ops: Builds the requests of the namespace.
        timeout: Seconds that a connection attempt or a reply may take, at most.
    """
    hurried = source.hurried(timeout)
    return make(hurried, ops, Transport(hurried, ops, attempts=2, patience=0.0))
