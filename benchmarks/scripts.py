"""What each script costs in the server (`INFO commandstats`): alone, in batches, and as records grow."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Any

import redis

from benchmarks import contenders as who
from benchmarks import setup
from benchmarks.bare import BareSocket, packed
from benchmarks.measure import Absent, Figure, Job, progress
from benchmarks.options import Options
from benchmarks.servers import Server
from pyregistry._core.values import chunks
from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.protocol.scripts import BATCH
from pyregistry._redis.protocol.transitions import SCRIPTS

TABLE = "Server time per item, by script"
ALONE, BATCHED = "pyregistry, alone", "pyregistry, batches of 64"
UNDER_WAY = 50  # commands of ours, and tasks of the original: the server is as busy with both
SINGLE = ("counts", "lru_head")  # these take no batches of models
CLAIM = "claim_fresh"
LEAST = "the commands of a claim, nothing around them"
#: The commands of a new claim alone, and texts about as long: nothing is checked, no token is sure to grow.
LEAST_SCRIPT = r"""#!lua
local call = redis.call
call('HMGET', KEYS[1], 'time', 'skew', 'clock')
local utc = call('TIME')
call('GET', KEYS[6])
local now = utc[1] * 1000000 + utc[2]
local text, packed = string.format('%.0f', now), cmsgpack.pack(now)
local record = '\152\171DOWNLOADING' .. packed .. '\1' .. ARGV[2] .. ARGV[6] .. packed .. '\1' .. packed
call('SPUBLISH', ARGV[1], '\145\150\167claimed' .. KEYS[6] .. packed .. '\160' .. packed .. record)
call('ZADD', KEYS[2], text, KEYS[6])
call('HSET', KEYS[1], 'time', text, 'clock', text)
call('MSET', KEYS[6], record)
return '\145\151\167claimed' .. packed .. ARGV[3]
"""
OPERATIONS = (
    CLAIM, "claim_contended", "touch_model", "get_model_record", "set_status", "renew", "finish",
    "release", "retry", "delete_model", *SINGLE,
)  # fmt: skip


def run(server: Server, options: Options) -> list[Figure]:
    """The claims of both, in turn; then each script, on an almost empty server and with many records."""
    count = options.calls(64 * 100)
    count -= count % BATCH
    few, many = options.sizes[0], min(options.sizes[-1], 100_000)
    with redis.Redis.from_url(server.url) as client:
        figures = _claims(server, client, options, count, few)
        for records in (few, many):
            rows = {
                (what, batch): _row(server, what, batch, records)
                for what in OPERATIONS
                for batch in ((1,) if what in SINGLE else (1, BATCH))
                if (what, records) != (CLAIM, few)
            }
            figures += rows.values()
            for _ in range(options.least):
                for (what, batch), row in rows.items():
                    row.add(script_us=_cost(server, client, what, count, batch, records))
            progress(TABLE, server, f"{records:,} records")
    return figures


def _claims(server: Server, client: redis.Redis, options: Options, count: int, records: int) -> list[Figure]:
    """New claims, in turn with the original's; three turns in a round: a ratio of these is an aim."""
    ours = {batch: _row(server, CLAIM, batch, records) for batch in (1, BATCH)}
    least = Figure(TABLE, server.name, CLAIM, LEAST, {"records": records})
    with ExitStack() as stack:
        originals = _originals(server, options, stack)
        for _ in range(3 * options.least):
            for peer, row in originals.items():
                if not row.note:
                    row.add(script_us=_cost_of_original(client, peer, count))
            for batch, row in ours.items():
                row.add(script_us=_cost(server, client, CLAIM, count, batch, records))
            least.add(script_us=_cost(server, client, CLAIM, count, 1, records, LEAST_SCRIPT))
            client.flushall()  # these are no records
    progress(TABLE, server, "claims")
    return [*originals.values(), *ours.values(), least]


def _row(server: Server, what: str, batch: int, records: int) -> Figure:
    return Figure(TABLE, server.name, what, BATCHED if batch > 1 else ALONE, {"records": records})


def _cost(
    server: Server,
    client: redis.Redis,
    what: str,
    count: int,
    batch: int,
    records: int,
    instead: str | None = None,
) -> float:
    """Microseconds for one item; ``instead``: by this script, which takes the same keys and arguments."""
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
    if instead is not None:
        sha = client.script_load(instead)
        commands = [(command[0], sha, *command[2:]) for command in commands]
    ready = packed(commands)
    client.config_resetstat()
    with closing(BareSocket(server.url)) as bare:
        bare.pump(ready, UNDER_WAY)
    cost = _evalsha_us(client) / count
    _forget(server, client, what, count)
    return cost


def _forget(server: Server, client: redis.Redis, what: str, count: int) -> None:
    """The records of this job go; those that were there stay."""
    ops = RequestFactory(setup.NAMESPACE, None, ())
    pipeline: Any = client.pipeline(transaction=False)
    for part in chunks(range(count), BATCH):
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
        row = rows[peer] = Figure(TABLE, server.name, CLAIM, peer.name, {"records": 0})
        try:
            peer.start(server, stack)
        except Absent as why:
            row.note = str(why)
    return rows


def _cost_of_original(client: redis.Redis, peer: who.Rust, count: int) -> float:
    """Microseconds for one claim."""
    client.flushall()
    peer.prepare(Job(CLAIM, UNDER_WAY, count, count))
    client.config_resetstat()
    peer.go()
    return _evalsha_us(client) / count
