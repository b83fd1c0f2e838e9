"""Requests about claims: claim, retry, renew, finish, release."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import msgspec

from pyregistry._core import validation as checks
from pyregistry._core.claim_ids import default_owner
from pyregistry._core.clock import time_of, time_or_none
from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import (
    ClaimResult,
    Default,
    Lease,
    ProgressUpdate,
    Rejection,
    next_order,
)
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.request import CommandTemplate, PlainRequest, Request
from pyregistry._redis.protocol.request_base import (
    MOST_HEADS,
    MOST_OPS,
    SPLIT,
    Answers,
    RequestBase,
    damaged,
    keep,
    microseconds,
)
from pyregistry._redis.protocol.scripts import Script
from pyregistry._redis.protocol.transitions import (
    CLAIM,
    FINISH,
    RELEASE,
    RENEW,
    RETRY,
)
from pyregistry.backend.values import Ending
from pyregistry.errors import (
    DamagedRecord,
)
from pyregistry.models import (
    AlreadyExists,
    Claim,
    Claimed,
    ModelProvider,
    ModelStatus,
)

T = TypeVar("T")
K = TypeVar("K")


class ClaimRequests(RequestBase):
    """The requests of claimers and owners."""

    def __init__(self, namespace: str, owner: str | None, providers: Iterable[str]) -> None:
        super().__init__(namespace, owner, providers)
        # Bounded caches, because callers choose owner, lease and limits freely.
        self._claim_heads: dict[tuple[Any, ...], CommandTemplate] = {}
        self._claiming: dict[tuple[Any, ...], ClaimTemplate] = {}

    def head_of_claims(
        self,
        script: Script,
        owner: str | None,
        lease: Lease,
        max_attempts: int | None,
        cooldown: float | None = None,
    ) -> tuple[CommandTemplate, str, float | None]:
        """Return the command template of such claims, the owner, and the lease in seconds (None: no end)."""
        who = (self._owner or default_owner()) if owner is None else checks.owner(owner)
        length, seconds = checks.lease(lease)
        most = 0 if max_attempts is None else checks.whole("max_attempts", max_attempts, least=1)
        cools = 0 if cooldown is None else checks.microseconds("cooldown", cooldown)
        asked = script.name, who, length, most, cools
        head = self._claim_heads.get(asked)
        if head is None:
            argv: tuple[str | int, ...] = (self.keys.channel, who, length, most)
            if script is CLAIM:
                argv += (cools,)
            split = SPLIT[script.name]
            head = CommandTemplate(
                script.name, script, self.keys.shared, argv, resend=length != 0, split=split
            )
            keep(self._claim_heads, asked, head, MOST_HEADS)
        return head, who, seconds

    def claiming(
        self,
        provider: ModelProvider | str,
        revision: str | None,
        subset: str | None,
        lease: Lease,
        owner: str | None,
        max_attempts: int | None,
        cooldown: float | None = None,
    ) -> ClaimTemplate:
        """Return the template of claims that differ only in the model's name.

        Args:
            provider: Provider of the models.
            revision: Revision of the models, or None.
            subset: Subset of the models, or None.
            lease: Seconds that a claim holds without renewal; None: no end.
            owner: Owner of the claims. None: the client's owner.
            max_attempts: Maximum number of attempts of all replicas; None: no limit.
            cooldown: Seconds of the cool-down. Defaults to None: an ERROR with used-up attempts is permanent.

        Raises:
            InvalidArgument: An argument has the wrong type or range.
        """
        # The key contains the current owner, because a forked process has another. It contains types, because an
        # invalid value can equal a valid one (True == 1).
        who = (self._owner or default_owner()) if owner is None else owner
        asked = (
            provider,
            revision,
            subset,
            lease,
            type(lease),
            who,
            max_attempts,
            type(max_attempts),
            cooldown,
        )
        try:
            known = self._claiming.get(asked)
        except TypeError:
            known = None  # unhashable argument: the validator raises InvalidArgument
        if known is None:
            target = checks.target("x", provider, revision, subset)
            head = self.head_of_claims(CLAIM, owner, lease, max_attempts, cooldown)
            known = ClaimTemplate(self, target, *head)
            keep(self._claiming, asked, known, MOST_OPS)
        return known

    def claims(
        self, targets: Sequence[ModelKey], *, lease: Lease, owner: str | None, max_attempts: int | None
    ) -> Request[list[ClaimResult | DamagedRecord]]:
        """Claim the downloads of these models, in one script call."""
        head, who, seconds = self.head_of_claims(CLAIM, owner, lease, max_attempts)
        ids = [self.ids.new() for _ in targets]
        argv: list[str | int] = []
        for each in ids:
            argv += (each, 0)

        def decode(answers: Answers) -> list[ClaimResult | DamagedRecord]:
            results: list[ClaimResult | DamagedRecord] = []
            for target, each, answer in zip(targets, ids, answers, strict=True):
                try:
                    results.append(_claim_result(target.name, target, answer, each, who, seconds))
                except DamagedRecord as error:
                    results.append(error)
            return results

        def undo(results: Iterable[ClaimResult | DamagedRecord]) -> list[Request[str]]:
            return [self.release(result.claim) for result in results if isinstance(result, Claimed)]

        return PlainRequest(head, decode, self._records(targets), argv, len(targets), undo=undo)

    def give_back(self, result: ClaimResult) -> list[Request[str]]:
        """Return the requests that release a claim whose caller was cancelled."""
        return [self.release(result.claim)] if isinstance(result, Claimed) else []

    def retry(
        self,
        target: ModelKey,
        *,
        lease: Lease,
        claim_id: str | None,
        owner: str | None,
        max_attempts: int | None,
    ) -> Request[Claim | Rejection]:
        """Claim the download of a model whose last attempt ended in an ERROR."""
        head, who, seconds = self.head_of_claims(RETRY, owner, lease, max_attempts)
        each = self.ids.new() if claim_id is None else checks.claim_id(claim_id)

        def decode(answers: Answers) -> Claim | Rejection:
            answer = answers[0]
            if isinstance(answer, wire.Damaged):
                raise damaged(target.ref, answer.why)
            if isinstance(answer, wire.RetryRefused):
                return Rejection(
                    _why_not_retried(answer, max_attempts or 0), retry_left=answer.retry_left / 1_000_000
                )
            return _claim_of(target.name, target, answer, each, who, seconds)

        def undo(result: Claim | Rejection) -> list[Request[str]]:
            return [self.release(result)] if isinstance(result, Claim) else []

        return PlainRequest(
            head,
            decode,
            self._records([target]),
            (each,),
            1,
            undo=undo if claim_id is None else None,
        )

    def renew(
        self,
        claims: Sequence[Claim],
        *,
        lease: Lease,
        updates: Sequence[ProgressUpdate] | None = None,
    ) -> Request[list[Claim | Rejection | DamagedRecord]]:
        """Renew these claims, with their progress.

        Args:
            claims: The claims.
            lease: Seconds of the new lease; None: no end; `Default.ITS_OWN`: the lease of each claim.
            updates: Progress of each claim, in order. Defaults to none.
        """
        targets = [checks.claimed_model(claim) for claim in claims]
        lengths = [checks.lease(claim.lease if lease is Default.ITS_OWN else lease) for claim in claims]
        argv: list[str | int] = []
        words = updates or [ProgressUpdate()] * len(claims)
        for claim, (length, _), (message, done, total, order) in zip(claims, lengths, words, strict=True):
            argv += (
                claim.claim_id,
                claim.token,
                length,
                int(not isinstance(message, Default)),
                "" if isinstance(message, Default) else checks.text("message", message),
                "" if done is None else checks.whole("bytes_done", done),
                "" if total is None else checks.whole("bytes_total", total),
                order or next_order(),
            )

        def decode(answers: Answers) -> list[Claim | Rejection | DamagedRecord]:
            return [
                _renewal_result(claim, target, seconds, answer)
                for claim, target, (_, seconds), answer in zip(claims, targets, lengths, answers, strict=True)
            ]

        resend = all(length != 0 for length, _ in lengths)
        head = self._writing("renew", RENEW, resend=resend)
        return PlainRequest(head, decode, self._records(targets), argv, len(targets))

    def finish(self, claim: Claim, ending: Ending) -> Request[str]:
        """End the download of a claim. The reply is empty on success, else the reason why the claim was lost."""
        target = checks.claimed_model(claim)
        argv = (
            claim.claim_id,
            claim.token,
            ending.status.value,
            ending.message or "",
            ending.size_bytes or 0,
            ending.location or "",
            ending.resolved_revision or "",
            microseconds(ending.retry_in),
            int(ending.permanent),
            ending.max_attempts or 0,
            microseconds(ending.cooldown),
        )
        return self._end("finish", FINISH, target, argv)

    def release(self, claim: Claim) -> Request[str]:
        """Release a claim. The reply is empty on success, else the reason why the claim was lost."""
        target = checks.claimed_model(claim)
        return self._end("release", RELEASE, target, (claim.claim_id, claim.token))

    def _end(self, name: str, script: Script, target: ModelKey, argv: Sequence[str | int]) -> Request[str]:
        def decode(answers: Answers) -> str:
            answer = answers[0]
            if isinstance(answer, wire.Damaged):
                raise damaged(target.ref, answer.why)
            return _lost(answer) if isinstance(answer, wire.Lost) else ""

        return PlainRequest(self._writing(name, script), decode, self._records([target]), argv, 1)


class ClaimTemplate:
    """The shared part of claims that differ only in the model's name.

    Args:
        ops: The requests of the client.
        like: A model with the shared provider, revision and subset.
        head: The command template of the claims.
        owner: Owner of the claims.
        lease: Seconds that a claim holds without renewal; None: no end.

    Attributes:
        begins: The key of a record without the model's name, which follows.
        give_back: Returns the requests that release a claim whose caller was cancelled.
    """

    __slots__ = ("_new_id", "begins", "give_back", "head", "lease", "like", "owner")

    def __init__(
        self, ops: ClaimRequests, like: ModelKey, head: CommandTemplate, owner: str, lease: float | None
    ) -> None:
        self._new_id = ops.ids.new
        self.give_back = ops.give_back
        self.like = like
        self.begins = ops.keys.record(like.entry.removesuffix(like.name))
        self.head = head
        self.owner = owner
        self.lease = lease

    def claim(
        self, name: str, claim_id: str | None = None, expected_bytes: int | None = None
    ) -> Request[ClaimResult]:
        """Claim the download of one model.

        Args:
            name: Name of the model.
            claim_id: Id of the claim. Defaults to a new random one.
            expected_bytes: Expected size of the download. Defaults to None: unknown.

        Raises:
            InvalidArgument: An argument has the wrong type or range.
            DamagedRecord: The record can't be read (raised when the reply is decoded).
        """
        checks.model_name(name)
        if claim_id is None is expected_bytes:  # the common case skips the checks below
            return _ClaimRequest(self.head, self, name, self._new_id())
        each = self._new_id() if claim_id is None else checks.claim_id(claim_id)
        expected = 0 if expected_bytes is None else checks.whole("expected_bytes", expected_bytes)
        return _ClaimRequest(self.head, self, name, each, expected or "0", claim_id is not None)


class _ClaimRequest(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The claim of one model. Keys and arguments are made on demand, because this is the most frequent request.

    The garbage collector does not track it (`gc=False`), because it cannot be part of a reference cycle.
    """

    items: ClassVar[int] = 1
    shared: ClassVar[bool] = True

    head: CommandTemplate
    claiming: ClaimTemplate
    name: str
    claim_id: str
    expected_bytes: str | int = "0"  # "0": unknown
    named: bool = False  # the caller gave the claim id

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.claiming.begins + self.name,)

    @property
    def argv(self) -> tuple[str | int, ...]:
        return self.claim_id, self.expected_bytes

    @property
    def same(self) -> Hashable:
        # A claim whose id the caller gave is not shared, because the caller may repeat it with the same id.
        if self.named:
            return None
        if self.expected_bytes == "0":
            return self.claiming, self.name
        return self.claiming, self.name, self.expected_bytes

    @property
    def undo(self) -> Callable[[ClaimResult], Iterable[Request[Any]]] | None:
        return None if self.named else self.claiming.give_back

    def add_to(self, keys: list[str], argv: list[str | int]) -> None:
        keys.append(self.claiming.begins + self.name)
        argv += (self.claim_id, self.expected_bytes)

    def packed(self) -> bytes:
        # As `CommandTemplate.filled`, in half the time of packing by hiredis.
        begins, between = self.head.around(1, 2)
        key, each = (self.claiming.begins + self.name).encode(), self.claim_id.encode()
        expected = str(self.expected_bytes).encode()
        return b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            begins, len(key), key, between, len(each), each, len(expected), expected,
        )  # fmt: skip

    def decode(self, answers: Answers) -> ClaimResult:
        of, answer = self.claiming, answers[0]
        if isinstance(answer, wire.ClaimGiven):
            return Claimed(_claim_of(self.name, of.like, answer, self.claim_id, of.owner, of.lease))
        return _claim_result(self.name, of.like, answer, self.claim_id, of.owner, of.lease)

    @staticmethod
    def for_others(result: ClaimResult) -> ClaimResult | None:
        """Return the result of the other callers of a shared request that won a claim; None if it won none."""
        if not isinstance(result, Claimed):
            return None
        claim = result.claim
        return AlreadyExists(ModelStatus.DOWNLOADING, claim.lease_expires_at, claim.lease)


