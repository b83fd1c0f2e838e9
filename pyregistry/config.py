"""Which backend to use, from a program or from the environment."""

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
    """Names a backend.

    Attributes:
        url: where the server is.
        namespace: which registry there.
        options: more arguments of ``Registry.from_url``.
        told_by: which environment variable gave what; empty if a program gave it.
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
        """A Redis or Valkey server.

        Args:
            url: as for ``Registry.from_url``.
            namespace: which registry there; one cache has one namespace.
            **options: more arguments of ``Registry.from_url``.
        """
        return cls(url, namespace, options)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **options: Any) -> BackendConfig:
        """What the environment says.

        ``PYREGISTRY_URL`` (and ``PYREGISTRY_NAMESPACE``) come first. Then the variables of ModelExpress:
        ``MX_METADATA_BACKEND``, which must be ``redis`` if it is there, with ``MX_REDIS_URL``, or ``REDIS_URL``, or
        ``MX_REDIS_HOST`` and ``MX_REDIS_PORT`` (6379). Then ``REDIS_HOST`` and ``REDIS_PORT``, both. (``REDIS_PORT``
        alone is ignored: Kubernetes sets it in each pod where a service is named redis.)

        Args:
            environ: instead of ``os.environ``.
            **options: more arguments of ``Registry.from_url``.

        Raises:
            ConfigurationError: nothing is set, or only half of it, or what is set contradicts itself.
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
    """The URL of a host and a port."""
    if not (port.isascii() and port.isdecimal()) or not 1 <= int(port) <= 65535:
        raise ConfigurationError(f"{told_by} is not a port: {port!r}")
    return f"redis://{shown_host(host, int(port))}/0"
