"""The requests of one client: what each verb asks of the server, and what the answer means. No I/O."""

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
    """Makes the requests of one client. A call for many models takes as many requests as the batch size asks for."""

    def open(self) -> Request[wire.Opened]:
        """Is the server fit, and the one that wrote last?"""
        return self._about_server(OPEN)

    def check(self) -> Request[wire.Opened]:
        """Is the server fit? That can be told without a write."""
        return self._about_server(CHECK)

    def _about_server(self, script: Script) -> Request[wire.Opened]:
        keys = (*self.keys.shared, self.keys.record("x"), self.keys.holds("x"), self.keys.branches)
        head = self._head("connect", script, keys, self.keys.channel, SCHEMA)
        return PlainRequest(head, lambda answers: _decode_opened(answers[0]))
