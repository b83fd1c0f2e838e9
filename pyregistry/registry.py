# Made from aio.py by tools/unasync.py: change that one.
"""The blocking client. Its methods build an operation, send it, and interpret the reply."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, overload

import redis

from pyregistry._client import Client
from pyregistry._coordination.download_sync import Download
from pyregistry._coordination.ensure_sync import Ensure
from pyregistry._coordination.options import SHUTDOWN_TIMEOUT, VISIBILITY_TIMEOUT, OnUnavailable, OnUnproven
from pyregistry._coordination.session_sync import Session
from pyregistry._coordination.subscriber_sync import EventStream
from pyregistry._core import validation as checks
from pyregistry._core.clock import now
from pyregistry._core.values import (
    DEFAULT_TIMEOUT,
    KEPT,
    KEPT_LEASE,
    Default,
    ProgressUpdate,
    Rejection,
    first_error,
    known_of,
    preferred_record,
    ref_of,
    status_of,
)
from pyregistry._redis.backend_sync import RedisBackend
from pyregistry._runtime.greenlets import check_runtime
from pyregistry._runtime.threads import ask
from pyregistry.backend.protocol_sync import Backend
from pyregistry.backend.values import Cancellation, Ending, StatusChange
from pyregistry.config import BackendConfig
from pyregistry.errors import DamagedRecord, InvalidArgument
from pyregistry.models import (
    Claim,
    Claimed,
    ModelProvider,
    ModelRecord,
    ModelStatus,
    ProviderLike,
    StatusCounts,
)
from pyregistry.retry import DEFAULT_RETRY, RetryPolicy
from pyregistry.stores.folder import FolderStore

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from pyregistry._coordination.options import DownloadFunction, ModelOptions, StagedDownloadFunction
    from pyregistry._core.values import ClaimResult, Lease, Model

__all__ = ["Registry", "create_registry_backend"]

T = TypeVar("T")

ASKED: Final = object()
"""First item of a cache key with more parts than the name. A private object: no argument of a caller equals it."""


class Registry(Client):
    """A registry of model downloads on a Redis or Valkey server.

    Every method may raise `RegistryUnavailable` (no server answered; nothing was changed), `ServerRefused` (the
    server answered with an error) and `RegistryClosed`. Methods that write may raise `OutcomeUnknown`. Methods
    that take a model may raise `DamagedRecord`. They raise `InvalidModelName` and `InvalidArgument` before anything
    is sent.

    Args:
        client: A redis-py client. The registry shares it and does not close it.
        namespace: Name of the registry on the server. One cache has one namespace. Defaults to ``default``.
        owner: Human-readable client name. Defaults to ``host:pid``; truncated to 64 bytes.
        providers: Words for providers beyond the four, at most 60. Calls without a provider look them up too.
        touch_interval: As in `from_url`.
    """

    _session: Session

    def __init__(
        self,
        client: redis.Redis,
        namespace: str = "default",
        *,
        owner: str | None = None,
        providers: Iterable[str] = (),
        touch_interval: float | None = None,
    ) -> None:
        backend = RedisBackend.of_client(client, namespace, owner, providers)
        self._begin(backend, touch_interval)

    @classmethod
    def from_url(
        cls,
        url: str,
        namespace: str = "default",
        *,
        owner: str | None = None,
        providers: Iterable[str] = (),
        timeout: float = DEFAULT_TIMEOUT,
        touch_interval: float | None = None,
        near_cache: bool = False,
        stale_for: float | None = None,
        **options: Any,
    ) -> Self:
        """Create a client with its own connections. Nothing is sent yet.

        Args:
            url: ``redis://``, ``rediss://``, ``unix://``, or ``embedded://`` for the embedded server of this user.
                ``redis+sentinel://host1:26379,host2:26379/service/0`` names the primary of a service that Redis
                Sentinel watches; ``rediss+sentinel://`` adds TLS.
            namespace: Name of the registry on the server. One cache has one namespace. Defaults to ``default``.
            owner: Human-readable client name. Defaults to ``host:pid``; truncated to 64 bytes.
            providers: Words for providers beyond the four, at most 60. Calls without a provider look them up too.
            timeout: Seconds allowed for a connection attempt or a reply. A call that the server refuses for now is
                retried for as long. Defaults to 5 s.
            touch_interval: Seconds in which `touch_model` reports a use of one model at most once. The first use is
                sent at once; later uses are batched with those of other models. Defaults to ``None``: every use is
                sent.
            near_cache: Answer `is_downloaded`, `get_status` and `get_model_record` from memory. The server tracks the
                records that were read and invalidates them when they change. Defaults to False.
            stale_for: Seconds for which `is_downloaded` and `get_status` return the last known status while no server
                answers. They count from the last proof of that status. No other call gives stale answers. The log
                reports stale answers once (WARNING), and `stale_answers` counts them. Needs ``near_cache``. Defaults
                to ``None``: both calls raise `RegistryUnavailable`.
            **options: Further settings of redis-py's connections (``password``, ``ssl_ca_certs``, ...). Under
                Sentinel, ``sentinel_kwargs`` overrides them for connections to the sentinels.

        Raises:
            ConfigurationError: The URL or an option is invalid.
        """
        if stale_for is not None:
            checks.microseconds("stale_for", stale_for)
            if not near_cache:
                raise InvalidArgument("stale_for", "needs near_cache=True")
        backend = RedisBackend.from_url(
            url,
            namespace,
            owner,
            providers,
            timeout=timeout,
            cache=near_cache,
            stale_for=stale_for,
            options=options,
        )
        return cls._on(backend, touch_interval)

    @classmethod
    def _on(cls, backend: Backend, touch_interval: float | None = None) -> Self:
        """Create a client of any backend."""
        client = cls.__new__(cls)
        client._begin(backend, touch_interval)
        return client

    def _begin(self, backend: Backend, touch_interval: float | None) -> None:
        check_runtime()
        self._backend = backend
        self._session = Session(backend, touch_interval)
        # Direct references for `is_downloaded` and `touch_model`, because servers call them for each request.
        self._cache = backend.cache
        self._touches = self._session.touches
        # A client without references counts as closed, because no caller can renew or finish its claims.
        weakref.finalize(self, self._session.keepalive.abandon)

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Connect and check server version and permissions. Idempotent.

        The server must allow reads at least. The log warns if the user lacks the right to wait (``ensure``,
        ``download``, ``watch``).

        Raises:
            RegistryUnavailable: No server answers.
            NotNow: The server refuses even reads, and still does after ``timeout``.
            EmbeddedUnavailable: The embedded server is not installed, or does not start.
            AccessDenied: The credentials are wrong, or permissions are missing.
            ServerTooOld: The server is older than Redis 7.0 or Valkey 7.2.
            SchemaTooNew: A newer pyregistry wrote this namespace.
        """
        self._session.connected(self._backend.connect())

    def close(self) -> None:
        """Send the pending touches and close the connections. Idempotent.

        Renewal of the client's claims stops, and they end with their leases. `shutdown` releases them.
        """
        session = self._session
        session.keepalive.close()
        session.subscriber.close()
        session.uses.close()
        self._backend.close()

    def shutdown(self, *, timeout: float = SHUTDOWN_TIMEOUT) -> None:
        """Release all claims that this client keeps alive, and close the client. Idempotent.

        Other clients can claim the models at once. Running downloads see ``claim.lost``; async ones are cancelled.
        Their attempts do not count. Calls that wait for a download raise `RegistryClosed`. A download that has
        ended and is being published is finished.

        Call this at the end of a program, such as in a server's lifespan or in `atexit`. A signal handler must not
        call it, because the handler interrupts code that may hold a lock: see `release_on_signal`.

        Args:
            timeout: Seconds to wait until the downloads of other threads and tasks have ended and their staging
                folders are removed. The claims are released before the wait. Defaults to 5 s.
        """
        checks.microseconds("timeout", timeout, zero=True)
        ask(self._session.keepalive.shut_down, timeout)
        self.close()

    # Claims

    def try_claim_for_download(
        self,
        name: str,
        provider: ProviderLike,
        *,
        revision: str | None = None,
        subset: str | None = None,
        lease: Lease = Default.KEPT,
        claim_id: str | None = None,
        owner: str | None = None,
        max_attempts: int | None = None,
        expected_bytes: int | None = None,
    ) -> ClaimResult:
        """Claim the download of a model. Exactly one caller wins.

        The call takes over a released claim, and a claim whose lease ended without renewal.

        Args:
            name: Model name.
            provider: Provider of the model.
            revision: Revision of the model. Each revision has its own record. Defaults to ``None``: unpinned.
            subset: Part of the files. Defaults to ``None``: the whole model.
            lease: Seconds for which the claim holds without renewal; the caller renews it. Defaults to 30 s, kept
                alive by this client. The client stops when the claim is finished or released, when its record is
                deleted or set to another status, or when the client is closed. ``None``: the claim never expires.
            claim_id: Unique name of this attempt, 1 to 64 bytes, never used before. Defaults to a random one.
            owner: Human-readable name of the claim's owner. Defaults to the client's.
            max_attempts: Maximum number of lost owners; the model is then permanently in ERROR. Defaults to no limit.
            expected_bytes: Size of the download in bytes.

        Returns:
            `Claimed` for the winner, otherwise `AlreadyExists` with the status.
        """
        if lease is KEPT:
            self._prepare()
        result = self._backend.claim(
            name, provider, revision, subset,
            lease=lease, owner=owner, claim_id=claim_id,
            max_attempts=max_attempts, expected_bytes=expected_bytes,
        )  # fmt: skip
        self._session.claimed(result, lease)
        return result

    def _prepare(self) -> None:
        """Open the keepalive connection before the claim is requested."""
        keepalive = self._session.keepalive
        if not keepalive.ready:
            keepalive.prepare()

    def try_claim_many(
        self,
        models: Iterable[Model],
        *,
        lease: Lease = Default.KEPT,
        owner: str | None = None,
        max_attempts: int | None = None,
    ) -> list[ClaimResult]:
        """Claim many models in batches. Each claim succeeds or fails independently.

        Args:
            models: Each a `ModelRef` or a tuple (name, provider).
            lease: As in `try_claim_for_download`.
            owner: Human-readable name of the claims' owner. Defaults to the client's.
            max_attempts: As in `try_claim_for_download`.

        Returns:
            One result for each model, in order.

        Raises:
            RegistryError: A claim failed. The error's ``results`` hold the results of the others.
        """
        if lease is KEPT:
            self._prepare()
        keys = checks.claimable(map(ref_of, models))
        told: list[ClaimResult | DamagedRecord] = []

        def tell(results: Sequence[ClaimResult | DamagedRecord]) -> None:
            self._session.claimed_many(results, lease)
            told.extend(results)

        try:
            results = self._backend.claim_many(
                keys, lease=lease, owner=owner, max_attempts=max_attempts, tell=tell
            )
        except BaseException:
            # The caller never gets these claims, so their renewal stops and they end with their leases.
            for result in told:
                if isinstance(result, Claimed):
                    self._session.keepalive.drop(result.claim)
            raise
        return first_error(results)

    def refresh_download_claim(
        self,
        claim: Claim,
        *,
        lease: Lease = Default.ITS_OWN,
        message: str | Default | None = Default.UNCHANGED,
        bytes_done: int | None = None,
        bytes_total: int | None = None,
    ) -> Claim | None:
        """Renew a claim and record the progress of its download.

        An expired claim is renewed too, unless another owner has taken it over.

        Args:
            claim: Claim to renew.
            lease: Seconds from now. A renewal never shortens a lease. Defaults to the claim's own lease. ``None``:
                the claim never expires.
            message: Progress message. ``None`` clears it. Defaults to the current one.
            bytes_done: Number of bytes downloaded.
            bytes_total: Size of the download in bytes.

        Returns:
            The renewed claim, or ``None`` if the claim is lost or this owner has ended it.
        """
        update = ProgressUpdate(message, bytes_done, bytes_total)
        (result,) = self._backend.renew([claim], lease=lease, updates=[update])
        return first_error([self._session.renewed(claim, result)])[0]

    def refresh_many(self, claims: Iterable[Claim], *, lease: Lease = Default.ITS_OWN) -> list[Claim | None]:
        """Renew many claims in batches.

        Args:
            claims: Claims to renew.
            lease: As in `refresh_download_claim`.

        Returns:
            One result for each claim, in order: the renewed claim, or ``None``.

        Raises:
            RegistryError: A renewal failed. The error's ``results`` hold the results of the others.
        """
        asked = list(claims)
        renewed = self._backend.renew_many(asked, lease=lease)
        return first_error(
            [
                self._session.renewed(claim, result)
                if isinstance(result, (Claim, Rejection, DamagedRecord))
                else result
                for claim, result in zip(asked, renewed, strict=True)
            ]
        )

    def finish_download_claim(
        self,
        claim: Claim,
        status: ModelStatus | str,
        message: str | None = None,
        *,
        size_bytes: int | None = None,
        location: str | None = None,
        resolved_revision: str | None = None,
        retry_in: float | None = None,
        permanent: bool = False,
    ) -> bool:
        """Finish a claim with the outcome of its download. Idempotent.

        An expired claim is finished too, unless another owner has taken it over.

        Args:
            claim: Claim to finish.
            status: DOWNLOADED or ERROR.
            message: Human-readable message, at most 4,096 bytes.
            size_bytes: Size of the files in bytes (DOWNLOADED).
            location: Location of the files, relative to the cache (DOWNLOADED).
            resolved_revision: Downloaded commit (DOWNLOADED).
            retry_in: Back-off in seconds (ERROR).
            permanent: Forbid retries (ERROR). Defaults to False.

        Returns:
            Whether the claim was still current, or had finished with the same outcome before.
        """
        ending = Ending(
            status_of(status), message,
            size_bytes=size_bytes, location=location, resolved_revision=resolved_revision,
            retry_in=retry_in, permanent=permanent,
        )  # fmt: skip
        why_not = self._backend.finish(claim, ending)
        return self._session.ended(claim, f"finished as {status}", why_not)

    def release_download_claim(self, claim: Claim) -> bool:
        """Release a claim so that another owner can claim the model at once. Idempotent.

        The attempt does not count.

        Args:
            claim: Claim to release.

        Returns:
            Whether the claim was still current, or had been released before.
        """
        why_not = self._backend.release(claim)
        return self._session.ended(claim, "released", why_not)

    def try_reset_error_for_retry(
        self,
        name: str,
        provider: ProviderLike,
        *,
        revision: str | None = None,
        subset: str | None = None,
        lease: Lease = Default.KEPT,
        claim_id: str | None = None,
        owner: str | None = None,
        max_attempts: int | None = None,
    ) -> Claim | None:
        """Claim a model in ERROR for a retry. Exactly one caller wins.

        Args:
            name: Model name.
            provider: Provider of the model.
            revision: Revision of the model. Defaults to ``None``: unpinned.
            subset: Part of the files. Defaults to ``None``: the whole model.
            lease: As in `try_claim_for_download`.
            claim_id: As in `try_claim_for_download`.
            owner: Human-readable name of the claim's owner. Defaults to the client's.
            max_attempts: Maximum number of attempts, including the first. Defaults to no limit.

        Returns:
            The claim. ``None`` if the model is not in ERROR, the error is permanent, the back-off is not over, or
            another caller won.
        """
        if lease is KEPT:
            self._prepare()
        key = checks.target(name, provider, revision, subset)
        result = self._backend.retry(
            key, lease=lease, claim_id=claim_id, owner=owner, max_attempts=max_attempts
        )
        return self._session.retried(key.ref, result, lease)

    # One download per fleet

    @overload
    def ensure(
        self,
        name: str,
        provider: ProviderLike,
        download: DownloadFunction,
        *,
        store: None = None,
        **options: Unpack[ModelOptions],
    ) -> ModelRecord: ...
    @overload
    def ensure(
        self,
        name: str,
        provider: ProviderLike,
        download: StagedDownloadFunction,
        *,
        store: FolderStore,
        **options: Unpack[ModelOptions],
    ) -> ModelRecord: ...
    def ensure(
        self,
        name: str,
        provider: ProviderLike,
        download: Callable[..., Any],
        *,
        revision: str | None = None,
        subset: str | None = None,
        store: FolderStore | None = None,
        verify: Callable[[ModelRecord], Any] | None = None,
        retry: RetryPolicy | None = DEFAULT_RETRY,
        lease: float = KEPT_LEASE,
        owner: str | None = None,
        expected_bytes: int | None = None,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        visibility_timeout: float = VISIBILITY_TIMEOUT,
        on_unavailable: OnUnavailable = "raise",
        on_unproven: OnUnproven = "cancel",
        touch: bool = True,
    ) -> ModelRecord:
        """Ensure that a model is downloaded. One caller of the whole fleet downloads it; the others wait.

        The caller that wins the claim runs ``download(claim)``, or ``download(claim, folder)`` with a store. The
        client keeps the claim alive meanwhile. ``claim.report()`` reports progress; ``claim.describe()`` sets the
        size, location and commit. The model becomes DOWNLOADED when the function has returned. A dead owner is
        replaced when its lease ends. A cancelled owner releases its claim at once.

        Args:
            name: Model name.
            provider: Provider of the model.
            download: Plain function. It runs in the caller's thread.
                It must stop once ``claim.lost`` is set. The return value is ignored.
            revision: Revision of the model. Defaults to ``None``: unpinned.
            subset: Part of the files. Defaults to ``None``: the whole model.
            store: Store that gives each download its own folder and publishes it as a whole: by one rename, or by a
                manifest. Defaults to ``None``: ``download`` places the files.
            verify: Plain function. ``verify(record)`` returns whether the files of a DOWNLOADED model are
                present. If not, the record is deleted by its token, and the model is downloaded again.
            retry: Retry policy of the fleet; lost owners count as attempts. Defaults to `RetryPolicy()`. ``None``: no
                retry.
            lease: Seconds for which the claim holds without renewal. It is renewed after a third of that. Defaults
                to 30 s.
            owner: Human-readable name of the claim's owner. Defaults to the client's.
            expected_bytes: Size of the download in bytes.
            timeout: Total seconds to wait for other owners. The caller's own download is not limited. Defaults to
                ``None``: the call waits as long as an owner lives.
            stall_timeout: Seconds without progress after which a download that has reported progress is ended as a
                retryable ERROR. Defaults to ``None``: never.
            visibility_timeout: Seconds after the end of a download in which its files may still become visible here,
                because a push outruns file systems. The files are checked again until then. Defaults to 60 s.
            on_unavailable: Reaction when no server answers. ``"raise"``, the default, raises. ``"verify"`` accepts
                the files that ``verify``, or the store, finds on disk, and logs a WARNING. Callers that already wait
                keep waiting.
            on_unproven: Reaction of an owner that can't prove its lease before it ends. ``"cancel"``, the default,
                cancels the download. ``"continue"`` lets it run; it is published and finished once the claim is
                proved again.
            touch: Count this call as a use of a model that is already downloaded, as by `touch_model`. The use is
                sent in the background: it neither delays the call nor makes it fail. A model's use is sent at most
                once in ``touch_interval``, or once a second for a client without one. ``False`` is for a caller that
                only checks. Defaults to True.

        Returns:
            The record of the downloaded model.

        Raises:
            DownloadFailed: The model is in ERROR and is not retried (now).
            LocalFault: This machine can't download, and no other did meanwhile. The fault is not recorded for the
                fleet.
            WaitTimedOut: No owner has finished the download within ``timeout``.
            CacheMismatch: The store's folder is not the cache of this namespace.
            RegistryUnavailable: No server answers, and ``on_unavailable`` is ``"raise"`` or finds no files. Or the
                outcome of a download could not be recorded before its lease ended.
            OutcomeUnknown: As above, and the server may have recorded the outcome.
            ServerRefused: The server answered with an error, such as missing permissions or full memory.
            DamagedRecord: The record can't be read.
            RegistryClosed: The client was closed or shut down during the wait or the download.
            InvalidArgument: An argument is invalid. Nothing was sent.
            ConfigurationError: Claims can't be kept alive, because no connections like those of the given client can
                be made.
            OSError: The store's files can't be examined.
            Exception: The error that ``verify`` raised.
        """
        wish = self._wish(
            self._backend.keys_of(name, provider, revision, subset), store=store, verify=verify, retry=retry,
            lease=lease, owner=owner, expected_bytes=expected_bytes, timeout=timeout,
            stall_timeout=stall_timeout, visibility_timeout=visibility_timeout,
            on_unavailable=on_unavailable, on_unproven=on_unproven, touch=touch,
        )  # fmt: skip
        return Ensure(self._session, wish).ensure(download)

    def download(
        self,
        name: str,
        provider: ProviderLike,
        *,
        revision: str | None = None,
        subset: str | None = None,
        store: FolderStore | None = None,
        verify: Callable[[ModelRecord], Any] | None = None,
        retry: RetryPolicy | None = DEFAULT_RETRY,
        lease: float = KEPT_LEASE,
        owner: str | None = None,
        expected_bytes: int | None = None,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        visibility_timeout: float = VISIBILITY_TIMEOUT,
        on_unavailable: OnUnavailable = "raise",
        on_unproven: OnUnproven = "cancel",
        touch: bool = True,
    ) -> Download:
        """Return the block form of `ensure`: a context manager, to be entered once.

        ``with registry.download(name, provider) as got:`` waits. The owner gets an `OwnedClaim` and downloads
        in the block; the other callers get the `ModelRecord`. Leaving the block finishes the download. An exception
        that leaves the block is recorded as ERROR. With a store, the files go to ``store.staging(claim)``.

        Args:
            name: Model name.
            provider: Provider of the model.
            revision: Revision of the model. Defaults to ``None``: unpinned.
            subset: Part of the files. Defaults to ``None``: the whole model.
            store: As in `ensure`.
            verify: As in `ensure`.
            retry: As in `ensure`; the block itself is not repeated.
            lease: As in `ensure`.
            owner: As in `ensure`.
            expected_bytes: As in `ensure`.
            timeout: As in `ensure`.
            stall_timeout: As in `ensure`.
            visibility_timeout: As in `ensure`.
            on_unavailable: As in `ensure`.
            on_unproven: As in `ensure`.
            touch: As in `ensure`.

        Raises:
            ClaimLost: The claim was lost in the block. The download does not count.
            RegistryUnavailable, OutcomeUnknown: On exit, the outcome could not be recorded before the lease ended.
            OSError: On exit, the files could not be published. The model is recorded as ERROR.
            InvalidArgument, ConfigurationError: At the call, as in `ensure`.
            RegistryError, OSError, Exception: On entry, as in `ensure`.
        """
        wish = self._wish(
            self._backend.keys_of(name, provider, revision, subset), store=store, verify=verify, retry=retry,
            lease=lease, owner=owner, expected_bytes=expected_bytes, timeout=timeout,
            stall_timeout=stall_timeout, visibility_timeout=visibility_timeout,
            on_unavailable=on_unavailable, on_unproven=on_unproven, touch=touch,
        )  # fmt: skip
        return Download(self._session, wish)

    def watch(self, name: str | None = None, provider: ProviderLike | None = None) -> EventStream:
        """Watch the changes of models. Returns an iterator of `RegistryEvent`.

        An `EventGap` marks a place where events may be missing: after a reconnect, or when the caller reads too
        slowly. Read the state again after it. As a context manager, the stream subscribes on entry.

        Args:
            name: Only events of this model, in all its revisions and subsets. Defaults to all models.
            provider: Only events of this provider. Defaults to all providers.
        """
        if name is not None:
            checks.target(name, provider or ModelProvider.HUGGING_FACE, None, None)
        wanted = None if provider is None else checks.provider(provider)
        return EventStream(
            self._session.subscriber,
            lambda ref: name in (None, ref.name) and wanted in (None, ref.provider),
        )

    # Operations that need no claim

    def set_status(
        self,
        name: str,
        provider: ProviderLike,
        status: ModelStatus | str,
        message: str | None = None,
        *,
        revision: str | None = None,
        subset: str | None = None,
        retry_in: float | None = None,
        permanent: bool = False,
        size_bytes: int | None = None,
        location: str | None = None,
    ) -> None:
        """Set the status of a model, regardless of its owner.

        A current claim of the model ends, unless the status is DOWNLOADING before and after the call.

        Args:
            name: Model name.
            provider: Provider of the model.
            status: DOWNLOADING, DOWNLOADED or ERROR. A DOWNLOADING that is set here never expires.
            message: Human-readable message. Defaults to ``None``, which clears it.
            revision: Revision of the model. Defaults to ``None``: unpinned.
            subset: Part of the files. Defaults to ``None``: the whole model.
            retry_in: Back-off of an ERROR, in seconds. Defaults to ``None``: a retry is allowed at once.
            permanent: Forbid retries of an ERROR. Defaults to False.
            size_bytes: Size of the files of a DOWNLOADED, in bytes. Defaults to ``None``: unchanged.
            location: Location of the files of a DOWNLOADED, relative to the cache. Defaults to ``None``: unchanged.

        Raises:
            EvictionInProgress: The model's files are being removed.
            InvalidArgument: An option does not apply to this status.
            OutcomeUnknown: No reply came. The call is not retried automatically.
        """
        target = checks.target(name, provider, revision, subset)
        wanted = status_of(status)
        change = StatusChange(
            wanted, message,
            retry_in=retry_in, permanent=permanent, size_bytes=size_bytes, location=location,
        )  # fmt: skip
        # This call ends the client's own claim of the model, so its keepalive must not report a lost claim.
        stays = wanted is ModelStatus.DOWNLOADING
        dropped = [] if stays else self._session.keepalive.drop_models([target])
        try:
            reply = self._backend.set_status(target, change)
        except BaseException:
            self._session.keepalive.keep_on(dropped)
            raise
        self._session.status_set(target, wanted, reply, dropped)

    def cancel_download(
        self,
        name: str,
        provider: ModelProvider | str,
        message: str | None = None,
        *,
        revision: str | None = None,
        subset: str | None = None,
        expected_token: int | None = None,
        retry_in: float | None = None,
        permanent: bool = False,
    ) -> bool:
        """Cancel the download of a model, regardless of its owner.

        The owner stops at once. Callers that wait for the download get `DownloadFailed` with the reason. The model
        is in ERROR and is not downloaded until a cool-down is over. A permanent ERROR lasts until its record is
        deleted or its status is set.

        Args:
            name: Model name.
            provider: Provider of the model.
            message: Human-readable reason. The caller's name is recorded with it.
            revision: Revision of the model. Defaults to ``None``: unpinned.
            subset: Part of the files. Defaults to ``None``: the whole model.
            expected_token: Cancel only the download with this token. Defaults to ``None``: any download.
            retry_in: Cool-down in seconds. Defaults to 300 s. 0: a new download may begin at once.
            permanent: Forbid automatic downloads of this model. Defaults to False.

        Returns:
            Whether a download was running and has been cancelled.

        Raises:
            InvalidArgument: ``retry_in`` is given with ``permanent``, or an argument is out of range.
            DamagedRecord: The record can't be read.
            OutcomeUnknown: No reply came. Without ``expected_token`` the call is not retried automatically.
        """
        target = checks.target(name, provider, revision, subset)
        if retry_in is None and not permanent:
            retry_in = DEFAULT_RETRY.cooldown
        cancellation = Cancellation(message, expected_token, retry_in, permanent)
        cancelled = self._backend.cancel(target, cancellation)
        return self._session.cancelled(target, cancelled)

    def touch_model(
        self,
        name: str,
        provider: ProviderLike | None = None,
        *,
        revision: str | None = None,
        subset: str | None = None,
    ) -> bool:
        """Record a use of a model. A touch alone does not protect its files from eviction.

        With ``touch_interval`` the call returns at once. The use is sent later, unless the interval's use of this
        model has been sent already.

        Args:
            name: Model name.
            provider: Provider of the model. Defaults to ``None``: the copies of all providers.
            revision: Revision of the model. Defaults to ``None``: unpinned.
            subset: Part of the files. Defaults to ``None``: the whole model.

        Returns:
            Whether the model is known. With ``touch_interval``, always True.
        """
        touches = self._touches
        if touches is not None:
            question: Hashable = name
            if provider is not None or revision is not None or subset is not None:
                question = (ASKED, name, provider, revision, subset)
            try:
                if question in touches.noted:
                    return True
            except TypeError:
                pass  # unhashable argument: the validator below raises InvalidArgument
            touches.touch(question, self._backend.keys_of(name, provider, revision, subset))
            return True
        known = self._backend.touch_model(name, provider, revision, subset)
        self._session.touched(name)
        return known

    def touch_models(self, models: Iterable[Model]) -> list[bool]:
        """Record a use of many models in batches.

        Args:
            models: Each a `ModelRef`, a tuple (name, provider), or a name for the copies of all providers.

        Returns:
            Whether each model is known, in order.

        Raises:
            RegistryError: A touch failed. The error's ``results`` hold the results of the others.
        """
        groups = [self._backend.keys_of(*ref_of(model)) for model in models]
        targets = [target for group in groups for target in group]
        known = self._backend.touch_many(targets, self._session.touched_many)
        answers: list[bool | Exception] = []
        for group in groups:
            of_group, known = known[: len(group)], known[len(group) :]
            answers.append(known_of(of_group))
        return first_error(answers)

    def delete_model(
        self,
        name: str,
        provider: ProviderLike | None = None,
        *,
        revision: str | None = None,
        subset: str | None = None,
        expected_token: int | None = None,
        force: bool = False,
    ) -> int:
        """Delete the record of a model. Its files stay.

        Args:
            name: Model name.
            provider: Provider of the model. Defaults to ``None``: the copies of all providers.
            revision: Revision of the model. Defaults to ``None``: unpinned.
            subset: Part of the files. Defaults to ``None``: the whole model.
            expected_token: Delete only the record with this token. Defaults to ``None``: any record.
            force: Delete the record even if it is held, being evicted, or unreadable. Defaults to False.

        Returns:
            Number of records that this call deleted.

        Raises:
            EvictionInProgress: The model's files are being removed. Records of other providers are deleted.
            ModelHeld: The model's files are held. Records of other providers are deleted.
            OutcomeUnknown: No reply came. Without a token the call is not retried automatically.
        """
        targets = self._backend.keys_of(name, provider, revision, subset)
        dropped = self._session.keepalive.drop_models(targets, expected_token)
        try:
            gone = self._backend.delete(targets, expected_token=expected_token, force=force)
        except BaseException:
            self._session.keepalive.keep_on(dropped)
            raise
        if not gone:
            self._session.keepalive.keep_on(dropped)
        self._session.deleted(targets[0].ref, gone)
        return gone

    # Reads

    def is_downloaded(
        self,
        name: str,
        provider: ProviderLike | None = None,
        *,
        revision: str | None = None,
        subset: str | None = None,
    ) -> bool:
        """Return whether a model is DOWNLOADED. Fast enough for a check before each request of a server.

        Args:
            name: Model name.
            provider: Provider of the model. Defaults to ``None``: a copy of any provider.
            revision: Revision of the model. Defaults to ``None``: unpinned.
            subset: Part of the files. Defaults to ``None``: the whole model.
        """
        cache = self._cache
        if cache is not None:
            known = cache.known
            question: Hashable = name
            if provider is not None or revision is not None or subset is not None:
                question = (ASKED, name, provider, revision, subset)
            try:
                # Check the epoch before reading the answer, so that the answer is at least as new as its proof.
                may = now() < known.epoch.until or (question in known.answers and cache.validate())
                if may and (answer := known.answers.get(question)) is not None:
                    return answer is True
            except TypeError:
                pass  # unhashable argument: the validator below raises InvalidArgument
            return cache.is_downloaded(question, name, provider, revision, subset)
        return self.get_status(name, provider, revision=revision, subset=subset) is ModelStatus.DOWNLOADED

    def get_status(
        self,
        name: str,
        provider: ProviderLike | None = None,
        *,
        revision: str | None = None,
        subset: str | None = None,
    ) -> ModelStatus | None:
        """Return the status of a model.

        Args:
            name: Model name.
            provider: Provider of the model. Defaults to ``None``: any provider, preferably a DOWNLOADED copy.
            revision: Revision of the model. Defaults to ``None``: unpinned.
            subset: Part of the files. Defaults to ``None``: the whole model.

        Returns:
            The status, or ``None`` if the model is unknown.
        """
        return self._backend.get_status(name, provider, revision, subset)

    def get_model_record(
        self,
        name: str,
        provider: ProviderLike | None = None,
        *,
        revision: str | None = None,
        subset: str | None = None,
    ) -> ModelRecord | None:
        """Return the record of a model.

        Args:
            name: Model name.
            provider: Provider of the model. Defaults to ``None``: any provider, preferably a DOWNLOADED copy.
            revision: Revision of the model. Defaults to ``None``: unpinned.
            subset: Part of the files. Defaults to ``None``: the whole model.

        Returns:
            The record, or ``None`` if the model is unknown. With ``near_cache``, ``last_used_at`` of a cached record
            is the value at the time of its read.
        """
        return self._backend.get_record(name, provider, revision, subset)

    def get_model_records(self, models: Iterable[Model]) -> list[ModelRecord | None]:
        """Return the records of many models, read in batches.

        Args:
            models: Each a `ModelRef`, a tuple (name, provider), or a name for a copy of any provider.

        Returns:
            The record of each model, or ``None``, in order.

        Raises:
            RegistryError: A read failed. The error's ``results`` hold the other records.
        """
        groups = [self._backend.keys_of(*ref_of(model)) for model in models]
        targets = [target for group in groups for target in group]
        found = self._backend.read_many(targets)
        answers: list[ModelRecord | Exception | None] = []
        for group in groups:
            of_group, found = found[: len(group)], found[len(group) :]
            try:
                answers.append(preferred_record(of_group))
            except Exception as error:
                answers.append(error)
        return first_error(answers)

    def get_models_by_last_used(
        self, limit: int | None = None, status: ModelStatus | str | None = None
    ) -> list[ModelRecord]:
        """Return the models in LRU order, oldest first.

        Args:
            limit: Maximum number of records. Defaults to ``None``: all.
            status: Only records with this status. Defaults to ``None``: any status.
        """
        most = None if limit is None else checks.whole("limit", limit)
        wanted = None if status is None else status_of(status)
        if most == 0:
            return []
        # Keyed by model: a model that is used during the scan may appear twice, and the later record counts.
        found: dict[tuple[object, ...], ModelRecord] = {}
        batch_size = 500 if most is None else min(most, 500)
        for record in self._iterate(batch_size, wanted):
            key = (record.provider, record.model_name, record.revision, record.subset)
            found.pop(key, None)
            found[key] = record
            if len(found) == most:
                break
        return list(found.values())

    def iter_models_by_last_used(
        self, batch_size: int = 500, status: ModelStatus | str | None = None
    ) -> Iterator[ModelRecord]:
        """Iterate over the models in LRU order, oldest first, in batches. Suited to very many models.

        A model that exists during the whole scan is always returned. A model that is used meanwhile may be returned
        twice.

        Args:
            batch_size: Number of records per read, 1 to 500. Defaults to 500.
            status: Only records with this status. Defaults to ``None``: any status.
        """
        checks.whole("batch_size", batch_size, least=1, most=500)
        return self._iterate(batch_size, None if status is None else status_of(status))

    def _iterate(self, batch_size: int, status: ModelStatus | None) -> Iterator[ModelRecord]:
        for record in self._backend.scan(batch_size, status):
            if record is not None and self._listable(record, status):
                yield cast("ModelRecord", record)

    def get_status_counts(self) -> StatusCounts:
        """Return the number of records in DOWNLOADING, DOWNLOADED and ERROR."""
        return self._backend.counts()


def create_registry_backend(config: BackendConfig) -> Registry:
    """Connect and return the registry client that the configuration names.

    Args:
        config: Configuration from `BackendConfig.redis` or `BackendConfig.from_env`.

    Raises:
        RegistryError: As for `Registry.from_url` and `Registry.connect`.
    """
    backend = Registry.from_url(config.url, config.namespace, **config.options)
    try:
        backend.connect()
    except BaseException:
        backend.close()
        raise
    return backend