def _claim_result(
    name: str,
    like: ModelKey,
    answer: wire.ClaimReply,
    claim_id: str,
    owner: str,
    lease: float | None,
) -> ClaimResult:
    if isinstance(answer, (wire.ClaimGiven, wire.ClaimAgain)):
        return Claimed(_claim_of(name, like, answer, claim_id, owner, lease))
    if isinstance(answer, wire.Damaged):
        raise damaged(like.ref._replace(name=name), answer.why)
    status = ModelStatus(answer.status)
    if status is ModelStatus.DOWNLOADING or status is ModelStatus.EVICTING:
        return AlreadyExists(status, time_or_none(answer.lease_end), _left(answer.lease_left))
    return AlreadyExists(status)


def _claim_of(
    name: str,
    like: ModelKey,
    answer: wire.ClaimGiven | wire.ClaimAgain,
    claim_id: str,
    owner: str,
    lease: float | None,
) -> Claim:
    # By position and without defaults, because each won claim takes this path.
    claim = Claim(
        name,
        like.provider,
        like.revision,
        like.subset,
        claim_id,
        owner,
        answer.token,
        lease,
        time_of(answer.lease_end) if answer.lease_end else None,
        answer.attempts,
    )
    if not answer.previous_owner:
        return claim
    return msgspec.structs.replace(
        claim,
        taken_over=True,
        previous_owner=answer.previous_owner,
        previous_bytes_done=answer.previous_bytes_done,
    )


