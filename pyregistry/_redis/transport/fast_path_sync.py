"""The fast path of the blocking client: one request on an idle connection, without the retry loop.

`pooled_sync` handles many requests at once and their retries. A single request on an open connection needs none of
that, and would spend more time there than on the rest of its work.
"""

from __future__ import annotations

from typing import TypeVar

from redis import exceptions as redis_errors

from pyregistry._redis.protocol.outcomes import PendingCall
from pyregistry._redis.protocol.request import Request
from pyregistry._redis.transport.pooled_sync import Transport

T = TypeVar("T")


class FastPathTransport(Transport):
    """A `Transport` with a fast path for single requests. A request that fails there continues in `Transport`."""

    def call(self, op: Request[T], patience: float | None = None) -> T:
        """Return the reply of one request.

        Args:
            op: The request.
            patience: Seconds for which a temporary refusal is retried. Defaults to that of the transport.

        Raises:
            RegistryError: As `Transport.call`.
        """
        lines = self._lines
        if lines is None or (line := lines.idle()) is None:
            return super().call(op, patience)
        if self._due and line.connection in self._unopened:
            lines.give_back(line)
            return super().call(op, patience)
        try:
            if self._closed:
                self._check_open()
            try:
                reply = line.ask(op.packed())
            except (redis_errors.RedisError, OSError) as error:
                reply = error
            if not isinstance(reply, Exception):
                return op.head.read(op, reply)
            asked = PendingCall(op)
            asked.failed(reply, self._source.shown)
            self._to_repeat(line, [asked])
        finally:
            lines.give_back(line)
            if self._closed:
                lines.close()
        return self._outcome(asked, begun=1, patience=patience)
