"""The values, results and epochs of the near cache. No I/O: the transport feeds the cache.

Invariant: the cache never answers with a state that is older than one that this client has seen.

Steps:

1. `learn` stores the values of a tracked read when its reply is parsed, in order with the invalidations.
2. `invalidate` drops the values of the keys that the server reports as changed.
3. `writes` and `wrote` drop the values of the client's own write when it is sent and when it is answered. In between
   `learn` ignores these keys, because the order of the read and the write on the server is unknown.
4. `clear` and `lose` empty the cache when the connection ends.
5. The cache answers only while `Epoch.until` lies in the future. The transport extends it by a proof that the
   connection is alive, and replaces the epoch when another connection may have delivered a newer state.
6. `answers` maps the arguments of a call to its decoded result. Every dropped value empties it.

Why it holds: the server sends an invalidation on the connection that read the key, after every reply that it has made
before the change. So a value without a parsed invalidation is as new as the last reply on that connection.
See docs/explanation/near-cache.md.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final

from pyregistry._core.clock import now
from pyregistry._redis.protocol.request import pack

TRACKING = ("CLIENT", "TRACKING", "ON", "OPTIN")
"""Enables tracking on a connection: the server sends invalidations for reads that `REMEMBER` precedes."""

REMEMBER = pack(("CLIENT", "CACHING", "YES"))
"""Opts the next command in to tracking (mode OPTIN)."""

SILENCE = 3.0
"""Seconds after the last proof that the connection is alive for which the cache still answers."""

PING_EVERY = 1.0
"""Seconds without a reply after which a PING asks for a new proof."""

TURN = 0.005
"""Seconds for which the cache answers before invalidations are read, however many callers ask.

Equal to CPython's thread switch interval, `sys.getswitchinterval()`: 5 ms.
"""

ASK_EVERY = 1.0
"""Seconds between two attempts to reach the server during an outage with stale answers."""

MOST = 10_000
"""Maximum number of cached records, and of cached results.

