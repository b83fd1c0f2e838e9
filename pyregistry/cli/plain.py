"""Plain commands to a server, without what a registry's connection begins with, which writes to its namespace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyregistry._redis.protocol.operations import Ops
from pyregistry._redis.protocol.request import Head, PlainOp
from pyregistry._redis.transport.endpoint import DEFAULT_TIMEOUT, source_of
from pyregistry._redis.transport.pooled_sync import Transport
from pyregistry.config import BackendConfig

__all__ = ["PlainServer", "ask", "plain_server"]


class _PlainTransport(Transport):
    """A transport that opens no registry."""

    def _on_connect(self, connection: Any) -> None:
        try:
            connection.on_connect()
        except BaseException:
            # Else redis-py would find the socket open the next time, and never call this again.
            connection.disconnect(nowait=True)
            raise


class PlainServer:
    """Sends reading commands.

    Attributes:
        ops: the operations of the namespace.
    """

    def __init__(self, transport: Transport, ops: Ops) -> None:
        self._transport = transport
        self.ops = ops

    def ask(self, name: str, verb: str, *words: str | bytes | int) -> Any:
        """The raw reply: bytes, numbers, lists. Raises what every call of a client raises."""
        return ask(self._transport, name, verb, *words)


def ask(transport: Transport, name: str, verb: str, *words: Any) -> Any:
    """The raw reply to a reading command.

    Args:
        transport: what sends it.
        name: what was called, for errors.
        verb: the command, one word or two.
        words: its arguments.
    """
    head = Head(name, None, verb=verb)
    return transport.call(PlainOp(head, lambda replies: replies[0], argv=words))


@contextmanager
def plain_server(config: BackendConfig) -> Iterator[PlainServer]:
    """The server that a configuration names. It is connected to with the first question."""
    ops = Ops(config.namespace, None, ())
    source = source_of(config.url, config.options.get("timeout", DEFAULT_TIMEOUT), {})
    transport = _PlainTransport(source, ops)
    try:
        yield PlainServer(transport, ops)
    finally:
        transport.close()
