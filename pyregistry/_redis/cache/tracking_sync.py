"""The near cache of the blocking client: a pool of connections, and one tracked connection for cacheable reads.

The server sends an invalidation on the connection that read the key. So cacheable reads use a connection of their
own. No thread listens on it: the first caller 5 ms after the last look reads the invalidations, one thread for all.

Invariant: the cache never answers with a state that is older than a state which any thread of this client has seen,
on any connection.

Steps:

1. The cache answers only during an epoch. An epoch is an object; it is replaced, never reopened.
2. A reply or an event on any other connection ends the epoch (`_seen`, `doubt`).
3. A new epoch begins with a reply on the tracked connection to a command that was sent after the old epoch ended:
   a PING (`_take_in`), or the next cacheable read (`_read`).
4. A reader takes the current epoch before it sends. The reply is a proof for that epoch alone, not for a later one.
5. A PING is due one second after the last proof; the caller that needs the proof waits for it.

Why it holds: the server sends all invalidations for changes before step 3's command ahead of its reply. The state that
the other connection delivered was made before that command was sent. So its invalidation is already parsed when the
epoch begins. A write of this client is one case of this.

Faults: an error on the tracked connection closes it and empties the cache. So does another connection that has led to
another server. The current call, and all calls for one second, use the other connections.
See docs/explanation/near-cache.md.
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
from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.transport.connection_sync import CallConnection, connection_of
from pyregistry._redis.transport.endpoint import OwnEndpoint
from pyregistry._redis.transport.exchange_sync import ask
from pyregistry._redis.transport.fast_path_sync import FastPathTransport

T = TypeVar("T")

_PING = pack(("PING",))

_PATIENCE = 1.0
"""How long a thread waits for another thread that is reading invalidations, in seconds."""


class InvalidatedTransport(FastPathTransport):
    """A pooled transport with one tracked connection. If that is not available, reads use the pool, uncached.

    Args:
        source: The server.
        ops: Builds the requests of the namespace.
        attempts: Maximum number of times that a request is sent. Defaults to 4.
        stale_for: Seconds for which stale answers are given during an outage. Defaults to 0: none.
    """

    _needs_resp3 = True

    def __init__(
        self, source: OwnEndpoint, ops: RequestFactory, attempts: int = ATTEMPTS, *, stale_for: float = 0.0
    ) -> None:
        self._stale_for = stale_for
        super().__init__(source, ops, attempts)

    def _reset(self) -> None:
        super()._reset()
        self.known: ClientCache = SharedClientCache(self._stale_for)
        # Time (`now`) at which the last answered request was sent on the tracked connection.
        self._proved = -math.inf
        self._hearing = threading.Lock()  # guards every use of the tracked connection
        self._line: CallConnection | None = None
        self._tracks = ""  # run id of the server of the tracked connection
        self._sound = False  # no exchange on the tracked connection was interrupted
        self._not_before = 0.0  # time (`now`) before which no tracked connection is opened

    def connect(self) -> Opened:
        """Open a connection of the pool and the tracked connection.

        Raises:
            RegistryError: As `Transport.connect`.
            ServerRefused: The server refuses tracking.
        """
        opened = super().connect()
        with self._held(_PATIENCE) as held:
            if held and self._line is None:
                self._open_tracked()
        return opened

    def close(self) -> None:
        """Empty the cache and close the connections. A thread that uses the tracked one closes it afterwards."""
        super().close()
        with self._held(0.0):
            pass  # `_held` closes the tracked connection of a closed client

    def call(self, op: Request[T], patience: float | None = None) -> T:
        """Return the reply of one request.

        Args:
            op: The request.
            patience: Seconds for which a temporary refusal is retried. Defaults to that of the transport.

        Raises:
            RegistryError: As `Transport.call`.
        """
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
        """Return the reply or the error of each request, as `Transport.call_many`."""
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
        """End the epoch, because another connection has delivered an event that may be newer than the cache."""
        self.known.epoch = Epoch()
        self.known.outrun(None)

    def _seen(self, ops: Iterable[Request[Any]]) -> None:
        """End the epoch, because other connections have answered these requests.

        Touches do not exclude keys from stale answers: they neither return nor change a status.
        """
        for op in ops:
            if op.head.changes or not op.head.writes:
                self.known.outrun(op.keys)
        self.known.epoch = Epoch()

    def _look(self) -> bool:
        """Read invalidations unless another thread just did; return whether the cache may answer."""
        with self._held(_PATIENCE) as held:
            if now() < self.known.epoch.until:
                return True
            line = self._line
            return held and line is not None and bool(self._talk(line, self._take_in))

    def _take_in(self, line: CallConnection) -> bool:
        """Read the invalidations that have arrived, or PING if a proof is due; return whether the cache may answer."""
        turn, at = self.known.epoch, now()
        if at < turn.proved + PING_EVERY:
            line.hear()
        else:
            line.send([_PING])
            line.reply()
            turn.proved = at
        return self._vouch(turn, at)

    def _read(self, ops: Sequence[Request[Any]]) -> list[Any]:
        """Return the raw replies to tracked reads; an empty list if the tracked connection is not available."""

        def ask(line: CallConnection) -> list[Any]:
            commands = [[REMEMBER, op.packed()] if op.head.near else [op.packed()] for op in ops]
            turn, at = self.known.epoch, now()
            line.send(list(chain.from_iterable(commands)))
            replies = [self._heard(line, op) for op in ops]
            turn.proved = at
            self._vouch(turn, at)
            return [] if any(isinstance(reply, Exception) for reply in replies) else replies

        # Wait 5 ms at most: the pool answers as well, and many threads at once.
        with self._held(TURN) as held:
            self._check_open()
            line = self._line or self._open_tracked() if held else None
            return [] if line is None else self._talk(line, ask) or []

    def _heard(self, line: CallConnection, op: Request[Any]) -> Any:
        """Return the reply to one request, and cache its values before any later invalidation is parsed."""
        tracked = op.head.near and line.reply() == b"OK"
        reply = line.reply()
        if tracked and isinstance(reply, list):
            self.known.learn(op.keys, reply)
        return reply

    def _vouch(self, turn: Epoch, at: float) -> bool:
        """Extend an epoch by `TURN` seconds; return whether it is still the current one.

        Args:
            turn: The epoch that was current before the request was sent.
            at: Time (`now`) before the request was sent. All earlier invalidations are parsed.
        """
        # Extending a replaced epoch has no effect: readers look only at the current one.
        turn.until = at + TURN
        self._proved = turn.proved
        if turn is not self.known.epoch:
            return False
        self.known.caught_up()
        return True

    def _open_tracked(self) -> CallConnection | None:
        """Open the tracked connection. Returns None if that fails for now; the pool then reports the error.

        Raises:
            ServerRefused: The server answers, and refuses tracking.
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
        """Run one exchange on the tracked connection and return its result.

        Returns None after an error of the connection, which is then closed: invalidations may be lost with it.
        """
        # A later connection of the pool may lead to another server, for example after a failover.
        if not self._sound or self._tracks != self._where():
            self._hang_up(0.0)
            return None
        self._sound = False  # stays False if an asynchronous exception interrupts even the handler below
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
        """Hold the tracked connection; yields False if it is not free within `seconds`.

        After the client was closed, the last holder closes the connection.
        """
        held = self._hearing.acquire(timeout=seconds)
        try:
            yield held
        finally:
            if held:
                self._hearing.release()
            # After the release, because `close` does not wait for the holder: either of the two closes it here.
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
        """Return whether the cache may answer now. Reads invalidations every 5 ms."""
        return now() < self.known.epoch.until or self._look()
