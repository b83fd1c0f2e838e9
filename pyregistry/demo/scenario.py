"""The scenario of the demo: replicas want the same models, one owner is killed, and evidence is collected."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import queue
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pyregistry._redis import administration
from pyregistry.demo.checks import Evidence, Killed, judge
from pyregistry.demo.cluster import Fleet, Gone
from pyregistry.demo.file_server import FileServer, real_contents
from pyregistry.demo.ipc import (
    Complete,
    File,
    Job,
    Model,
    Order,
    Published,
    Ready,
    Touched,
    Verified,
    Won,
)
from pyregistry.demo.render import Show
from pyregistry.embedded import EmbeddedServer
from pyregistry.errors import ConfigurationError, RegistryError
from pyregistry.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import ExitStack

KEPT, BROKEN, STOPPED = 0, 1, 128
"""Exit codes. The signal number is added to STOPPED."""

_FILE_SIZE = 2_000_000
_STALLING = 0  # index of the model whose first owner is killed
_REFRESH_SECONDS = 0.1
_STAGING = ".pyregistry/staging"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_log = logging.getLogger("pyregistry.demo")

Inbox = queue.SimpleQueue[tuple[int, Any]]
"""Reports of replicas, with their numbers; signals, with number 0."""


@dataclass(frozen=True)
class Settings:
    """Settings of the demo. `pyregistry.demo.run` documents them; `seconds` is the duration of one download."""

    processes: int
    models: int
    url: str | None
    namespace: str | None
    seconds: float
    lease: float
    timeout: float
    faulty: bool


@dataclass(frozen=True)
class _HalfWay:
    """The download whose owner is to be killed is half-way."""


@dataclass(frozen=True)
class _Stop:
    """The demo has received a signal."""

    signal: signal.Signals


class _Failed(Exception):
    """The demo can't continue. Carries the exit code; defaults to `BROKEN`."""

    def __init__(self, why: str, code: int = BROKEN) -> None:
        super().__init__(why)
        self.code = code


def known_models() -> list[Model]:
    """Return the models of the data file."""
    return msgspec.json.decode(Path(__file__).with_name("models.json").read_bytes(), type=list[Model])


def play(settings: Settings) -> int:
    """Run the demo, show it, check its promises, and return the exit code."""
    deadline = time.monotonic() + settings.timeout
    models = known_models()[: settings.models]
    show = Show(models)
    try:
        with contextlib.ExitStack() as stack:
            seen = _prepare(settings, models, show, deadline, stack).run()
    except _Failed as failed:
        show.failure(str(failed))
        return failed.code
    promises = judge(seen)
    show.results(seen, promises)
    return BROKEN if any(promise.broken for promise in promises) else KEPT


def _prepare(
    settings: Settings, models: list[Model], show: Show, deadline: float, stack: ExitStack
) -> _Scenario:
    """Start everything but the replicas. `stack` ends it in reverse order."""
    inbox: Inbox = queue.SimpleQueue()
    stack.enter_context(_signals_to(inbox))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyregistry-demo-")))
    if settings.url is None:
        url = stack.enter_context(EmbeddedServer()).url
    else:
        url = administration.resolved_url(settings.url)
    namespace = settings.namespace or f"demo-{os.urandom(6).hex()}"
    registry = stack.enter_context(Registry.from_url(url, namespace, owner="demo"))
    if registry.get_models_by_last_used(1):
        raise ConfigurationError(f"the namespace {namespace} has models in it: the demo needs one of its own")
    if registry._backend.cache_id() is not None:
        raise ConfigurationError(
            f"the namespace {namespace} stands for a cache: the demo needs one of its own"
        )
    stack.callback(_clean, registry, models, url, whole=settings.namespace is None)
    contents = real_contents(len(models), _FILE_SIZE)
    server = FileServer(
        {model.key: content for model, content in zip(models, contents, strict=True)},
        rate=_FILE_SIZE / settings.seconds,
        stalls=models[_STALLING].key,
        on_stall=lambda replica: inbox.put((replica, _HalfWay())),
    )
    stack.enter_context(server)
    fleet = stack.enter_context(Fleet(inbox, folder))
    stack.enter_context(show)
    jobs = [
        Job(
            number=number,
            url=url,
            namespace=namespace,
            files_url=server.url,
            cache=str(folder / "cache"),
            models=models,
            lease=settings.lease,
            ignores_claims=settings.faulty and number > settings.processes - 2,  # one may be killed
        )
        for number in range(1, settings.processes + 1)
    ]
    return _Scenario(jobs, registry, server, fleet, show, inbox, deadline)


