"""Does it matter how many records there are, and what does one cost?

``python -m benchmarks.scale`` starts a server of its own and compares, in one run, the medians of
``get_models_by_last_used(limit=10)`` and ``get_status_counts()`` with 1,000 and with 1,000,000 records. Then
it divides the server's memory by the number of records, their share of the index included: DOWNLOADED, with
a name of 40 characters, a size and no message; and DOWNLOADING, with a message of 40 characters.

It exits with 1 if a limit is broken: twice the time, 420 bytes for a DOWNLOADED record, 500 for a
DOWNLOADING one (limits for Redis 7.0; ``--binary`` names its server).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from pyregistry import Claim, Claimed, Registry
from pyregistry._core.model_key import entry_of
from pyregistry._core.values import chunks
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry._redis.protocol.scripts import BATCH, Script
from pyregistry._redis.protocol.transitions import FINISH, RENEW
from pyregistry.embedded import EmbeddedServer

TIMES, DOWNLOADED_BYTES, DOWNLOADING_BYTES = 2.0, 420, 500
PORTION = 6400  # records in one go: full batches, and little memory on this side


def claimed(registry: Registry, numbers: range) -> Iterator[list[Claim]]:
    """Claims models with names of 40 characters."""
    for part in chunks(numbers, PORTION):
        models = [(f"organisation/model-{number:021d}", "HuggingFace") for number in part]
        results = registry.try_claim_many(models, lease=86400.0)
        yield [result.claim for result in results if isinstance(result, Claimed)]


def run(
    client: redis.Redis, keys: Keyspace, script: Script, claims: Sequence[Claim], *more: str | int
) -> None:
    """Runs a script of the owner's for all these claims, in full batches down one pipeline."""
    pipeline = client.pipeline(transaction=False)
    for batch in chunks(claims, BATCH):
        names = [keys.record(entry_of(claim.model_name, str(claim.provider), None, None)) for claim in batch]
        items = [value for claim in batch for value in (claim.claim_id, claim.token, *more)]
        arguments: list[Any] = [*keys.shared, *names, keys.channel, *items]
        pipeline.evalsha(script.sha, len(keys.shared) + len(batch), *arguments)
    pipeline.execute()


def finish(client: redis.Redis, keys: Keyspace, claims: Sequence[Claim]) -> None:
    """All of them DOWNLOADED, 14 GB each."""
    run(client, keys, FINISH, claims, "DOWNLOADED", "", 14_000_000_000, "", "", 0, 0, 0, 0)


def renew(client: redis.Redis, keys: Keyspace, claims: Sequence[Claim]) -> None:
    """All of them with a message of 40 characters and progress."""
    run(client, keys, RENEW, claims, 86_400_000_000, 1, "m" * 40, 7_000_000_000, 14_000_000_000, 0)


def fill(
    client: redis.Redis,
    registry: Registry,
    numbers: range,
    write: Callable[[redis.Redis, Keyspace, Sequence[Claim]], None],
) -> None:
    """Claims models, and has `finish` or `renew` write each."""
    keys = Keyspace(registry.namespace)
    for claims in claimed(registry, numbers):
        write(client, keys, claims)


def median_of(call: Callable[[], object], times: int = 500) -> float:
    """Seconds, after a warm-up."""
    taken = []
    for _ in range(times + 50):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[50:])


def used(client: redis.Redis) -> int:
    """Bytes that the server has allocated."""
    return int(client.info("memory")["used_memory"])


def measure(url: str, small: int, large: int) -> dict[str, Any]:
    """All of it, on an empty server."""
    figures: dict[str, Any] = {"records": [small, large]}
    with redis.Redis.from_url(url) as client, Registry.from_url(url, "scale") as registry:
        figures["server"] = registry.server_version
        empty, done = used(client), 0
        for size in (small, large):
            fill(client, registry, range(done, size), finish)
            done = size
            assert registry.get_status_counts() == (0, size, 0), "the fill went wrong"
            figures[f"lru_seconds_{size}"] = median_of(lambda: registry.get_models_by_last_used(limit=10))
            figures[f"counts_seconds_{size}"] = median_of(registry.get_status_counts)
        figures["downloaded_bytes"] = (used(client) - empty) / large
        client.flushall()
        registry.connect()
        empty, size = used(client), large // 10
        fill(client, registry, range(size), renew)
        figures["downloading_bytes"] = (used(client) - empty) / size
    for what in ("lru", "counts"):
        figures[f"{what}_ratio"] = figures[f"{what}_seconds_{large}"] / figures[f"{what}_seconds_{small}"]
    return figures


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--binary", type=Path, help="the server to run; default: the embedded one")
    parser.add_argument("--small", type=int, default=1_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    with EmbeddedServer(binary=args.binary) as server:
        figures = measure(server.url, args.small, args.large)
    limits = {
        "lru_ratio": TIMES,
        "counts_ratio": TIMES,
        "downloaded_bytes": DOWNLOADED_BYTES,
        "downloading_bytes": DOWNLOADING_BYTES,
    }
    broken = [name for name, limit in limits.items() if figures[name] > limit]
    if args.json:
        print(json.dumps({**figures, "broken": broken}, indent=1))
    else:
        print(f"{figures['server']}; {args.small:,} against {args.large:,} records")
        for name, limit in limits.items():
            verdict = "BROKEN" if name in broken else "kept"
            print(f"{name:20} {figures[name]:8.2f}   limit {limit:g}   {verdict}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
