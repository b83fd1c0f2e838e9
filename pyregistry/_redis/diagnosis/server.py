"""Checks the server's settings, memory, persistence, replication and clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyregistry._redis.protocol.keys import Keyspace
from pyregistry._redis.protocol.request import plain_command
from pyregistry._redis.transport.pooled_sync import Transport
from pyregistry.backend.findings import Finding, Level
from pyregistry.errors import ServerRefused

_STEP_SECONDS = 0.1  # a smaller step back is an ordinary clock adjustment
# `open` moves the ticks ahead by this much after a lost second, so clocks may differ by it.
_CLOCK_SECONDS = 60.0
_FULL = 0.9
_SETTINGS = ("appendonly", "appendfsync", "maxmemory-policy", "min-replicas-to-write", "save")
_LAST_WRITES = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
_UNREAD = "could not be read: CONFIG is forbidden here"
_ASK = "ask whoever runs the server, or look at its console"


class Server:
    """Sends plain reading commands, whose arguments are text, bytes or numbers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def ask(self, verb: str, *words: Any) -> Any:
        """Send one command and return the raw reply: bytes, numbers, lists."""
        return self._transport.call(plain_command("doctor", verb, *words))

    def config(self) -> dict[str, str] | None:
        """Return the settings that the checks use; None if CONFIG is forbidden."""
        try:
            reply = self.ask("CONFIG GET", *_SETTINGS)
        except ServerRefused:
            return None
        # RESP2 returns a list, RESP3 a map.
        pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
        return {name.decode(): value.decode(errors="replace") for name, value in pairs}

    def info(self) -> dict[str, str]:
        """Return the fields of INFO; empty if INFO is forbidden."""
        try:
            lines = self.ask("INFO", "memory", "persistence", "replication").decode().splitlines()
        except ServerRefused:
            return {}
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def time(self) -> int:
        """Return the server's clock, in microseconds."""
        seconds, microseconds = self.ask("TIME")
        return int(seconds) * 1_000_000 + int(microseconds)


@dataclass(frozen=True)
class Facts:
    """The input of the server checks.

    Attributes:
        info: Fields of INFO; empty if INFO is forbidden.
        config: Settings; None if CONFIG is forbidden.
        last_write: Lease time of the namespace's last write, in seconds; 0: no write yet.
        skew: Seconds by which the namespace's lease time is ahead of the server's clock.
        server_time: The server's clock, in seconds.
        local_time: This machine's clock at the same moment, in seconds.
    """

    info: Mapping[str, str]
    config: Mapping[str, str] | None
    last_write: float
    skew: float
    server_time: float
    local_time: float


def facts_of(server: Server, keys: Keyspace) -> Facts:
    # Read the last write before the clock, so that a write in between does not look like a step back.
    last_write, skew = server.ask("HMGET", keys.meta, "time", "skew")
    before = time.time()
    server_time = server.time() / 1_000_000
    local_time = (before + time.time()) / 2
    return Facts(
        info=server.info(),
        config=server.config(),
        last_write=number_of(last_write) / 1_000_000,
        skew=number_of(skew) / 1_000_000,
        server_time=server_time,
        local_time=local_time,
    )


def number_of(field: bytes | None) -> int:
    # As in the scripts, a field that is not a number counts as 0.
    return int(field) if field is not None and field.isdigit() else 0


def judge(facts: Facts) -> list[Finding]:
    """Run all checks of the server and return their findings."""
    return [
        _eviction(facts),
        *_memory(facts),
        *_persistence(facts),
        *_replication(facts),
        _clock(facts),
        *_lease_time(facts),
    ]


