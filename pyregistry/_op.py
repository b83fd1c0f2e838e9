"""What a request is: an operation with its items, and the head that it shares with others of its kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, cast

import hiredis
import msgspec

from pyregistry._scripts import Script

T = TypeVar("T")

Command: TypeAlias = "tuple[str | int, ...]"

# Any: the types that come with hiredis know a command of one word only.
pack: Callable[[Command], bytes] = cast("Any", hiredis.pack_command)
"""A command, as it travels."""


class Head:
    """What all items of one call share. Operations that have the same head, the object, may go out as one.

    Attributes:
        name: what the caller called, for errors.
        script: what runs; ``None``: a plain reading command, ``verb``.
        keys: the keys before those of the items.
        argv: the arguments before those of the items.
        resend: whether it may be sent again once it may have run.
        split: what takes the reply of a call apart: the answers to its items, in order.
        near: whether it reads plain records, and their values may be kept (`pyregistry._near`).
        writes: whether it may have changed something when its outcome is unknown. (`open` may run any time.)
        changes: whether it may change records. (A touch changes the index alone.)
    """

    __slots__ = ("_words", "argv", "changes", "keys", "name", "near", "resend", "script", "split", "writes")

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
        self.writes = script is not None and script.writes and script.name != "open"
        self.changes = self.writes and script is not None and script.name != "touch"
        self._words = verb.split() if script is None else ["EVALSHA", script.sha]

    def command(self, ops: Iterable[Op[Any]]) -> Command:
        """What is sent for these operations, whose head this is."""
        keys: list[str] = [*self.keys]
        argv: list[str | int] = [*self.argv]
        for op in ops:
            keys += op.keys
            argv += op.argv
        return self.laid_out(keys, argv)

    def laid_out(self, keys: Sequence[str], argv: Sequence[str | int]) -> Command:
        """What is sent with these keys and arguments."""
        if self.script is None:
            return (*self._words, *keys, *argv)
        return (*self._words, len(keys), *keys, *argv)


class Op(msgspec.Struct, Generic[T], frozen=True, eq=False):
    """One request of a caller.

    Attributes:
        head: what it shares with others.
        decode: what the answers to its items mean; one without items gets the one reply there is.
        keys: the keys of its items, as many for each.
        argv: the arguments of its items, as many for each.
        items: how many they are; 0: it has none, and goes out alone.
        same: operations for which this is equal ask the same, and may be one request; ``None``:
            there is no other like it.
        shared: all who ask the same may be given one result, the object: nobody can change it.
        for_others: only one who asks the same can get this result; what the others are told.
        undo: what gives back what was won, if nobody waits for it any more.
    """

    head: Head
    decode: Callable[[Sequence[Any]], T]
    keys: Sequence[str] = ()
    argv: Sequence[str | int] = ()
    items: int = 0
    same: Hashable = None
    shared: bool = False
    for_others: Callable[[T], T | None] | None = None
    undo: Callable[[T], Iterable[Op[Any]]] | None = None

    @property
    def name(self) -> str:
        """What the caller called, for errors."""
        return self.head.name

    @property
    def script(self) -> Script | None:
        """What runs, if it is a script."""
        return self.head.script

    @property
    def resend(self) -> bool:
        """Whether it may be sent again once it may have run."""
        return self.head.resend

    @property
    def command(self) -> Command:
        """What is sent if it goes out alone."""
        head = self.head
        return head.laid_out((*head.keys, *self.keys), (*head.argv, *self.argv))

    def read(self, reply: Any) -> T:
        """What the reply means if it went out alone."""
        return self.decode(self.head.split(reply) if self.items else (reply,))
