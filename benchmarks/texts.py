"""Server time of other texts of the scripts against ``lua/dist``: ``python -m benchmarks.texts FOLDER``.

The folder holds ``claim.v1.lua`` and ``touch.v1.lua`` of another checkout, for example of the last commit. Both texts
run on one server, in short turns, so that other load meets both alike. The ratio is the median of the ratios of the
turns: above 1, ``lua/dist`` takes longer.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import redis

from benchmarks.servers import Server, binaries, serve
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry._redis.protocol.scripts import BATCH, Script, load, script_of

KEYS = Keyspace("texts")
CALLS = 128  # of one item; in batches twice as many items
WHATS: dict[str, tuple[str, str]] = {
    "claim, fresh": ("claim", "first"),
    "touch": ("touch", ""),
    "claim, contended": ("claim", "second"),
}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.texts", description=__doc__)
    parser.add_argument("folder", type=Path, help="the other texts")
    parser.add_argument("--turns", type=int, default=300, help="turns of each text (300)")
    parser.add_argument("--binary", help="the only server to measure: a program, or 'embedded'")
    options = parser.parse_args()
    names = {name for name, _ in WHATS.values()}
    texts = {name: (options.folder / f"{name}.v1.lua").read_text("utf-8") for name in names}
    other = {name: script_of(name, 1, text) for name, text in texts.items()}
    ours = {name: load(name, 1) for name in names}
    for binary in binaries(options.binary):
        with serve(binary) as server:
            compare(server, other, ours, options.turns)


def compare(server: Server, other: dict[str, Script], ours: dict[str, Script], turns: int) -> None:
    """Run both in turn on one server."""
    costs: dict[tuple[str, int], tuple[list[float], list[float]]] = {}
    with redis.Redis.from_url(server.url) as client:
        for script in (*other.values(), *ours.values()):
            client.script_load(script.text)
        for turn in range(turns):
            for side in (0, 1) if turn % 2 else (1, 0):
                for batch in (1, BATCH):
                    client.flushdb()
                    for what, (name, tag) in WHATS.items():
                        cost = _cost(client, (other, ours)[side][name], batch, tag)
                        costs.setdefault((what, batch), ([], []))[side].append(cost)
    print(f"{server.name}: microseconds for one item, other and ours")
    for (what, batch), (theirs, mine) in costs.items():
        ratio = statistics.median(new / old for old, new in zip(theirs, mine, strict=True))
        medians = " ".join(f"{statistics.median(each):7.2f}" for each in (theirs, mine))
        least = " ".join(f"{min(each):7.2f}" for each in (theirs, mine))
        print(f"{what:18} batch {batch:2}  median {medians}  minimum {least}  ratio {ratio:.3f}")


def _cost(client: redis.Redis, script: Script, batch: int, tag: str) -> float:
    """Microseconds for one item."""
    shared: list[Any] = [KEYS.channel, "host:1", 60_000_000, 0, 0] if script.name == "claim" else []
    count = CALLS if batch == 1 else 4 * batch
    pipeline = client.pipeline(transaction=False)
    for begin in range(0, count, batch):
        part = range(begin, begin + batch)
        keys = [*KEYS.shared, *(KEYS.record(f"HuggingFace:organisation/model-{at:06d}") for at in part)]
        args: list[Any] = [value for at in part for value in (f"{tag}-{at:020d}", 0)] if shared else []
        pipeline.evalsha(script.sha, len(keys), *keys, *shared, *args)
    client.config_resetstat()
    pipeline.execute()
    stats: dict[str, Any] = client.info("commandstats")
    return float(stats["cmdstat_evalsha"]["usec"]) / count


if __name__ == "__main__":
    main()
