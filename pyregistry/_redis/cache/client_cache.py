"""What the server has said of models, kept in memory as long as it is true. No I/O: the transport feeds it.

The server tracks what is read for it, and says what has changed, on the connection that it was read on: what
comes after a reply is newer than the reply. So what is known is dropped when the server says so, when that
connection ends, and when this client itself writes; and nothing is answered from it that the connection has
not vouched for lately.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final

from pyregistry._core.clock import now
from pyregistry._redis.protocol.request import pack

TRACKING = ("CLIENT", "TRACKING", "ON", "OPTIN")
"""From now on the server says what changes of what this connection has read, where it was asked to."""

REMEMBER = pack(("CLIENT", "CACHING", "YES"))
"""Asks it to, for the next command."""

SILENCE = 3.0
"""Seconds after the last proof that the connection lives in which memory still answers."""

PING_EVERY = 1.0
"""Seconds of silence after which such a proof is asked for."""

TURN = 0.005
"""Seconds of answers after which the event loop has its turn, however many ask, and with it the news: as long as Python
lets a thread run before another."""

ASK_EVERY = 1.0
"""Seconds after which somebody asks again whether the server is back, while the last known values are told."""

MOST = 10_000
"""Records, or answers, that are kept; the oldest go."""


class _Known:
    """What one key holds, and, once somebody wanted to know, the last use as of then."""

    __slots__ = ("last_used", "value")

    def __init__(self, value: bytes | None) -> None:
        self.value = value
        self.last_used: int | None = None


UNKNOWN: Final = object()
"""Is not among the answers."""


class Epoch:
    """A time in which nothing was heard elsewhere that may be newer than what is known.

    Attributes:
        until: until when (`now`) memory may answer without another look.
        proved: when that was sent which the server has answered last, so that all that it had to say before is known.
    """

    __slots__ = ("proved", "until")

    def __init__(self) -> None:
        self.until = self.proved = -math.inf


class Outage:
    """A time in which nobody answers, and the last known values are told. Now and then one caller tries again.

    Attributes:
        answers: how many of them were given.
    """

    def __init__(self) -> None:
        self.answers = 0
        self._lasts = self._told = False
        self._ask_at = 0.0

    def is_taken_for_granted(self) -> bool:
        """Whether nobody need be asked, since that was in vain of late. Else the caller asks, and tells how it went."""
        if not self._lasts:
            return False
        if now() < self._ask_at:
            return True
        self._ask_at = math.inf  # the others do not wait for this one
        return False

    def begin(self) -> None:
        """Nobody has answered."""
        self._lasts, self._ask_at = True, now() + ASK_EVERY

    def end(self) -> None:
        """Somebody has answered."""
        self._lasts = self._told = False

    def leave(self) -> None:
        """The caller was cancelled: the next one asks."""
        self._ask_at = 0.0

    def answer(self) -> bool:
        """A last known value is told; whether it is the first one of this outage."""
        self.answers += 1
        first, self._told = not self._told, True
        return first


class ClientCache:
    """The memory of one client.

    Args:
        stale_for: seconds since the last proof for which the last known values are kept after a loss of the
            connection. Defaults to 0: they are forgotten with it.

    Attributes:
        answers: what was asked, and what follows from what is known: who asks again has no time.
        epoch: until when they may be given.
        outage: whether the last known values are told, since nobody answers.
    """

    def __init__(self, stale_for: float = 0.0) -> None:
        self.answers: dict[Hashable, Any] = {}
        self.epoch = Epoch()
        self.outage = Outage()
        self.stale_for = stale_for
        self._stale: dict[
            str, tuple[bytes | None, float]
        ] = {}  # the last known values, and until when they are told
        self._outrun: set[str] = set()  # keys of which a later value may have been seen elsewhere
        self._all_outrun = False
        self._in_turn = False
        self._known: dict[str, _Known] = {}
        self._writing: dict[str, int] = {}  # by how many of this client's calls each is being written

    # What the transport tells

    def begin_anew(self) -> None:
        """Nothing is known, and nothing is under way."""
        self.clear()
        self._stale.clear()
        self.outage = Outage()
        self._writing.clear()
        self._in_turn = False

    def clear(self) -> None:
        """Nothing is known: the connection is gone, or the server has forgotten."""
        self._known.clear()
        self.answers.clear()
        self.epoch = Epoch()
        self.caught_up()

    def lose(self, proved: float) -> None:
        """The connection is gone, which was proved to live then: what was known is told no more, or only as such."""
        if self.stale_for and not self._all_outrun:
            until = proved + self.stale_for
            for key, known in self._known.items():
                if key not in self._outrun:
                    self._stale[key] = known.value, until
        self.clear()

    def outrun(self, keys: Iterable[str] | None) -> None:
        """Something was seen elsewhere that may be newer than what is known of these; ``None``: of all."""
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
        """What is known is as new again as all that was seen elsewhere."""
        self._outrun.clear()
        self._all_outrun = False

    def invalidate(self, push: Sequence[Any]) -> None:
        """What the server says has changed; without keys: everything."""
        keys = push[1]
        if keys is None:
            self.clear()
            self._stale.clear()
            return
        for key in keys:
            self._drop(key.decode())

    def learn(self, keys: Iterable[str], values: Iterable[bytes | None]) -> None:
        """What a read has brought. What is being written is not kept: which came first is not known."""
        for key, value in zip(keys, values, strict=True):
            if key in self._writing:
                continue
            if len(self._known) >= MOST:
                self._drop(next(iter(self._known)))
            self._known[key] = _Known(value)
            self._stale.pop(key, None)

    def writes(self, keys: Iterable[str]) -> None:
        """This client's own call goes out, and changes these."""
        for key in keys:
            self._drop(key)
            self._writing[key] = self._writing.get(key, 0) + 1

    def wrote(self, keys: Iterable[str]) -> None:
        """It was answered, or never will be."""
        for key in keys:
            self._drop(key)
            left = self._writing.pop(key, 1) - 1
            if left:
                self._writing[key] = left

    def vouch(self, proved: float, soon: Callable[[Callable[[], None]], object]) -> bool:
        """The connection was there at ``proved``, and the loop has had its turn: whether memory may answer once.

        Who comes first in a turn of the loop, which calls what it is given ``soon``, lets others follow for a while.
        """
        at = now()
        if not self._in_turn:
            self._in_turn = True
            soon(self._end_turn)
            self.epoch.until = min(at + TURN, proved + SILENCE)
        return at < proved + SILENCE

    def _end_turn(self) -> None:
        self._in_turn = False

    # What callers ask

    def values(self, keys: Iterable[str]) -> list[bytes | None] | None:
        """What these keys hold, if all of it is known."""
        known = self._known
        values = []
        for key in keys:
            each = known.get(key)
            if each is None:
                return None
            values.append(each.value)
        return values

    def stale(self, keys: Iterable[str]) -> list[bytes | None] | None:
        """What these keys held last, if that is known of all, and may be told still."""
        at = now()
        values = []
        for key in keys:
            value, until = self._stale.get(key, (None, 0.0))
            if at >= until:
                return None
            values.append(value)
        return values

    def used(self, key: str, value: bytes | None, last_used: int) -> None:
        """The last use of a record, as of now; of use as long as the record is what it was."""
        known = self._known.get(key)
        if known is not None and known.value == value:
            known.last_used = last_used

    def last_uses(self, keys: Iterable[str]) -> list[int] | None:
        """The last use of each, as of when it was asked for, if all are known; 0 where there is no record."""
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
        """Keep what follows from what these keys hold, if that is known, and what it is is not `UNKNOWN`."""
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
    """The same for threads: nothing is forgotten while one of them looks at it, or draws a conclusion from it."""

    def __init__(self, stale_for: float = 0.0) -> None:
        super().__init__(stale_for)
        self._lock = threading.RLock()  # never held while anybody waits

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
