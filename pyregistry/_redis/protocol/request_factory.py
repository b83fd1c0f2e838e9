"""The requests of one client: the command of each verb, and the decoding of its reply. No I/O."""

from __future__ import annotations

import msgspec

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.claims import ClaimRequests
from pyregistry._redis.protocol.reads import ReadRequests
from pyregistry._redis.protocol.request import PlainRequest, Request
from pyregistry._redis.protocol.scripts import Script
from pyregistry._redis.protocol.transitions import (
    CHECK,
    OPEN,
    SCHEMA,
)
from pyregistry._redis.protocol.writes import WriteRequests

__all__ = ["RequestFactory"]

_decode_opened = msgspec.msgpack.Decoder(wire.Opened).decode


class RequestFactory(ClaimRequests, WriteRequests, ReadRequests):
    """Builds the requests of one client. The caller splits many models into requests of at most `BATCH` items."""

    def open(self) -> Request[wire.Opened]:
        """Check the server and the rights, and move the clock of ticks after a restart or failover."""
        return self._about_server(OPEN)

    def check(self) -> Request[wire.Opened]:
        """Check the server and the rights without a write."""
        return self._about_server(CHECK)

    def _about_server(self, script: Script) -> Request[wire.Opened]:
        keys = (*self.keys.shared, self.keys.record("x"), self.keys.holds("x"), self.keys.branches)
        head = self._head("connect", script, keys, self.keys.channel, SCHEMA)
        return PlainRequest(head, lambda answers: _decode_opened(answers[0]))
