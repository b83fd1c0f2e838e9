"""What each script costs in the server (`INFO commandstats`): alone, in batches, and as records grow."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import redis

from benchmarks import contenders as who
from benchmarks import setup
from benchmarks.measure import Absent, Figure, Job, progress
from benchmarks.options import Options
from benchmarks.servers import Server
from pyregistry._ops import SCRIPTS, Ops, chunks
from pyregistry._scripts import BATCH

TABLE = "Server time per item, by script"
ALONE, BATCHED = "pyregistry, alone", "pyregistry, batches of 64"
SINGLE = ("counts", "lru_head")  # these take no batches of models
OPERATIONS = (
    "claim_fresh", "claim_contended", "touch_model", "get_model_record", "set_status", "renew", "finish",
    "release", "retry", "delete_model", *SINGLE,
)  # fmt: skip


def run(server: Server, options: Options) -> list[Figure]:
    """Each script on an almost empty server, in turn with the original's claims; then with many records."""
    count = options.calls(64 * 100)
    count -= count % BATCH
    few, many = options.sizes[0], min(options.sizes[-1], 100_000)
    figures: list[Figure] = []
    with redis.Redis.from_url(server.url) as client:
        for records in (few, many):
            rows = {
                (what, batch): Figure(
                    TABLE, server.name, what, BATCHED if batch > 1 else ALONE, {"records": records}
                )
                for what in OPERATIONS
                for batch in ((1,) if what in SINGLE else (1, BATCH))
            }
            figures += rows.values()
            with ExitStack() as stack:
                originals = _originals(server, options, stack) if records == few else {}
                figures += originals.values()
                for _ in range(options.rounds):
                    for peer, row in originals.items():
                        if not row.note:
                            row.add(script_us=_cost_of_original(client, peer, count))
                    for (what, batch), row in rows.items():
                        row.add(script_us=_cost(server, client, what, count, batch, records))
            progress(TABLE, server, f"{records:,} records")
    return figures


def _cost(server: Server, client: redis.Redis, what: str, count: int, batch: int, records: int) -> float:
    """Microseconds for one item."""
    known = client.exists(f"pyregistry:{{{setup.NAMESPACE}}}:downloaded") and client.zcard(
        f"pyregistry:{{{setup.NAMESPACE}}}:downloaded"
    )
    if not known or known < records:
        client.flushall()
        setup.prepare(server.url, "counts", 0, records, "filled")
    for script in SCRIPTS:
        client.script_load(script.text)
    models = 1 if what == "claim_contended" else count
    claims = setup.prepare(server.url, what, count, models, "cost")
    ops = setup.operations(what, count, models, "cost", claims, setup.PROVIDER)
    commands = (
        [setup.batched(part) for part in chunks(ops, batch)]
        if ops[0].items
        else [op.head.command([op]) for op in ops]
    )
    client.config_resetstat()
    for part in chunks(commands, max(1, 640 // batch)):
        pipeline: Any = client.pipeline(transaction=False)
        for command in part:
            pipeline.execute_command(*command)
        pipeline.execute()
    cost = _evalsha_us(client) / count
    _forget(server, client, what, count)
    return cost


def _forget(server: Server, client: redis.Redis, what: str, count: int) -> None:
    """The records of this job go; those that were there stay."""
    ops = Ops(setup.NAMESPACE, None, ())
    pipeline: Any = client.pipeline(transaction=False)
    for part in chunks(range(count)):
        names = [setup.model_name("cost", number) for number in part]
        gone = [setup.operation(ops, "delete_model", name, None, setup.PROVIDER) for name in names]
        pipeline.execute_command(*setup.batched(gone))
    pipeline.execute()


def _evalsha_us(client: redis.Redis) -> float:
    stats: dict[str, Any] = client.info("commandstats")
    return float(stats["cmdstat_evalsha"]["usec"])


def _originals(server: Server, options: Options, stack: ExitStack) -> dict[who.Rust, Figure]:
    """The claims of the Rust original, as its own client sends them."""
    rows = {}
    for peer in who.rust(options):
        row = rows[peer] = Figure(TABLE, server.name, "claim_fresh", peer.name, {"records": 0})
        try:
            peer.start(server, stack)
        except Absent as why:
            row.note = str(why)
    return rows


def _cost_of_original(client: redis.Redis, peer: who.Rust, count: int) -> float:
    """Microseconds for one claim."""
    client.flushall()
    peer.prepare(Job("claim_fresh", 50, count, count))
    client.config_resetstat()
    peer.go()
    return _evalsha_us(client) / count
