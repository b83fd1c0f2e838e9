# Made from aio.py by tools/unasync.py: change that one.
"""The blocking client: signatures, docs, and one call of the backend for each method."""

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
"""Begins what was asked of more than a name, which no name that anybody gives can be equal to."""


class Registry(Client):
    """A registry of model downloads on a Redis or Valkey server.

    Every method may raise `RegistryUnavailable` (no answer came, and nothing was changed), `ServerRefused` (the
    server answered with an error) and `RegistryClosed`. A method that writes may raise `OutcomeUnknown`. A method that
    takes a model may raise `InvalidModelName` and `InvalidArgument`, before a request is sent, and `DamagedRecord`.

    Args:
        client: a redis-py client of the caller. It is shared, and `close` leaves it open.
        namespace: name of the registry. One cache has one namespace. Defaults to ``"default"``.
        owner: human-readable name of the client. Defaults to ``host:pid``. Truncated to 64 bytes.
        providers: words for providers beyond the four, at most 60. Calls without a provider look at these too.
        touch_interval: as in `from_url`.
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
        """Make a client with connections of its own. It sends nothing yet.

        Args:
            url: ``redis://``, ``rediss://``, ``unix://``, or ``embedded://`` for this user's own server; or
                ``redis+sentinel://host1:26379,host2:26379/service/0`` (``rediss+sentinel://``: with TLS) for the
                primary of a service that Redis Sentinel watches.
            namespace: name of the registry. One cache has one namespace. Defaults to ``"default"``.
            owner: human-readable name of the client. Defaults to ``host:pid``. Truncated to 64 bytes.
            providers: words for providers beyond the four, at most 60. Calls without a provider look at these too.
            timeout: seconds that a connection attempt or an answer may take; a call that the server refuses for now is
                repeated for so long.
            touch_interval: seconds within which `touch_model` tells the server of a model's use at most once: the
                first use at once, later ones together with those of other models; ``None``: of each.
            near_cache: answer `is_downloaded`, `get_status` and `get_model_record` from memory, as long as the
                server, which tracks what was read, has not said that it changed.
            stale_for: with ``near_cache``: while nobody answers, `is_downloaded` and `get_status` tell what was known
                last, for so many seconds after it was proved last; ``None``: they raise `RegistryUnavailable`. A
                WARNING says it once, and `stale_answers` counts. Nothing else is answered so.
            **options: more settings of redis-py's connections (``password``, ``ssl_ca_certs``, ...); under
                Sentinel also ``sentinel_kwargs``, those of connections to the sentinels where they differ.

        Raises:
            ConfigurationError: the URL or an option makes no sense.
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
        """A client of any backend."""
        client = cls.__new__(cls)
        client._begin(backend, touch_interval)
        return client

    def _begin(self, backend: Backend, touch_interval: float | None) -> None:
        check_runtime()
        self._backend = backend
        self._session = Session(backend, touch_interval)
        # Shortcuts of the calls that a server makes for each request.
        self._cache = backend.cache
        self._touches = self._session.touches
        # A client that is not referenced any more counts as closed.
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
        """Connect and check server version and permissions, at least for reading. Idempotent.

        A WARNING in the log names the missing right of a user who may not wait (``ensure``, ``download``, ``watch``).

        Raises:
            RegistryUnavailable: no server answers.
            NotNow: the server refuses even reads, for longer than ``timeout``.
            EmbeddedUnavailable: the embedded server is not installed, or does not start.
            AccessDenied: wrong credentials, or rights are missing.
            ServerTooOld: older than Redis 7.0 or Valkey 7.2.
            SchemaTooNew: a newer pyregistry wrote this namespace.
        """
        self._session.connected(self._backend.connect())

    def close(self) -> None:
        """Send the last touches, and close the connections. Idempotent.

        Claims that were kept alive end with their leases; `shutdown` gives them back.
        """
        session = self._session
        session.keepalive.close()
        session.subscriber.close()
        session.uses.close()
        self._backend.close()

    def shutdown(self, *, timeout: float = SHUTDOWN_TIMEOUT) -> None:
        """Give back all claims that this client keeps, so that others go on at once, and close it. Idempotent.

        Downloads are told (``claim.lost``; async ones are cancelled), and their attempts are not counted; calls
        that wait for a download end with `RegistryClosed`. A download that has ended, and is being
        published, is finished. For the end of a program: a server's lifespan, `atexit`. A signal handler must
        not call it, because it interrupts code that may hold a lock: see `release_on_signal`.

        Args:
            timeout: seconds to wait until the downloads of other threads and tasks have ended, and their staging
                folders are removed. Claims are given back before. Defaults to 5 s.
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

        A claim whose lease has ended without a word is taken over, and so is one that was released.

        Args:
            name: the model.
            provider: where it comes from.
            revision: which revision; two revisions are two records.
            subset: which part of the files.
            lease: seconds that the claim holds without renewal; the caller then renews it. Defaults to 30 s, renewed by
                this client until the claim is finished, released, given another status, or deleted, or the client
                is closed. ``None``: the claim never ends.
            claim_id: name of this attempt, 1 to 64 bytes, never used before. Defaults to a random one.
            owner: human-readable owner of the claim. Defaults to the client's.
            max_attempts: number of owners that may be lost before the model becomes a permanent ERROR. Defaults to no
                limit.
            expected_bytes: size of the download in bytes. Defaults to unknown.

        Returns:
            `Claimed`, to the owner alone, or `AlreadyExists` with the status.
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
        """Have the connection that keeps a claim alive before the claim is asked for."""
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
        """Claim many models at once, in batches; each is won or not by itself.

        Args:
            models: `ModelRef`, or (name, provider).
            lease: as in `try_claim_for_download`.
            owner: human-readable owner of the claim. Defaults to the client's.
            max_attempts: as in `try_claim_for_download`.

        Returns:
            One result for each model, in order.

        Raises:
            RegistryError: one failed; its ``results`` are what the others got.
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
            # Nobody learns of what was won: it ends with its lease.
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
        """Renew a claim and report progress. Works after the end of the lease, if no other owner took over.

        Args:
            claim: the claim.
            lease: seconds from now; a lease is never shortened. Defaults to the claim's own. ``None``: for ever.
            message: text for people; ``None`` clears it. Defaults to no change.
            bytes_done: bytes downloaded so far. Defaults to no change.
            bytes_total: size of the download in bytes. Defaults to no change.

        Returns:
            The claim as it is now; ``None`` if it is lost, or was ended by this owner.
        """
        update = ProgressUpdate(message, bytes_done, bytes_total)
        (result,) = self._backend.renew([claim], lease=lease, updates=[update])
        return first_error([self._session.renewed(claim, result)])[0]

    def refresh_many(self, claims: Iterable[Claim], *, lease: Lease = Default.ITS_OWN) -> list[Claim | None]:
        """Renew many claims at once, in batches.

        Args:
            claims: the claims.
            lease: as in `refresh_download_claim`.

        Returns:
            One result for each claim, in order: the claim as it is now, or ``None``.

        Raises:
            RegistryError: one failed; its ``results`` are what the others got.
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
        """End the download of a claim. Works after the end of the lease, if no other owner took over.

        Args:
            claim: the claim.
            status: DOWNLOADED or ERROR.
            message: for people; at most 4,096 bytes.
            size_bytes: how large the files are (DOWNLOADED).
            location: where they are, relative to the cache (DOWNLOADED).
            resolved_revision: which commit was downloaded (DOWNLOADED).
            retry_in: seconds before which nobody may retry (ERROR).
            permanent: nobody may retry (ERROR).

        Returns:
            Whether the claim was current, or had ended in the same way before.
        """
        ending = Ending(
            status_of(status), message,
            size_bytes=size_bytes, location=location, resolved_revision=resolved_revision,
            retry_in=retry_in, permanent=permanent,
        )  # fmt: skip
        why_not = self._backend.finish(claim, ending)
        return self._session.ended(claim, f"finished as {status}", why_not)

    def release_download_claim(self, claim: Claim) -> bool:
        """Release a claim, so that another client can claim the model at once. The attempt is not counted.

        Args:
            claim: the claim.

        Returns:
            Whether the claim was current, or was released before.
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
        """Claim a model whose download ended in an error. Exactly one caller wins.

        Args:
            name: the model.
            provider: where it comes from.
            revision: which revision.
            subset: which part of the files.
            lease: as in `try_claim_for_download`.
            claim_id: as in `try_claim_for_download`.
            owner: human-readable owner of the claim. Defaults to the client's.
            max_attempts: no more attempts than that, the first included.

        Returns:
            The claim; ``None`` if it is no error, or a permanent one, if its back-off lasts, or somebody
            else won.
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
        """Ensure that a model is downloaded. One caller of the fleet downloads it, and the others wait.

        Who wins the claim runs ``download(claim)``, or ``download(claim, folder)`` with a store. The claim is kept
        alive meanwhile; ``claim.report()`` says how far it is, ``claim.describe()`` what it was. DOWNLOADED is said
        when the function has returned. An owner that dies is replaced when its lease ends; one that is
        cancelled gives its claim back at once.

        Args:
            name: the model.
            provider: where it comes from.
            download: a plain function; it runs in the caller's thread. When the claim is
                lost it has to stop: see ``claim.lost``. What it returns is not looked at.
            revision: which revision.
            subset: which part of the files.
            store: puts each model into a folder of its own, published by one rename.
            verify: a plain function, ``verify(record)`` says whether the files of a DOWNLOADED model are there;
                if not, its record is deleted by its token, and it is downloaded again.
            retry: how often the fleet tries the download, lost owners included. ``None``: the first error is final.
            lease: seconds that the claim holds without renewal; it is renewed at a third of that.
            owner: human-readable owner of the claim. Defaults to the client's.
            expected_bytes: size of the download in bytes. Defaults to unknown.
            timeout: seconds to wait for other owners, in all. Defaults to no limit. It does not limit a download of
                this caller.
            stall_timeout: seconds after which a download that has reported progress, and reports no more, is ended
                as an ERROR that may be retried; ``None``: never.
            visibility_timeout: seconds in which files that a DOWNLOADED record speaks of may still come to be
                seen (a push outruns file systems): so long after the end of their download they are looked for again.
            on_unavailable: when nobody answers: ``"raise"``, or ``"verify"``: what ``verify``, or the store,
                finds on disk is taken, with a WARNING; who was waiting already goes on waiting.
            on_unproven: an owner that can't prove its lease by its end is ``"cancel"``led, or may ``"continue"``, and
                publishes and finishes once its claim is proved again.
            touch: whether a model that is there already counts as used by this call, as by `touch_model`. The
                server is told in the background: this neither delays the call nor makes it fail. Of one model
                it is told at most once in ``touch_interval``, or in a second where the client has none.
                ``False`` is for a caller that only looks. Defaults to True.

        Returns:
            The record of the model that is there.

        Raises:
            DownloadFailed: the model is in ERROR, and is not retried now.
            LocalFault: this machine can't download, and no other one did meanwhile. The registry records nothing.
            WaitTimedOut: no owner finished the download in time.
            CacheMismatch: the store's folder is not the cache of this namespace.
            RegistryUnavailable: nobody answers, and ``on_unavailable`` allows nothing else; or nobody could be told
                of the end of a download before its lease was over.
            OutcomeUnknown: as above, and the server may have been told.
            ServerRefused: the server says no: rights are missing, its memory is full.
            DamagedRecord: the record can't be read.
            RegistryClosed: the client is closed, or shuts down, while this waits or downloads.
            InvalidArgument: an argument is wrong. Nothing was sent.
            ConfigurationError: claims can't be kept alive: connections like those of your own client can't be made.
            OSError: the store's files can't be looked at.
            Exception: what ``verify`` raised.
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

        ``with registry.download(name, provider) as got:`` waits, and gives an `OwnedClaim` to who is to
        download, in the block, and the `ModelRecord` to the others. To leave the block finishes the download; an
        exception that leaves it is recorded as ERROR. With a store the files go to ``store.staging(claim)``.

        Args:
            name: the model.
            provider: where it comes from.
            revision: which revision.
            subset: which part of the files.
            store: as in `ensure`.
            verify: as in `ensure`.
            retry: as in `ensure`; the block itself is not repeated.
            lease: as in `ensure`.
            owner: as in `ensure`.
            expected_bytes: as in `ensure`.
            timeout: as in `ensure`.
            stall_timeout: as in `ensure`.
            visibility_timeout: as in `ensure`.
            on_unavailable: as in `ensure`.
            on_unproven: as in `ensure`.
            touch: as in `ensure`.

        Raises:
            ClaimLost: the claim was lost in the block; what it did does not count.
            RegistryUnavailable, OutcomeUnknown: on leaving: nobody could be told before the lease was over.
            OSError: on leaving: the files could not be published; the model is recorded as ERROR.
            InvalidArgument, ConfigurationError: at once: as in `ensure`.
            RegistryError, OSError, Exception: on entering: as in `ensure`.
        """
        wish = self._wish(
            self._backend.keys_of(name, provider, revision, subset), store=store, verify=verify, retry=retry,
            lease=lease, owner=owner, expected_bytes=expected_bytes, timeout=timeout,
            stall_timeout=stall_timeout, visibility_timeout=visibility_timeout,
            on_unavailable=on_unavailable, on_unproven=on_unproven, touch=touch,
        )  # fmt: skip
        return Download(self._session, wish)

    def watch(self, name: str | None = None, provider: ProviderLike | None = None) -> EventStream:
        """Return the events of the registry as they happen: an iterator of `RegistryEvent`.

        Where events may be missing (the connection was made anew, or they were not taken fast enough) there is
        an `EventGap`: read the state again. As a context manager it listens from when it is entered.

        Args:
            name: of this model alone, in all its revisions and subsets.
            provider: of this provider alone.
        """
        if name is not None:
            checks.target(name, provider or ModelProvider.HUGGING_FACE, None, None)
        wanted = None if provider is None else checks.provider(provider)
        return EventStream(
            self._session.subscriber,
            lambda ref: name in (None, ref.name) and wanted in (None, ref.provider),
        )

    # What anybody may do

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
        """Set the status of a model from outside of a claim. A claim of it ends, unless DOWNLOADING stays.

        Args:
            name: the model.
            provider: where it comes from.
            status: DOWNLOADING (which then never ends by itself), DOWNLOADED or ERROR.
            message: for people; ``None`` clears it.
            revision: which revision.
            subset: which part of the files.
            retry_in: of an ERROR: seconds in which nobody retries it; ``None``: it may be retried at once.
            permanent: of an ERROR: nobody retries it.
            size_bytes: of a DOWNLOADED: how large the files are; ``None``: as before.
            location: of a DOWNLOADED: where the files are, relative to the cache; ``None``: as before.

        Raises:
            EvictionInProgress: its files are being removed.
            InvalidArgument: an option is not for this status.
            OutcomeUnknown: no answer came; it is not sent again by itself.
        """
        target = checks.target(name, provider, revision, subset)
        wanted = status_of(status)
        change = StatusChange(
            wanted, message,
            retry_in=retry_in, permanent=permanent, size_bytes=size_bytes, location=location,
        )  # fmt: skip
        # Our own claim of it ends by this, and that is no loss.
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
        """Cancel the download of a model, of any owner.

        Its owner stops at once, and callers that wait for it get `DownloadFailed` with the reason. The model is in
        ERROR: nobody downloads it before a cool-down is over, or, if it is permanent, before its record is deleted or
        its status set.

        Args:
            name: the model.
            provider: where it comes from.
            message: why, for people; who cancels is said with it.
            revision: which revision.
            subset: which part of the files.
            expected_token: only the download that has this token; ``None``: any.
            retry_in: the cool-down, in seconds; ``None``: 300. 0: another may begin at once.
            permanent: nobody downloads it by itself any more.

        Returns:
            Whether a download was under way, and has ended.

        Raises:
            InvalidArgument: ``retry_in`` with ``permanent``, or an argument out of its range.
            DamagedRecord: its record can't be read.
            OutcomeUnknown: no answer came, and without ``expected_token`` it is not sent again by itself.
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
        """Mark a model as used now. A touch alone does not protect its files from eviction.

        With ``touch_interval`` this takes no time: the server is told later, unless it was told already.

        Args:
            name: the model.
            provider: where it comes from; ``None``: all providers' copies.
            revision: which revision.
            subset: which part of the files.

        Returns:
            Whether it is known; with ``touch_interval``, True.
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
                pass  # no name can be that: it is told what is wrong with it below
            touches.touch(question, self._backend.keys_of(name, provider, revision, subset))
            return True
        known = self._backend.touch_model(name, provider, revision, subset)
        self._session.touched(name)
        return known

    def touch_models(self, models: Iterable[Model]) -> list[bool]:
        """Mark many models as used now, in batches.

        Args:
            models: `ModelRef`, (name, provider), or a name for all providers' copies.

        Returns:
            Whether each is known, in order.

        Raises:
            RegistryError: one failed; its ``results`` are what the others got.
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
            name: the model.
            provider: where it comes from; ``None``: all providers' copies.
            revision: which revision.
            subset: which part of the files.
            expected_token: only the record that has this token.
            force: also if it is held, being evicted, or can't be read.

        Returns:
            How many records are gone by this call.

        Raises:
            EvictionInProgress: its files are being removed. (Other providers' copies are gone.)
            ModelHeld: somebody holds its files. (Other providers' copies are gone.)
            OutcomeUnknown: no answer came; without a token it is not sent again by itself.
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
        """Return whether a model is DOWNLOADED. A server can ask this before each request.

        Args:
            name: the model.
            provider: where it comes from; ``None``: any copy will do.
            revision: which revision.
            subset: which part of the files.
        """
        cache = self._cache
        if cache is not None:
            known = cache.known
            question: Hashable = name
            if provider is not None or revision is not None or subset is not None:
                question = (ASKED, name, provider, revision, subset)
            try:
                # In this order: the answer is as new as what vouches for it.
                may = now() < known.epoch.until or (question in known.answers and cache.validate())
                if may and (answer := known.answers.get(question)) is not None:
                    return answer is True
            except TypeError:
                pass  # no name can be that, and it is told below what is wrong with it
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
            name: the model.
            provider: where it comes from; ``None``: any; one that is DOWNLOADED is preferred.
            revision: which revision.
            subset: which part of the files.

        Returns:
            Its status, or ``None`` if it is unknown.
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
            name: the model.
            provider: where it comes from; ``None``: any; one that is DOWNLOADED is preferred.
            revision: which revision.
            subset: which part of the files.

        Returns:
            Its record, or ``None`` if it is unknown. From memory (``near_cache``) with the last use as of then.
        """
        return self._backend.get_record(name, provider, revision, subset)

    def get_model_records(self, models: Iterable[Model]) -> list[ModelRecord | None]:
        """Return the records of many models, in batches.

        Args:
            models: `ModelRef`, (name, provider), or a name for any provider's copy.

        Returns:
            The record of each, or ``None``, in order.

        Raises:
            RegistryError: one failed; its ``results`` are the others.
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
        """Return the models in the order of their last use, oldest first.

        Args:
            limit: no more than that; ``None``: all.
            status: only these.
        """
        most = None if limit is None else checks.whole("limit", limit)
        wanted = None if status is None else status_of(status)
        if most == 0:
            return []
        # By what it is of: a model that is used while this reads may come twice, and its later use counts.
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
        """Iterate over the models in the order of their last use, oldest first. Reads in batches, for very many models.

        None that is there throughout is missed; one that is used meanwhile may come again.

        Args:
            batch_size: how many to read at a time, 1 to 500.
            status: only these.
        """
        checks.whole("batch_size", batch_size, least=1, most=500)
        return self._iterate(batch_size, None if status is None else status_of(status))

    def _iterate(self, batch_size: int, status: ModelStatus | None) -> Iterator[ModelRecord]:
        for record in self._backend.scan(batch_size, status):
            if record is not None and self._listable(record, status):
                yield cast("ModelRecord", record)

    def get_status_counts(self) -> StatusCounts:
        """Return how many records are DOWNLOADING, DOWNLOADED, and ERROR."""
        return self._backend.counts()


def create_registry_backend(config: BackendConfig) -> Registry:
    """Connect, and return a client of the backend that the configuration names.

    Args:
        config: from `BackendConfig.redis` or `BackendConfig.from_env`.

    Raises:
        RegistryError: what `Registry.from_url` and `Registry.connect` raise.
    """
    backend = Registry.from_url(config.url, config.namespace, **config.options)
    try:
        backend.connect()
    except BaseException:
        backend.close()
        raise
    return backend
