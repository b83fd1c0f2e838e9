"""What is a call of the blocking client made of, and how much of it could another client save?

``python -m benchmarks.blocking`` compares, from one thread, over TCP (or ``--unix``) on one machine:

- *bare socket*: commands that were packed before, a reply that nobody decodes: the server, and the way there and back;
- *its commands alone*: the same, with a script that has the server do what any script that keeps such records must,
  and judges nothing;
- *with our objects*: the same socket; each command is made and packed, and each reply becomes what ours returns:
  no client that answers the same with the same code is faster, whatever its connections cost;
- *pyregistry*: the call itself;
- *redis-py evalsha*: the same script calls, made before, not decoded.

What ours would be if its scripts cost no more than those commands is told last: the time between the first two is taken
from it and from redis-py's.

The speed of a machine that others share changes within a second. So these take turns of a few hundred calls, forwards
and backwards; what is told are medians of the turns, and of the ratios within a turn.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, TypeAlias

import redis

from benchmarks import setup
from benchmarks.bare import BareSocket, packed
from benchmarks.measure import Figure, number, progress
from benchmarks.options import Options
from benchmarks.scripts import LEAST_SCRIPT
from benchmarks.servers import Server, binaries, serve
from pyregistry import ModelStatus, Registry
from pyregistry._core import validation as checks
from pyregistry._redis.protocol.request import Request
from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.protocol.transitions import SCRIPTS
from pyregistry.backend.values import StatusChange

Lock: TypeAlias = "Callable[[Sequence[str]], tuple[Callable[[Any], object], Sequence[Any]]]"
"""Prepares a turn with these models: what is called, and with what."""

BARE, LEAST, OBJECTS, OURS, EVALSHA = (
    "bare socket", "its commands alone", "with our objects", "pyregistry", "redis-py evalsha",
)  # fmt: skip
AT_LEAST = "pyregistry, with its commands alone"
TABLE = "Blocking calls, one thread"
MODELS = 200

_NOW = r"""#!lua
local call, format = redis.call, string.format
local at = string.find(KEYS[6], '}:model:', 1, true) + 8
call('HMGET', KEYS[1], 'time', 'skew', 'clock')
local utc = call('TIME')
local now = format('%.0f', utc[1] * 1000000 + utc[2])
"""
_TOUCH = (
    _NOW
    + r"""
for i = 6, #KEYS do
  if call('GET', KEYS[i]) then call('ZADD', KEYS[3], now, string.sub(KEYS[i], at)) end
end
call('HSET', KEYS[1], 'time', now, 'clock', now)
return '\145\145\165known'
"""
)
_RECORD = r"""#!lua flags=no-writes
local call, pack, found = redis.call, cmsgpack.pack, ''
local at = string.find(KEYS[5], '}:model:', 1, true) + 8
for i = 5, #KEYS do
  local text = call('GET', KEYS[i])
  if text then found = '\147' .. pack('found', tonumber(call('ZSCORE', KEYS[2], string.sub(KEYS[i], at)))) .. text end
end
return '\145' .. found
"""
_SET_STATUS = (
    _NOW
    + r"""
local entry, text = string.sub(KEYS[6], at), call('GET', KEYS[6])
call('SPUBLISH', ARGV[1], '\145\150\163set' .. entry .. now .. ARGV[2] .. now .. text)
for i = 2, 5 do if i ~= 3 then call('ZREM', KEYS[i], entry) end end
call('ZADD', KEYS[3], now, entry)
call('HSET', KEYS[1], 'time', now, 'clock', now)
call('MSET', KEYS[6], text)
return '\145\148\164done\160\160\0'
"""
)
#: Of each call the commands that its script must run, and texts about as long.
LEAST_SCRIPTS = {
    "claim": LEAST_SCRIPT,
    "set_status": _SET_STATUS,
    "touch": _TOUCH,
    "touch, any provider": _TOUCH,
    "record": _RECORD,
    "record, any provider": _RECORD,
}

ASKS: dict[str, Callable[[RequestFactory, str], Request[Any]]] = {
    "claim": lambda ops, name: ops.claiming(setup.PROVIDER, None, None, setup.LEASE, None, None).claim(name),
    "set_status": lambda ops, name: ops.set_status(
        checks.target(name, setup.PROVIDER, None, None), StatusChange(ModelStatus.DOWNLOADED)
    ),
    "touch": lambda ops, name: ops.touch_model(name, setup.PROVIDER, None, None),
    "touch, any provider": lambda ops, name: ops.touch_model(name, None, None, None),
    "record": lambda ops, name: ops.get_record(name, setup.PROVIDER, None, None),
    "record, any provider": lambda ops, name: ops.get_record(name, None, None, None),
}
CALLS: dict[str, Callable[[Registry, str], object]] = {
    "claim": lambda ours, name: ours.try_claim_for_download(name, setup.PROVIDER, lease=setup.LEASE),
    "set_status": lambda ours, name: ours.set_status(name, setup.PROVIDER, ModelStatus.DOWNLOADED),
    "touch": lambda ours, name: ours.touch_model(name, setup.PROVIDER),
    "touch, any provider": lambda ours, name: ours.touch_model(name),
    "record": lambda ours, name: ours.get_model_record(name, setup.PROVIDER),
    "record, any provider": lambda ours, name: ours.get_model_record(name),
}


class Clients:
    """All that is compared, on one server."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.ours = stack.enter_context(Registry.from_url(url, setup.NAMESPACE))
        self.bare = stack.enter_context(closing(BareSocket(url)))
        self.redis = stack.enter_context(redis.Redis.from_url(url))
        self.ops = RequestFactory(setup.NAMESPACE, None, ())
        for script in SCRIPTS:
            self.redis.script_load(script.text)

    def turns(self, what: str) -> dict[str, Lock]:
        """Who takes a turn."""
        ask, call = ASKS[what], CALLS[what]
        ops, bare = self.ops, self.bare
        evalsha: Any = self.redis.evalsha
        least = str(self.redis.script_load(LEAST_SCRIPTS[what]))

        def commands(names: Sequence[str]) -> list[tuple[str, ...]]:
            made = [ask(ops, name) for name in names]
            return [tuple(map(str, op.head.command([op]))) for op in made]

        def with_objects(name: str) -> object:
            op = ask(ops, name)
            return op.head.read(op, bare.ask(op.packed()))

        return {
            BARE: lambda names: (bare.ask, packed(commands(names))),
            LEAST: lambda names: (
                bare.ask,
                packed([(verb, least, *rest) for verb, _, *rest in commands(names)]),
            ),
            OBJECTS: lambda names: (with_objects, names),
            OURS: lambda names: (partial(call, self.ours), names),
            EVALSHA: lambda names: (
                lambda words: evalsha(*words),
                [(sha, int(keys), *rest) for _, sha, keys, *rest in commands(names)],
            ),
        }


