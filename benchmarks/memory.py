"""What a record costs in the server's memory, its share of the index included."""

from __future__ import annotations

import redis

from benchmarks import scale
from benchmarks.baseline import Baseline
from benchmarks.measure import Figure, progress
from benchmarks.options import Options
from benchmarks.servers import Server
from pyregistry import Registry

TABLE = "Memory per record"


def run(server: Server, options: Options) -> list[Figure]:
    """Once, as it is the same each time: names of 40 characters, as in `benchmarks.scale`."""
    size = options.calls(200_000)
    figures = []
    with redis.Redis.from_url(server.url) as client, Registry.from_url(server.url, "scale") as registry:
        for what, write in (("DOWNLOADED", scale.finish), ("DOWNLOADING", scale.renew)):
            client.flushall()
            registry.connect()
            empty = scale.used(client)
            scale.fill(client, registry, range(size), write)
            row = Figure(TABLE, server.name, what, "pyregistry", {"records": size})
            row.add(bytes=(scale.used(client) - empty) / size)
            figures.append(row)
        client.flushall()
        empty = scale.used(client)
        Baseline(client).fill(range(size))
        row = Figure(TABLE, server.name, "DOWNLOADED", "one hash per model, no index", {"records": size})
        row.add(bytes=(scale.used(client) - empty) / size)
        figures.append(row)
        client.flushall()
    progress(TABLE, server, f"{size:,} records")
    return figures
