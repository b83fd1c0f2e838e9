"""The address of the server, and the pools of connections to it. No text that this module shows contains a password."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import redis
import redis.asyncio
from redis.asyncio import sentinel as async_sentinel
from redis.connection import parse_url
from redis.maint_notifications import MaintNotificationsConfig
from redis.sentinel import SentinelConnectionPool, SentinelManagedConnection, SentinelManagedSSLConnection

from pyregistry._core import validation as checks
from pyregistry._core.urls import hosts_of, redacted, redis_url, scheme_of, shown_host
from pyregistry._core.values import DEFAULT_TIMEOUT
from pyregistry._redis.transport.sentinel import AsyncSentinels, Sentinels
from pyregistry.errors import ConfigurationError, InvalidArgument

AsyncHook = Callable[[Any], Awaitable[None]]
Hook = Callable[[Any], None]

# Options that pyregistry sets itself, because its guarantees depend on them.
_OURS = frozenset(
    {"connection_class", "decode_responses", "encoding", "max_connections", "parser_class",
     "redis_connect_func", "retry", "retry_on_error", "retry_on_timeout", "socket_connect_timeout",
     "socket_timeout"}
)  # fmt: skip

CONNECTIONS = 32
"""Maximum number of calls of one client that are under way. More wait for their turn."""

# Maintenance notifications of Redis Cloud and Enterprise are off: they cost a round trip for each connection.
_NO_MAINTENANCE = MaintNotificationsConfig(enabled=False)

# Settings of a caller's client that are copied to blocking connections of our own.
_CLONED = frozenset(
    {"client_name", "credential_provider", "db", "driver_info", "host", "password", "path", "port",
     "protocol", "socket_keepalive", "socket_keepalive_options", "username"}
)  # fmt: skip
_BLOCKING_CLASS: Mapping[type, type] = {
    redis.asyncio.Connection: redis.Connection,
    redis.asyncio.SSLConnection: redis.SSLConnection,
    redis.asyncio.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
    async_sentinel.SentinelManagedConnection: SentinelManagedConnection,
    async_sentinel.SentinelManagedSSLConnection: SentinelManagedSSLConnection,
}

_SENTINEL_POOLS = (SentinelConnectionPool, async_sentinel.SentinelConnectionPool)
_SENTINEL = ("redis+sentinel://", "rediss+sentinel://")
_SENTINEL_PORT = 26379
_CREDENTIALS = ("username", "password")


def endpoint_of(url: str, timeout: float, options: Mapping[str, Any]) -> UrlEndpoint:
    """Return the endpoint of a URL.

    Args:
        url: The URL of a server, of a service under Sentinel, or of the embedded server.
        timeout: Seconds that a connection attempt or a reply may take.
        options: Options of redis-py's connections.

    Raises:
        ConfigurationError: The URL or an option is invalid.
        InvalidArgument: An argument has the wrong type or range, or an option is one that pyregistry sets itself.
    """
    sentinel = isinstance(url, str) and scheme_of(url).endswith("+sentinel")
    return (SentinelEndpoint if sentinel else UrlEndpoint)(url, timeout, options)


def _brief(timeout: float) -> dict[str, Any]:
    """Return the settings of every connection that pyregistry makes."""
    return {
        "maint_notifications_config": _NO_MAINTENANCE,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
    }


def _refuse_ours(options: Mapping[str, Any]) -> None:
    if taken := _OURS & options.keys():
        raise InvalidArgument(min(taken), "is decided by pyregistry itself")


class UrlEndpoint:
    """A server that a URL names.

    ``redis://`` or ``valkey://``, ``rediss://`` or ``valkeys://`` (TLS), ``unix://`` or ``embedded://``.
    """

    finds_primary = False

    def __init__(self, url: str, timeout: float, options: Mapping[str, Any]) -> None:
        if not isinstance(url, str):
            raise InvalidArgument("url", f"must be a str, not {type(url).__name__}")
        _refuse_ours(options)
        checks.microseconds("timeout", timeout)
        self.timeout = timeout
        self._given, self._url = url, redis_url(url)
        self._options = {**_brief(timeout), **options}
        self.patience = timeout
        self.asks_for_credentials = options.get("credential_provider") is not None
        self.shown = redacted(url)
        self.embedded = url.startswith("embedded:")
        if self.embedded:
            self._embedded_folder()
        else:
            self._check()

    def __repr__(self) -> str:
        return self.shown

    def _check(self) -> None:
        # Make a connection object without I/O, so that a wrong option or URL raises here, not at the first call.
        # Causes are not chained, because they can quote the URL with its password.
        try:
            pool = self.sync_pool(self._url, lambda _connection: None)
            pool.connection_class(**pool.connection_kwargs)
            # An invalid host name would otherwise fail in the resolver, at each connection.
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
        """Return the server's URL. Starts the embedded server if the URL names it and it does not run. Blocks.

        Raises:
            EmbeddedUnavailable: The embedded server is not installed, or does not start.
        """
        if not self.embedded:
            return self._url
        from pyregistry.embedded import shared_url

        return shared_url(self._embedded_folder())

    def speak_resp2(self) -> bool:
        """Make later connections without HELLO. Returns False if the URL sets the protocol; nothing changes then."""
        if "protocol" in parse_qs(urlsplit(self._url).query):
            return False
        self._options["protocol"] = 2
        return True

    def async_connection(self, url: str, hook: AsyncHook, *, resp3: bool) -> redis.asyncio.Connection:
        """Return a new asyncio connection, not connected yet.

        Args:
            url: The resolved URL.
            hook: Called by redis-py to open the connection.
            resp3: Whether to use RESP3 whatever the options say, so that the server may send pushes.
        """
        pool = self.async_pool(url, hook)
        if resp3:
            pool.connection_kwargs["protocol"] = 3
        connection: redis.asyncio.Connection = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py
        return connection

    def async_pool(self, url: str, hook: AsyncHook) -> redis.asyncio.ConnectionPool:
        """Return a pool of asyncio connections, each opened by `hook`."""
        return redis.asyncio.ConnectionPool.from_url(
            url,
            redis_connect_func=hook,
            max_connections=CONNECTIONS,
            **self._options,
        )

    def sync_pool(self, url: str, hook: Hook) -> redis.ConnectionPool:
        """Return a pool of blocking connections, each opened by `hook`."""
        return redis.ConnectionPool.from_url(
            url,
            redis_connect_func=hook,
            max_connections=CONNECTIONS,
            **self._options,
        )

    def hurried(self, timeout: float) -> UrlEndpoint:
        """Return the same server with a timeout of at most `timeout` seconds."""
        options = dict(self._options)
        timeout = min(timeout, options.pop("socket_timeout"), options.pop("socket_connect_timeout"))
        return type(self)(self._given, timeout, options)


class SentinelEndpoint(UrlEndpoint):
    """The primary of a service that sentinels watch: ``redis+sentinel://host1:26379,host2:26379/service/0``.

    Each new connection asks the sentinels again. User and password in the URL are those of the server. Those of the
    sentinels are in the option ``sentinel_kwargs``, or in the query (``sentinel_username``, ``sentinel_password``).
    The TLS settings (``rediss+sentinel://``, ``ssl_...``) apply to the sentinels too, unless ``sentinel_kwargs``
    differs.
    """

    finds_primary = True

    def speak_resp2(self) -> bool:
        """Make later connections to the server without HELLO, as `UrlEndpoint`. Connections to sentinels stay as is."""
        spoken = super().speak_resp2()
        if spoken:
            self._settings["protocol"] = 2
        return spoken

    def _check(self) -> None:
        try:
            self._read()
            self._sentinels.client(("", 0))
        except InvalidArgument:
            raise
        except ValueError:
            raise ConfigurationError(
                f"not a URL of a service under Sentinel: {self.shown}; "
                f"it looks like {_SENTINEL[0]}host:{_SENTINEL_PORT},host:{_SENTINEL_PORT}/service/0"
            ) from None
        except (TypeError, redis.RedisError) as error:
            raise ConfigurationError(f"sentinel_kwargs of {self.shown}: {error}") from None
        super()._check()

    def _read(self) -> None:
        parts = urlsplit(self._url)
        name, _, db = parts.path.removeprefix("/").partition("/")
        hosts = [(host, port or _SENTINEL_PORT) for host, port in hosts_of(parts.netloc)]
        if not name or not all(host for host, _ in hosts) or not (db.isdecimal() or not db) or parts.fragment:
            raise ValueError
        for host, _ in hosts:
            host.encode("idna")
        # User, database and query mean the same as in the URL of a server.
        user, at, _ = parts.netloc.rpartition("@")
        said = parse_url(f"redis://{user}{at}/{db}?{parts.query}")  # type: ignore[no-untyped-call]  # redis-py
        own = {word: said.pop(f"sentinel_{word}") for word in _CREDENTIALS if f"sentinel_{word}" in said}
        self._service = unquote(name)
        self._settings = {**self._options, **said, "ssl": parts.scheme == "rediss+sentinel"}
        given = self._settings.pop("sentinel_kwargs", None) or {}
        _refuse_ours(given)
        tls = {word: value for word, value in self._settings.items() if word.startswith("ssl")}
        settings = {**tls, **given, **own, **_brief(self.timeout)}
        self._sentinels = Sentinels(hosts, settings)
        self._async_sentinels = AsyncSentinels(hosts, settings)

    def async_pool(self, url: str, hook: AsyncHook) -> redis.asyncio.ConnectionPool:
        """Return a pool of asyncio connections to the primary, each opened by `hook`."""
        pool = async_sentinel.SentinelConnectionPool(
            self._service,
            self._async_sentinels,
            redis_connect_func=hook,
            max_connections=CONNECTIONS,
            **self._settings,
        )  # type: ignore[no-untyped-call]  # redis-py
        # redis-py stores a weak reference there, but the multiplexed connection outlives the pool that made it.
        pool.connection_kwargs["connection_pool"] = pool
        return pool

    def sync_pool(self, url: str, hook: Hook) -> redis.ConnectionPool:
        """Return a pool of blocking connections to the primary, each opened by `hook`."""
        return SentinelConnectionPool(
            self._service,
            self._sentinels,
            redis_connect_func=hook,
            max_connections=CONNECTIONS,
            **self._settings,
        )  # type: ignore[no-untyped-call]  # redis-py


class ClientEndpoint:
    """The server of a caller's redis-py client, whose pool is shared."""

    embedded = False
    patience = DEFAULT_TIMEOUT

    def __init__(self, client: redis.Redis | redis.asyncio.Redis) -> None:
        self.pool: Any = client.connection_pool
        self._settings: dict[str, Any] = self.pool.connection_kwargs
        if self._settings.get("decode_responses"):
            raise InvalidArgument("client", "has decode_responses=True; pyregistry reads bytes")
        self.asks_for_credentials = self._settings.get("credential_provider") is not None
        self.finds_primary = isinstance(self.pool, _SENTINEL_POOLS)
        if isinstance(self.pool, _SENTINEL_POOLS):
            if not self.pool.is_master:
                raise InvalidArgument("client", "leads to replicas; pyregistry writes: take master_for")
            where = f"the service {self.pool.service_name}"
        else:
            where = self._settings.get("path") or shown_host(
                str(self._settings.get("host")), self._settings.get("port")
            )
        self.shown = f"redis-py client of {where}"

    def __repr__(self) -> str:
        return self.shown

    def speak_resp2(self) -> bool:
        """Return False, because the caller's settings decide the protocol."""
        return False

    def hurried(self, timeout: float) -> ClonedEndpoint:
        """Return an endpoint of new blocking connections with the client's settings.

        Args:
            timeout: Seconds that a connection attempt or a reply may take.

        Raises:
            ConfigurationError: The client's connections are of a custom class.
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
        make: Callable[..., redis.ConnectionPool] = functools.partial(
            redis.ConnectionPool, connection_class=kind
        )
        if isinstance(self.pool, _SENTINEL_POOLS):
            sentinels = _cloned_sentinels(self.pool.sentinel_manager, timeout)
            make = functools.partial(
                SentinelConnectionPool, self.pool.service_name, sentinels, connection_class=kind
            )
        return ClonedEndpoint(
            self.shown, make, _cloned(self._settings, timeout), finds_primary=self.finds_primary
        )


def _cloned(settings: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Return the settings of a caller's client that apply to blocking connections of our own."""
    kept = {name: settings[name] for name in settings if name in _CLONED or name.startswith("ssl")}
    return {**kept, **_brief(timeout)}


def _cloned_sentinels(manager: Any, timeout: float) -> Sentinels:
    where = [each.connection_pool.connection_kwargs for each in manager.sentinels]
    return Sentinels(
        [(each["host"], each["port"]) for each in where],
        _cloned(manager.sentinel_kwargs, timeout),
        manager.min_other_sentinels,
        manager._force_master_ip,
    )


class ClonedEndpoint:
    """The server of a caller's client, reached over blocking connections of our own with its settings."""

    def __init__(
        self,
        shown: str,
        make: Callable[..., redis.ConnectionPool],
        settings: Mapping[str, Any],
        *,
        finds_primary: bool,
    ) -> None:
        self.shown = shown
        self.patience: float = settings["socket_timeout"]
        self.asks_for_credentials = settings.get("credential_provider") is not None
        self.finds_primary = finds_primary
        self._make = make
        self._settings = settings

    def speak_resp2(self) -> bool:
        """Return False, because the caller's settings decide the protocol."""
        return False

    def hurried(self, timeout: float) -> ClonedEndpoint:
        """Return the same settings with a timeout of at most `timeout` seconds."""
        settings = _cloned(self._settings, min(timeout, self.patience))
        return ClonedEndpoint(self.shown, self._make, settings, finds_primary=self.finds_primary)

    def resolve(self) -> str:
        """Return the displayed address. Nothing is resolved, because the settings contain the address."""
        return self.shown

    def sync_pool(self, _url: str, hook: Hook) -> redis.ConnectionPool:
        """Return a pool of blocking connections, each opened by `hook`."""
        return self._make(redis_connect_func=hook, max_connections=CONNECTIONS, **self._settings)


class OwnEndpoint(Protocol):
    """A server that is reached over connections of our own.

    Attributes:
        shown: Displayed address, without secrets.
        patience: Seconds that a reply may take.
        asks_for_credentials: Whether each connection asks a credential provider for user and password.
        finds_primary: Whether each new connection asks for the current primary.
    """

    shown: str
    patience: float
    asks_for_credentials: bool
    finds_primary: bool

    def speak_resp2(self) -> bool:
        """Make later connections without HELLO; return whether that is possible."""

    def hurried(self, timeout: float) -> OwnEndpoint:
        """Return the same server with a timeout of at most `timeout` seconds."""

    def resolve(self) -> str:
        """Return the server's URL. May block, and may start the embedded server."""

    def sync_pool(self, url: str, hook: Hook) -> redis.ConnectionPool:
        """Return a pool of blocking connections, each opened by `hook`."""
