"""The configuration of the backend, from a program or from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from pyregistry._core.urls import redacted, shown_host
from pyregistry.errors import ConfigurationError

__all__ = ["BackendConfig"]

_SEED_PORT = 6379
_KUBERNETES = ("kubernetes", "k8s", "crd")


class BackendConfig(msgspec.Struct, frozen=True):
    """The URL, namespace and options of a backend.

    Attributes:
        url: URL of the server.
        namespace: Name of the registry on the server. Defaults to ``default``.
        options: Further arguments of ``Registry.from_url``.
        told_by: Source of each value: field name to environment variable. Empty for a configuration made in code.
    """

    url: str
    namespace: str = "default"
    options: dict[str, Any] = {}
    told_by: dict[str, str] = {}

    def __repr__(self) -> str:
        return (
            f"BackendConfig({redacted(self.url)!r}, namespace={self.namespace!r}, told_by={self.told_by!r})"
        )

    @classmethod
    def redis(cls, url: str, namespace: str = "default", **options: Any) -> BackendConfig:
        """Create the configuration of a Redis or Valkey server.

        Args:
            url: As for ``Registry.from_url``.
            namespace: Name of the registry on the server. One cache has one namespace. Defaults to ``default``.
            **options: Further arguments of ``Registry.from_url``.
        """
        return cls(url, namespace, options)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **options: Any) -> BackendConfig:
        """Create the configuration that the environment variables describe.

        ``PYREGISTRY_URL`` takes precedence. ``PYREGISTRY_NAMESPACE`` sets the namespace. Next are the variables of
        ModelExpress. ``MX_METADATA_BACKEND`` must be ``redis`` if it is set. The server is given by
        ``MX_REDIS_URL``, or by ``REDIS_URL``, or by ``MX_REDIS_HOST`` and ``MX_REDIS_PORT`` (defaults to 6379). Last
        are ``REDIS_HOST`` and ``REDIS_PORT``, which must both be set. ``REDIS_PORT`` alone is ignored, because
        Kubernetes sets it in each pod where a service is named redis.

        Args:
            environ: Environment variables. Defaults to ``os.environ``.
            **options: Further arguments of ``Registry.from_url``.

        Raises:
            ConfigurationError: No server is set, a setting is incomplete, or settings contradict each other.
        """
        found = {name: value.strip() for name, value in (os.environ if environ is None else environ).items()}
        namespace = found.get("PYREGISTRY_NAMESPACE", "default")
        told = {"namespace": "PYREGISTRY_NAMESPACE"} if "PYREGISTRY_NAMESPACE" in found else {}
        if not namespace:
            raise ConfigurationError("PYREGISTRY_NAMESPACE is set, but empty")
        if "PYREGISTRY_URL" in found:
            if not found["PYREGISTRY_URL"]:
                raise ConfigurationError("PYREGISTRY_URL is set, but empty")
            return cls(found["PYREGISTRY_URL"], namespace, options, {"url": "PYREGISTRY_URL", **told})
        backend = found.get("MX_METADATA_BACKEND")
        if backend is not None and backend.lower() in _KUBERNETES:
            raise ConfigurationError(
                f"MX_METADATA_BACKEND is {backend!r}: pyregistry has no Kubernetes backend yet; set it to redis"
            )
        if backend is not None and backend.lower() != "redis":
            raise ConfigurationError(f"MX_METADATA_BACKEND is {backend!r}; pyregistry has the backend redis")
        of_url = "MX_REDIS_URL" if "MX_REDIS_URL" in found else "REDIS_URL"
        url, host, port = found.get(of_url), found.get("MX_REDIS_HOST"), found.get("MX_REDIS_PORT")
        if url is not None and (host is not None or port is not None):
            raise ConfigurationError(f"{of_url} is set, and MX_REDIS_HOST or MX_REDIS_PORT too: unset one")
        if url:
            return cls(url, namespace, options, {"url": of_url, **told})
        if host:
            told["url"] = "MX_REDIS_HOST" if port is None else "MX_REDIS_HOST and MX_REDIS_PORT"
            shown = _server(host, str(_SEED_PORT) if port is None else port, "MX_REDIS_PORT")
            return cls(shown, namespace, options, told)
        if url is not None or host is not None:
            raise ConfigurationError(f"{of_url if url is not None else 'MX_REDIS_HOST'} is set, but empty")
        if port is not None:
            raise ConfigurationError("MX_REDIS_PORT is set, but not MX_REDIS_HOST")
        if "REDIS_HOST" in found:
            if not found["REDIS_HOST"] or "REDIS_PORT" not in found:
                raise ConfigurationError("REDIS_HOST and REDIS_PORT must both be set, and not be empty")
            told["url"] = "REDIS_HOST and REDIS_PORT"
            shown = _server(found["REDIS_HOST"], found["REDIS_PORT"], "REDIS_PORT")
            return cls(shown, namespace, options, told)
        if backend is not None:
            raise ConfigurationError(
                "MX_METADATA_BACKEND is redis, but MX_REDIS_URL, REDIS_URL and MX_REDIS_HOST are not set"
            )
        raise ConfigurationError("no server is named: set PYREGISTRY_URL (or REDIS_URL, or MX_REDIS_HOST)")


def _server(host: str, port: str, told_by: str) -> str:
    """Return the URL of a host and a port."""
    if not (port.isascii() and port.isdecimal()) or not 1 <= int(port) <= 65535:
        raise ConfigurationError(f"{told_by} is not a port: {port!r}")
    return f"redis://{shown_host(host, int(port))}/0"
