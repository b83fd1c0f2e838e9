"""The blocking backend that keeps the claims of either client alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyregistry._redis.protocol.operations import Ops
from pyregistry._redis.transport.endpoint import ClientSource, OwnSource

if TYPE_CHECKING:
    from pyregistry._redis.backend_sync import RedisBackend


def keepalive_backend(source: ClientSource | OwnSource, ops: Ops, timeout: float) -> RedisBackend:
    """A blocking backend with connections of its own. See `AsyncBackend.for_keepalive`.

    A request goes out twice, and is not repeated while the server refuses it for now: the keepalive repeats it.
    """
    from pyregistry._redis.backend_sync import RedisBackend
    from pyregistry._redis.transport.pooled_sync import Transport

    hurried = source.hurried(timeout)
    return RedisBackend(hurried, ops, Transport(hurried, ops, attempts=2, patience=0.0))
