"""A blocking client that remembers the records it has read, as long as the server vouches for them.

What is remembered is read on a connection of its own, since the server says what has changed on the connection that it
was read on. No thread listens there: whoever asks memory, and is not told at once, first takes in what has been said.
Answers that come by other connections may be newer than what has been heard by then; so after each of them the server
has to vouch anew, by an answer to what was sent later: all that it had to say before comes before that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeVar

from redis import exceptions as redis_errors

from pyregistry._lines_sync import Line, line_of
from pyregistry._lone import LoneTransport
from pyregistry._near import PING_EVERY, REMEMBER, TRACKING, TURN, Near, SharedNear
from pyregistry._op import Op, pack
from pyregistry._owned import now
from pyregistry._recall_sync import Recalls
from pyregistry._replies import DENIED, NO_ANSWER, NOT_RUN, refusal
from pyregistry._transport_sync import ask
from pyregistry._wire import Opened

T = TypeVar("T")

_PING = pack(("PING",))


class TrackedTransport(LoneTransport):
    """Connections of which one is tracked. What can't be read there is read by the others, and not remembered."""

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self.near: Near = SharedNear()
        self._hearing = threading.Lock()  # whoever holds it uses the tracked connection
        self._line: Line | None = None
        self._proved = 0.0  # when that was sent (`now`) which was answered last there
        self._up_to_date = False  # that was later than all other answers
        self._not_before = 0.0  # no new attempt to connect

    def connect(self) -> Opened:
        """Open the connections; raises what `Transport.connect` raises."""
        opened = super().connect()
        with self._hearing:
            if self._line is None:
                self._open_tracked()
        return opened

    def close(self) -> None:
        """Forget, and close the connections."""
        super().close()
        with self._hearing:
            self._hang_up()

    def call(self, op: Op[T]) -> T:
        """The reply of one operation; raises what `Transport.call` raises."""
        if op.head.near:
            for reply in self._read([op]):
                return op.head.read(op, reply)
        try:
            return super().call(op)
        finally:
            self.doubt()

    def call_many(self, ops: Sequence[Op[T]]) -> list[T | Exception]:
        """The replies of some operations, as `Transport.call_many`."""
        if any(op.head.near for op in ops) and (replies := self._read(ops)):
            return [op.head.read(op, reply) for op, reply in zip(ops, replies, strict=True)]
        try:
            return super().call_many(ops)
        finally:
            self.doubt()

    def doubt(self) -> None:
        """Something was heard elsewhere, which may be newer than what is remembered."""
        # In this order, as the other way round in `_vouch`.
        self._up_to_date = False
        self.near.until = 0.0

    def _look(self) -> bool:
        """Take in what the server has said, unless another thread just did; whether memory may answer."""
        with self._hearing:
            if now() < self.near.until:
                return True
            line = self._line
            return line is not None and bool(self._talk(line, self._take_in))

    def _take_in(self, line: Line) -> bool:
        """Hear what the server has said until now; whether memory may answer."""
        at = now()
        if self._up_to_date and at < self._proved + PING_EVERY:
            line.hear()
        else:
            at = self._send(line, [_PING])
            line.reply()
            self._proved = at
        return self._vouch(at)

    def _read(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """The replies to these, where the server tracks what they read; none if that can't be had now."""

        def ask(line: Line) -> list[Any]:
            commands = [[REMEMBER, op.packed()] if op.head.near else [op.packed()] for op in ops]
            at = self._send(line, list(chain.from_iterable(commands)))
            replies = [self._heard(line, op) for op in ops]
            self._proved = at
            self._vouch(at)
            return [] if any(isinstance(reply, Exception) for reply in replies) else replies

        with self._hearing:
            self._check_open()
            line = self._line or self._open_tracked()
            return [] if line is None else self._talk(line, ask) or []

    def _heard(self, line: Line, op: Op[Any]) -> Any:
        """The reply to one of these, which is remembered before anything else is heard."""
        tracked = op.head.near and line.reply() == b"OK"
        reply = line.reply()
        if tracked and isinstance(reply, list):
            self.near.learn(op.keys, reply)
        return reply

    def _send(self, line: Line, commands: Sequence[bytes]) -> float:
        """Send these, and say when that was."""
        # Before it is sent: what comes elsewhere from now on may be newer than the reply.
        self._up_to_date = True
        at = now()
        line.send(commands)
        return at

    def _vouch(self, at: float) -> bool:
        """What was said until then has been taken in: whether memory may answer for a while."""
        # In this order, as the other way round in `doubt`.
        self.near.until = at + TURN
        if not self._up_to_date:
            self.near.until = 0.0
        return self._up_to_date

    def _open_tracked(self) -> Line | None:
        """A tracked connection; none if there is no server now, which the others will tell.

        Raises:
            ServerRefused: the server is there, and does not do that.
        """
        if now() < self._not_before:
            return None
        pool = (self._lines or self._make_lines()).pool
        connection = pool.connection_class(**{**pool.connection_kwargs, "protocol": 3})
        try:
            connection.connect()
            line = line_of(connection)
            ask(line, *TRACKING)
        except (redis_errors.RedisError, OSError) as error:
            connection.disconnect()
            if isinstance(error, DENIED) or not isinstance(error, (*NOT_RUN, *NO_ANSWER)):
                raise refusal(error) from error
            self._hang_up()
            return None
        connection._parser.set_invalidation_push_handler(self.near.invalidate)
        self._line = line
        return line

    def _talk(self, line: Line, about: Callable[[Line], T]) -> T | None:
        """What comes of it; nothing if anything goes wrong: then it is closed, since it may have said more."""
        try:
            result = about(line)
        except BaseException as error:
            self._hang_up()
            if isinstance(error, (redis_errors.RedisError, OSError)):
                return None
            raise
        if line.spoilt:
            self._hang_up()
        return result

    def _hang_up(self) -> None:
        self._not_before = now() + PING_EVERY
        line, self._line = self._line, None
        self.near.clear()
        if line is not None:
            line.connection.disconnect()


class RememberingTransport(Recalls, TrackedTransport):
    """Connections with a near cache."""

    def vouched(self) -> bool:
        """Whether memory may answer. The news is let in now and then, however often this is asked."""
        return now() < self.near.until or self._look()
