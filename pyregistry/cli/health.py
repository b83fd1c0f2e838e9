"""``pyregistry ping``: check that the registry answers, and takes writes, within the timeout."""

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
    """Answer of a registry.

    Attributes:
        server: URL of the server, without credentials.
        namespace: The namespace.
        writes: True if the server took a write; None if none was sent.
        milliseconds: Duration of the check, with the connection.
    """

    server: str
    namespace: str
    writes: bool | None
    milliseconds: float


def ping(config: BackendConfig, *, write: bool) -> Pong:
    """Send one request and return within the timeout, in any state of the network.

    Args:
        config: The server, the namespace and the timeout. The timeout defaults to `DEFAULT_TIMEOUT` seconds.
        write: Whether to send a transition that needs the same permissions and memory as a claim. It is a retry of a
            model without a record, which changes nothing.

    Raises:
        RegistryUnavailable: No answer came in time. `NotNow`: the server refuses temporarily.
        ServerRefused: The server refused.
    """
    seconds = config.options.get("timeout", DEFAULT_TIMEOUT)
    began = time.monotonic()
    server = redacted(config.url)
    if not _within(seconds, lambda: administration.ping(config.url, config.namespace, seconds, write=write)):
        raise RegistryUnavailable(f"ping: {server}: no answer within {seconds:g} s")
    took = time.monotonic() - began
    return Pong(server, config.namespace, True if write else None, round(took * 1000, 1))


def _within(seconds: float, function: Callable[[], None]) -> bool:
    """Return whether a function ends within `seconds`; raise its exception.

    Connection attempts and answers have timeouts of their own, but name resolution has none. The function therefore
    runs in a daemon thread, which is abandoned after the timeout and ends with the process.
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
