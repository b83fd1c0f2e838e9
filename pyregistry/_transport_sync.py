# Made from _transport_async.py by tools/unasync.py: change that one.
"""Sends operations over redis-py's connections, and repeats what may be repeated.

A connection is taken by hand, never `execute_command`, which re-sends on its own.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from redis import exceptions as redis_errors

from pyregistry._lines_sync import Line, Lines, Speaks, line_of, lines_of
from pyregistry._op import Op, pack
from pyregistry._ops import OPEN, Claiming, ClaimResult, Ops
from pyregistry._replies import (
    ATTEMPTS,
    DENIED,
    LOADS,
    NOT_RUN,
    PENDING,
    Asked,
    RefusedNow,
    backoff,
    recognised,
    too_old,
)
from pyregistry._source import ClientSource, OwnSource
from pyregistry._wait_sync import unlogged
from pyregistry._wire import Opened
from pyregistry.errors import RegistryClosed, RegistryError, ServerTooOld

T = TypeVar("T")


class Transport:
    """The connections of one client.

    Attributes:
        server: what the last connection was opened to; ``None`` before the first.
    """

    def __init__(self, source: ClientSource | OwnSource, ops: Ops, attempts: int = ATTEMPTS) -> None:
        self._source = source
        self._shared = isinstance(source, ClientSource)
        self._ops = ops
        self._attempts = attempts
        self._begin_anew()
        self._closed = False
        self.server: Opened | None = None
        _everyone.add(self)

    def _begin_anew(self) -> None:
        self._lines: Lines | None = None
        self._lock = threading.Lock()

    def connect(self) -> Opened:
        """Open a connection, whether one was open before or not.

        Raises:
            RegistryUnavailable: nobody answers.
            ServerRefused: the server is too old, the namespace too new, or rights are missing.
        """
        op = self._ops.open()
        self.server = self.call(op)
        return self.server

    def close(self) -> None:
        """Close what is ours; a user's own client stays open. Calls under way end; more are refused."""
        self._closed = True
        lines, self._lines = self._lines, None
        if lines is not None and not self._shared:
            lines.close()

    def call(self, op: Op[T]) -> T:
        """The reply of one operation.

        Raises:
            RegistryUnavailable: nobody answered, and it was not carried out.
            OutcomeUnknown: nobody answered, and it may have been carried out.
            ServerRefused: the server answered with an error.
            RegistryClosed: this client is closed.
        """
        return self._outcome(Asked(op))

    def claim(
        self, claiming: Claiming, name: str, claim_id: str | None, expected_bytes: int | None
    ) -> ClaimResult:
        """The claim of a model; raises what `call` raises."""
        return self.call(claiming.claim(name, claim_id, expected_bytes))

    def call_many(self, ops: Sequence[Op[T]]) -> list[T | Exception]:
        """The replies of some operations, in order, or the errors that `call` would raise.

        All are sent before the first reply is read: not too many at a time.
        """
        asked = [Asked(op) for op in ops]
        self._carry_out(asked)
        return [cast("T | Exception", each.outcome) for each in asked]

    def _outcome(self, asked: Asked[T], *, begun: int = 0) -> T:
        """What becomes of one operation, which has gone out so often; raises what `call` raises."""
        if asked.outcome is PENDING:
            self._carry_out([asked], begun)
        if isinstance(asked.outcome, Exception):
            raise asked.outcome
        return cast("T", asked.outcome)

    def _carry_out(self, asked: list[Asked[Any]], begun: int = 0) -> None:
        """Send these, again and again if need be, until each has an outcome."""
        shown = self._source.shown
        try:
            for attempt in range(begun, self._attempts):
                if attempt:
                    time.sleep(backoff(attempt))
                asked = self._try(asked)
                if not asked:
                    return
        except RegistryError as error:
            for each in asked:
                each.give_up(shown, error)
        else:
            for each in asked:
                each.give_up(shown)

    def _try(self, asked: list[Asked[Any]]) -> list[Asked[Any]]:
        """Send these once; returns those that are to be sent again."""
        lines = self._lines or self._make_lines()
        try:
            line = lines.take()
        except (redis_errors.RedisError, OSError) as error:
            for each in asked:
                each.failed(error, self._source.shown, sent=False)
                if self._shared and not isinstance(recognised(error), NOT_RUN):
                    each.give_up(self._source.shown)  # it has tried as often as its user wants
            return _unanswered(asked)
        try:
            if self._closed:
                self._check_open()
            self._exchange(line, asked)
            return self._to_repeat(line, asked)
        finally:
            lines.give_back(line)
            if self._closed and not self._shared:
                lines.close()

    def _to_repeat(self, line: Line, asked: list[Asked[Any]]) -> list[Asked[Any]]:
        """Of what was sent, that which is to go out again; not what wanted nothing but its script."""
        again = _unanswered(asked)
        if again:
            self._reload(line, again)
            again = _unanswered(again)
            # After READONLY the next connection may lead to the new primary. Who refuses only now is the right one.
            line.spoilt |= any(not isinstance(each.trouble, RefusedNow) for each in again)
        return again

    def ear(self) -> Any:
        """What the listener hears events on: a connection beside the pool's, to be closed by its user.

        Raises:
            RegistryClosed: this client is closed; and all that redis-py raises.
        """
        self._check_open()
        pool = (self._lines or self._make_lines()).pool
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.connect()
        unlogged(connection)
        return connection

    def doubt(self) -> None:
        """Something was heard elsewhere, which may be newer than what this remembers."""

    def _make_lines(self) -> Lines:
        with self._lock:
            self._check_open()
            lines = self._lines
            if lines is None:
                if isinstance(self._source, ClientSource):
                    pool = self._source.pool
                else:
                    url = self._source.resolve()
                    pool = self._source.sync_pool(url, self._on_connect)
                lines = self._lines = lines_of(pool, shared=self._shared)
        return lines

    def _check_open(self) -> None:
        if self._closed:
            raise RegistryClosed(f"the client of {self._source.shown} is closed")

    def leave_parent(self) -> None:
        """In a forked child: use nothing that is the parent's, and wait for no lock that it held."""
        self._begin_anew()

    def _on_connect(self, connection: Any) -> None:
        try:
            connection.on_connect()
            self.server = self._open(line_of(connection))
            # Closed meanwhile? Then nobody else would close this connection.
            self._check_open()
        except BaseException:
            # Else redis-py would find the socket open the next time, and never call this again.
            connection.disconnect(nowait=True)
            raise

    def _exchange(self, line: Line, asked: Sequence[Asked[Any]]) -> None:
        shown = self._source.shown
        try:
            line.send([each.op.packed() for each in asked])
            for each in asked:
                each.answered(line.reply(), shown)
        except (redis_errors.RedisError, OSError) as error:
            for each in asked[len(asked) - line.owed :]:
                each.failed(error, shown)

    def _reload(self, line: Line, asked: Sequence[Asked[Any]]) -> None:
        """Load the scripts, if that is what these want, and ask them once more."""
        asked = [each for each in asked if isinstance(each.trouble, redis_errors.NoScriptError)]
        if not asked or line.owed:
            return
        try:
            self._load(line)
        except (redis_errors.RedisError, OSError) as error:
            for each in asked:
                each.failed(error, self._source.shown, sent=False)
        else:
            self._exchange(line, asked)

    def _open(self, line: Speaks) -> Opened:
        op = self._ops.open()
        try:
            reply = _reply_to(line, op.packed())
        except redis_errors.NoScriptError:
            reply = self._load(line)
        return op.head.read(op, reply)

    def _load(self, line: Speaks) -> Any:
        """Load `open`, run it, load the others: NOSCRIPT always means that `open` is due."""
        op = self._ops.open()
        try:
            ask(line, "SCRIPT", "LOAD", OPEN.text)
        except redis_errors.ResponseError as error:
            version = None
            if not isinstance(error, DENIED):
                version = too_old((ask(line, "INFO", "server")).decode())
            if version is None:
                raise
            raise ServerTooOld(version) from None
        reply = _reply_to(line, op.packed())
        line.send(LOADS)
        for _ in LOADS:
            _answer(line)
        return reply


def _unanswered(asked: list[Asked[Any]]) -> list[Asked[Any]]:
    """Those that are to go out, maybe again."""
    for each in asked:
        if each.outcome is PENDING:
            return [each for each in asked if each.outcome is PENDING]
    return []  # nearly always


def ask(line: Speaks, *command: str | int) -> Any:
    """The reply to one command."""
    return _reply_to(line, pack(command))


def _reply_to(line: Speaks, packed: bytes) -> Any:
    line.send([packed])
    return _answer(line)


def _answer(line: Speaks) -> Any:
    reply = line.reply()
    if isinstance(reply, Exception):
        raise reply
    return reply


_everyone: weakref.WeakSet[Transport] = weakref.WeakSet()


def _leave_parent() -> None:
    for transport in list(_everyone):
        transport.leave_parent()


os.register_at_fork(after_in_child=_leave_parent)
