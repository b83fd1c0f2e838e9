"""What an inference server asks on every request: is the model there? And it touches it."""

from __future__ import annotations

from contextlib import ExitStack

import redis

from benchmarks import contenders as who
from benchmarks.measure import Contender, Figure, Job, commands_sent, measure
from benchmarks.options import Options
from benchmarks.servers import Server

TABLE = "Hot path: is it there, and a touch"
NEAR = "pyregistry, near cache and coalesced touches"
NEAR_BLOCKING = "pyregistry, blocking, near cache and coalesced touches"


class Counted:
    """A contender, and the commands that reach the server on its behalf."""

    def __init__(self, contender: Contender) -> None:
        self.name, self.every = contender.name, contender.every
        self._contender = contender

    def start(self, server: Server, stack: ExitStack) -> None:
        """Starts it."""
        self._contender.start(server, stack)
        self._client = stack.enter_context(redis.Redis.from_url(server.url))

    def prepare(self, job: Job) -> None:
        """Prepares it."""
        self._contender.prepare(job)

    def go(self) -> dict[str, float]:
        """Lets it go."""
        before = commands_sent(self._client)
        result = self._contender.go()
        return {**result, "commands": commands_sent(self._client) - before}


def run(server: Server, options: Options) -> list[Figure]:
    """A hundred models, asked for by all tasks."""
    near = [
        who.Client(NEAR, "pyregistry-near", "pyregistry-redis"),
        who.Client(NEAR_BLOCKING, "pyregistry-blocking-near", "pyregistry-redis", most=1),
    ]
    everybody = [Counted(each) for each in (*near, who.ours(), *who.rust(options))]
    sizes = [
        (tasks, options.calls(10_000 if tasks == 1 else 100_000)) for tasks in options.few_and_many_tasks
    ]
    jobs = [Job("hot_path", tasks, count, 100) for tasks, count in sizes]
    return measure(TABLE, server, everybody, jobs, options.rounds)