A new record replaces the oldest; a new result empties the full dict of results.
"""


class _Known:
    """The value of one key, and the last use as of its reading (None: not read)."""

    __slots__ = ("last_used", "value")

    def __init__(self, value: bytes | None) -> None:
        self.value = value
        self.last_used: int | None = None


UNKNOWN: Final = object()
"""Sentinel: the cache has no result. None is a result, namely that of an unknown model."""


class Epoch:
    """A span of time in which no other connection has delivered a state that may be newer than the cached values.

    An epoch is replaced, never reopened. A proof for an old epoch does not count for the next one.

    Attributes:
        until: Time (`now`) until which the cache may answer without reading invalidations.
        proved: Time (`now`) at which the last answered request was sent. All earlier invalidations are parsed.
    """

    __slots__ = ("proved", "until")

    def __init__(self) -> None:
        self.until = self.proved = -math.inf


class Outage:
    """The state of an outage of the server, for stale answers. One caller tries the server again each second.

    Attributes:
        answers: Number of stale answers given.
    """

    def __init__(self) -> None:
        self.answers = 0
        self._lasts = self._told = False
        self._ask_at = 0.0

    def is_taken_for_granted(self) -> bool:
        """Return whether the outage lasts, so that the caller need not ask the server.

        If it returns False, the caller asks the server and reports the result with `begin`, `end` or `leave`.
        """
        if not self._lasts:
            return False
        if now() < self._ask_at:
            return True
        self._ask_at = math.inf  # only this caller asks; all others get stale answers meanwhile
        return False

    def begin(self) -> None:
        """Record that the server did not answer. The next attempt is due in `ASK_EVERY` seconds."""
        self._lasts, self._ask_at = True, now() + ASK_EVERY

    def end(self) -> None:
        """Record that the server has answered."""
        self._lasts = self._told = False

    def leave(self) -> None:
        """Record that the caller ended without a result (for example, cancelled). The next caller asks."""
        self._ask_at = 0.0

    def answer(self) -> bool:
        """Count a stale answer; return whether it is the first of this outage."""
        self.answers += 1
        first, self._told = not self._told, True
        return first


class ClientCache:
    """The near cache of one client.

    Args:
        stale_for: Seconds since the last proof for which values are kept after a loss of the connection.
            Defaults to 0: values are dropped with the connection.

    Attributes:
        answers: Decoded results keyed by call arguments; a hit is one dict lookup.
        epoch: The current epoch; its `until` limits the use of `answers`.
        outage: The state of the current outage, for stale answers.
    """

    def __init__(self, stale_for: float = 0.0) -> None:
        self.answers: dict[Hashable, Any] = {}
        self.epoch = Epoch()
        self.outage = Outage()
        self.stale_for = stale_for
        # Values that were cached when the connection ended, and the time until which they may be given.
        self._stale: dict[str, tuple[bytes | None, float]] = {}
        self._outrun: set[str] = set()  # keys of which another connection may have delivered a later value
        self._all_outrun = False
        self._in_turn = False
        self._known: dict[str, _Known] = {}
        self._writing: dict[str, int] = {}  # number of this client's pending writes of each key

    # Calls of the transport

    def begin_anew(self) -> None:
        """Reset the cache to its initial state: no values, no pending writes, no outage."""
        self.clear()
        self._stale.clear()
        self.outage = Outage()
        self._writing.clear()
        self._in_turn = False

    def clear(self) -> None:
        """Drop all values and begin a new epoch, because the connection or the server's tracking table is lost."""
        self._known.clear()
        self.answers.clear()
        self.epoch = Epoch()
        self.caught_up()

    def lose(self, proved: float) -> None:
        """Drop all values, because the connection is lost. With `stale_for`, keep them for stale answers.

        Args:
            proved: Time (`now`) at which the last answered request was sent.
        """
        if self.stale_for and not self._all_outrun:
            until = proved + self.stale_for
            for key, known in self._known.items():
                if key not in self._outrun:
                    self._stale[key] = known.value, until
        self.clear()

    def outrun(self, keys: Iterable[str] | None) -> None:
        """Exclude keys from stale answers, because another connection may have delivered a newer state.

        Args:
            keys: The keys; None for all keys.
        """
        if not self.stale_for:
            return
        if keys is None:
            self._all_outrun = True
            self._stale.clear()
            return
        for key in keys:
            self._outrun.add(key)
            self._stale.pop(key, None)

    def caught_up(self) -> None:
        """Record that the cached values are as new as every state that other connections have delivered."""
        self._outrun.clear()
        self._all_outrun = False

    def invalidate(self, push: Sequence[Any]) -> None:
        """Drop the values that an invalidation names. Without keys, drop all (the server has flushed its table)."""
        keys = push[1]
        if keys is None:
            self.clear()
            self._stale.clear()
            return
        for key in keys:
            self._drop(key.decode())

    def learn(self, keys: Iterable[str], values: Iterable[bytes | None]) -> None:
        """Store the values of a read. Ignores keys with a pending write, because the order of the two is unknown."""
        for key, value in zip(keys, values, strict=True):
            if key in self._writing:
                continue
            if len(self._known) >= MOST:
                self._drop(next(iter(self._known)))
            self._known[key] = _Known(value)
            self._stale.pop(key, None)

    def writes(self, keys: Iterable[str]) -> None:
        """Drop the values of a write of this client that is being sent, and learn none until `wrote`."""
        for key in keys:
            self._drop(key)
            self._writing[key] = self._writing.get(key, 0) + 1

    def wrote(self, keys: Iterable[str]) -> None:
        """Drop the values again, because the write was answered or its connection is lost."""
        for key in keys:
            self._drop(key)
            left = self._writing.pop(key, 1) - 1
            if left:
                self._writing[key] = left

    def vouch(self, proved: float, soon: Callable[[Callable[[], None]], object]) -> bool:
        """Return whether the cache may answer one call, after the event loop has read invalidations.

        The first call in a turn of the loop opens the cache for all callers for `TURN` seconds.

        Args:
            proved: Time (`now`) at which the last answered request was sent.
            soon: `call_soon` of the event loop.
        """
        at = now()
        if not self._in_turn:
            self._in_turn = True
            soon(self._end_turn)
            self.epoch.until = min(at + TURN, proved + SILENCE)
        return at < proved + SILENCE

    def _end_turn(self) -> None:
        self._in_turn = False

    # Lookups

    def values(self, keys: Iterable[str]) -> list[bytes | None] | None:
        """Return the values of these keys, or None unless all are cached."""
        known = self._known
        values = []
        for key in keys:
            each = known.get(key)
            if each is None:
                return None
            values.append(each.value)
        return values

    def stale(self, keys: Iterable[str]) -> list[bytes | None] | None:
        """Return the stale values of these keys, or None unless all are kept and within `stale_for`."""
        at = now()
        values = []
        for key in keys:
            value, until = self._stale.get(key, (None, 0.0))
            if at >= until:
                return None
            values.append(value)
        return values

    def used(self, key: str, value: bytes | None, last_used: int) -> None:
        """Store the last use of a record, if the record still has this value."""
        known = self._known.get(key)
        if known is not None and known.value == value:
            known.last_used = last_used

    def last_uses(self, keys: Iterable[str]) -> list[int] | None:
        """Return the last use of each key as of its reading, or None unless all are cached. 0: no record."""
        uses = []
        for key in keys:
            known = self._known.get(key)
            if known is None:
                return None
            last_used = 0 if known.value is None else known.last_used
            if last_used is None:
                return None
            uses.append(last_used)
        return uses

    def answer(self, question: Hashable, keys: Iterable[str], follow: Callable[[Sequence[Any]], Any]) -> None:
        """Cache the decoded result of a call, if the values of its keys are cached.

        Args:
            question: The arguments of the call.
            keys: The keys that the result depends on.
            follow: Decodes the values; returns `UNKNOWN` if the result must not be cached.
        """
        values = self.values(keys)
        if values is not None and (answer := follow(values)) is not UNKNOWN:
            if len(self.answers) >= MOST:
                self.answers.clear()
            self.answers[question] = answer

    def _drop(self, key: str) -> None:
        self._stale.pop(key, None)
        if self._known.pop(key, None) is not None:
            self.answers.clear()


