"""The base of all request builders: command templates, and the splitting of replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from pyregistry._core import validation as checks
from pyregistry._core.claim_ids import ClaimIds, default_owner
from pyregistry._core.model_key import ModelKey, entry_of
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry._redis.protocol.request import CommandTemplate, PlainRequest, Request
from pyregistry._redis.protocol.scripts import BATCH, Script
from pyregistry._redis.protocol.transitions import (
    CANCEL,
    CLAIM,
    DELETE,
    FINISH,
    READ,
    RELEASE,
    RENEW,
    RETRY,
    SET_STATUS,
    TOUCH,
)
from pyregistry.errors import (
    DamagedRecord,
    EvictionInProgress,
)
from pyregistry.models import (
    ModelProvider,
    ModelRef,
)

T = TypeVar("T")
K = TypeVar("K")

Answers: TypeAlias = Sequence[Any]
"""The server's answers to the items of a request, in order."""


MOST_HEADS: Final = 64
"""Maximum number of cached command templates for claims."""


MOST_OPS: Final = 4096
"""Maximum number of cached requests of each frequent verb, and of cached claim templates."""


def damaged(ref: ModelRef, why: str) -> DamagedRecord:
    """Return the error for a stored value that can't be read."""
    return DamagedRecord(
        f"the record of {ref.name!r} ({ref.provider}) can't be read: {why}; "
        "delete_model(..., force=True) removes it",
        model_name=ref.name,
        provider=str(ref.provider),
    )


_raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def _splitting(answer: Any) -> Callable[[bytes], list[Any]]:
    """Return a function that splits a script's reply into answers of this type.

    If the reply as a whole can't be decoded, each item is decoded alone, and an unreadable one becomes `Damaged`.
    """
    decode_all = msgspec.msgpack.Decoder(list[answer]).decode
    decode = msgspec.msgpack.Decoder(answer).decode

    def one(raw: msgspec.Raw) -> Any:
        try:
            return decode(raw)
        except ValueError as error:  # DecodeError or invalid UTF-8: the record was edited by hand
            return wire.Damaged(str(error))

    def split(reply: bytes) -> list[Any]:
        try:
            return decode_all(reply)
        except ValueError:
            return [one(raw) for raw in _raws(reply)]

    return split


SPLIT: Final = {
    CLAIM.name: _splitting(wire.ClaimReply),
    RETRY.name: _splitting(wire.RetryReply),
    RENEW.name: _splitting(wire.RenewReply),
    FINISH.name: _splitting(wire.EndReply),
    RELEASE.name: _splitting(wire.EndReply),
    SET_STATUS.name: _splitting(wire.SetReply),
    CANCEL.name: _splitting(wire.CancelReply),
    TOUCH.name: _splitting(wire.TouchReply),
    DELETE.name: _splitting(wire.DeleteReply),
    READ.name: _splitting(wire.ReadReply),
}
"""Splits the reply of each script that takes items into their answers."""


def memoized(make: Callable[..., Request[T]]) -> Callable[..., Request[T]]:
    """Cache the most recent requests of a builder. Safe, because they contain nothing specific to one call."""
    kept = lru_cache(maxsize=MOST_OPS)(make)

    def get(*model: Any) -> Request[T]:
        try:
            return kept(*model)
        except TypeError:  # unhashable argument: the validator raises InvalidArgument
            return make(*model)

    return get


def keep(kept: dict[K, T], key: K, value: T, most: int) -> None:
    if len(kept) >= most:
        kept.clear()
    kept[key] = value


def microseconds(seconds: float | None) -> int:
    """Convert a validated duration to microseconds. None becomes 0."""
    return 0 if seconds is None else round(seconds * 1_000_000)


class RequestBase:
    """The keys of a namespace, and the templates of its commands.

    Args:
        namespace: Name of the registry.
        owner: Human-readable client name. None: host and process.
        providers: Providers beyond the four built-in ones that a call without a provider includes.
    """

    def __init__(self, namespace: str, owner: str | None, providers: Iterable[str]) -> None:
        self.keys = Keyspace(checks.namespace(namespace))
        self._owner = None if owner is None else checks.owner(owner)
        self.providers = checks.providers(providers, BATCH)
        self.ids = ClaimIds()
        self._heads: dict[tuple[Any, ...], CommandTemplate] = {}

    def _head(
        self,
        name: str,
        script: Script | None,
        keys: Sequence[str] = (),
        *argv: str | int,
        resend: bool = True,
        near: bool = False,
    ) -> CommandTemplate:
        """Return the cached head of its kind. The cache is unbounded, so `argv` must have few different values."""
        of = (name, script and script.sha, argv, resend)
        head = self._heads.get(of)
        if head is None:
            split = list if script is None else SPLIT.get(script.name, list)
            head = self._heads[of] = CommandTemplate(
                name, script, keys, argv, resend=resend, near=near, split=split
            )
        return head

    def _writing(self, name: str, script: Script, *argv: str | int, resend: bool = True) -> CommandTemplate:
        return self._head(name, script, self.keys.shared, self.keys.channel, *argv, resend=resend)

    @property
    def owner(self) -> str:
        """The client's name. Not cached, because a forked process is another owner."""
        return default_owner() if self._owner is None else self._owner

    # Models

    def targets(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> list[ModelKey]:
        """Return the model, or without a provider the models of this name of every known provider."""
        providers = self.providers if provider is None else (provider,)
        return [checks.target(name, each, revision, subset) for each in providers]

    def _records(self, targets: Sequence[ModelKey]) -> tuple[str, ...]:
        if len(targets) == 1:  # the most frequent case skips the list
            return (self.keys.record(targets[0].entry),)
        return tuple([self.keys.record(target.entry) for target in targets])

    def _question(
        self,
        head: CommandTemplate,
        decode: Callable[[Sequence[ModelRef], Answers], T],
        targets: Sequence[ModelKey],
        *,
        shared: bool = False,
    ) -> Request[T]:
        """Build a request about these models that callers may share.

        Callers share the decoded result too. So the coalescing key contains everything that determines the result: the
        head, the keys, and the decoder, which is a module-level function without other inputs. Two requests that
        decode differently have different keys.
        """
        keys, refs = self._records(targets), [target.ref for target in targets]
        return PlainRequest(
            head, partial(decode, refs), keys, (), len(targets), (decode, head, *keys), shared
        )


def evicting(ref: ModelRef, call: str) -> EvictionInProgress:
    return EvictionInProgress(
        f"the files of {ref.name!r} ({ref.provider}) are being removed: no {call} now",
        model_name=ref.name,
        provider=str(ref.provider),
    )


def branch_fields(target: ModelKey) -> tuple[str, str]:
    """Return the fields of a branch and of a repository's spelling in the hash of branches."""
    name, provider, revision, subset = target.ref
    branch = "" if revision is None else entry_of(name, str(provider), revision, subset)
    return branch, entry_of(name, str(provider), None, None)
