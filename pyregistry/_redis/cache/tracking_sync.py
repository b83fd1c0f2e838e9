"""A blocking client that remembers the records it has read, as long as the server vouches for them.

What is remembered is read on a connection of its own, since the server says what has changed on the connection that it
was read on. No thread listens there: whoever asks memory, and is not told at once, first takes in what has been said.
Answers that come by other connections may be newer than what has been heard by then; so after each of them the server
has to vouch anew, by an answer to what was sent later: all that it had to say before comes before that.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

from redis import exceptions as redis_errors

from pyregistry._core.clock import now
from pyregistry._redis.cache.cached_reads_sync import CachedReads
from pyregistry._redis.cache.client_cache import (
    PING_EVERY,
    REMEMBER,
    TRACKING,
    TURN,
    ClientCache,
    Epoch,
    SharedClientCache,
)
from pyregistry._redis.protocol.outcomes import ATTEMPTS, DENIED, NO_ANSWER, NOT_RUN, refusal
from pyregistry._redis.protocol.records import Opened
from pyregistry._redis.protocol.request import Request, pack
from pyregistry._redis.protocol.requests import RequestFactory
from pyregistry._redis.transport.connection_sync import CallConnection, connection_of
from pyregistry._redis.transport.endpoint import OwnEndpoint
from pyregistry._redis.transport.exchange_sync import ask
from pyregistry._redis.transport.fast_path_sync import FastPathTransport

T = TypeVar("T")

_PING = pack(("PING",))

_PATIENCE = 1.0
"""Seconds for which who wants to hear the news waits for another thread that does."""


class InvalidatedTransport(FastPathTransport):
    """Connections of which one is tracked. What can't be read there is read by the others, and not remembered."""

    _needs_resp3 = True

    def __init__(
        self, source: OwnEndpoint, ops: RequestFactory, attempts: int = ATTEMPTS, *, stale_for: float = 0.0
    ) -> None:
        self._stale_for = stale_for
        super().__init__(source, ops, attempts)

    def _reset(self) -> None:
        super()._reset()
        self.known: ClientCache = SharedClientCache(self._stale_for)
        self._proved = (
            -math.inf
        )  # when that was sent which the server has answered last on the tracked connection
        self._hearing = threading.Lock()  # whoever holds it uses the tracked connection
        self._line: CallConnection | None = None
        self._tracks = ""  # the run id of the server that it leads to
        self._sound = False  # all that came there was understood
        self._not_before = 0.0  # no new attempt to connect

    def connect(self) -> Opened:
        """Open the connections; raises what `Transport.connect` raises."""
        opened = super().connect()
        with self._held(_PATIENCE) as held:
            if held and self._line is None:
                self._open_tracked()
        return opened

    def close(self) -> None:
        """Forget, and close the connections."""
        super().close()
        with self._held(0.0):
            pass  # who held it last closes it

    def call(self, op: Request[T], patience: float | None = None) -> T:
        """The reply of one operation; raises what `Transport.call` raises."""
        if op.head.near:
            for reply in self._read([op]):
                return op.head.read(op, reply)
        try:
            reply = super().call(op, patience)
        except BaseException:
            self._seen([op] if op.head.changes else [])
            raise
        self._seen([op])
        return reply

    def call_many(self, ops: Sequence[Request[T]]) -> list[T | Exception]:
        """The replies of some operations, as `Transport.call_many`."""
        if any(op.head.near for op in ops) and (replies := self._read(ops)):
            return [op.head.read(op, reply) for op, reply in zip(ops, replies, strict=True)]
        answered = False
        try:
            replies = super().call_many(ops)
            answered = not all(isinstance(reply, Exception) for reply in replies)
            return replies
        finally:
            self._seen([op for op in ops if answered or op.head.changes])

    def doubt(self) -> None:
        """Something was heard elsewhere, which may be newer than what is remembered."""
        self.known.epoch = Epoch()
        self.known.outrun(None)

    def _seen(self, ops: Iterable[Request[Any]]) -> None:
        """Other connections have brought, or changed, what these are about. (Touches tell, and change, no status.)"""
        for op in ops:
            if op.head.changes or not op.head.writes:
                self.known.outrun(op.keys)
        self.known.epoch = Epoch()

    def _look(self) -> bool:
        """Take in what the server has said, unless another thread just did; whether memory may answer."""
        with self._held(_PATIENCE) as held:
            if now() < self.known.epoch.until:
                return True
            line = self._line
            return held and line is not None and bool(self._talk(line, self._take_in))

    def _take_in(self, line: CallConnection) -> bool:
        """Hear what the server has said until now; whether memory may answer."""
        turn, at = self.known.epoch, now()
        if at < turn.proved + PING_EVERY:
            line.hear()
        else:
            line.send([_PING])
            line.reply()
            turn.proved = at
        return self._vouch(turn, at)

    def _read(self, ops: Sequence[Request[Any]]) -> list[Any]:
        """The replies to these, where the server tracks what they read; none if that can't be had now."""

        def ask(line: CallConnection) -> list[Any]:
            commands = [[REMEMBER, op.packed()] if op.head.near else [op.packed()] for op in ops]
            turn, at = self.known.epoch, now()
            line.send(list(chain.from_iterable(commands)))
            replies = [self._heard(line, op) for op in ops]
            turn.proved = at
            self._vouch(turn, at)
            return [] if any(isinstance(reply, Exception) for reply in replies) else replies

        # Not for long: what others wait for there, the other connections bring as well, and all at once.
        with self._held(TURN) as held:
            self._check_open()
            line = self._line or self._open_tracked() if held else None
            return [] if line is None else self._talk(line, ask) or []

    def _heard(self, line: CallConnection, op: Request[Any]) -> Any:
        """The reply to one of these, which is remembered before anything else is heard."""
        tracked = op.head.near and line.reply() == b"OK"
        reply = line.reply()
        if tracked and isinstance(reply, list):
            self.known.learn(op.keys, reply)
        return reply

    def _vouch(self, turn: Epoch, at: float) -> bool:
        """What was said until then, in this turn, has been taken in: whether memory may answer for a while."""
        # If it has been doubted meanwhile, nobody looks at that turn any more.
        turn.until = at + TURN
        self._proved = turn.proved
        if turn is not self.known.epoch:
            return False
        self.known.caught_up()
        return True

    def _open_tracked(self) -> CallConnection | None:
        """A tracked connection; none if it can't be had now: why not, the others will tell.

        Raises:
            ServerRefused: the server is there, and does not do that.
        """
        if now() < self._not_before:
            return None
        pool = (self._lines or self._make_lines()).pool
        connection = pool.connection_class(**{**pool.connection_kwargs, "protocol": 3})
        line = None
        try:
            connection.connect()
            if self._unopened.pop(connection, math.inf) < math.inf:
                raise redis_errors.ReadOnlyError(
                    "a replica, where another connection may lead to the primary"
                )
            line = connection_of(connection)
            line.listen(self._is_told)
            ask(line, *TRACKING)
        except (redis_errors.RedisError, OSError) as error:
            connection.disconnect()
            if isinstance(error, DENIED) or not (line is None or isinstance(error, (*NOT_RUN, *NO_ANSWER))):
                raise refusal(error) from error
            self._hang_up()
            return None
        self._tracks = self._where()
        self._line, self._sound = line, True
        return line

    def _is_told(self, push: Sequence[Any]) -> None:
        if push[0] == b"invalidate":
            self.known.invalidate(push)

    def _where(self) -> str:
        return "" if self.server is None else self.server.run_id

    def _talk(self, line: CallConnection, about: Callable[[CallConnection], T]) -> T | None:
        """What comes of it; nothing if anything goes wrong: then it is closed, since it may have said more."""
        # Another connection that was made since may have led to another server.
        if not self._sound or self._tracks != self._where():
            self._hang_up(0.0)
            return None
        self._sound = False  # whatever interrupts this, and what is done about that
        try:
            result = about(line)
        except BaseException as error:
            self._hang_up()
            if isinstance(error, (redis_errors.RedisError, OSError)):
                return None
            raise
        self._sound = not line.must_close
        return result

    @contextmanager
    def _held(self, seconds: float) -> Iterator[bool]:
        """Use the tracked connection, if it is free within so long. Who used it last closes it for a closed client."""
        held = self._hearing.acquire(timeout=seconds)
        try:
            yield held
        finally:
            if held:
                self._hearing.release()
            # After that: who closes the client does not wait for who holds it.
            if self._closed and self._hearing.acquire(blocking=False):
                try:
                    self._hang_up()
                finally:
                    self._hearing.release()

    def _hang_up(self, pause: float = PING_EVERY) -> None:
        self._not_before = now() + pause
        self.known.lose(self._proved)
        line, self._line = self._line, None
        if line is not None:
            line.connection.disconnect()


class TrackedTransport(CachedReads, InvalidatedTransport):
    """Connections with a near cache."""

    def validate(self) -> bool:
        """Whether memory may answer. The news is let in now and then, however often this is asked."""
        return now() < self.known.epoch.until or self._look()
