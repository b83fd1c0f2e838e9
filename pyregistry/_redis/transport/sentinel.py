"""Asks Redis Sentinel for the primary of a service, with the interface that redis-py's pools expect of `Sentinel`.

redis-py's `Sentinel` keeps its connections to the sentinels, which belong to one event loop and one process. It also
retries a sentinel that is down before it asks the next. These classes open a connection for each question and close it
after the answer, because a pool asks for the primary only when it opens a connection.
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
        addresses: Addresses of the sentinels.
        settings: Settings of the connections to them.
        others: Number of other sentinels that a sentinel must know for its answer to count. Defaults to 0.
        force_ip: Host of the primary, used instead of the sentinels' answer; the port is theirs. Defaults to None.
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
        # A redis-py `Sentinel` without addresses, used only for its check of a sentinel's answer.
        self._judge = redis.Sentinel([], others)  # type: ignore[no-untyped-call]  # redis-py
        self._force_ip = force_ip

    def _primary(self, service: str, asked: Address, states: Any) -> Address | None:
        state = states.get(service)
        if not state or not self._judge.check_master_state(state, service):  # type: ignore[no-untyped-call]  # redis-py
            return None
        # Ask this sentinel first the next time, because one that is down may cost a timeout.
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
        """Return a client of one sentinel, not connected yet."""
        return redis.Redis(*address, retry=Retry(NoBackoff(), 0), **self._settings)

    def discover_master(self, service: str) -> Address:
        """Return the address of the primary.

        Raises:
            redis.ConnectionError: No sentinel that answers knows a primary that is up.
            redis.AuthenticationError: No primary was found, and a sentinel refused the credentials.
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
        """Return a client of one sentinel, not connected yet."""
        host, port = address
        return redis.asyncio.Redis(host=host, port=port, retry=AsyncRetry(NoBackoff(), 0), **self._settings)

    async def discover_master(self, service: str) -> Address:
        """Return the address of the primary. See `Sentinels.discover_master`."""
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
