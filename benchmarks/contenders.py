"""Who competes, and how each is started. One whose program or package is missing says so in its rows."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import redis

from benchmarks import setup
from benchmarks.measure import Absent, Job
from benchmarks.options import Options
from benchmarks.servers import Server
from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.protocol.scripts import BATCH
from pyregistry._redis.protocol.transitions import SCRIPTS

MODELEXPRESS = Path(__file__).parent / "peers" / "modelexpress"
MANY = "claim_many"  # a job that is one call for all its models
FLOOR = "bare protocol, packed before"
SLOW, SLOWEST = 8, 40  # into how many parts the calls of slow clients are cut


class Process:
    """A process that does jobs: see `benchmarks.driver`.

    Args:
        command: what runs; the URL of the server comes last.
    """

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.heard()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def say(self, line: str) -> None:
        """One line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def heard(self) -> dict[str, float]:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        found: dict[str, float] = json.loads(line)
        return found


class Driven:
    """A contender with processes of its own; what several do together counts as one."""

    every = 1

    def __init__(self, name: str, processes: int = 1) -> None:
        self.name = name
        self._count = processes
        self._processes: list[Process] = []

    def command(self) -> list[str]:
        """What runs. May raise `Absent`."""
        raise NotImplementedError

    def start(self, server: Server, stack: ExitStack) -> None:
        """Starts the processes."""
        command = [*self.command(), server.url]
        self._processes = [stack.enter_context(Process(command)) for _ in range(self._count)]

    def prepare(self, job: Job) -> None:
        """All of them, one after the other: they prepare the same."""
        for process in self._processes:
            process.say(job.line)
            process.heard()

    def go(self) -> dict[str, float]:
        """All of them at once."""
        for process in self._processes:
            process.say("go")
        results = [process.heard() for process in self._processes]
        if len(results) == 1:
            return results[0]
        total = {name: sum(each[name] for each in results) for name in ("done", "won", "client_cpu")}
        worst = {name: max(each[name] for each in results) for name in ("p50", "p99", "max")}
        begun, ended = min(each["begun"] for each in results), max(each["ended"] for each in results)
        return {**total, **worst, "seconds": ended - begun}


class Client(Driven):
    """A Python client, by its word in `benchmarks.driver`.

    Args:
        name: for the tables.
        client: the word.
        package: what it needs.
        most: how many tasks it can have at most, where each is a thread; 0: any number.
        share: into how many parts its calls are cut, of which it makes one: a slow client needs fewer to be
            measured as well. It also takes its turn in every third round only: its ratios are far from any aim.
        processes: how many there are of it.
    """

    def __init__(
        self,
        name: str,
        client: str,
        package: str = "redis",
        *,
        most: int = 0,
        share: int = 1,
        processes: int = 1,
    ) -> None:
        super().__init__(name, processes)
        self._client, self._package, self._most, self._share = client, package, most, share
        self.every = 3 if share > 1 else 1

    def command(self) -> list[str]:
        """Needs the package."""
        try:
            version(self._package)
        except PackageNotFoundError:
            raise Absent(f"the package {self._package} is not installed") from None
        return [sys.executable, "-m", "benchmarks.driver", self._client]

    def prepare(self, job: Job) -> None:
        """Not with more threads than make sense."""
        if self._most and job.tasks > self._most:
            raise Absent(f"it blocks: not with {job.tasks} threads")
        super().prepare(job.share(self._share))


class Rust(Driven):
    """The Rust original.

    Args:
        release: of the crate.
        build: whether it is built where that is not done yet, which takes minutes.
    """

    def __init__(self, release: str, *, build: bool) -> None:
        super().__init__(f"modelexpress-server {release}")
        self._package = f"modelexpress-v{release.replace('.', '')[:2]}"
        self._build = build

    def command(self) -> list[str]:
        """Builds it first."""
        binary = MODELEXPRESS / "target" / "release" / self._package
        if not self._build:
            if not binary.exists():
                raise Absent("it is not built: a full run does that")
            return [str(binary)]
        if shutil.which("cargo") is None:
            raise Absent("cargo is not installed")
        build = ["cargo", "build", "--release", "--locked", "--quiet", "--package", self._package]
        if subprocess.run(build, cwd=MODELEXPRESS, check=False).returncode:
            raise Absent("it could not be built (it needs protoc: apt install protobuf-compiler)")
        return [str(binary)]

    def prepare(self, job: Job) -> None:
        """It has no call for many models: it makes as many calls, by 500 tasks."""
        super().prepare(replace(job, what="claim_fresh", tasks=500) if job.what == MANY else job)


