# Made from _coordination/session_async.py by tools/unasync.py: change that one.
"""The state that a client, its waiters and the owners of its claims share."""

from __future__ import annotations

import weakref

from pyregistry._coordination.claim_log import ClaimLog
from pyregistry._coordination.keepalive import Keepalive
from pyregistry._coordination.subscriber_sync import Subscriber
from pyregistry._coordination.touch_buffer_sync import TouchBuffer
from pyregistry._runtime.threads import call_from_thread
from pyregistry.backend.protocol_sync import Backend

__all__ = ["Session"]

USE_INTERVAL_S = 1.0
"""Default interval, in seconds, of the touches by `ensure`: at most one per model. `touch_interval` overrides it."""


class Session(ClaimLog):
    """The components of one client.

    Args:
        backend: The registry.
        touch_interval: See `Registry.from_url`.

    Attributes:
        backend: The registry.
        subscriber: The subscription to events, for all waiters and watchers.
        touches: Buffer of the caller's touches; ``None``: each touch is sent at once.
        uses: Buffer of the touches by `ensure`; `touches` if that is set.
    """

    def __init__(self, backend: Backend, touch_interval: float | None) -> None:
        super().__init__(Keepalive(backend.for_keepalive), backend.ids)
        self.backend = backend
        # A weak reference, because a client without references counts as closed.
        reference = weakref.ref(backend)
        self.keepalive.by_client = lambda verb, seconds: call_from_thread(reference(), verb, seconds)
        self.touches = None if touch_interval is None else TouchBuffer(backend, touch_interval)
        self.uses = self.touches or TouchBuffer(backend, USE_INTERVAL_S)
        self.subscriber = Subscriber(backend.events, backend.namespace, backend.patience)
