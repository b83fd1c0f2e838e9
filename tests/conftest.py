"""What the tests run on: `--server KIND`, or the URL of a server in PYREGISTRY_TEST_URL.

The marker `server` names the kinds of server that a test runs on. A test, a file and a folder can have one; the
closest counts. A folder's marker is `pytestmark` in its `__init__.py`. A test without a marker runs on every kind.

Each pytest process has a server of its own, and each test a namespace of its own. The fixtures of
`pyregistry.testing` (`pyregistry_url`, `pyregistry_namespace`, `registry`) are fed from here.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import os
import signal
import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import pytest
import redis

from pyregistry import Registry
from pyregistry._coordination import keepalive
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry.embedded import EmbeddedServer
from tests.support import servers
from tests.support.clients import AsyncFacade, Connect, loop_in_thread
from tests.support.faults.proxy import SECONDS, Proxy, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterator

pytest_plugins = ["pyregistry.testing", "tests.support.snapshots"]
pytest.register_assert_rewrite("pyregistry.backend.conformance")

SERVER = pytest.StashKey[str]()


class MakeServer(Protocol):
    """Starts a server that is the test's alone; other settings: `maxmemory="10mb"`."""

    def __call__(
        self,
        *,
        data_dir: Path | None = None,
        persistent: bool = False,
        password: str | None = None,
        **config: str,
    ) -> EmbeddedServer: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server",
        choices=servers.KINDS,
        default=os.environ.get("PYREGISTRY_TEST_SERVER") or "embedded",
        help="the server to test on (PYREGISTRY_TEST_SERVER; embedded); "
        "PYREGISTRY_TEST_URL names one that runs already, and wins",
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """A server that is missing ends the tests before they begin; it never skips them."""
    # Who starts something in the background, or with nohup, has it ignore these; what we start would too.
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)
    try:
        session.config.stash[SERVER] = _describe(session.config)
    except servers.ServerMissing as error:
        raise pytest.UsageError(f"no server for --server {_kind(session.config)}: {error}") from None


@pytest.hookimpl(wrapper=True)
def pytest_collect_directory(path: Path) -> Generator[None, pytest.Collector | None, pytest.Collector | None]:
    """Apply `pytestmark` of a folder's `__init__.py` to the folder, which pytest does for files alone."""
    folder = yield
    if isinstance(folder, pytest.Package):
        package = importlib.import_module(".".join(path.relative_to(folder.config.rootpath).parts))
        if mark := getattr(package, "pytestmark", None):
            folder.add_marker(mark)
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All servers and all that is above them, without each with each: what is left out here runs elsewhere."""
    kind = _kind(config)
    elsewhere = [item for item in items if not _belongs_to(kind, item)]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in set(elsewhere)]
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _leaves_no_task(item.obj)


def _leaves_no_task(
    test: Callable[..., Coroutine[Any, Any, None]],
) -> Callable[..., Coroutine[Any, Any, None]]:
    """No task outlives a test on a loop of pytest's; `loop_in_thread` sees to its own."""

    @functools.wraps(test)
    async def run(**arguments: Any) -> None:
        await test(**arguments)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            _, left = await asyncio.wait(left, timeout=SECONDS)
        assert not left, f"tasks are left: {left}"

    return run


def _belongs_to(kind: str, item: pytest.Item) -> bool:
    marker = item.get_closest_marker("server")
    return marker is None or kind in marker.args


def pytest_report_header(config: pytest.Config) -> str:
    return f"server: {config.stash[SERVER]}"


@pytest.fixture(autouse=True)
def leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No thread of the library, and no connection, outlives a test."""
    monkeypatch.setattr(keepalive, "_LINGER", 0.05)  # seconds; 2 would be waited for after each test
    before = connections()
    yield
    until(lambda: not _threads(), f"the threads end: {_threads()}")
    until(lambda: connections() <= before, f"the connections end: {connections() - before}")


def _threads() -> list[str]:
    # The keeper sleeps until the next renewal is due, also of a claim that has ended since.
    with keepalive._keeper.lock:
        keepalive._keeper.lock.notify_all()
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pyregistry-")]


def connections() -> set[int]:
    """The TCP connections of this process, by their file descriptors."""
    found = set()
    for name in os.listdir("/proc/self/fd") if Path("/proc/self/fd").is_dir() else ():  # noqa: PTH208 - names
        with suppress(OSError):  # not a socket, not connected, or gone
            borrowed = socket.socket(fileno=int(name))
            try:
                if borrowed.family in (socket.AF_INET, socket.AF_INET6) and borrowed.getpeername():
                    found.add(int(name))
            finally:
                borrowed.detach()
    return found


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The server of this pytest process."""
    if url := _given_url():
        yield url
        return
    with servers.serve(_kind(request.config)) as url:
        yield url