class Limit:
    """redis-benchmark with the script and the arguments that ours sends: what the server can do at most.

    Args:
        pipelined: how many commands it sends at once on each connection.
        batched: whether each command is a full batch, of as many calls as fit; what is counted is calls.
    """

    every = 1
    CONNECTIONS = 50
    READY = ("claim_fresh", "claim_contended", "get_status", "get_model_record", "touch_model", "set_status",
             "renew", "counts")  # fmt: skip
    NO_BATCHES = ("get_status", "counts")

    def __init__(self, pipelined: int = 1, batched: bool = False) -> None:
        words = [f"-P {pipelined}"] + ["batches of 64"] * batched
        self.name = f"redis-benchmark ({', '.join(words)})"
        self._pipelined, self._batched = pipelined, batched

    def start(self, server: Server, stack: ExitStack) -> None:
        """Needs the program."""
        if shutil.which("redis-benchmark") is None:
            raise Absent("redis-benchmark is not installed (Debian: redis-tools)")
        self._server = server

    def prepare(self, job: Job) -> None:
        """Loads and fills as all do, and runs a tenth."""
        if job.what not in self.READY:
            raise Absent("each call needs a claim of its own")
        if self._batched and job.what in self.NO_BATCHES:
            raise Absent("it takes no batches")
        ops = RequestFactory(setup.NAMESPACE, None, ())
        # What is read and touched exists; what is claimed is new, but for one in a thousand million.
        self._among = job.models if job.what in setup.FILLED else 1_000_000_000
        several = job.models > 1 and job.what not in setup.CLAIMED
        names = [setup.model_name(job.tag, number) for number in range(BATCH)]
        if several:
            names = [f"organisation/{job.tag}-__rand_int__"] * BATCH
        elif job.what not in setup.CLAIMED:
            names = names[:1] * BATCH
        claims = setup.prepare(self._server.url, job.what, BATCH, job.models, job.tag)
        with redis.Redis.from_url(self._server.url) as client:
            for script in SCRIPTS:
                client.script_load(script.text)
        made = [
            setup.operation(ops, job.what, name, claims[number] if claims else None)
            for number, name in enumerate(names)
        ]
        self._calls = BATCH // made[0].items if self._batched else 1
        command = made[0].head.command(made[: self._calls])
        ids = {str(word) for op in made for word in op.argv[:1]} if job.what.startswith("claim") else set()
        self._words = ["b__rand_int__" if word in ids else str(word) for word in command]
        self._count = max(job.count // self._calls, self.CONNECTIONS * self._pipelined)
        self._run(max(1, self._count // 10))
        if job.what.startswith("claim"):  # what the warm-up has claimed must go
            with redis.Redis.from_url(self._server.url) as client:
                client.flushall()
            setup.prepare(self._server.url, job.what, BATCH, job.models, job.tag)

    def go(self) -> dict[str, float]:
        """Its own figures: rate and latencies."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        row = self._run(self._count)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        done = self._count * self._calls
        return {
            "seconds": self._count / float(row["rps"]),
            "done": done,
            "client_cpu": cpu,
            "p50": float(row["p50"]) / 1000,
            "p99": float(row["p99"]) / 1000,
            "max": float(row["max"]) / 1000,
        }

    def _run(self, count: int) -> dict[str, str]:
        command = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(self._server.port), "--csv"]
        command += ["-c", str(self.CONNECTIONS), "-n", str(count), "-P", str(self._pipelined)]
        command += ["-r", str(self._among), "--precision", "3", *self._words]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        # The command itself is the name of the row: with commas and quotes in it, so only the end is read.
        names = ("rps", "avg", "min", "p50", "p95", "p99", "max")
        if "rps" not in output:
            raise RuntimeError(f"redis-benchmark says: {output.strip()[-300:]}")
        return dict(zip(names, re.findall(r'"([0-9.]+|inf|-?nan)"', output)[-len(names) :], strict=True))


def ours(processes: int = 1) -> Client:
    """The default: the multiplexed connection."""
    return Client("pyregistry", "pyregistry", "pyregistry-redis", processes=processes)


def on_uvloop() -> Client:
    """The same on the event loop that servers such as vLLM and uvicorn bring."""
    return Client("pyregistry on uvloop", "pyregistry-uvloop", "uvloop")


def pool(processes: int = 1, share: int = SLOW) -> Client:
    """redis-py's asyncio pool with the same script calls."""
    return Client("redis-py pool", "redis-py", share=share, processes=processes)


def peers() -> list[Client]:
    """Other Python clients with the same script calls, and ours over redis-py's pool."""
    return [
        Client("pyregistry, redis-py transport", "pyregistry-pool", "pyregistry-redis", share=SLOW),
        pool(),
        Client("coredis", "coredis", "coredis", share=SLOW),
        Client("valkey-glide", "valkey-glide", "valkey-glide", share=SLOW),
    ]


def locks() -> list[Client]:
    """Locks, which keep far less than a claim does."""
    return [
        Client("redis-py Lock", "redis-py-lock", share=SLOWEST),
        Client("python-redis-lock", "python-redis-lock", "python-redis-lock", most=50, share=SLOWEST),
    ]


def floors() -> list[Client]:
    """What no client on asyncio can beat with one call at a time; with and without uvloop."""
    return [
        Client(FLOOR, "bare-protocol", "hiredis", most=1),
        Client(f"{FLOOR}, on uvloop", "bare-protocol-uvloop", "uvloop", most=1),
    ]


def rust(options: Options) -> list[Rust]:
    """The original, in two releases."""
    return [Rust(release, build=not options.quick) for release in ("0.4.0", "0.7.0")]


def limits() -> list[Limit]:
    """What the server can do."""
    return [Limit(16, batched=True), Limit(16), Limit()]
