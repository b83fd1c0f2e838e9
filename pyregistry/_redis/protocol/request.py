"""What a request is: an operation with its items, and the head that it shares with others of its kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast

import hiredis
import msgspec

from pyregistry._redis.protocol.scripts import BATCH, Script

T = TypeVar("T")

Command: TypeAlias = "tuple[str | int, ...]"

# Any: the types that come with hiredis know a command of one word only.
pack: Callable[[Command], bytes] = cast("Any", hiredis.pack_command)
"""A command, as it travels."""


class CommandTemplate:
    """What all items of one call share. Operations that have the same head, the object, may go out as one.

    Attributes:
        name: what the caller called, for errors.
        script: what runs; ``None``: a plain reading command, ``verb``.
        keys: the keys before those of the items.
        argv: the arguments before those of the items.
        resend: whether it may be sent again once it may have run.
        split: what takes the reply of a call apart: the answers to its items, in order.
        near: whether it reads plain records, and their values may be kept (`pyregistry._redis.cache.client_cache`).
        writes: whether it may have changed something when its outcome is unknown. (`open` may run any time.)
        changes: whether it may change records. (A touch changes the index alone.)
        patient: whether it is sent again where it is refused for now. (Without `open` there still is `check`.)
    """

    __slots__ = (
        "_argv", "_begins", "_words", "argv", "changes", "keys", "name", "near", "patient", "resend",
        "script", "split", "writes",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        script: Script | None,
        keys: Sequence[str] = (),
        argv: Sequence[str | int] = (),
        *,
        resend: bool = True,
        near: bool = False,
        verb: str = "MGET",
        split: Callable[[Any], Sequence[Any]] = list,
    ) -> None:
        self.name = name
        self.script = script
        self.keys = tuple(keys)
        self.argv = tuple(argv)
        self.resend = resend
        self.near = near
        self.split = split
        self.patient = script is None or script.name != "open"
        self.writes = script is not None and script.writes and self.patient
        self.changes = self.writes and script is not None and script.name != "touch"
        self._words = verb.split() if script is None else ["EVALSHA", script.sha]
        self._begins: dict[tuple[int, int], bytes] = {}
        self._argv = _packed(self.argv)

    def command(self, ops: Iterable[Request[Any]]) -> Command:
        """What is sent for these operations, whose head this is."""
        keys, argv = [*self.keys], [*self.argv]
        for op in ops:
            op.add_to(keys, argv)
        return (*self._words, *([] if self.script is None else [len(keys)]), *keys, *argv)

    def packed(self, ops: Iterable[Request[Any]]) -> bytes:
        """The same, as it travels."""
        keys: list[str] = []
        argv: list[str | int] = []
        for op in ops:
            op.add_to(keys, argv)
        return self.filled(keys, argv)

    def filled(self, keys: Sequence[str], argv: Sequence[str | int]) -> bytes:
        """The command that takes these, the keys and arguments of operations, as it travels."""
        begins, between = self.around(len(keys), len(argv))
        if not argv:
            return b"".join((begins, _packed(keys), between))
        return b"".join((begins, _packed(keys), between, _packed(argv)))

    def around(self, keys: int, argv: int) -> tuple[bytes, bytes]:
        """What comes before so many keys, and between them and so many arguments, as it travels."""
        return self._begins.get((keys, argv)) or self._begin(keys, argv), self._argv

    def _begin(self, keys: int, argv: int) -> bytes:
        """What a command with so many keys and arguments more begins with: of most it is the greater part."""
        words: list[str | int] = [*self._words]
        if self.script is not None:
            words.append(len(self.keys) + keys)
        words += self.keys
        count = len(words) + keys + len(self.argv) + argv
        begins = b"*%d\r\n" % count + _packed(words)
        if keys <= BATCH:
            self._begins[keys, argv] = begins
        return begins

    def read(self, op: Request[T], reply: Any) -> T:
        """What the reply means to an operation that went out alone."""
        return op.decode(self.split(reply) if op.items else (reply,))


def _packed(words: Sequence[str | int]) -> bytes:
    """A part of a command, as it travels."""
    if not words:
        return b""
    whole = pack(tuple(words))
    return whole[whole.index(b"\n") + 1 :]  # without the line that says how many they are


class Request(Protocol[T]):
    """One request of a caller: what a transport has to know of it.

    Attributes:
        head: what it shares with others.
        keys: the keys of its items, as many for each.
        argv: the arguments of its items, as many for each.
        items: how many they are; 0: it has none, and goes out alone.
        same: operations for which this is equal ask the same, and may be one request; ``None``:
            there is no other like it.
        shared: all who ask the same may be given one result, the object: nobody can change it.
        decode: what the answers to its items mean; one without items gets the one reply there is.
        for_others: only one who asks the same can get this result; what the others are told.
        undo: what gives back what was won, if nobody waits for it any more.
    """

    @property
    def head(self) -> CommandTemplate: ...
    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def argv(self) -> Sequence[str | int]: ...
    @property
    def items(self) -> int: ...
    @property
    def same(self) -> Hashable: ...
    @property
    def shared(self) -> bool: ...
    @property
    def decode(self) -> Callable[[Sequence[Any]], T]: ...
    @property
    def for_others(self) -> Callable[[T], T | None] | None: ...
    @property
    def undo(self) -> Callable[[T], Iterable[Request[Any]]] | None: ...

    def add_to(self, keys: list[str], argv: list[str | int]) -> None:
        """Add its keys and arguments to those of a call."""

    def packed(self) -> bytes:
        """The command that asks this alone, as it travels."""


class PlainRequest(msgspec.Struct, Generic[T], eq=False):
    """An operation that brings all that there is to know of it."""

    head: CommandTemplate
    decode: Callable[[Sequence[Any]], T]
    keys: Sequence[str] = ()
    argv: Sequence[str | int] = ()
    items: int = 0
    same: Hashable = None
    shared: bool = False
    for_others: Callable[[T], T | None] | None = None
    undo: Callable[[T], Iterable[Request[Any]]] | None = None
    _packed: bytes = b""  # made once: where it is kept, that would be a good part of each blocking call

    def add_to(self, keys: list[str], argv: list[str | int]) -> None:
        """Add its keys and arguments to those of a call."""
        keys += self.keys
        argv += self.argv

    def packed(self) -> bytes:
        """The command that asks this alone, as it travels."""
        packed = self._packed
        if not packed:
            packed = self._packed = self.head.filled(self.keys, self.argv)
        return packed
