"""Asks Redis Sentinel where the primary of a service is: what redis-py's pools want of their `Sentinel`.

redis-py's own keeps its connections to the sentinels, which belong to one event loop and one process, and tries a
sentinel that is down again and again before it asks the next. These ask over connections that end with the answer:
a primary is looked for only when a connection is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

Address = tuple[str, int]


class _Asked:
    """The sentinels of a service.

    Args:
        addresses: where they are.
        settings: of the connections to them.
        others: how many other sentinels one must see, to be believed.
        force_ip: where the primary is, whatever they say; only its port is theirs.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        settings: Mapping[str, Any],
        others: int = 0,
        force_ip: str | None = None,
    ) -> None:
        self._addresses = tuple(addresses)
        self._settings = settings
        # No sentinels of its own: it is who judges what they say.
        self._judge = redis.Sentinel([], others)  # type: ignore[no-untyped-call]  # redis-py
        self._force_ip = force_ip

    def _primary(self, service: str, asked: Address, states: Any) -> Address | None:
        state = states.get(service)
        if not state or not self._judge.check_master_state(state, service):  # type: ignore[no-untyped-call]  # redis-py
            return None
        # Who knew it is asked first the next time: one that is down may cost a timeout.
        self._addresses = (asked, *(each for each in self._addresses if each != asked))
        return self._force_ip or str(state["ip"]), int(state["port"])

    def _nobody(self, service: str, troubles: Sequence[Exception]) -> redis.ConnectionError:
        for error in troubles:
            if isinstance(error, redis.AuthenticationError):
                return error
        why = "".join(f"; {error}" for error in troubles)
        return redis.ConnectionError(f"no sentinel knows a primary of {service!r} that is up{why}")


class Sentinels(_Asked):
    """The sentinels of a service, for blocking connections."""

    def client(self, address: Address) -> redis.Redis:
        """Of one sentinel; not connected yet."""
        return redis.Redis(*address, retry=Retry(NoBackoff(), 0), **self._settings)

    def discover_master(self, service: str) -> Address:
        """Where the primary is.

        Raises:
            ConnectionError: no sentinel that answers knows one that is up.
            AuthenticationError: there was none, and a sentinel has refused us.
        """
        troubles: list[Exception] = []
        for address in self._addresses:
            with self.client(address) as sentinel:
                try:
                    states: Any = sentinel.sentinel_masters()
                except (redis.ConnectionError, redis.TimeoutError) as error:
                    troubles.append(error)
                    continue
            if (primary := self._primary(service, address, states)) is not None:
                return primary
        raise self._nobody(service, troubles)


class AsyncSentinels(_Asked):
    """The sentinels of a service, for asyncio connections."""

    def client(self, address: Address) -> redis.asyncio.Redis:
        """Of one sentinel; not connected yet."""
        host, port = address
        return redis.asyncio.Redis(host=host, port=port, retry=AsyncRetry(NoBackoff(), 0), **self._settings)

    async def discover_master(self, service: str) -> Address:
        """Where the primary is; see `Sentinels.discover_master`."""
        troubles: list[Exception] = []
        for address in self._addresses:
            async with self.client(address) as sentinel:
                try:
                    states: Any = await sentinel.sentinel_masters()
                except (redis.ConnectionError, redis.TimeoutError) as error:
                    troubles.append(error)
                    continue
            if (primary := self._primary(service, address, states)) is not None:
                return primary
        raise self._nobody(service, troubles)
