"""The shortest way of one call: what nearly every call of the blocking client is.

The way through `pooled_sync` is made for many calls at once, which may have to go out again. A call alone, on a
connection that is there, needs next to nothing of that, and would spend more on it than on all else that it does.
"""

from __future__ import annotations

from typing import TypeVar

from redis import exceptions as redis_errors

from pyregistry._redis.protocol.outcomes import PendingCall
from pyregistry._redis.protocol.request import Request
from pyregistry._redis.transport.pooled_sync import Transport

T = TypeVar("T")


class FastPathTransport(Transport):
    """`Transport`, and a short way for a call alone. What does not end well there goes on by the other."""

    def call(self, op: Request[T], patience: float | None = None) -> T:
        """The reply of one operation; raises what `Transport.call` raises."""
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
