"""The client of these tests, behind a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pyregistry import AlreadyExists, AsyncRegistry, Claimed
from pyregistry._redis.transport.pending import Batch
from tests.support.faults.proxy import SECONDS, Proxy
from tests.support.internals import transport_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Result = Claimed | AlreadyExists


@pytest.fixture
async def registry(proxy: Proxy, namespace: str) -> AsyncIterator[AsyncRegistry]:
    """The client under test, behind the proxy."""
    async with AsyncRegistry.from_url(proxy.url, namespace, timeout=2 * SECONDS) as registry:
        yield registry
        transport: Any = transport_of(registry)
        # What is under way is counted, not looked up: whatever happened, the count is right.
        pipe = transport._pipe
        expected = 0 if pipe is None else sum(len(batch.calls) for batch in pipe.awaited(Batch))
        assert transport._under_way == expected
