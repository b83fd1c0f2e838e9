"""How fast is a claim, alone and contended, and does exactly one caller win?"""

from __future__ import annotations

from benchmarks import contenders as who
from benchmarks.measure import Contender, Figure, Job, measure
from benchmarks.options import Options
from benchmarks.servers import Server

FRESH = "Fresh claims, one process"
CONTENDED = "Claims of one model, one process"
MANY = "Claims of 10,000 models in one call"
CONTENTION = "Contention: processes x tasks"


def run(server: Server, options: Options) -> list[Figure]:
    """One process against everybody, then many processes."""
    figures = []
    # Whom the aims hold against each other take their turns next to each other: the machine's speed changes.
    first: list[Contender] = [who.ours(), who.on_uvloop(), *who.rust(options)]
    last: list[Contender] = [*who.peers(), *who.locks()]
    for tasks in options.tasks:
        ends = tasks in (1, max(options.tasks))
        # redis-benchmark has connections instead of tasks: it stands beside the most of them.
        most = tasks == max(options.tasks)
        everybody = [
            *first,
            *(who.floors() if tasks == 1 else ()),
            *(who.limits() if most else ()),
            *(last if ends else ()),
        ]
        count = options.calls(2_000 if tasks == 1 else 20_000)
        job = Job("claim_fresh", tasks, count, count)
        figures += measure(FRESH, server, everybody, [job], options.rounds, all_win=True)
        job = Job("claim_contended", tasks, count, 1)
        everybody = [*first, *(who.limits() if most else ()), *(last if ends else ())]
        figures += measure(CONTENDED, server, everybody, [job], options.rounds, winners=1)
    count = options.calls(10_000)
    job = Job(who.MANY, 1, count, count)
    figures += measure(MANY, server, first, [job], options.rounds, all_win=True)
    return figures + contention(server, options)


def contention(server: Server, options: Options) -> list[Figure]:
    """Processes that all claim the same models: every model is won exactly once."""
    figures = []
    for processes in options.processes:
        for tasks in options.few_and_many_tasks:
            for models in (1, options.calls(1_000)):
                count = options.calls(1_000 if tasks == 1 else 2_500)
                job = Job("claim_contended", tasks, count, min(models, count))
                both = [who.ours(processes), who.pool(processes, share=1)]
                found = measure(CONTENTION, server, both, [job], options.few_rounds, winners=job.models)
                for figure in found:
                    figure.at = {"processes": processes, "tasks": tasks, "models": models}
                figures += found
    return figures
