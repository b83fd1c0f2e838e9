"""Administrative requests that need no open registry: ping, list namespaces, delete settings."""

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
from pyregistry._redis.protocol.request import plain_command
from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.transport.endpoint import endpoint_of
from pyregistry._redis.transport.pooled_sync import Transport
from pyregistry.errors import AccessDenied, RegistryUnavailable, ServerRefused
from pyregistry.models import ModelProvider

__all__ = ["delete_settings", "namespaces", "ping", "resolved_url"]

# Validation refuses names with control characters, so no record has this name.
_NOBODY = "\0ping"
_PROVIDER = ModelProvider.HUGGING_FACE

# Find namespaces by their indexes, because there are at most four per namespace, and far more records.
_MATCH = ("MATCH", "pyregistry:{*}:[de]*", "COUNT", 1000, "TYPE", "zset")
_KEY = re.compile(rb"pyregistry:\{([A-Za-z0-9._-]{1,64})\}:(downloading|downloaded|error|evicting)")


class _PlainTransport(Transport):
    """A transport that does not run the `open` script on its connections."""

    def _on_connect(self, connection: Any) -> None:
        try:
            connection.on_connect()
        except BaseException:
            # Otherwise redis-py finds the socket open the next time, and does not call this hook again.
            connection.disconnect(nowait=True)
            raise


@contextmanager
def _plain_server(url: str, namespace: str, timeout: float) -> Iterator[Transport]:
    transport = _PlainTransport(endpoint_of(url, timeout, {}), RequestFactory(namespace, None, ()))
    try:
        yield transport
    finally:
        transport.close()


def ping(url: str, namespace: str, timeout: float, *, write: bool) -> None:
    """Send one request to the server, and wait for its reply.

    Args:
        url: URL of the server.
        namespace: Name of the registry.
        timeout: Seconds that a connection attempt or a reply may take.
        write: Whether to send a transition with the requirements of a claim: a retry of a model without a record,
            which changes nothing.

    Raises:
        RegistryUnavailable: No reply came. `NotNow`: the server refuses temporarily.
        ServerRefused: The server refused.
    """
    entry = entry_of(_NOBODY, _PROVIDER, None, None)
    if not write:
        with _plain_server(url, namespace, timeout) as server:
            server.call(plain_command("ping", "MGET", Keyspace(namespace).record(entry)))
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
    """List the namespaces that have records. Writes nothing.

    Args:
        url: URL of the server.
        namespace: The caller's namespace. Its user may have rights to this one only.
        timeout: Seconds that a connection attempt or a reply may take.
        seconds: Time limit of the scan; None: no limit.

    Returns:
        The number of records of each namespace (None: the user may not count them), and whether the list is complete.

    Raises:
        AccessDenied: The user may not connect, or may not use SCAN.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    with _plain_server(url, namespace, timeout) as server:
        found = set[str]()
        cursor: bytes = b"0"
        while True:
            try:
                cursor, keys = server.call(plain_command("namespaces", "SCAN", cursor, *_MATCH))
            except AccessDenied as error:
                raise AccessDenied(
                    f"namespaces are found with SCAN, which is not allowed here: {error}"
                ) from error
            found |= {match[1].decode() for key in keys if (match := _KEY.fullmatch(key))}
            if cursor == b"0" or (deadline is not None and time.monotonic() > deadline):
                break
        return {name: _records(server, name) for name in sorted(found)}, cursor == b"0"


def _records(server: Transport, namespace: str) -> int | None:
    indexes = Keyspace(namespace).indexes
    try:
        counts: list[int] = [
            server.call(plain_command("namespaces", "ZCARD", indexes[status])) for status in STATUSES
        ]
        return sum(counts)
    except ServerRefused:
        return None  # the user has no rights to this namespace


def resolved_url(url: str) -> str:
    """Return the URL of the server itself; starts the embedded server if the URL names it. May block."""
    return endpoint_of(url, DEFAULT_TIMEOUT, {}).resolve()


def delete_settings(url: str, namespace: str, *, whole: bool) -> None:
    """Delete the cache id of a namespace without records.

    Args:
        url: URL of the server.
        namespace: Name of the registry.
        whole: Whether to delete the namespace's clock too.

    Raises:
        RegistryUnavailable: No reply came.
        ServerRefused: The server refused.
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
