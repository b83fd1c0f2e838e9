"""``pyregistry ping``: whether the registry answers, and takes writes, within a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from pyregistry._core.urls import redacted
from pyregistry._core.values import DEFAULT_TIMEOUT
from pyregistry._redis import administration
from pyregistry.config import BackendConfig
from pyregistry.errors import RegistryUnavailable

__all__ = ["Pong", "ping"]


class Pong(msgspec.Struct, frozen=True):
    """The registry has answered.

    Attributes:
        server: where it is.
        namespace: which registry there.
        writes: whether it took a write; ``None``: none was sent.
        milliseconds: how long that took, the connection included.
    """

    server: str
    namespace: str
    writes: bool | None
    milliseconds: float


def ping(config: BackendConfig, *, write: bool) -> Pong:
    """Ask once, and have the answer within the timeout, whatever the network does.

    Args:
        config: which server and namespace.
        write: send a transition that needs all that a claim needs: a retry of a model that has no record, which changes
            nothing.

    Raises:
        RegistryUnavailable: no answer came in time; `NotNow`: the server refuses for now.
        ServerRefused: the server refused.
    """
    seconds = config.options.get("timeout", DEFAULT_TIMEOUT)
    began = time.monotonic()
    server = redacted(config.url)
    if not _within(seconds, lambda: administration.ping(config.url, config.namespace, seconds, write=write)):
        raise RegistryUnavailable(f"ping: {server}: no answer within {seconds:g} s")
    took = time.monotonic() - began
    return Pong(server, config.namespace, True if write else None, round(took * 1000, 1))


def _within(seconds: float, function: Callable[[], None]) -> bool:
    """Whether a function ends within so many seconds; raises what it raises.

    Each connection attempt and each answer has a timeout of its own, a look at the resolver has none: so it is left
    behind in a thread, which ends with the process.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="pyregistry-ping", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    return not thread.is_alive()
