"""The ModelExpress way, written anew from its description: one hash for each model, and nothing else.

What looks at all models finds their keys by SCAN, reads them through pipelines, and sorts here. Who waits
for a download claims again every 500 ms. (`benchmarks.seed` lets such waiters claim by our own script, so
that the way of waiting is all that differs.)
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import redis

PREFIX = "mx:model:HuggingFace:"
POLL_SECONDS = 0.5


class Baseline:
    """A registry of hashes."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client

    def fill(self, numbers: range, name: str = "organisation/model-{:021d}") -> None:
        """Models that are DOWNLOADED."""
        for start in range(numbers.start, numbers.stop, 10_000):
            pipeline = self._client.pipeline(transaction=False)
            for number in range(start, min(start + 10_000, numbers.stop)):
                key, now = PREFIX + name.format(number), _now()
                fields = {"provider": "HuggingFace", "created_at": now, "last_used_at": now}
                pipeline.hset(key, mapping={**fields, "status": "DOWNLOADED"})
            pipeline.execute()

    def lru_head(self, limit: int) -> list[dict[bytes, bytes]]:
        """The models that were not used for longest."""
        records = [fields for fields in self._read("HGETALL") if fields]
        records.sort(key=lambda fields: bytes(fields[b"last_used_at"]))
        return records[:limit]

    def counts(self) -> tuple[int, int, int]:
        """How many are DOWNLOADING, DOWNLOADED and ERROR."""
        found = list(self._read("HGET", "status"))
        return found.count(b"DOWNLOADING"), found.count(b"DOWNLOADED"), found.count(b"ERROR")

    def _read(self, verb: str, *more: str) -> Iterator[Any]:
        """What a command says of each model, through pipelines of 500."""
        seen, cursor = set[bytes](), 0
        while True:
            cursor, keys = self._client.scan(cursor, match="mx:model:*", count=500)
            fresh = [key for key in keys if key not in seen]
            seen.update(fresh)
            pipeline = self._client.pipeline(transaction=False)
            for key in fresh:
                pipeline.execute_command(verb, key, *more)
            yield from pipeline.execute()
            if not cursor:
                return


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
