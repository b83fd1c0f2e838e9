"""``pyregistry ping``: whether the registry answers, and takes writes, within a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from pyregistry._core.model_key import ModelKey, entry_of
from pyregistry._redis.protocol.operations import Ops
from pyregistry._redis.transport.endpoint import DEFAULT_TIMEOUT, redacted, source_of
from pyregistry._redis.transport.pooled_sync import Transport
from pyregistry.cli.plain import plain_server
from pyregistry.config import BackendConfig
from pyregistry.errors import RegistryUnavailable
from pyregistry.models import ModelProvider

__all__ = ["Pong", "ping"]

T = TypeVar("T")

# No client takes a name with a control character, so no record has it.
_NOBODY = "\0ping"
_PROVIDER = ModelProvider.HUGGING_FACE


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
    answered = _within(seconds, (lambda: _write(config)) if write else (lambda: _read(config)))
    if answered is None:
        raise RegistryUnavailable(f"ping: {server}: no answer within {seconds:g} s")
    took = time.monotonic() - began
    return Pong(server, config.namespace, True if write else None, round(took * 1000, 1))


def _read(config: BackendConfig) -> bool:
    with plain_server(config) as server:
        server.ask("ping", "MGET", server.ops.keys.record(entry_of(_NOBODY, _PROVIDER, None, None)))
    return True


def _write(config: BackendConfig) -> bool:
    ops = Ops(config.namespace, None, ())
    nobody = ModelKey(_NOBODY, _PROVIDER, None, None, entry_of(_NOBODY, _PROVIDER, None, None))
    transport = Transport(source_of(config.url, config.options.get("timeout", DEFAULT_TIMEOUT), {}), ops)
    try:
        transport.call(ops.retry(nobody, lease=1.0, claim_id=None, owner=None, max_attempts=None))
    finally:
        transport.close()
    return True


def _within(seconds: float, function: Callable[[], T]) -> T | None:
    """What a function returns, or raises, within so many seconds; ``None``: neither.

    Each connection attempt and each answer has a timeout of its own, a look at the resolver has none: so it is left
    behind in a thread, which ends with the process.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="pyregistry-ping", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    return results[0] if results else None