def taken(turn: Lock, names: Sequence[str]) -> float:
    """Microseconds for a call."""
    call, arguments = turn(names)
    gc.collect()
    begun = time.perf_counter()
    for argument in arguments:
        call(argument)
    return (time.perf_counter() - begun) / len(arguments) * 1e6


def _names(what: str, calls: int) -> Iterator[list[str]]:
    """The models of each turn: to be claimed, they must be new."""
    first = 0
    while True:
        yield [setup.model_name("m", first + at if what == "claim" else at % MODELS) for at in range(calls)]
        first += calls


def measure(url: str, what: str, turns: int, calls: int) -> dict[str, list[float]]:
    """Microseconds for a call of each in every turn, after one that does not count."""
    with ExitStack() as stack:
        clients = Clients(url, stack)
        clients.redis.flushdb()
        if what != "claim":
            for at in range(MODELS):
                clients.ours.set_status(setup.model_name("m", at), setup.PROVIDER, ModelStatus.DOWNLOADED)
        each, names = clients.turns(what), _names(what, calls)
        found: dict[str, list[float]] = {who: [] for who in each}
        for turn in range(turns + 1):
            for who in list(each)[:: 1 if turn % 2 else -1]:
                found[who].append(taken(each[who], next(names)))
    return {who: values[1:] for who, values in found.items()}


def run(server: Server, options: Options) -> list[Figure]:
    """The same as rows among all others: a turn is a round."""
    figures = []
    for what in ASKS:
        for client, values in measure(server.url, what, 8 * options.least + 1, options.calls(200)).items():
            row = Figure(TABLE, server.name, what, client, {"tasks": 1}, rounds=list(range(len(values))))
            for microseconds in values:
                row.add(per_second=1e6 / microseconds, mean_us=microseconds)
            figures.append(row)
        progress(TABLE, server, what)
    return figures


def row(what: str, found: dict[str, list[float]]) -> str:
    """A line of the table: microseconds, and against evalsha."""
    saved = [bare - least for bare, least in zip(found[BARE], found[LEAST], strict=True)]
    ours, theirs = (
        [value - less for value, less in zip(found[who], saved, strict=True)] for who in (OURS, EVALSHA)
    )
    cells = [_cell(values, found[EVALSHA]) for who, values in found.items() if who != EVALSHA]
    cells += [f"{statistics.median(found[EVALSHA]):.1f}", _cell(ours, theirs)]
    return f"| {what} | {' | '.join(cells)} |"


def _cell(values: Sequence[float], theirs: Sequence[float]) -> str:
    ratio = statistics.median(their / mine for their, mine in zip(theirs, values, strict=True))
    return f"{statistics.median(values):.1f} ({number(ratio)})"


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.blocking",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--turns", type=int, default=101, help="of each (101)")
    parser.add_argument("--calls", type=int, default=200, help="in a turn (200)")
    parser.add_argument("--unix", action="store_true", help="over a unix socket, not TCP")
    parser.add_argument("--binary", help="the only server to measure: a program, or 'embedded'")
    options = parser.parse_args()
    for binary in binaries(options.binary):
        with serve(binary) as server:
            url, rows = server.unix_url if options.unix else server.url, []
            for what in ASKS:
                rows.append(row(what, measure(url, what, options.turns, options.calls)))
                progress("Blocking", server, what)
        way = "unix socket" if options.unix else "TCP"
        print(f"\n{server.name}, {way}: us a call, and how many times the calls of redis-py's evalsha\n")
        print(f"| call | {' | '.join((BARE, LEAST, OBJECTS, OURS, EVALSHA, AT_LEAST))} |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
