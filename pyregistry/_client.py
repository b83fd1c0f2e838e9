"""Base class of both clients: shared properties, and the argument checks of `ensure`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NoReturn

from pyregistry._coordination.options import EnsureRequest
from pyregistry._coordination.session_async import AsyncSession
from pyregistry._coordination.session_sync import Session
from pyregistry._core import validation as checks
from pyregistry._core.model_key import ModelKey
from pyregistry.errors import DamagedRecord, InvalidArgument
from pyregistry.models import ModelRecord, ModelStatus

_log = logging.getLogger("pyregistry")


class Client:
    """Base class of `Registry` and `AsyncRegistry`."""

    _session: AsyncSession | Session

    @property
    def namespace(self) -> str:
        """Name of the registry. It stands for one cache, shared or local to a node."""
        return self._session.backend.namespace

    @property
    def owner(self) -> str:
        """Human-readable name of this client."""
        return self._session.backend.owner

    @property
    def server_version(self) -> str | None:
        """Product and version of the server, such as ``valkey 9.1.2``. ``None`` before the first connection."""
        return self._session.backend.server_version

    @property
    def stale_answers(self) -> int:
        """Number of stale answers: last known statuses given while no server answered (``stale_for``)."""
        cache = self._session.backend.cache
        return 0 if cache is None else cache.stale_answers

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._session.backend.display_name!r}, namespace={self.namespace!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} does not pickle: make one from its URL in the other process"
        )

    def _wish(self, keys: Sequence[ModelKey], **wishes: Any) -> EnsureRequest:
        if len(keys) != 1:
            raise InvalidArgument("provider", "must be named: a download comes from one place")
        if wishes["owner"] is not None:
            checks.owner(wishes["owner"])
        if wishes["expected_bytes"] is not None:
            checks.whole("expected_bytes", wishes["expected_bytes"])
        self._session.keepalive.check()
        return EnsureRequest(target=keys[0], **wishes)

    def _listable(self, record: ModelRecord | DamagedRecord | None, status: ModelStatus | None) -> bool:
        """Return whether to list a scanned record. Deleted and damaged records, and other statuses, are skipped."""
        if isinstance(record, DamagedRecord):
            _log.warning("left out: %s", record)
            return False
        return record is not None and (status is None or record.status is status)
