"""A request: its items, and the command template (head) that it shares with requests of its kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast

import hiredis
import msgspec

from pyregistry._redis.protocol.scripts import BATCH, Script

T = TypeVar("T")

Command: TypeAlias = "tuple[str | int, ...]"

# Any, because hiredis's type stubs accept a command of one word only.
pack: Callable[[Command], bytes] = cast("Any", hiredis.pack_command)
"""Packs a command."""


class CommandTemplate:
    """The part of a command that all its items share. Requests with the same head object may be sent as one command.

    Attributes:
        name: Name of the caller's method, for errors.
        script: The script; None: a plain reading command (`verb`).
        keys: The keys before those of the items.
        argv: The arguments before those of the items.
        resend: Whether it may be sent again after it may have run. Defaults to True.
        split: Splits the reply into the answers to the items, in order.
        near: Whether the near cache may keep the values that it reads. Defaults to False.
        writes: Whether it may have changed something when its outcome is unknown. False for `open`, which may run at
            any time.
        changes: Whether it may change records. False for a touch, which changes only the index.
        patient: Whether a temporary refusal is retried. False for `open`, because `check` replaces it.
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
        """Return the command for these requests of this head."""
        keys, argv = [*self.keys], [*self.argv]
        for op in ops:
            op.add_to(keys, argv)
        return (*self._words, *([] if self.script is None else [len(keys)]), *keys, *argv)

    def packed(self, ops: Iterable[Request[Any]]) -> bytes:
        """Return the packed command for these requests of this head."""
        keys: list[str] = []
        argv: list[str | int] = []
        for op in ops:
            op.add_to(keys, argv)
        return self.filled(keys, argv)

    def filled(self, keys: Sequence[str], argv: Sequence[str | int]) -> bytes:
        """Return the packed command with these keys and arguments of items."""
        begins, between = self.around(len(keys), len(argv))
        if not argv:
            return b"".join((begins, _packed(keys), between))
        return b"".join((begins, _packed(keys), between, _packed(argv)))

    def around(self, keys: int, argv: int) -> tuple[bytes, bytes]:
        """Return the packed parts before the keys of the items, and between these keys and the arguments.

        Args:
            keys: Number of keys of the items.
            argv: Number of arguments of the items.
        """
        return self._begins.get((keys, argv)) or self._begin(keys, argv), self._argv

    def _begin(self, keys: int, argv: int) -> bytes:
        """Build the constant prefix of a command with this many keys and arguments.

        Cached for up to `BATCH` keys, because the prefix is the larger part of most commands.
        """
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
        """Decode the reply to a request that was sent alone."""
        return op.decode(self.split(reply) if op.items else (reply,))


def _packed(words: Sequence[str | int]) -> bytes:
    """Pack a part of a command."""
    if not words:
        return b""
    whole = pack(tuple(words))
    return whole[whole.index(b"\n") + 1 :]  # without the line with the number of words


class Request(Protocol[T]):
    """One request of a caller, as a transport sees it.

    Attributes:
        head: The command template that it shares with others.
        keys: The keys of its items, the same number for each.
        argv: The arguments of its items, the same number for each.
        items: Number of items; 0: it has none, and is sent alone.
        same: Key for coalescing: requests with equal keys may be sent as one. None: never coalesced.
        shared: Whether coalesced callers may get the same result object, because it is immutable.
        decode: Decodes the answers to its items; without items, the one reply.
        for_others: If only one of the coalesced callers can get the result: returns the result of the others. None
            otherwise.
        undo: Returns the requests that release the result if no caller waits for it any more, or None.
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
        """Append the keys and arguments of the items to those of a command."""

    def packed(self) -> bytes:
        """Return the packed command of this request alone."""


class PlainRequest(msgspec.Struct, Generic[T], eq=False):
    """A request whose attributes are all stored."""

    head: CommandTemplate
    decode: Callable[[Sequence[Any]], T]
    keys: Sequence[str] = ()
    argv: Sequence[str | int] = ()
    items: int = 0
    same: Hashable = None
    shared: bool = False
    for_others: Callable[[T], T | None] | None = None
    undo: Callable[[T], Iterable[Request[Any]]] | None = None
    _packed: bytes = b""  # packed once, because memoized requests are sent by many blocking calls

    def add_to(self, keys: list[str], argv: list[str | int]) -> None:
        """Append the keys and arguments of the items to those of a command."""
        keys += self.keys
        argv += self.argv

    def packed(self) -> bytes:
        """Return the packed command of this request alone."""
        packed = self._packed
        if not packed:
            packed = self._packed = self.head.filled(self.keys, self.argv)
        return packed


def plain_command(name: str, verb: str, *words: Any) -> PlainRequest[Any]:
    """Make a request that sends one reading command, and returns the raw reply: bytes, numbers, lists.

    Args:
        name: The call, for errors.
        verb: The command, of one word or two.
        words: Its arguments: text, bytes or numbers.
    """
    return PlainRequest(CommandTemplate(name, None, verb=verb), lambda replies: replies[0], argv=words)