def _left(microseconds: int) -> float | None:
    return None if microseconds == wire.NEVER else microseconds / 1_000_000


def _why_not_retried(answer: wire.RetryRefused, max_attempts: int) -> str:
    if not answer.status:
        return "there is no record"
    if answer.status != ModelStatus.ERROR:
        return f"it is {answer.status}"
    if answer.permanent:
        return "the error is permanent"
    if answer.retry_left:
        return f"the back-off lasts {answer.retry_left / 1_000_000:.3f} s more"
    if max_attempts and answer.attempts >= max_attempts:
        return f"{answer.attempts} attempts were made"
    return "this claim has ended before"


def _renewal_result(
    claim: Claim, target: ModelKey, lease: float | None, answer: wire.RenewReply
) -> Claim | Rejection | DamagedRecord:
    if isinstance(answer, wire.Renewed):
        return msgspec.structs.replace(claim, lease=lease, lease_expires_at=time_or_none(answer.lease_end))
    if isinstance(answer, wire.Damaged):
        return damaged(target.ref, answer.why)
    if isinstance(answer, wire.Ended):
        return Rejection("it has ended" if answer.how != wire.HOW_RELEASED else "it was released")
    return Rejection(_lost(answer), lost=True)


def _lost(answer: wire.Lost) -> str:
    why = f": {answer.message}" if answer.message else ""
    return f"it was lost; the model is {answer.status or 'unknown'} now{why}"
