# Made from backend/protocol_async.py by tools/unasync.py: change that one.
"""The contract between coordination and a registry.

The state table in ``lua/README.md`` defines the effect of each verb on a record, for all backends. The first matching
row applies. Requests are atomic, and all clients observe them in one order. `backend.conformance` has the scenarios
that every backend must pass.

A blocking backend is thread-safe: several threads may call it at once. An asyncio backend belongs to one event loop at
a time.

Every verb may raise these errors:

- `RegistryUnavailable`: no answer arrived, and nothing was changed. `NotNow` is a temporary refusal.
- `ServerRefused`, `RegistryClosed`.
- `InvalidArgument`: raised before anything is sent.
- `OutcomeUnknown`: no answer arrived, and the request may have been executed. Only verbs that change data raise it.
- `DamagedRecord`: the record of the model can't be read. In a batch the error is the result of that record alone.

A verb that returns an awaitable may raise when it is called or when it is awaited.

A backend resends a *retry-safe* request even if the request may have been executed. It resends any other request only
if that request certainly was not executed.
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

    `receive` returns every event between `open` and `close`, or raises. Events have the order in which the registry
    made the changes. A touch, or a renewal without progress, creates no event.
    """

    def open(self) -> None:
        """Subscribe. The registry delivers every event that follows the return of this call.

        Raises:
            RegistryUnavailable: The subscription can't be established now.
            ServerRefused: The user lacks the right.
        """

    def receive(self) -> Sequence[BackendEvent] | str:
        """Wait for the next events, without polling.

        Returns:
            The events; an empty sequence after some seconds without events. A `str` is the reason why some events could
            not be read.

        Raises:
            RegistryUnavailable: The subscription has ended.
        """

    def interrupt(self) -> None:
        """Make a `receive` of another thread raise at once. Idempotent.

        On an event loop the caller cancels the receiving task instead, and this method may do nothing.
        """

    def close(self) -> None:
        """End the subscription. Idempotent. Only the thread or task that receives may call it."""