class _Scenario:
    """One run: drives the replicas, and collects their reports and other evidence."""

    def __init__(
        self,
        jobs: list[Job],
        registry: Registry,
        server: FileServer,
        fleet: Fleet,
        show: Show,
        inbox: Inbox,
        deadline: float,
    ) -> None:
        self._jobs = jobs
        self._models = jobs[0].models
        self._cache = Path(jobs[0].cache)
        self._registry = registry
        self._server = server
        self._fleet = fleet
        self._show = show
        self._inbox = inbox
        self._deadline = deadline
        self._refreshed = 0.0

        self._ready = set[int]()
        self._complete = set[int]()
        self._ending = False
        self._killed: Killed | None = None
        self._claims: list[tuple[int, Won]] = []
        self._verified: list[tuple[int, Verified]] = []
        self._touched: list[int] = []
        self._early = set[str]()
        self._half_way: int | None = None  # number of the replica to kill
        self._abandoned: list[str] = []
        self._published: dict[int, tuple[int, float]] = {}  # replica and end of its download, by model
        self._exit_codes: dict[int, int] = {}

    def run(self) -> Evidence:
        """Run the scenario until all replicas have ended."""
        self._cache.mkdir()
        namespace = self._registry.namespace
        self._show.say(f"{len(self._jobs)} processes are being started; the namespace is {namespace}")
        for job in self._jobs:
            self._fleet.start(job)
        self._until(lambda: len(self._ready) == len(self._jobs), "all processes were connected")
        self._show.say(f"{len(self._jobs)} processes want the same {len(self._models)} models, now")
        for job in self._jobs:
            self._fleet.order(job.number, Order("go"))
        self._until(lambda: self._complete == self._alive(), "every process had every model")
        self._show.say("every process has every model, and has verified it")
        self._say_woken()
        self._touch_all()
        records = self._registry.get_models_by_last_used()
        counts = self._registry.get_status_counts()
        self._ending = True
        for number in self._alive():
            self._fleet.order(number, Order("end"))
        self._until(lambda: len(self._exit_codes) == len(self._jobs), "all processes had ended")
        self._refresh()
        return Evidence(
            models=self._models,
            files=[self._server.manifest[model.key] for model in self._models],
            lease=self._jobs[0].lease,
            killed=self._killed,
            claims=self._claims,
            verified=self._verified,
            started=self._by_number(self._server.started),
            completed=self._by_number(self._server.completed),
            early=sorted(self._early),
            published={path: _file_at(self._cache / path) for path in self._published_paths()},
            abandoned=self._abandoned,
            staged=self._paths(_STAGING),
            touched=self._touched,
            records=records,
            counts=counts,
            exit_codes=self._exit_codes,
        )

    def _touch_all(self) -> None:
        """Touch every model once more, one after the other, with a different replica each."""
        order = random.sample(range(len(self._models)), len(self._models))
        replicas = itertools.cycle(sorted(self._alive()))
        for place, number in enumerate(order, 1):
            self._fleet.order(next(replicas), Order("touch", number))
            self._until(partial(self._has_touched, place), "all models were touched")
        self._show.say("one process after the other has touched a model once more, in a random order")

    def _has_touched(self, times: int) -> bool:
        return len(self._touched) == times

    def _until(self, done: Callable[[], bool], what: str) -> None:
        """Process the inbox until a condition holds.

        Args:
            done: The condition.
            what: The condition in words, for the error.

        Raises:
            _Failed: The deadline passed, a replica ended by itself, or a signal came.
        """
        while not done():
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise _Failed(f"The time was up before {what}.")
            with contextlib.suppress(queue.Empty):  # no message yet: check the deadline again
                self._take(*self._inbox.get(timeout=min(left, _REFRESH_SECONDS)))
            if time.monotonic() - self._refreshed > _REFRESH_SECONDS:
                self._refresh()
                self._kill_if_half_way()

    def _take(self, replica: int, message: object) -> None:
        match message:
            case Ready():
                self._ready.add(replica)
                self._show.say(f"{self._name(replica)} is connected", in_table=True)
            case Won():
                self._claims.append((replica, message))
                self._say_won(replica, message)
            case _HalfWay():
                self._half_way = replica
            case Published():
                self._published[message.model] = replica, message.downloaded
                name = self._models[message.model].name
                self._show.say(f"{self._name(replica)} has published {name}", in_table=True)
            case Verified():
                self._verified.append((replica, message))
            case Complete():
                self._complete.add(replica)
            case Touched():
                self._touched.append(message.model)
            case Gone():
                self._exit_codes[replica] = message.exit_code
                if not self._ending and (self._killed is None or replica != self._killed.replica):
                    words = self._fleet.last_words(replica)
                    raise _Failed(f"{self._name(replica)} ended by itself ({message.exit_code}).\n{words}")
            case _Stop():
                raise _Failed(f"Stopped by {message.signal.name}.", STOPPED + message.signal)
            case _:
                raise AssertionError(f"nobody says {message!r}")

    def _say_won(self, replica: int, won: Won) -> None:
        name = self._models[won.model].name
        if won.taken_over:
            total = self._server.manifest[self._models[won.model].key].size
            self._show.say(
                f"{self._name(replica)} took over {name}: token {won.token}, attempt {won.attempts}; "
                f"{won.previous_owner} had got to {_percent(won.previous_bytes_done, total)}",
                style="bold cyan",
            )
        else:
            self._show.say(f"{self._name(replica)} has the claim of {name}: token {won.token}", in_table=True)

    def _kill_if_half_way(self) -> None:
        """Kill the half-way owner once the registry has its progress."""
        replica, model = self._half_way, self._models[_STALLING]
        record = self._registry.get_model_record(model.name, model.provider) if replica else None
        if replica is None or record is None or record.bytes_done is None:
            return
        self._half_way = None
        name = self._name(replica)
        self._fleet.kill(replica)
        record = self._registry.get_model_record(model.name, model.provider)
        assert record is not None, "its owner has claimed it"
        self._killed = Killed(replica, _STALLING, record)
        self._abandoned = [path for path in self._paths(_STAGING) if str(record.token) in path.split("/")]
        done = _percent(record.bytes_done, record.bytes_total or 1)
        self._show.say(
            f"{name} was killed at {done} of {model.name}; "
            f"nobody renews its lease of {self._jobs[0].lease:g} s any more",
            style="bold red",
        )
        self._server.resume()

    def _say_woken(self) -> None:
        """Show how soon the waiters of the taken-over download had the model after its end."""
        if _STALLING not in self._published:
            return
        owner, ended = self._published[_STALLING]
        waits = [
            each.had - ended
            for replica, each in self._verified
            if each.model == _STALLING and each.began < ended and replica != owner
        ]
        if waits:
            self._show.say(
                f"{len(waits)} that waited for {self._models[_STALLING].name} were woken by a message; "
                f"the last one had it {max(waits) * 1000:.0f} ms after its download had ended",
                style="bold green",
            )

    def _refresh(self) -> None:
        """Read the records, and check the size of the published files."""
        self._refreshed = time.monotonic()
        self._show.update(
            self._registry.get_model_records((model.name, model.provider) for model in self._models),
            self._killed.record.owner if self._killed is not None else None,
        )
        for path in self._published_paths():
            whole = self._server.manifest[path.split("/")[-1]].size
            if (self._cache / path).stat().st_size != whole:
                self._early.add(path)

    def _alive(self) -> set[int]:
        return {
            job.number for job in self._jobs if self._killed is None or job.number != self._killed.replica
        }

    def _name(self, replica: int) -> str:
        return f"replica {replica} (pid {self._fleet.pid(replica)})"

    def _paths(self, folder: str) -> list[str]:
        """Return the files in a folder of the cache, relative to the cache."""
        files = (path for path in (self._cache / folder).rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self._cache)) for path in files)

    def _published_paths(self) -> list[str]:
        """Return the files outside the store's own folder, relative to the cache."""
        return [path for path in self._paths(".") if not path.startswith(".pyregistry/")]

    def _by_number(self, counts: Mapping[str, int]) -> Counter[int]:
        return Counter({number: counts.get(model.key, 0) for number, model in enumerate(self._models)})


def _percent(done: int | None, total: int) -> str:
    return f"{100 * (done or 0) // total} %"


def _file_at(path: Path) -> File:
    content = path.read_bytes()
    return File(len(content), hashlib.sha256(content).hexdigest())


def _clean(registry: Registry, models: list[Model], url: str, *, whole: bool) -> None:
    """Delete the models and the cache id of the namespace; with `whole`, delete its clock too."""
    try:
        for model in models:
            registry.delete_model(model.name, model.provider)
        administration.delete_settings(url, registry.namespace, whole=whole)
    except RegistryError as error:
        _log.warning("the namespace %s could not be cleaned: %s", registry.namespace, error)


@contextlib.contextmanager
def _signals_to(inbox: Inbox) -> Iterator[None]:
    """Put SIGINT, SIGTERM and SIGHUP into the inbox within this context, so that they interrupt no operation.

    In any thread but the main one the context has no effect, because Python installs handlers in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: object) -> None:
        inbox.put((0, _Stop(signal.Signals(number))))  # SimpleQueue.put is reentrant

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
