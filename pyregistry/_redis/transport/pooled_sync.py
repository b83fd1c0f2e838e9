# Made from _redis/transport/pooled_async.py by tools/unasync.py: change that one.
"""Sends operations over redis-py's connections, and repeats what may be repeated.

A connection is taken by hand, never `execute_command`, which re-sends on its own.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

from redis import exceptions as redis_errors

from pyregistry._core.clock import now
from pyregistry._core.values import ClaimResult
from pyregistry._redis.protocol.claims import ClaimTemplate
from pyregistry._redis.protocol.outcomes import (
    ATTEMPTS,
    DENIED,
    LOADS,
    NOT_RUN,
    PASSING,
    PENDING,
    READING_LOADS,
    PendingCall,
    RefusedCredentials,
    RefusedNow,
    lacks_resp3,
    pause,
    recognised,
    said,
    too_old,
)
from pyregistry._redis.protocol.records import Opened
from pyregistry._redis.protocol.request import Request
from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.protocol.transitions import OPEN
from pyregistry._redis.transport.connection_sync import (
    CallConnection,
    CallConnectionPool,
    CommandConnection,
    connection_of,
    pool_of,
    unlogged,
)
from pyregistry._redis.transport.endpoint import ClientEndpoint, OwnEndpoint
from pyregistry._redis.transport.exchange_sync import ask, reply_to, tell, unanswered
from pyregistry.errors import NotNow, RegistryClosed, RegistryError, ServerTooOld

T = TypeVar("T")


_LOOK_AGAIN = 1.0
"""Seconds for which a connection to a server that only reads is used: the next one may lead to one that writes."""


class Transport:
    """The connections of one client.

    A connection is opened before the first write on it. Where the server refuses that for now, the connection serves
    for reading, and `open` is due: it runs before the first write.

    Args:
        source: where the server is.
        ops: the operations of the client.
        attempts: how often a call goes out.
        patience: seconds for which a call goes out more often, as long as the server refuses it for now; ``None``: as
            long as an answer may take.

    Attributes:
        server: what the last connection was opened to; ``None`` before the first.
    """

    _needs_resp3 = False  # RESP2 serves for calls, and for events on a connection of their own

    def __init__(
        self,
        source: ClientEndpoint | OwnEndpoint,
        ops: RequestFactory,
        attempts: int = ATTEMPTS,
        patience: float | None = None,
    ) -> None:
        self._source = source
        self._shared = isinstance(source, ClientEndpoint)
        self._ops = ops
        self._attempts = attempts
        self._patience: float = source.patience if patience is None else patience
        self._reset()
        self._closed = False
        self.server: Opened | None = None
        _everyone.add(self)

    def _reset(self) -> None:
        self._lines: CallConnectionPool | None = None
        self._lock = threading.Lock()
        # Connections on which `open` is due, and until when they may serve for reading all the same. The connections of
        # a user's client are opened out of sight: there it is due once for all.
        self._unopened: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
        self._due = self._shared  # whether there is any such connection
        self._refusal: Exception | None = None  # why `open` was refused last

    @property
    def refusal(self) -> str:
        """Why `open` was refused last."""
        return said(self._refusal)

    def connect(self) -> Opened:
        """Open a connection, whether one was open before or not. It is enough that reading is possible now.

        Raises:
            RegistryUnavailable: nobody answers.
            ServerRefused: the server is too old, the namespace too new, or rights are missing.
        """
        try:
            self.server = self.call(self._ops.open())
        except NotNow:
            self.server = self.call(self._ops.check())
        else:
            self._due = self._due and not self._shared
        return self.server

    def close(self) -> None:
        """Close what is ours; a user's own client stays open. Calls under way end; more are refused."""
        self._closed = True
        lines, self._lines = self._lines, None
        if lines is not None and not self._shared:
            lines.close()

    def call(self, op: Request[T], patience: float | None = None) -> T:
        """The reply of one operation.

        Args:
            op: what is asked.
            patience: seconds for which it goes out again as long as it is refused for now; ``None``: the transport's.

        Raises:
            RegistryUnavailable: nobody answered, and it was not carried out.
            NotNow: it was refused for now, for as long as that was waited for.
            OutcomeUnknown: nobody answered, and it may have been carried out.
            ServerRefused: the server answered with an error.
            RegistryClosed: this client is closed.
        """
        return self._outcome(PendingCall(op), patience=patience)

    def claim(
        self, claiming: ClaimTemplate, name: str, claim_id: str | None, expected_bytes: int | None
    ) -> ClaimResult:
        """The claim of a model; raises what `call` raises."""
        return self.call(claiming.claim(name, claim_id, expected_bytes))

    def call_many(self, ops: Sequence[Request[T]]) -> list[T | Exception]:
        """The replies of some operations, in order, or the errors that `call` would raise.

        All are sent before the first reply is read: not too many at a time.
        """
        asked = [PendingCall(op) for op in ops]
        self._carry_out(asked)
        return [cast("T | Exception", each.outcome) for each in asked]

    def _outcome(self, asked: PendingCall[T], *, begun: int = 0, patience: float | None = None) -> T:
        """What becomes of one operation, which has gone out so often; raises what `call` raises."""
        if asked.outcome is PENDING:
            self._carry_out([asked], begun, patience)
        if isinstance(asked.outcome, Exception):
            raise asked.outcome
        return cast("T", asked.outcome)

    def _carry_out(
        self, asked: list[PendingCall[Any]], tried: int = 0, patience: float | None = None
    ) -> None:
        """Send these, again and again if need be, until each has an outcome."""
        shown, ends = self._source.shown, 0.0
        try:
            while True:
                if tried:
                    ends = ends or now() + (self._patience if patience is None else patience)
                    for each in asked:
                        if not each.goes_on(tried, self._attempts, ends):
                            each.give_up(shown)
                    asked = unanswered(asked)
                    if not asked:
                        return
                    time.sleep(pause(tried, ends - now()))
                asked = self._try(asked)
                if not asked:
                    return
                tried += 1
        except RegistryError as error:
            for each in asked:
                each.give_up(shown, error)

    def _try(self, asked: list[PendingCall[Any]]) -> list[PendingCall[Any]]:
        """Send these once; returns those that are to be sent again."""
        lines = self._lines or self._make_lines()
        try:
            line = lines.take()
        except (redis_errors.RedisError, OSError) as trouble:
            error = self._judge(trouble)
            for each in asked:
                each.failed(error, self._source.shown, sent=False)
                if self._shared and not isinstance(recognised(error), NOT_RUN):
                    each.give_up(self._source.shown)  # it has tried as often as its user wants
            return unanswered(asked)
        try:
            if self._closed:
                self._check_open()
            self._exchange(line, self._open_first(line, asked) if self._due else asked)
            return self._to_repeat(line, asked)
        finally:
            lines.give_back(line)
            if self._closed and not self._shared:
                lines.close()

    def _to_repeat(self, line: CallConnection, asked: list[PendingCall[Any]]) -> list[PendingCall[Any]]:
        """Of what was sent, that which is to go out again; not what wanted nothing but its script."""
        again = unanswered(asked)
        if again:
            self._reload(line, again)
            again = unanswered(again)
            # After READONLY the next connection may lead to the new primary. Who refuses only now is the right one.
            line.must_close |= any(not isinstance(each.trouble, RefusedNow) for each in again)
        return again

    def _open_first(self, line: CallConnection, asked: list[PendingCall[Any]]) -> list[PendingCall[Any]]:
        """Of these, what may go out: nothing that writes where `open` is due, and still refused."""
        connection = line.connection
        if not self._shared:
            good_until = self._unopened.get(connection)
            if good_until is None:
                return asked
            line.must_close |= now() > good_until
        if not any(each.op.head.writes for each in asked):
            return asked
        try:
            opened = self._open(line)
        except (redis_errors.RedisError, OSError) as error:
            for each in asked:
                each.failed(error, self._source.shown, sent=False)
            return []
        return self._sendable(line, opened, asked)

    def _sendable(
        self, line: CallConnection, opened: Opened, asked: list[PendingCall[Any]]
    ) -> list[PendingCall[Any]]:
        """Of these, what may go out now: nothing that writes, if `open` was refused."""
        self._opened(line.connection, opened)
        if not opened.due or self._refusal is None:
            return asked
        for each in asked:
            if each.op.head.writes:
                each.failed(self._refusal, self._source.shown, sent=False)
        return [each for each in asked if not each.op.head.writes]

    def _opened(self, connection: Any, opened: Opened) -> None:
        """`open` has run on this connection; or it was refused, and is due before the first write."""
        if self._shared:
            self._due = bool(opened.due)
            return
        if opened.due:
            reads_only = isinstance(self._refusal, redis_errors.ReadOnlyError)
            self._unopened[connection] = now() + _LOOK_AGAIN if reads_only else math.inf
        else:
            self._unopened.pop(connection, None)
        self._due = bool(self._unopened)

    def _judge(self, error: Exception) -> Exception:
        """What became of connecting, as a refusal that passes where the next connection may fare better."""
        if not self._needs_resp3 and lacks_resp3(error) and self._source.speak_resp2():
            self._lines = None  # they speak RESP3
            return RefusedNow(str(error)).with_traceback(error.__traceback__)
        # A provider may have given some that are too old.
        if self._source.asks_for_credentials and isinstance(error, redis_errors.AuthenticationError):
            return RefusedCredentials(str(error)).with_traceback(error.__traceback__)
        return error

    def ear(self) -> Any:
        """What the listener hears events on: a connection beside the pool's, to be closed by its user.

        Raises:
            RegistryClosed: this client is closed; and all that redis-py raises.
        """
        self._check_open()
        pool = (self._lines or self._make_lines()).pool
        connection = pool.connection_class(**pool.connection_kwargs)
        try:
            connection.connect()
        except redis_errors.RedisError as error:
            raise self._judge(error) from error
        unlogged(connection)
        return connection

    def doubt(self) -> None:
        """Something was heard elsewhere, which may be newer than what this remembers."""

    def _make_lines(self) -> CallConnectionPool:
        with self._lock:
            self._check_open()
            lines = self._lines
            if lines is None:
                if isinstance(self._source, ClientEndpoint):
                    pool = self._source.pool
                else:
                    url = self._source.resolve()
                    pool = self._source.sync_pool(url, self._on_connect)
                lines = self._lines = pool_of(pool, shared=self._shared)
        return lines

    def _check_open(self) -> None:
        if self._closed:
            raise RegistryClosed(f"the client of {self._source.shown} is closed")

    def after_fork_in_child(self) -> None:
        """In a forked child: use nothing that is the parent's, and wait for no lock that it held."""
        self._reset()

    def _on_connect(self, connection: Any) -> None:
        try:
            connection.on_connect()
            self.server = self._open(connection_of(connection))
            self._opened(connection, self.server)
            # Closed meanwhile? Then nobody else would close this connection.
            self._check_open()
        except BaseException:
            # Else redis-py would find the socket open the next time, and never call this again.
            connection.disconnect(nowait=True)
            raise

    def _exchange(self, line: CallConnection, asked: Sequence[PendingCall[Any]]) -> None:
        shown = self._source.shown
        try:
            line.send([each.op.packed() for each in asked])
            for each in asked:
                each.answered(line.reply(), shown)
        except (redis_errors.RedisError, OSError) as error:
            for each in asked[len(asked) - line.owed :]:
                each.failed(error, shown)

    def _reload(self, line: CallConnection, asked: Sequence[PendingCall[Any]]) -> None:
        """Load the scripts, if that is what these want, and ask them once more."""
        asked = [each for each in asked if isinstance(each.trouble, redis_errors.NoScriptError)]
        if not asked or line.owed:
            return
        try:
            opened = self._load(line)
        except (redis_errors.RedisError, OSError) as error:
            for each in asked:
                each.failed(error, self._source.shown, sent=False)
        else:
            self._exchange(line, self._sendable(line, opened, asked))

    def _open(self, line: CommandConnection) -> Opened:
        """Run `open`; where the server refuses that for now, see whether reading is possible."""
        try:
            return self._run(line, self._ops.open())
        except redis_errors.NoScriptError:
            return self._load(line)
        except redis_errors.ResponseError as error:
            return self._check(line, error)

    def _load(self, line: CommandConnection) -> Opened:
        """Load `open`, run it, load the others: NOSCRIPT always means that `open` is due."""
        try:
            ask(line, "SCRIPT", "LOAD", OPEN.text)
        except redis_errors.ResponseError as error:
            version = None
            if not isinstance(error, DENIED):
                with suppress(redis_errors.ResponseError):
                    version = too_old((ask(line, "INFO", "server")).decode())
            if version is None:
                raise
            raise ServerTooOld(version) from None
        try:
            opened = self._run(line, self._ops.open())
        except redis_errors.ResponseError as error:
            return self._check(line, error)
        tell(line, LOADS)
        return opened

    def _check(self, line: CommandConnection, refused: redis_errors.ResponseError) -> Opened:
        """`open` was refused. If that passes, is the server fit for reading? No script that writes is loaded."""
        error = recognised(refused)
        # Sentinels will know better soon: what they lead to now is no primary any more.
        moved = self._source.finds_primary and isinstance(error, redis_errors.ReadOnlyError)
        if moved or not isinstance(error, PASSING):
            raise refused
        self._refusal = error
        op = self._ops.check()
        try:
            return self._run(line, op)
        except redis_errors.NoScriptError:
            tell(line, READING_LOADS)
            return self._run(line, op)

    def _run(self, line: CommandConnection, op: Request[T]) -> T:
        return op.head.read(op, reply_to(line, op.packed()))


_everyone: weakref.WeakSet[Transport] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for transport in list(_everyone):
        transport.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