class AnswerCache(Protocol):
    """Decoded answers that a backend caches, as long as the registry guarantees to invalidate their records."""

    @property
    def known(self) -> KnownAnswers:
        """The known answers. The backend never replaces this object."""

    def validate(self) -> bool:
        """Return whether `answers` are valid now."""

    def is_downloaded(
        self,
        question: Hashable,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> bool:
        """Return whether a model is DOWNLOADED, and cache the answer under `question`."""

    @property
    def stale_answers(self) -> int:
        """Number of stale answers: last known statuses, returned while the server did not answer."""


class Backend(Protocol):
    """A registry of one namespace.

    The backend validates the arguments of a client's caller with `_core.validation`. The values of `backend.values`
    validate themselves. A batch holds 1 to `max_batch` items. Its answers have the order of the items, and each item
    observes the effects of the items before it. A verb ``..._many`` takes any number of items, also none, and sends
    batches. After a failed batch it may send no more batches. The error is then the result of each item without an
    answer.

    Attributes:
        namespace: Name of the registry.
        max_batch: Maximum number of items of one request; at least the number of known providers.
        display_name: Human-readable name of the server, without secrets.
        patience: Seconds for which the backend repeats a request that the server temporarily refuses.
        ids: Generator of claim ids.
    """

    namespace: str
    max_batch: int
    display_name: str
    patience: float
    ids: ClaimIds

    @property
    def cache(self) -> AnswerCache | None:
        """The client-side cache; ``None`` if it is off."""

    @property
    def for_keepalive(self) -> Callable[[float], Backend]:
        """Factory of a blocking backend of the same registry. Its argument is the timeout in seconds.

        The new backend has its own connections, and the factory holds no reference to this backend. The factory raises
        `ConfigurationError` if such connections are impossible.
        """

    @property
    def owner(self) -> str:
        """The default owner of claims: that of the client, or else host and process."""

    @property
    def server_version(self) -> str | None:
        """Product and version of the server; ``None`` before it is known."""

    def connect(self) -> Connected:
        """Connect, and check the server and the rights of the user. Idempotent.

        Raises:
            AccessDenied: The credentials are wrong, or the user lacks a right.
            ServerTooOld: The server is older than Redis 7.0 or Valkey 7.2.
            SchemaTooNew: A newer version of the library wrote the namespace.
        """

    def close(self) -> None:
        """Close the connections. Idempotent. Calls in progress end; later calls raise `RegistryClosed`.

        Claims do not change. The users of subscriptions close them.
        """

    def within(self, seconds: float) -> Backend:
        """Return the same backend with another `patience`, in seconds, limited to the range of 0 to its own.

        Both share their connections: closing one closes the other.
        """

    def keys_of(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> list[ModelKey]:
        """Return the key of a model, or the keys of the name under every known provider if `provider` is ``None``.

        The known providers are those of `ModelProvider`, in that order, then those in the configuration of the backend.
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
        """Claim a model. Retry-safe with a lease, because a resent request finds its own claim by the claim id.

        The new claim takes over a claim that was released, or whose lease has ended. If `max_attempts` owners were
        lost, the model becomes an ERROR instead.

        Args:
            name: Name of the model.
            provider: Its provider.
            revision: Its revision.
            subset: Its subset.
            lease: Lease in seconds. ``None``: the claim never ends. `KEPT`: 30 s.
            owner: Human-readable owner, truncated to 64 bytes. Defaults to the property `owner`.
            claim_id: Id of the attempt. Defaults to a new id; requests without an id may be coalesced.
            max_attempts: Maximum number of attempts of the fleet. Defaults to no limit.
            cooldown: Seconds until the count of attempts restarts. Defaults to never.
            expected_bytes: Size of the download in bytes. Defaults to unknown.
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
        """Claim any number of models. Each claim succeeds or fails independently. Retry-safe with a lease.

        Args:
            keys: The models.
            lease: As in `claim`.
            owner: As in `claim`.
            max_attempts: As in `claim`.
            tell: Called with the results of each batch as soon as they arrive.

        Returns:
            One result for each model, in order; an error for each model without an answer.
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
        """Claim a model that is in ERROR. Retry-safe with a lease. The arguments are those of `claim`.

        Returns:
            The claim; or the reason why there is none. `Rejection.retry_left` is the rest of the back-off or cool-down.
        """

    def renew(
        self,
        claims: Sequence[Claim],
        *,
        lease: float | Default | None = Default.ITS_OWN,
        updates: Sequence[ProgressUpdate] | None = None,
    ) -> list[Claim | Rejection | DamagedRecord]:
        """Extend leases and store progress. Retry-safe with a lease. A renewal never shortens a lease.

        Args:
            claims: A batch of claims.
            lease: Lease in seconds from now. ``None``: the claim never ends. Defaults to the lease of each claim.
            updates: Progress, one for each claim. Defaults to none. Of two updates the registry keeps the one with the
                larger `order`, whichever arrives first.

        Returns:
            The claim with its new end, or a rejection. `Rejection.lost` is true if another party ended the claim, and
            not its owner. For a cancelled claim `Rejection.why` has the reason.
        """

    def renew_many(
        self, claims: Sequence[Claim], *, lease: float | Default | None = Default.ITS_OWN
    ) -> list[Claim | Rejection | Exception]:
        """Renew any number of claims, as `renew` does. The result is an error for each claim without an answer."""

    def finish(self, claim: Claim, ending: Ending) -> str:
        """End the download of a claim. Retry-safe. After the end of the lease a claim is valid until a takeover.

        Returns:
            Empty if the claim was valid, or had already ended in this way; otherwise the reason why not.
        """

    def release(self, claim: Claim) -> str:
        """Release a claim; its attempt does not count. Retry-safe. The result is that of `finish`."""

    def release_many(self, claims: Sequence[Claim]) -> list[str | Exception]:
        """Release any number of claims, as `release` does. The result is an error for each claim without an answer."""

    # Changes outside a claim

    def set_status(self, key: ModelKey, change: StatusChange) -> StatusSet:
        """Set a status. Not retry-safe.

        Raises:
            EvictionInProgress: The model is being evicted.
        """

    def cancel(self, key: ModelKey, cancellation: Cancellation) -> Cancelled | None:
        """End a download. Retry-safe with an expected token.

        The message of the record is `Cancellation.told_by` with `owner`.

        Returns:
            The cancelled claim; ``None`` if there was no download, or none with the expected token.
        """

    def touch(self, keys: Sequence[ModelKey]) -> list[bool | DamagedRecord]:
        """Set the last use of a batch of models to now. Retry-safe. Return for each model whether it is known."""

    def touch_many(
        self,
        keys: Sequence[ModelKey],
        tell: Callable[[Sequence[bool | DamagedRecord]], None] = lambda results: None,
    ) -> list[bool | Exception]:
        """Touch any number of models, as `touch` does.

        Args:
            keys: The models.
            tell: As in `claim_many`.

        Returns:
            One result for each model, in order; an error for each model without an answer.
        """

    def touch_model(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> bool:
        """Touch one model as callers name it. Return whether any record is known.

        Without a provider (``None``) the call touches the name under every known provider.
        """

    def delete(self, keys: Sequence[ModelKey], *, expected_token: int | None, force: bool) -> int:
        """Delete records. Retry-safe with an expected token.

        Args:
            keys: A batch of models.
            expected_token: Delete only the record with this token. ``None``: any token.
            force: Whether to delete also records that are held, being evicted, or damaged.

        Returns:
            Number of records that this call has deleted.

        Raises:
            EvictionInProgress: A model is being evicted, and `force` is false.
            ModelHeld: A model is held, and `force` is false.
        """

    # Reads

    def read(self, keys: Sequence[ModelKey]) -> list[ModelRecord | DamagedRecord | None]:
        """Read the current records of a batch of models."""

    def read_many(self, keys: Sequence[ModelKey]) -> list[ModelRecord | Exception | None]:
        """Read any number of models, as `read` does. The result is an error for each model without an answer."""

    def get_status(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> ModelStatus | None:
        """Return the status of a model as callers name it, from `cache` if it is there. DOWNLOADED is preferred."""

    def get_record(
        self,
        name: str,
        provider: ModelProvider | str | None,
        revision: str | None,
        subset: str | None,
    ) -> ModelRecord | None:
        """Return the record of a model as callers name it, from `cache` if it is there. DOWNLOADED is preferred."""

    def scan(
        self, batch_size: int, status: ModelStatus | None
    ) -> Iterator[ModelRecord | DamagedRecord | None]:
        """Iterate over all records in LRU order, read in pages.

        The scan returns every record that exists throughout. A record that is used meanwhile may occur again. ``None``
        stands for a record that was deleted meanwhile.

        Args:
            batch_size: Records of one page, 1 to 500.
            status: Return only records with this status at the time when their page is read. ``None``: all records.
        """

    def counts(self) -> StatusCounts:
        """Count the records by status."""

    def totals(self) -> Totals:
        """Count records and bytes by status. The bytes of a record are its size, or else its expected size."""

    # The registry itself

    def lease_time(self) -> datetime:
        """Return the lease time of the registry. It never goes back, for all clients together."""

    def cache_id(self, proposed: str | None = None) -> str | None:
        """Return the id of the cache that the namespace stands for; ``None`` if there is none. Retry-safe.

        Args:
            proposed: Id that the registry stores if it has none yet; at most 64 bytes. Defaults to none.
        """

    def branch(self, key: ModelKey) -> Branch:
        """Return the known facts of a repository and of its branch `key.revision`. The lookup is case-sensitive."""

    def set_branch(self, key: ModelKey, commit: str, name: str, asked: int) -> None:
        """Store an answer of the hub. Retry-safe, because an older answer changes nothing.

        Args:
            key: The repository as the caller spells it; its revision is the branch.
            commit: The commit of the branch.
            name: The name of the repository as the hub spells it.
            asked: `Branch.time` before the request to the hub, in microseconds. A time in the future counts as now.
        """

    def listeners(self) -> int | None:
        """Return the number of open subscriptions to the namespace; ``None`` if the user lacks the right to ask."""

    def events(self) -> EventSource:
        """Create a subscription. It is not open yet."""
