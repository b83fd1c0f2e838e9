# Made from backend/protocol_async.py by tools/unasync.py: change that one.
"""What coordination needs of a registry.

What a verb makes of a record is stated once for all backends: the state table in ``lua/README.md``. The first row that
fits wins, and a request takes effect at one moment, in one order for all clients. `backend.conformance` has the
scenarios that every backend must pass.

Any thread may call a blocking backend, several at once; an asyncio backend belongs to one event loop at a time.

Every verb may raise `RegistryUnavailable` (no answer, and nothing was changed; `NotNow`: a refusal that passes),
`ServerRefused`, `RegistryClosed`, and `InvalidArgument` before anything is sent. A verb that changes something raises
`OutcomeUnknown` where no answer came and it may have been carried out. A verb that names one model raises
`DamagedRecord` where its record can't be read; in a batch the error stands for that record alone. A verb that returns
an awaitable may raise when it is called or when it is awaited.

*Retry-safe* says whether a backend sends a request again by itself once it may have been carried out. All verbs are
sent again while they certainly were not.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from datetime import datetime
from typing import Protocol

from pyregistry._core.claim_ids import ClaimIds
from pyregistry._core.model_key import ModelKey
from pyregistry._core.values import ClaimResult, Default, ProgressUpdate, Rejection
from pyregistry.backend.common import BackendEvent, KnownAnswers
from pyregistry.backend.values import (
    Branch,
    Cancellation,
    Cancelled,
    Connected,
    Ending,
    StatusChange,
    StatusSet,
    Totals,
)
from pyregistry.errors import DamagedRecord
from pyregistry.models import (
    Claim,
    ModelProvider,
    ModelRecord,
    ModelStatus,
    StatusCounts,
)

__all__ = ["AnswerCache", "Backend", "EventSource"]


class EventSource(Protocol):
    """A subscription to the events of a namespace.

    Nothing that happens between `open` and `close` is missed, or `receive` raises. Events come in the order in which
    the registry made the changes. A touch makes no event, and neither does a renewal that brings no progress.
    """

    def open(self) -> None:
        """Subscribe. When it returns, the registry delivers whatever happens from then on.

        Raises:
            RegistryUnavailable: the subscription can't be made now.
            ServerRefused: the user lacks the right.
        """

    def receive(self) -> Sequence[BackendEvent] | str:
        """The next events, or an empty sequence after some seconds without any. It waits without polling.

        Returns:
            The events; a `str` says why some could not be read.

        Raises:
            RegistryUnavailable: the subscription has ended.
        """

    def interrupt(self) -> None:
        """End a `receive` of another thread at once: it raises. Idempotent.

        On an event loop the task that receives is cancelled instead, and this may do nothing.
        """

    def close(self) -> None:
        """End the subscription. Idempotent. Of the thread, or the task, that receives."""


class AnswerCache(Protocol):
    """Decoded answers that a backend keeps, as long as the registry vouches for what they follow from."""

    @property
    def known(self) -> KnownAnswers:
        """What is known. Never replaced."""

    def validate(self) -> bool:
        """Whether `answers` may be given now."""

    def is_downloaded(
        self,
        question: Hashable,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> bool:
        """Whether a model is DOWNLOADED; the answer is kept under `question`."""

    @property
    def stale_answers(self) -> int:
        """Statuses that were told as they were last known, while nobody answered."""


class Backend(Protocol):
    """A registry of one namespace.

    Arguments that a caller of a client gave are checked by the backend, with `_core.validation`, or have checked
    themselves (`backend.values`). A batch holds 1 to `max_batch` items, and its answers are in their order; each item
    sees what those before it did. A verb ``..._many`` takes any number, also none, and sends batches: once one has
    failed it may begin no more, and its error stands for each item that got no answer.

    Attributes:
        namespace: which registry.
        max_batch: items of one request; at least as many as there are known providers.
        display_name: the server, for people; without secrets.
        patience: seconds for which a request is repeated while the server refuses it for now.
        ids: makes claim ids.
    """

    namespace: str
    max_batch: int
    display_name: str
    patience: float
    ids: ClaimIds

    @property
    def cache(self) -> AnswerCache | None:
        """Client-side caching; ``None``: off."""

    @property
    def for_keepalive(self) -> Callable[[float], Backend]:
        """Makes a blocking backend of the same registry, with connections of its own and a timeout in seconds.

        It holds no reference to this backend. It raises `ConfigurationError` where such connections are impossible.
        """

    @property
    def owner(self) -> str:
        """The owner of claims that name none: of the client, or host and process."""

    @property
    def server_version(self) -> str | None:
        """Product and version of the server; ``None`` before it is known."""

    def connect(self) -> Connected:
        """Connect, and check the server and the rights. Idempotent.

        Raises:
            AccessDenied, ServerTooOld, SchemaTooNew: the server is not fit.
        """

    def close(self) -> None:
        """Close the connections. Idempotent. Calls under way end; later ones raise `RegistryClosed`.

        Claims stay as they are. Subscriptions are closed by their users.
        """

    def within(self, seconds: float) -> Backend:
        """The same backend, with `patience` of this many seconds, at least 0 and at most its own.

        It shares the connections: if one of both is closed, so is the other.
        """

    def keys_of(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> list[ModelKey]:
        """The model, or the same name under every known provider where `provider` is ``None``.

        The known providers are those of `ModelProvider`, in that order, then those that the backend was given.
        """

    # Claims

    def claim(
        self,
        name: str,
        provider: ModelProvider | str,
        revision: str | None,
        subset: str | None,
        *,
        lease: float | Default | None,
        owner: str | None = None,
        claim_id: str | None = None,
        max_attempts: int | None = None,
        cooldown: float | None = None,
        expected_bytes: int | None = None,
    ) -> ClaimResult:
        """Claim a model. Retry-safe with a lease: the claim id finds its own claim.

        A claim that was released, or whose lease has ended, is taken over. Where `max_attempts` owners were lost the
        model becomes an ERROR instead.

        Args:
            name: the model.
            provider: its provider.
            revision: its revision.
            subset: its subset.
            lease: seconds; ``None``: the claim never ends; `KEPT`: 30.
            owner: for people; cut at 64 bytes. Defaults to `owner`.
            claim_id: names the attempt. Defaults to a new id; requests without an id may be coalesced.
            max_attempts: attempts that the fleet makes. Defaults to no limit.
            cooldown: seconds until the attempts are counted anew. Defaults to never.
            expected_bytes: size of the download. Defaults to unknown.
        """

    def claim_many(
        self,
        keys: Sequence[ModelKey],
        *,
        lease: float | Default | None,
        owner: str | None = None,
        max_attempts: int | None = None,
        tell: Callable[[Sequence[ClaimResult | DamagedRecord]], None] = lambda results: None,
    ) -> list[ClaimResult | Exception]:
        """Claim any number of models. Each succeeds or fails by itself. Retry-safe with a lease.

        Args:
            keys: the models.
            lease: as in `claim`.
            owner: as in `claim`.
            max_attempts: as in `claim`.
            tell: is called with the results of each batch as soon as they are known.

        Returns:
            A result for each model, in order; an error stands for each that got none.
        """

    def retry(
        self,
        key: ModelKey,
        *,
        lease: float | Default | None,
        claim_id: str | None = None,
        owner: str | None = None,
        max_attempts: int | None = None,
    ) -> Claim | Rejection:
        """Claim a model that is in ERROR. Retry-safe with a lease. Arguments as in `claim`.

        Returns:
            The claim; or why there is none, with the rest of the back-off or cool-down in `Rejection.retry_left`.
        """

    def renew(
        self,
        claims: Sequence[Claim],
        *,
        lease: float | Default | None = Default.ITS_OWN,
        updates: Sequence[ProgressUpdate] | None = None,
    ) -> list[Claim | Rejection | DamagedRecord]:
        """Extend leases, which are never shortened, and store progress. Retry-safe with a lease.

        Args:
            claims: a batch.
            lease: seconds from now; ``None``: for ever. Defaults to each claim's own.
            updates: progress, one for each claim. Defaults to none. Of two updates the one with the larger `order`
                stays, in whatever sequence they arrive.

        Returns:
            The claim with its new end; or why it was not renewed: `Rejection.lost` says whether another party ended it,
            rather than its owner. For a claim that was cancelled `Rejection.why` has the reason.
        """

    def renew_many(
        self, claims: Sequence[Claim], *, lease: float | Default | None = Default.ITS_OWN
    ) -> list[Claim | Rejection | Exception]:
        """`renew` for any number of claims; an error stands for each that got no answer."""

    def finish(self, claim: Claim, ending: Ending) -> str:
        """End the download of a claim. Retry-safe. After the end of the lease it counts until another owner takes over.

        Returns:
            Empty if the claim counted, or had ended so before; else why not.
        """

    def release(self, claim: Claim) -> str:
        """Give a claim back; its attempt is not counted. Retry-safe. Returns as `finish` does."""

    def release_many(self, claims: Sequence[Claim]) -> list[str | Exception]:
        """`release` for any number of claims; an error stands for each that got no answer."""

    # Changes from outside of a claim

    def set_status(self, key: ModelKey, change: StatusChange) -> StatusSet:
        """Set a status. Not retry-safe. Raises `EvictionInProgress`."""

    def cancel(self, key: ModelKey, cancellation: Cancellation) -> Cancelled | None:
        """End a download. Retry-safe with an expected token. ``None``: there was none, or not with that token.

        The message of the record is `Cancellation.told_by` with `owner`.
        """

    def touch(self, keys: Sequence[ModelKey]) -> list[bool | DamagedRecord]:
        """Set the last use of a batch to now. Retry-safe. Returns which models are known."""

    def touch_many(
        self,
        keys: Sequence[ModelKey],
        tell: Callable[[Sequence[bool | DamagedRecord]], None] = lambda results: None,
    ) -> list[bool | Exception]:
        """`touch` for any number of models; an error stands for each that got no answer; `tell` as in `claim_many`."""

    def touch_model(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> bool:
        """`touch` for one model as callers name it; ``None``: all providers' copies. Returns whether any is known."""

    def delete(self, keys: Sequence[ModelKey], *, expected_token: int | None, force: bool) -> int:
        """Delete records. Retry-safe with an expected token. Raises `EvictionInProgress`, `ModelHeld`.

        Args:
            keys: a batch.
            expected_token: delete only the record with this token.
            force: delete also what is held, being evicted, or can't be read.

        Returns:
            How many records this call has deleted.
        """

    # Reads

    def read(self, keys: Sequence[ModelKey]) -> list[ModelRecord | DamagedRecord | None]:
        """The records of a batch, as the registry has them now."""

    def read_many(self, keys: Sequence[ModelKey]) -> list[ModelRecord | Exception | None]:
        """`read` for any number of models; an error stands for each that got no answer."""

    def get_status(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> ModelStatus | None:
        """The status of a model as callers name it, from `cache` where that has it. DOWNLOADED is preferred."""

    def get_record(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> ModelRecord | None:
        """The record of a model as callers name it, from `cache` where that has it. DOWNLOADED is preferred."""

    def scan(
        self, batch_size: int, status: ModelStatus | None
    ) -> Iterator[ModelRecord | DamagedRecord | None]:
        """All records by their last use, oldest first, read in pages.

        No record that is there throughout is missed; one that is used meanwhile may come again. ``None`` stands for
        one that was deleted meanwhile.

        Args:
            batch_size: records of one page, 1 to 500.
            status: only these, as of when their page was read. Defaults to all.
        """

    def counts(self) -> StatusCounts:
        """Records by status."""

    def totals(self) -> Totals:
        """Records and bytes by status. The bytes of a record are its size, or else the expected size."""

    # The registry itself

    def lease_time(self) -> datetime:
        """The registry's clock, by which leases end. It never falls, whichever client asks."""

    def cache_id(self, proposed: str | None = None) -> str | None:
        """The id of the cache that the namespace stands for. Retry-safe.

        Args:
            proposed: the id from now on, where none is known; at most 64 bytes.
        """

    def branch(self, key: ModelKey) -> Branch:
        """What is known of a repository, and of one of its branches (`key.revision`). Upper and lower case differ."""

    def set_branch(self, key: ModelKey, commit: str, name: str, asked: int) -> None:
        """Remember the hub's answer. Retry-safe: an older answer changes nothing.

        Args:
            key: the repository as it is spelled; its revision is the branch.
            commit: the commit of the branch.
            name: the repository's name as the hub writes it.
            asked: `Branch.time` before the hub was asked. A later time than now counts as now.
        """

    def listeners(self) -> int | None:
        """How many subscriptions to the namespace are open; ``None``: the user may not ask."""

    def events(self) -> EventSource:
        """A new subscription, which is not open yet."""