class SharedClientCache(ClientCache):
    """A near cache for threads. A lock keeps values from being dropped while a thread reads or decodes them."""

    def __init__(self, stale_for: float = 0.0) -> None:
        super().__init__(stale_for)
        self._lock = threading.RLock()  # never held during I/O

    def clear(self) -> None:
        """As `ClientCache.clear`."""
        with self._lock:
            super().clear()

    def lose(self, proved: float) -> None:
        """As `ClientCache.lose`."""
        with self._lock:
            super().lose(proved)

    def outrun(self, keys: Iterable[str] | None) -> None:
        """As `ClientCache.outrun`."""
        with self._lock:
            super().outrun(keys)

    def values(self, keys: Iterable[str]) -> list[bytes | None] | None:
        """As `ClientCache.values`."""
        with self._lock:
            return super().values(keys)

    def last_uses(self, keys: Iterable[str]) -> list[int] | None:
        """As `ClientCache.last_uses`."""
        with self._lock:
            return super().last_uses(keys)

    def answer(self, question: Hashable, keys: Iterable[str], follow: Callable[[Sequence[Any]], Any]) -> None:
        """As `ClientCache.answer`."""
        with self._lock:
            super().answer(question, keys, follow)

    def _drop(self, key: str) -> None:
        with self._lock:
            super()._drop(key)
