"""Which backend to use, from a program or from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from pyregistry._source import redacted
from pyregistry.errors import ConfigurationError

__all__ = ["BackendConfig"]

_SEED_PORT = 6379


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

        ``PYREGISTRY_URL`` (and ``PYREGISTRY_NAMESPACE``) come first. Then the variables of the seed:
        ``MX_METADATA_BACKEND``, which must be ``redis`` if it is there, with ``REDIS_URL``, or
        ``MX_REDIS_HOST`` and ``MX_REDIS_PORT`` (6379).

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
        if backend is not None and backend.lower() != "redis":
            raise ConfigurationError(f"MX_METADATA_BACKEND is {backend!r}; pyregistry has the backend redis")
        url, host, port = (
            found.get("REDIS_URL"),
            found.get("MX_REDIS_HOST"),
            found.get("MX_REDIS_PORT"),
        )
        if url is not None and (host is not None or port is not None):
            raise ConfigurationError("REDIS_URL is set, and MX_REDIS_HOST or MX_REDIS_PORT too: unset one")
        if url:
            return cls(url, namespace, options, {"url": "REDIS_URL", **told})
        if host:
            port = port or str(_SEED_PORT) if port is None else port
            if not port.isdecimal() or not 1 <= int(port) <= 65535:
                raise ConfigurationError(f"MX_REDIS_PORT is not a port: {port!r}")
            told["url"] = "MX_REDIS_HOST and MX_REDIS_PORT" if "MX_REDIS_PORT" in found else "MX_REDIS_HOST"
            shown_host = f"[{host}]" if ":" in host else host
            return cls(f"redis://{shown_host}:{port}/0", namespace, options, told)
        if url is not None or host is not None:
            raise ConfigurationError(
                f"{'REDIS_URL' if url is not None else 'MX_REDIS_HOST'} is set, but empty"
            )
        if port is not None:
            raise ConfigurationError("MX_REDIS_PORT is set, but not MX_REDIS_HOST")
        if backend is not None:
            raise ConfigurationError(
                "MX_METADATA_BACKEND is redis, but REDIS_URL and MX_REDIS_HOST are not set"
            )
        raise ConfigurationError("no server is named: set PYREGISTRY_URL (or REDIS_URL, or MX_REDIS_HOST)")
