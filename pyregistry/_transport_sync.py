# Made from _transport_async.py by tools/unasync.py: change that one.
"""Sends operations over redis-py's connections, and repeats what may be repeated.

A connection is taken from the pool by hand, never `execute_command`, which re-sends on its own.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Any, TypeVar

import redis
from redis import exceptions as redis_errors

from pyregistry._op import Op
from pyregistry._ops import OPEN, Ops
from pyregistry._replies import (
    ATTEMPTS,
    DENIED,
    LOADS,
    NO_ANSWER,
    NOT_RUN,
    backoff,
    failure,
    refusal,
    too_old,
)
from pyregistry._source import CONNECTIONS, ClientSource, OwnSource
from pyregistry._wait_sync import unlogged
from pyregistry._wire import Opened
from pyregistry.errors import RegistryClosed, ServerTooOld

T = TypeVar("T")


class Transport:
    """The connections of one client.

    Attributes:
        server: what the last connection was opened to; ``None`` before the first.
    """

    def __init__(self, source: ClientSource | OwnSource, ops: Ops, attempts: int = ATTEMPTS) -> None:
        self._source = source
        self._ops = ops
        self._attempts = attempts
        self._begin_anew()
        self._closed = False
        self.server: Opened | None = None
        _everyone.add(self)

    def _begin_anew(self) -> None:
        self._pool: redis.ConnectionPool | None = None
        self._lock = threading.Lock()
        # Not redis-py's blocking pools: before Python 3.13 a task that is cancelled when its turn comes takes
        # the turn with it, and the next one waits.
        self._turns = threading.Semaphore(CONNECTIONS)

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
        pool, self._pool = self._pool, None
        if pool is not None and not isinstance(self._source, ClientSource):
            # Not those in use: redis-py fails in odd ways where a connection is taken from under a call.
            pool.disconnect(inuse_connections=False)

    def call(self, op: Op[T]) -> T:
        """The reply of one operation.

        Raises:
            RegistryUnavailable: nobody answered, and it was not carried out.
            OutcomeUnknown: nobody answered, and it may have been carried out.
            ServerRefused: the server answered with an error.
            RegistryClosed: this client is closed.
        """
        return self._call(op)

    def _call(self, op: Op[T]) -> T:
        maybe_ran = False
        trouble: Exception | None = None
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(backoff(attempt))
            if maybe_ran and self._closed:
                break
            # Any: redis-py's connections are typed in part only.
            pool: Any = self._get_pool()
            with self._turns:
                self._check_open()
                try:
                    connection = pool.get_connection()
                except NOT_RUN as error:
                    trouble = error
                    continue
                except DENIED as error:
                    raise refusal(error) from None
                except NO_ANSWER as error:
                    trouble = error
                    if isinstance(self._source, ClientSource):
                        break  # it has tried as often as its user wants
                    continue
                except redis_errors.RedisError as error:
                    raise refusal(error) from error
                try:
                    return op.read(self._exchange(connection, op))
                except NOT_RUN as error:
                    trouble = error
                    # After READONLY the next connection may lead to the new primary.
                    connection.disconnect(nowait=True)
                except DENIED as error:
                    raise refusal(error) from None
                except NO_ANSWER as error:
                    trouble, maybe_ran = error, True
                    if not op.resend:
                        break
                except redis_errors.RedisError as error:
                    raise refusal(error) from error
                finally:
                    pool.release(connection)
                    if self._closed and not isinstance(self._source, ClientSource):
                        pool.disconnect(inuse_connections=False)
        raise failure(op, maybe_ran, trouble, self._source.shown) from trouble

    def ear(self) -> Any:
        """What the listener hears events on: a connection beside the pool's, to be closed by its user.

        Raises:
            RegistryClosed: this client is closed; and all that redis-py raises.
        """
        pool: Any = self._get_pool()
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.connect()
        unlogged(connection)
        return connection

    def _get_pool(self) -> redis.ConnectionPool:
        self._check_open()
        pool = self._pool
        if pool is None:
            with self._lock:
                pool = self._pool
                if pool is None:
                    if isinstance(self._source, ClientSource):
                        pool = self._source.pool
                    else:
                        url = self._source.resolve()
                        pool = self._source.sync_pool(url, self._on_connect)
                    self._pool = pool
        return pool

    def _check_open(self) -> None:
        if self._closed:
            raise RegistryClosed(f"the client of {self._source.shown} is closed")

    def leave_parent(self) -> None:
        """In a forked child: use nothing that is the parent's, and wait for no lock that it held."""
        self._begin_anew()

    def _on_connect(self, connection: Any) -> None:
        try:
            connection.on_connect()
            self.server = self._open(connection)
            # Closed meanwhile? Then nobody else would close this connection.
            self._check_open()
        except BaseException:
            # Else redis-py would find the socket open the next time, and never call this again.
            connection.disconnect(nowait=True)
            raise

    def _exchange(self, connection: Any, op: Op[Any]) -> Any:
        try:
            return _ask(connection, *op.command)
        except redis_errors.NoScriptError:
            self._load(connection)
            return _ask(connection, *op.command)

    def _open(self, connection: Any) -> Opened:
        op = self._ops.open()
        try:
            reply = _ask(connection, *op.command)
        except redis_errors.NoScriptError:
            reply = self._load(connection)
        return op.read(reply)

    def _load(self, connection: Any) -> Any:
        """Load `open`, run it, load the others: NOSCRIPT always means that `open` is due."""
        op = self._ops.open()
        try:
            _ask(connection, "SCRIPT", "LOAD", OPEN.text)
        except redis_errors.ResponseError as error:
            version = None
            if not isinstance(error, DENIED):
                version = too_old((_ask(connection, "INFO", "server")).decode())
            if version is None:
                raise
            raise ServerTooOld(version) from None
        reply = _ask(connection, *op.command)
        try:
            connection.send_packed_command(connection.pack_commands(LOADS))
            for _ in LOADS:
                connection.read_response(disable_decoding=True)
        except BaseException:
            # The replies after this one must not be taken for the next call's.
            connection.disconnect(nowait=True)
            raise
        return reply


def _ask(connection: Any, *command: str | int) -> Any:
    try:
        connection.send_command(*command)
        return connection.read_response(disable_decoding=True)
    except redis_errors.ResponseError:
        raise  # this is the reply
    except BaseException as error:
        # Interrupted in between, say by a signal: the reply must not be taken for the next call's.
        connection.disconnect(nowait=True)
        if isinstance(error.__context__, redis_errors.ReadOnlyError):
            # Under Sentinel redis-py makes a lost connection of it; but this too is the reply.
            raise error.__context__ from None
        raise


_everyone: weakref.WeakSet[Transport] = weakref.WeakSet()


def _leave_parent() -> None:
    for transport in list(_everyone):
        transport.leave_parent()


os.register_at_fork(after_in_child=_leave_parent)
