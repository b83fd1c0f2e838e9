"""Where the server is, and how connections to it are made. Nothing here shows a password."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.maint_notifications import MaintNotificationsConfig

from pyregistry import _checks as checks
from pyregistry.errors import ConfigurationError, InvalidArgument

AsyncHook = Callable[[Any], Awaitable[None]]
Hook = Callable[[Any], None]

DEFAULT_TIMEOUT = 5.0
"""Seconds that a connection attempt, a write or an answer may take."""

# What this library decides itself, because its promises rest on it.
_OURS = frozenset(
    {"connection_class", "decode_responses", "encoding", "max_connections", "parser_class",
     "redis_connect_func", "retry", "retry_on_error", "retry_on_timeout", "socket_connect_timeout",
     "socket_timeout"}
)  # fmt: skip

CONNECTIONS = 32
"""How many calls of one client may be under way; more wait for their turn."""

# Redis Cloud's and Enterprise's maintenance messages: one more round trip for each connection.
_NO_MAINTENANCE = MaintNotificationsConfig(enabled=False)

# What makes a blocking connection of an asyncio client's settings.
_CLONED = frozenset(
    {"client_name", "credential_provider", "db", "driver_info", "host", "password", "path", "port",
     "protocol", "socket_keepalive", "socket_keepalive_options", "username"}
)  # fmt: skip
_BLOCKING_CLASS: Mapping[type, type] = {
    redis.asyncio.Connection: redis.Connection,
    redis.asyncio.SSLConnection: redis.SSLConnection,
    redis.asyncio.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
}


def redacted(url: str) -> str:
    """The URL without user, password and query."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return f"{url.partition(':')[0]}://..."
    if "@" in url and "@" not in parts.netloc:
        # A slip, or an unescaped password: any part may hold a piece of it.
        return f"{parts.scheme or '...'}://..."
    secret = "***@" if parts.username or parts.password else ""
    return f"{parts.scheme}://{secret}{host}{port}{parts.path}"


class UrlSource:
    """A server that a URL names: ``redis://``, ``rediss://``, ``unix://`` or ``embedded://``."""

    def __init__(self, url: str, timeout: float, options: Mapping[str, Any]) -> None:
        if not isinstance(url, str):
            raise InvalidArgument("url", f"must be a str, not {type(url).__name__}")
        if taken := _OURS & options.keys():
            raise InvalidArgument(min(taken), "is decided by pyregistry itself")
        checks.microseconds("timeout", timeout)
        self.timeout = timeout
        self._url = url
        self._options = {
            "maint_notifications_config": _NO_MAINTENANCE,
            **options,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
        }
        self.patience = timeout
        self.shown = redacted(url)
        self.embedded = url.startswith("embedded:")
        if self.embedded:
            self._embedded_folder()
        else:
            self._check()

    def __repr__(self) -> str:
        return self.shown

    def _check(self) -> None:
        # Made and thrown away, without I/O: a wrong option or URL is told now, not at the first call. Causes
        # are not chained: they can quote the URL.
        try:
            pool = redis.ConnectionPool.from_url(self._url, **self._options)
            pool.connection_class(**pool.connection_kwargs)
            # What can't be a host's name would else fail in the resolver, each time.
            str(pool.connection_kwargs.get("host", "")).encode("idna")
        except ValueError:
            raise ConfigurationError(f"not a URL of a Redis server: {self.shown}") from None
        except (TypeError, redis.RedisError) as error:
            raise ConfigurationError(f"options of {self.shown}: {error}") from None
        if "decode_responses" in pool.connection_kwargs:
            raise ConfigurationError("decode_responses in the URL: pyregistry reads bytes")

    def _embedded_folder(self) -> Any:
        from pathlib import Path

        parts = urlsplit(self._url)
        if parts.netloc or parts.query or parts.fragment:
            raise ConfigurationError("embedded:// takes nothing but an absolute path to a data folder")
        return Path(parts.path) if parts.path else None

    def resolve(self) -> str:
        """The server's URL; starts the embedded server if that is meant and it does not run. Blocks.

        Raises:
            EmbeddedUnavailable: it is not installed, or does not start.
        """
        if not self.embedded:
            return self._url
        from pyregistry.embedded import shared_url

        return shared_url(self._embedded_folder())

    def async_connection(self, url: str, hook: AsyncHook) -> redis.asyncio.Connection:
        """One asyncio connection, opened by ``hook``, on which the server may speak of its own accord."""
        pool = redis.asyncio.ConnectionPool.from_url(url, redis_connect_func=hook, **self._options)
        pool.connection_kwargs["protocol"] = 3
        connection: redis.asyncio.Connection = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py
        return connection

    def async_pool(self, url: str, hook: AsyncHook) -> redis.asyncio.ConnectionPool:
        """A pool of asyncio connections, each opened by ``hook``."""
        return redis.asyncio.ConnectionPool.from_url(
            url,
            redis_connect_func=hook,
            max_connections=CONNECTIONS,
            **self._options,
        )

    def sync_pool(self, url: str, hook: Hook) -> redis.ConnectionPool:
        """A pool of blocking connections, each opened by ``hook``."""
        return redis.ConnectionPool.from_url(
            url,
            redis_connect_func=hook,
            max_connections=CONNECTIONS,
            **self._options,
        )

    def hurried(self, timeout: float) -> UrlSource:
        """The same server for somebody who can't wait longer than ``timeout`` seconds."""
        options = dict(self._options)
        timeout = min(timeout, options.pop("socket_timeout"), options.pop("socket_connect_timeout"))
        return UrlSource(self._url, timeout, options)


