"""Questions about a server as a whole: does it answer, which namespaces has it. Nothing is connected to before them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from pyregistry._core.model_key import ModelKey, entry_of
from pyregistry._core.values import DEFAULT_TIMEOUT, STATUSES
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry._redis.protocol.request import CommandTemplate, PlainRequest
from pyregistry._redis.protocol.requests import RequestFactory
from pyregistry._redis.transport.endpoint import endpoint_of
from pyregistry._redis.transport.pooled_sync import Transport
from pyregistry.errors import AccessDenied, RegistryUnavailable, ServerRefused
from pyregistry.models import ModelProvider

__all__ = ["delete_settings", "namespaces", "ping", "resolved_url"]

# No client takes a name with a control character, so no record has it.
_NOBODY = "\0ping"
_PROVIDER = ModelProvider.HUGGING_FACE

# A namespace has these sorted sets as long as they have members. Its records are keys too, and far more.
_MATCH = ("MATCH", "pyregistry:{*}:[de]*", "COUNT", 1000, "TYPE", "zset")
_KEY = re.compile(rb"pyregistry:\{([A-Za-z0-9._-]{1,64})\}:(downloading|downloaded|error|evicting)")


class _PlainTransport(Transport):
    """A transport that opens no registry."""

    def _on_connect(self, connection: Any) -> None:
        try:
            connection.on_connect()
        except BaseException:
            # Else redis-py would find the socket open the next time, and never call this again.
            connection.disconnect(nowait=True)
            raise


class _Server:
    """Sends reading commands."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def ask(self, name: str, verb: str, *words: Any) -> Any:
        """The raw reply: bytes, numbers, lists. Raises what every call of a client raises.

        Args:
            name: what was called, for errors.
            verb: the command, one word or two.
            words: its arguments: text, bytes or numbers.
        """
        head = CommandTemplate(name, None, verb=verb)
        return self._transport.call(PlainRequest(head, lambda replies: replies[0], argv=words))


@contextmanager
def _plain_server(url: str, namespace: str, timeout: float) -> Iterator[_Server]:
    transport = _PlainTransport(endpoint_of(url, timeout, {}), RequestFactory(namespace, None, ()))
    try:
        yield _Server(transport)
    finally:
        transport.close()


def ping(url: str, namespace: str, timeout: float, *, write: bool) -> None:
    """Ask the server once.

    Args:
        url: the server.
        namespace: which registry there.
        timeout: seconds that a connection attempt or an answer may take.
        write: send a transition that needs all that a claim needs: a retry of a model that has no record, which
            changes nothing.

    Raises:
        RegistryUnavailable: no answer came; `NotNow`: the server refuses for now.
        ServerRefused: the server refused.
    """
    entry = entry_of(_NOBODY, _PROVIDER, None, None)
    if not write:
        with _plain_server(url, namespace, timeout) as server:
            server.ask("ping", "MGET", Keyspace(namespace).record(entry))
        return
    ops = RequestFactory(namespace, None, ())
    transport = Transport(endpoint_of(url, timeout, {}), ops)
    try:
        nobody = ModelKey(_NOBODY, _PROVIDER, None, None, entry)
        transport.call(ops.retry(nobody, lease=1.0, claim_id=None, owner=None, max_attempts=None))
    finally:
        transport.close()


def namespaces(
    url: str, namespace: str, timeout: float, seconds: float | None
) -> tuple[dict[str, int | None], bool]:
    """The namespaces that have records. Nothing is written.

    Args:
        url: the server.
        namespace: the caller's; the rights of its user may end there.
        timeout: seconds that a connection attempt or an answer may take.
        seconds: look no longer; ``None``: to the end.

    Returns:
        How many records each has (``None``: this user may not count them), and whether these are all.

    Raises:
        AccessDenied: the user may not use SCAN, or not connect.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    with _plain_server(url, namespace, timeout) as server:
        found = set[str]()
        cursor: bytes = b"0"
        while True:
            try:
                cursor, keys = server.ask("namespaces", "SCAN", cursor, *_MATCH)
            except AccessDenied as error:
                raise AccessDenied(
                    f"namespaces are found with SCAN, which is not allowed here: {error}"
                ) from error
            found |= {match[1].decode() for key in keys if (match := _KEY.fullmatch(key))}
            if cursor == b"0" or (deadline is not None and time.monotonic() > deadline):
                break
        return {name: _records(server, name) for name in sorted(found)}, cursor == b"0"


def _records(server: _Server, namespace: str) -> int | None:
    indexes = Keyspace(namespace).indexes
    try:
        counts: list[int] = [server.ask("namespaces", "ZCARD", indexes[status]) for status in STATUSES]
        return sum(counts)
    except ServerRefused:
        return None  # a user of another namespace


def resolved_url(url: str) -> str:
    """The URL of the server itself, where a URL names one that is found or started. May block."""
    return endpoint_of(url, DEFAULT_TIMEOUT, {}).resolve()


def delete_settings(url: str, namespace: str, *, whole: bool) -> None:
    """Delete the cache id of a namespace without records; with ``whole`` its clock too.

    Raises:
        RegistryUnavailable, ServerRefused: it could not be deleted.
    """
    meta = Keyspace(namespace).meta
    pool = endpoint_of(url, DEFAULT_TIMEOUT, {}).sync_pool(url, redis.Connection.on_connect)
    try:
        with redis.Redis.from_pool(pool) as client:
            if whole:
                client.delete(meta)
            else:
                client.hdel(meta, "cache_id")
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise RegistryUnavailable(str(error)) from error
    except redis.RedisError as error:
        raise ServerRefused(str(error)) from error