def _eviction(facts: Facts) -> Finding:
    policy = (facts.config or {}).get("maxmemory-policy") or facts.info.get("maxmemory_policy")
    if policy is None:
        return Finding(Level.INFO, "eviction", f"maxmemory-policy {_UNREAD}", _ASK)
    if policy == "noeviction":
        return Finding(Level.OK, "eviction", "maxmemory-policy is noeviction")
    advice = "CONFIG SET maxmemory-policy noeviction, and the same in its configuration"
    if policy.startswith("volatile-"):
        why = "it throws away keys that expire, and those of the registry do not; but nothing else is tested"
        return Finding(Level.WARNING, "eviction", f"maxmemory-policy is {policy}: {why}", advice)
    why = "a server that is full throws away records and claims"
    return Finding(Level.ERROR, "eviction", f"maxmemory-policy is {policy}: {why}", advice)


def _memory(facts: Facts) -> Iterator[Finding]:
    used, most = int(facts.info.get("used_memory", 0)), int(facts.info.get("maxmemory", 0))
    if most and used >= most * _FULL:
        yield Finding(
            Level.WARNING,
            "memory",
            f"{used * 100 // most} % of maxmemory is used; a server that is full refuses claims",
            "raise maxmemory, or remove what is not needed (rm, finish and release go on working)",
        )


def _persistence(facts: Facts) -> Iterator[Finding]:
    aof = {"1": True, "0": False}.get(facts.info.get("aof_enabled", ""))
    saves: str | None = None
    if facts.config is not None:
        aof, saves = facts.config.get("appendonly") == "yes", facts.config.get("save", "")
    if aof:
        how = (facts.config or {}).get("appendfsync", "unknown")
        yield Finding(Level.OK, "persistence", f"append-only file, appendfsync {how}")
    elif aof is None or saves is None:
        yield Finding(Level.INFO, "persistence", f"the persistence {_UNREAD}", _ASK)
    elif saves:
        yield Finding(
            Level.INFO,
            "persistence",
            f"snapshots only (save {saves}): a crash loses all that came after the last one",
            "CONFIG SET appendonly yes loses a second at most",
        )
    else:
        yield Finding(
            Level.WARNING,
            "persistence",
            "off: a restart of the server loses every record",
            "CONFIG SET appendonly yes, and the same in its configuration",
        )
    failed = [name for name in _LAST_WRITES if facts.info.get(name, "ok") != "ok"]
    if failed:
        yield Finding(
            Level.ERROR,
            "persistence",
            f"the server's last write to its disk failed ({', '.join(failed)})",
            "see the server's log, and whether its disk is full",
        )


def _replication(facts: Facts) -> Iterator[Finding]:
    replicas = int(facts.info.get("connected_slaves", 0))
    if not replicas:
        return
    least = (facts.config or {}).get("min-replicas-to-write")
    if least is None:
        yield Finding(Level.INFO, "replication", f"min-replicas-to-write {_UNREAD}", _ASK)
    elif least == "0":
        yield Finding(
            Level.WARNING,
            "replication",
            f"{replicas} connected, but min-replicas-to-write is 0: a primary that is cut off goes on "
            "giving claims, which the failover then undoes",
            "CONFIG SET min-replicas-to-write 1, and the same in its configuration",
        )
    else:
        yield Finding(Level.OK, "replication", f"{replicas} connected, min-replicas-to-write is {least}")


def _clock(facts: Facts) -> Finding:
    gap = facts.server_time - facts.local_time
    said = f"the server's clock is {abs(gap):.1f} s {'ahead of' if gap > 0 else 'behind'} this machine's"
    if abs(gap) <= _CLOCK_SECONDS:
        return Finding(Level.OK, "clock", said)
    return Finding(
        Level.WARNING,
        "clock",
        f"{said}: after a failover to a host that is so far off, tokens could be given twice",
        "keep both machines' clocks right (NTP)",
    )


def _lease_time(facts: Facts) -> Iterator[Finding]:
    ahead = max(facts.last_write - facts.server_time, facts.skew)
    if ahead >= _STEP_SECONDS:
        yield Finding(
            Level.INFO,
            "lease time",
            f"{ahead:.1f} s ahead of the server's clock, which has stepped back once; leases last their "
            "length all the same, and the times of the records are ahead as well",
            "keep the server's clock right (NTP)",
        )
