"""Ours beside the Rust original, `modelexpress-server`, in two releases, by its own backend."""

from __future__ import annotations

from benchmarks import contenders as who
from benchmarks.measure import Figure, Job, measure
from benchmarks.options import Options
from benchmarks.servers import Server

TABLE = "The Rust original"


def run(server: Server, options: Options) -> list[Figure]:
    """New models, one model, and each task another one; then what looks at all records."""
    both = [who.ours(), who.on_uvloop(), *who.rust(options)]
    figures = []
    for tasks in options.few_and_many_tasks:
        count = options.calls(2_000 if tasks == 1 else 20_000)
        names = ("get_status", "get_model_record", "touch_model", "set_status")
        jobs = [Job(each, tasks, count, 1) for each in names]
        if tasks > 1:
            jobs += [Job(each, tasks, count, 1_000) for each in ("get_status", "touch_model")]
        figures += measure(TABLE, server, both, jobs, options.rounds)
        records = options.calls(10_000)
        jobs = [Job(each, tasks, max(tasks, 20), records) for each in ("lru_head", "counts")]
        if tasks <= 50:  # 500 lists of 10,000 records at once are no use of the original
            figures += measure(TABLE, server, both, jobs, options.rounds)
    return figures