@pytest.fixture(scope="session")
def pyregistry_url(server_url: str) -> str:
    """In place of the one in `pyregistry.testing`, which knows the embedded server only."""
    return server_url


@pytest.fixture
def namespace(pyregistry_namespace: str, server_url: str) -> Iterator[str]:
    """A namespace that no other test uses; no stray key is left in it, and no key of one named after it."""
    yield pyregistry_namespace
    keys = Keyspace(pyregistry_namespace)
    known = {*keys.shared, keys.branches}
    with redis.Redis.from_url(server_url) as client:
        found = [
            key.decode() for key in client.scan_iter(f"pyregistry:{{{pyregistry_namespace}*", count=1000)
        ]
    prefixes = (keys.record(""), keys.holds(""))
    assert not [key for key in found if key not in known and not key.startswith(prefixes)]


@pytest.fixture
def other(server_url: str, namespace: str) -> Iterator[Registry]:
    """Somebody else, with connections of his own to the test's server."""
    with Registry.from_url(server_url, namespace, owner="other") as other:
        yield other


@pytest.fixture
def proxy(server_url: str) -> Iterator[Proxy]:
    """Stands between clients and the test's server."""
    with Proxy(server_url) as proxy:
        yield proxy


@pytest.fixture
def make_server(request: pytest.FixtureRequest) -> Iterator[MakeServer]:
    """Starts servers that a test may kill, restart, fill: of the kind that the tests run on.

    A container, or a server that runs already, can't be had twice: there it is the embedded one.
    """
    binary = None if _given_url() else servers.binary(_kind(request.config))
    with ExitStack() as stack:

        def make(
            *,
            data_dir: Path | None = None,
            persistent: bool = False,
            password: str | None = None,
            **config: str,
        ) -> EmbeddedServer:
            server = EmbeddedServer(
                data_dir=data_dir,
                port=0,
                persistent=persistent,
                binary=binary,
                password=password,
                config={name.replace("_", "-"): value for name, value in config.items()},
            )
            return stack.enter_context(server)

        yield make


# The pool of redis-py is the same on every server, so it runs on one.
@pytest.fixture(
    params=["sync", "asyncio", pytest.param("redis-py", marks=pytest.mark.server("embedded"))],
)
def connect_any(request: pytest.FixtureRequest, server_url: str, namespace: str) -> Iterator[Connect]:
    """Connects any number of clients, all `Registry` or all `AsyncRegistry` behind its interface; the latter
    multiplexed, or over a pool of redis-py's.

    They are closed after the test, if it did not do so.
    """
    from pyregistry import AsyncRegistry, Registry

    with ExitStack() as stack:
        loop = stack.enter_context(loop_in_thread()) if request.param != "sync" else None
        transport: dict[str, Any] = {"redis-py": {"transport": "redis-py"}}.get(request.param, {})

        def connect(*, url: str = server_url, namespace: str = namespace, **options: Any) -> Registry:
            if loop is None:
                return stack.enter_context(Registry.from_url(url, namespace, **options))
            client = AsyncFacade(AsyncRegistry.from_url(url, namespace, **transport, **options), loop)
            return cast("Registry", stack.enter_context(client))

        yield connect


@pytest.fixture
def any_registry(connect_any: Connect) -> Registry:
    """A connected client; the test runs once with each kind."""
    return connect_any()


def _describe(config: pytest.Config) -> str:
    return "the one of PYREGISTRY_TEST_URL" if _given_url() else servers.describe(_kind(config))


def _given_url() -> str | None:
    return os.environ.get("PYREGISTRY_TEST_URL") or None


def _kind(config: pytest.Config) -> str:
    return str(config.getoption("--server"))
