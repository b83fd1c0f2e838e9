"""What an inference server asks on every request: is the model there? And it touches it."""

from __future__ import annotations

import inspect
from contextlib import ExitStack

import redis

from benchmarks import contenders as who
from benchmarks.measure import Absent, Contender, Figure, Job, commands_sent, measure
from benchmarks.options import Options
from benchmarks.servers import Server
from pyregistry import AsyncRegistry

TABLE = "Hot path: is it there, and a touch"
NEAR = "pyregistry, near cache and coalesced touches"


class Near(who.Client):
    """Ours with `near_cache` and `touch_interval`."""

    def __init__(self) -> None:
        super().__init__(NEAR, "pyregistry-near", "pyregistry-redis")

    def command(self) -> list[str]:
        """Needs both, and `is_downloaded`."""
        known = inspect.signature(AsyncRegistry.from_url).parameters
        if (
            not hasattr(AsyncRegistry, "is_downloaded")
            or not {"near_cache", "touch_interval"} <= known.keys()
        ):
            raise Absent("not there: this version has no near cache")
        return super().command()


class Counted:
    """A contender, and the commands that reach the server on its behalf."""

    def __init__(self, contender: Contender) -> None:
        self.name = contender.name
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
    everybody = [Counted(each) for each in (Near(), who.ours(), *who.rust(options))]
    sizes = [(tasks, options.calls(10_000 if tasks == 1 else 100_000)) for tasks in options.tasks]
    jobs = [Job("hot_path", tasks, count, 100) for tasks, count in sizes]
    return measure(TABLE, server, everybody, jobs, options.rounds)