class ClientSource:
    """A user's own redis-py client, whose pool is shared."""

    embedded = False
    patience = DEFAULT_TIMEOUT

    def __init__(self, client: redis.Redis | redis.asyncio.Redis) -> None:
        self.pool: Any = client.connection_pool
        self._settings: dict[str, Any] = self.pool.connection_kwargs
        if self._settings.get("decode_responses"):
            raise InvalidArgument("client", "has decode_responses=True; pyregistry reads bytes")
        where = self._settings.get("path") or f"{self._settings.get('host')}:{self._settings.get('port')}"
        self.shown = f"redis-py client of {where}"

    def __repr__(self) -> str:
        return self.shown

    def hurried(self, timeout: float) -> CloneSource:
        """New blocking connections with the client's settings.

        Raises:
            ConfigurationError: the client's connections are of a class of its own.
        """
        kind = self.pool.connection_class
        if issubclass(kind, redis.asyncio.connection.AbstractConnection):
            kind = _BLOCKING_CLASS.get(kind)
        elif kind not in _BLOCKING_CLASS.values():
            kind = None
        if kind is None:
            raise ConfigurationError(
                f"claims can't be kept alive on connections like those of the {self.shown}: give lease="
            )
        cloned = {
            name: value
            for name, value in self._settings.items()
            if name in _CLONED or name.startswith("ssl_")
        }
        return CloneSource(
            self.shown,
            kind,
            {
                **cloned,
                "maint_notifications_config": _NO_MAINTENANCE,
                "socket_timeout": timeout,
                "socket_connect_timeout": timeout,
            },
        )


class CloneSource:
    """The settings of a user's client, for blocking connections of our own."""

    def __init__(self, shown: str, kind: type, settings: Mapping[str, Any]) -> None:
        self.shown = shown
        self._kind = kind
        self._settings = settings

    def resolve(self) -> str:
        """Nothing to resolve: the settings say where."""
        return self.shown

    def sync_pool(self, _url: str, hook: Hook) -> redis.ConnectionPool:
        """A pool of blocking connections, each opened by ``hook``."""
        return redis.ConnectionPool(
            connection_class=self._kind,
            redis_connect_func=hook,
            max_connections=CONNECTIONS,
            **self._settings,
        )


class OwnSource(Protocol):
    """A server that connections of our own lead to."""

    shown: str

    def resolve(self) -> str:
        """The server's URL. May block, and start the embedded server."""

    def sync_pool(self, url: str, hook: Hook) -> redis.ConnectionPool:
        """A pool of blocking connections to it, each opened by ``hook``."""
