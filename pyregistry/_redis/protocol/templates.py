"""Command templates, and how replies are taken apart: what the requests of all subjects share."""

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
"""What the server says to each item of an operation."""


MOST_HEADS: Final = 64
"""Of so many owners, leases and the like the heads are kept."""


MOST_OPS: Final = 4096
"""Of so many models, or kinds of models, the commonest operations are kept."""


def damaged(ref: ModelRef, why: str) -> DamagedRecord:
    """The error for a value that can't be read."""
    return DamagedRecord(
        f"the record of {ref.name!r} ({ref.provider}) can't be read: {why}; "
        "delete_model(..., force=True) removes it",
        model_name=ref.name,
        provider=str(ref.provider),
    )


_raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def _splitting(answer: Any) -> Callable[[bytes], list[Any]]:
    """What takes the reply of a script apart, whose items are answered by this type."""
    decode_all = msgspec.msgpack.Decoder(list[answer]).decode
    decode = msgspec.msgpack.Decoder(answer).decode

    def one(raw: msgspec.Raw) -> Any:
        try:
            return decode(raw)
        except ValueError as error:  # msgspec's, or what is no UTF-8: somebody has put that into the record
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
"""How the reply of a script that takes items becomes their answers."""


def memoized(make: Callable[..., Request[T]]) -> Callable[..., Request[T]]:
    """Keeps the operations that were made last: nothing of them is of one call alone."""
    kept = lru_cache(maxsize=MOST_OPS)(make)

    def get(*model: Any) -> Request[T]:
        try:
            return kept(*model)
        except TypeError:  # no name can be that: it is told what is wrong with it
            return make(*model)

    return get


def keep(kept: dict[K, T], key: K, value: T, most: int) -> None:
    if len(kept) >= most:
        kept.clear()
    kept[key] = value


def microseconds(seconds: float | None) -> int:
    """A length of time that was checked, as it travels; 0: none."""
    return 0 if seconds is None else round(seconds * 1_000_000)


class RequestBase:
    """What the requests of all subjects share: the keys of the namespace, and the templates of its commands.

    Args:
        namespace: which registry.
        owner: who calls, for people; ``None``: host and process.
        providers: providers beyond the four that a call without a provider looks at too.
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
        """The one head of its kind. It is kept: ``argv`` must be of a few values."""
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
        """Who calls. Not kept: a process that forks is another owner."""
        return default_owner() if self._owner is None else self._owner

    # Which models

    def targets(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> list[ModelKey]:
        """The one model, or the same name under every known provider."""
        providers = self.providers if provider is None else (provider,)
        return [checks.target(name, each, revision, subset) for each in providers]

    def _records(self, targets: Sequence[ModelKey]) -> tuple[str, ...]:
        if len(targets) == 1:  # the commonest call by far
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
        """What is asked of these models: callers that ask the same may share one request.

        They share an answer as well, decoded once. So the key is all that the answer is made from: the head, the keys,
        and the decoder, a function of a module that is told nothing else. Two operations that decode differently
        can't have one key.
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
    """The fields of a branch and of a spelling in the hash of branches."""
    name, provider, revision, subset = target.ref
    branch = "" if revision is None else entry_of(name, str(provider), revision, subset)
    return branch, entry_of(name, str(provider), None, None)
