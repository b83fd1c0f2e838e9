"""Each operation against the limit (redis-benchmark with the same script and arguments) and other clients."""

from __future__ import annotations

from benchmarks import contenders as who
from benchmarks.measure import Contender, Figure, Job, measure
from benchmarks.options import Options
from benchmarks.servers import Server

ASYNC = "Operations, one process"
MANY = ("get_status", "get_model_record", "touch_model", "set_status")
OWN = ("renew", "finish", "release", "retry", "delete_model")


def run(server: Server, options: Options) -> list[Figure]:
    """Every operation; the claims are a subject of their own."""
    figures = []
    clients: list[Contender] = [who.ours(), *who.peers()]
    for tasks in (1, max(options.tasks)):
        count = options.calls(2_000 if tasks == 1 else 10_000)
        jobs = [Job(what, tasks, count, options.calls(1_000)) for what in (*MANY, "counts")]
        jobs += [Job(what, tasks, count, count) for what in OWN]
        # redis-benchmark has connections instead of tasks: it stands beside the most of them.
        everybody = clients if tasks == 1 else [*clients, *who.limits()]
        figures += measure(ASYNC, server, everybody, jobs, options.rounds)
    return figures
