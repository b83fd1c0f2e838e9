"""URLs of servers: what they name, and how they are shown without secrets."""

from __future__ import annotations

from urllib.parse import urlsplit

from pyregistry.errors import ConfigurationError

__all__ = ["ESCAPE", "hosts_of", "redacted", "redis_url", "scheme_of", "shown_host"]

_CREDENTIALS = ("username", "password")
_SAME = {
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+sentinel": "redis+sentinel",
    "valkeys+sentinel": "rediss+sentinel",
}
_OF_A_SERVER = ("redis", "rediss", "redis+sentinel", "rediss+sentinel")
# In these an unescaped @ is no sign of a password that was torn apart.
_MAY_HOLD_AT = frozenset({*_CREDENTIALS, *(f"sentinel_{word}" for word in _CREDENTIALS), "client_name"})
ESCAPE = "in a user's name or a password write %40 for @, %2F for /, %3F for ?, %23 for #"


def hosts_of(netloc: str) -> list[tuple[str, int | None]]:
    """The hosts of a URL, of which sentinels may have several, with their ports."""
    hosts = [urlsplit(f"//{each}") for each in netloc.rpartition("@")[2].split(",")]
    return [(each.hostname or "", each.port) for each in hosts]


def redacted(url: str) -> str:
    """The URL without user, password and query."""
    try:
        parts = urlsplit(url)
        hosts = [shown_host(host, port) for host, port in hosts_of(parts.netloc)]
    except ValueError:
        return f"{url.partition(':')[0]}://..."
    if _is_torn(url) or ("@" in url and "@" not in parts.netloc):
        # A slip, or an unescaped password: any part may hold a piece of it.
        return f"{parts.scheme or '...'}://..."
    secret = "***@" if parts.username or parts.password else ""
    return f"{parts.scheme}://{secret}{','.join(hosts)}{parts.path}"


def shown_host(host: str, port: int | None) -> str:
    """A host as a URL has it: an IPv6 address in brackets."""
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def _is_torn(url: str) -> bool:
    """Whether a URL of a server looks as if an unescaped password had torn it apart."""
    rest = url.partition("://")[2]
    if scheme_of(url) not in _OF_A_SERVER:
        return False
    try:
        parts = urlsplit(f"//{rest}")
    except ValueError:
        return False  # no URL at all
    words = [word.partition("=") for word in parts.query.split("&") if "@" in word]
    return "@" in parts.path or "#" in rest or any(name not in _MAY_HOLD_AT for name, _, _ in words)


def scheme_of(url: str) -> str:
    """The scheme of a URL, by redis-py's word for it."""
    scheme = url.partition("://")[0]
    return _SAME.get(scheme, scheme)


def redis_url(url: str) -> str:
    """Return the URL in the form that redis-py reads.

    Raises:
        ConfigurationError: the database is no number, or a part of a password may stand where a host or a database
            is expected. The error quotes nothing of the URL but its scheme.
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
            return url  # redis-py's parser refuses it, with an error that quotes nothing
        if database and not (database.isascii() and database.isdecimal()):
            raise ConfigurationError(
                f"not a URL of a Redis server: {scheme}://.../...: what stands behind the host is the number of a "
                f"database (0 if left out). For a service under Sentinel write redis+sentinel://; {ESCAPE}"
            )
    return url
