"""URLs of servers: parsing, normalization, and display without secrets."""

from __future__ import annotations

from urllib.parse import urlsplit

from pyregistry.errors import ConfigurationError

__all__ = ["ESCAPE", "hosts_of", "redacted", "redis_url", "scheme_of", "shown_host"]

_CREDENTIALS = ("username", "password")
_SCHEME_ALIASES = {
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+sentinel": "redis+sentinel",
    "valkeys+sentinel": "rediss+sentinel",
}
_SERVER_SCHEMES = ("redis", "rediss", "redis+sentinel", "rediss+sentinel")
# An unescaped @ in the value of these query parameters does not indicate a split password.
_MAY_HOLD_AT = frozenset({*_CREDENTIALS, *(f"sentinel_{word}" for word in _CREDENTIALS), "client_name"})
ESCAPE = "in a user's name or a password write %40 for @, %2F for /, %3F for ?, %23 for #"


def hosts_of(netloc: str) -> list[tuple[str, int | None]]:
    """Return the hosts of a URL with their ports. A Sentinel URL may have several hosts."""
    hosts = [urlsplit(f"//{each}") for each in netloc.rpartition("@")[2].split(",")]
    return [(each.hostname or "", each.port) for each in hosts]


def redacted(url: str) -> str:
    """Return the URL without user, password and query.

    Only the scheme remains if the URL cannot be parsed, or if another part may hold a piece of a password.
    """
    try:
        parts = urlsplit(url)
        hosts = [shown_host(host, port) for host, port in hosts_of(parts.netloc)]
    except ValueError:
        return f"{url.partition(':')[0]}://..."
    if _is_torn(url) or ("@" in url and "@" not in parts.netloc):
        # A typing error, or an unescaped password: any part may hold a piece of the password.
        return f"{parts.scheme or '...'}://..."
    secret = "***@" if parts.username or parts.password else ""
    return f"{parts.scheme}://{secret}{','.join(hosts)}{parts.path}"


def shown_host(host: str, port: int | None) -> str:
    """Format a host, and its port if there is one, as in a URL: an IPv6 address is in brackets."""
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def _is_torn(url: str) -> bool:
    """Return whether an unescaped password seems to have split the URL of a Redis server."""
    rest = url.partition("://")[2]
    if scheme_of(url) not in _SERVER_SCHEMES:
        return False
    try:
        parts = urlsplit(f"//{rest}")
    except ValueError:
        return False  # not a URL
    words = [word.partition("=") for word in parts.query.split("&") if "@" in word]
    return "@" in parts.path or "#" in rest or any(name not in _MAY_HOLD_AT for name, _, _ in words)


def scheme_of(url: str) -> str:
    """Return the scheme of a URL as redis-py names it: `valkey` becomes `redis`."""
    scheme = url.partition("://")[0]
    return _SCHEME_ALIASES.get(scheme, scheme)


def redis_url(url: str) -> str:
    """Return the URL in the form that redis-py reads.

    Raises:
        ConfigurationError: The database is not a number, or the host or the database may contain part of a
            password. The error quotes only the scheme of the URL.
    """
    scheme, separator, rest = url.partition("://")
    if separator:
        url = f"{scheme_of(url)}{separator}{rest}"
    if _is_torn(url):
        raise ConfigurationError(f"not a URL of a Redis server: {scheme}://...; {ESCAPE}")
    if scheme in ("redis", "rediss", "valkey", "valkeys"):
        try:
            database = urlsplit(url).path.strip("/")
        except ValueError:
            return url  # redis-py's parser raises an error that does not quote the URL
        if database and not (database.isascii() and database.isdecimal()):
            raise ConfigurationError(
                f"not a URL of a Redis server: {scheme}://.../...: what stands behind the host is the number of a "
                f"database (0 if left out). For a service under Sentinel write redis+sentinel://; {ESCAPE}"
            )
    return url
