"""Sends operations over redis-py's connections, and repeats what may be repeated.

A connection is taken from the pool by hand, never `execute_command`, which re-sends on its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

import redis.asyncio
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
from pyregistry._source import CONNECTIONS, ClientSource, UrlSource
from pyregistry._wait_async import settle, unlogged
from pyregistry._wire import Opened
from pyregistry.errors import RegistryClosed, ServerTooOld

T = TypeVar("T")


# --- asyncio only: begin
_LOSES_CANCELLATIONS: bool = sys.version_info < (3, 12)


# --- asyncio only: end
class AsyncTransport:
    """The connections of one client.

    Attributes:
        server: what the last connection was opened to; ``None`` before the first.
    """

    def __init__(self, source: ClientSource | UrlSource, ops: Ops, attempts: int = ATTEMPTS) -> None:
        self._source = source
        self._ops = ops
        self._attempts = attempts
        self._begin_anew()
        self._closed = False
        self.server: Opened | None = None
        # --- asyncio only: begin
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parents = False
        # --- asyncio only: end
        _everyone.add(self)

    def _begin_anew(self) -> None:
        self._pool: redis.asyncio.ConnectionPool | None = None
        self._lock = asyncio.Lock()
        # Not redis-py's blocking pools: before Python 3.13 a task that is cancelled when its turn comes takes
        # the turn with it, and the next one waits.
        self._turns = asyncio.Semaphore(CONNECTIONS)

    async def connect(self) -> Opened:
        """Open a connection, whether one was open before or not.

        Raises:
            RegistryUnavailable: nobody answers.
            ServerRefused: the server is too old, the namespace too new, or rights are missing.
        """
        op = self._ops.open()
        self.server = await self.call(op)
        return self.server

    async def close(self) -> None:
        """Close what is ours; a user's own client stays open. Calls under way end; more are refused."""
        # --- asyncio only: begin
        if not isinstance(self._source, ClientSource):
            self._come_home()  # refused where another loop uses it
        # --- asyncio only: end
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None and not isinstance(self._source, ClientSource):
            # Not those in use: redis-py fails in odd ways where a connection is taken from under a call.
            await pool.disconnect(inuse_connections=False)

    async def call(self, op: Op[T]) -> T:
        """The reply of one operation.

        Raises:
            RegistryUnavailable: nobody answered, and it was not carried out.
            OutcomeUnknown: nobody answered, and it may have been carried out.
            ServerRefused: the server answered with an error.
            RegistryClosed: this client is closed.
        """
        # --- asyncio only: begin
        if _LOSES_CANCELLATIONS:
            return await _in_a_task(self._call(op))
        # --- asyncio only: end
        return await self._call(op)

    async def _call(self, op: Op[T]) -> T:
        maybe_ran = False
        trouble: Exception | None = None
        for attempt in range(self._attempts):
            if attempt:
                await asyncio.sleep(backoff(attempt))
            if maybe_ran and self._closed:
                break
            # Any: redis-py's connections are typed in part only.
            pool: Any = await self._get_pool()
            async with self._turns:
                self._check_open()
                try:
                    connection = await pool.get_connection()
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
                    return op.read(await self._exchange(connection, op))
                except NOT_RUN as error:
                    trouble = error
                    # After READONLY the next connection may lead to the new primary.
                    await connection.disconnect(nowait=True)
                except DENIED as error:
                    raise refusal(error) from None
                except NO_ANSWER as error:
                    trouble, maybe_ran = error, True
                    if not op.resend:
                        break
                except redis_errors.RedisError as error:
                    raise refusal(error) from error
                finally:
                    await pool.release(connection)
                    if self._closed and not isinstance(self._source, ClientSource):
                        await pool.disconnect(inuse_connections=False)
        raise failure(op, maybe_ran, trouble, self._source.shown) from trouble

    async def ear(self) -> Any:
        """What the listener hears events on: a connection beside the pool's, to be closed by its user.

        Raises:
            RegistryClosed: this client is closed; and all that redis-py raises.
        """
        pool: Any = await self._get_pool()
        connection = pool.connection_class(**pool.connection_kwargs)
        await connection.connect()
        unlogged(connection)
        return connection

    async def _get_pool(self) -> redis.asyncio.ConnectionPool:
        self._check_open()
        # --- asyncio only: begin
        self._come_home()
        # --- asyncio only: end
        pool = self._pool
        if pool is None:
            async with self._lock:
                pool = self._pool
                if pool is None:
                    if isinstance(self._source, ClientSource):
                        pool = self._source.pool
                    else:
                        url = await asyncio.to_thread(self._source.resolve)
                        pool = self._source.async_pool(url, self._on_connect)
                    self._pool = pool
        return pool

    def _check_open(self) -> None:
        if self._closed:
            raise RegistryClosed(f"the client of {self._source.shown} is closed")

    def leave_parent(self) -> None:
        """In a forked child: use nothing that is the parent's, and wait for no lock that it held."""
        # --- asyncio only: begin
        # To close the parent's connections, even at the end of the interpreter, would take them out of the
        # selector that the two processes share: the parent would wait for answers that it never sees.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object((self._pool, self._loop)))
        self._loop, self._parents = None, isinstance(self._source, ClientSource)
        # --- asyncio only: end
        self._begin_anew()

    # --- asyncio only: begin
    def _come_home(self) -> None:
        """Connections belong to one event loop: those of a loop that has ended are left behind."""
        here, home = asyncio.get_running_loop(), self._loop
        if here is home:
            return
        if self._parents or (home is not None and isinstance(self._source, ClientSource)):
            raise RegistryClosed(
                f"the {self._source.shown} belongs to another process or event loop: make a new client here"
            )
        if home is not None and not home.is_closed():
            raise RegistryClosed("this client is in use on another event loop: make a new client here")
        self._loop = here
        self._begin_anew()

    # --- asyncio only: end
    async def _on_connect(self, connection: Any) -> None:
        try:
            await connection.on_connect()
            self.server = await self._open(connection)
            # Closed meanwhile? Then nobody else would close this connection.
            self._check_open()
        except BaseException:
            # Else redis-py would find the socket open the next time, and never call this again.
            await connection.disconnect(nowait=True)
            raise

    async def _exchange(self, connection: Any, op: Op[Any]) -> Any:
        try:
            return await _ask(connection, *op.command)
        except redis_errors.NoScriptError:
            await self._load(connection)
            return await _ask(connection, *op.command)

    async def _open(self, connection: Any) -> Opened:
        op = self._ops.open()
        try:
            reply = await _ask(connection, *op.command)
        except redis_errors.NoScriptError:
            reply = await self._load(connection)
        return op.read(reply)

    async def _load(self, connection: Any) -> Any:
        """Load `open`, run it, load the others: NOSCRIPT always means that `open` is due."""
        op = self._ops.open()
        try:
            await _ask(connection, "SCRIPT", "LOAD", OPEN.text)
        except redis_errors.ResponseError as error:
            version = None
            if not isinstance(error, DENIED):
                version = too_old((await _ask(connection, "INFO", "server")).decode())
            if version is None:
                raise
            raise ServerTooOld(version) from None
        reply = await _ask(connection, *op.command)
        try:
            await connection.send_packed_command(connection.pack_commands(LOADS))
            for _ in LOADS:
                await connection.read_response(disable_decoding=True)
        except BaseException:
            # The replies after this one must not be taken for the next call's.
            await connection.disconnect(nowait=True)
            raise
        return reply


# --- asyncio only: begin
async def _in_a_task(call: Coroutine[Any, Any, T]) -> T:
    """Await a call in a task of its own, so that a cancellation of the caller is never lost.

    redis-py sends under ``asyncio.wait_for``, which before Python 3.12 swallows one that comes when the sending is
    just done.
    """
    task = asyncio.get_running_loop().create_task(call)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await settle(task)
        raise
    return task.result()


# --- asyncio only: end
async def _ask(connection: Any, *command: str | int) -> Any:
    try:
        await connection.send_command(*command)
        return await connection.read_response(disable_decoding=True)
    except redis_errors.ResponseError:
        raise  # this is the reply
    except BaseException as error:
        # Interrupted in between, say by a signal: the reply must not be taken for the next call's.
        await connection.disconnect(nowait=True)
        if isinstance(error.__context__, redis_errors.ReadOnlyError):
            # Under Sentinel redis-py makes a lost connection of it; but this too is the reply.
            raise error.__context__ from None
        raise


_everyone: weakref.WeakSet[AsyncTransport] = weakref.WeakSet()


def _leave_parent() -> None:
    for transport in list(_everyone):
        transport.leave_parent()


os.register_at_fork(after_in_child=_leave_parent)
