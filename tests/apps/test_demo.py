"""`pyregistry demo`: as a program of its own, and what its verdict is made of."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pyregistry import (
    ConfigurationError,
    FolderStore,
    InvalidArgument,
    ModelProvider,
    ModelRecord,
    ModelStatus,
    Provider,
    Registry,
    RegistryUnavailable,
    StatusCounts,
)
from pyregistry.demo import run
from pyregistry.demo.checks import Evidence, Killed, judge
from pyregistry.demo.file_server import FileServer, real_contents
from pyregistry.demo.ipc import File, Model, Verified, Won
from pyregistry.demo.scenario import known_models

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.server("embedded")  # not about the server
SECONDS = 60.0
SMALL: dict[str, Any] = {"processes": 4, "models": 3, "lease": 2.0, "timeout": SECONDS}
PROGRAM = "import sys; from pyregistry.demo import run; sys.exit(run(**eval(sys.argv[1])))"


# As a program


class Demo:
    """A demo that runs as a process of its own, with a folder for temporary files of its own."""

    def __init__(self, folder: Path, output: int = subprocess.PIPE, **options: Any) -> None:
        self.folder = folder
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, repr({**SMALL, **options})],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(folder), "PYTHONIOENCODING": "utf-8", "TERM": "xterm"},
            text=True,
            start_new_session=True,
        )

    def read_until(self, pattern: str) -> str:
        """Read on until a line has that in it; returns the line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line
            if re.search(pattern, line):
                return line
        pytest.fail(f"it ended without {pattern!r}:\n{self.text}")

    def end(self) -> int:
        """Read to the end; returns the exit code."""
        self.text += self.process.communicate(timeout=SECONDS)[0] or ""
        return self.process.returncode

    def replicas(self) -> dict[int, int]:
        """The processes of those that have connected, by their numbers."""
        found = re.findall(r"replica (\d+) \(pid (\d+)\) is connected", self.text)
        return {int(number): int(pid) for number, pid in found}

    def server(self) -> int:
        """The process of its private server."""
        (socket,) = self.folder.glob("pyregistry-*/server.sock")
        with redis.Redis(unix_socket_path=str(socket)) as client:
            info: Any = client.info("server")
            return int(info["process_id"])


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: a unix socket's is limited."""
    path = Path(tempfile.mkdtemp(prefix="demo-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def demos(folder: Path) -> Iterator[Any]:
    """Starts demos, and ends what a failed test leaves of them."""
    started = []

    def start(**options: Any) -> Demo:
        started.append(Demo(folder, **options))
        return started[-1]

    yield start
    for demo in started:
        demo.process.kill()
        demo.process.communicate()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def assert_all_gone(*pids: int) -> None:
    deadline = time.monotonic() + SECONDS
    while left := [pid for pid in pids if not is_gone(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)


def keys_of(client: redis.Redis, namespace: str) -> list[str]:
    return [key.decode() for key in client.scan_iter(f"pyregistry:{{{namespace}}}:*", 1000)]


def test_it_keeps_its_promises_and_leaves_nothing(
    demos: Any, folder: Path, server_url: str, namespace: str
) -> None:
    """The demo keeps its nine promises and leaves no process, file or key."""
    demo = demos(url=server_url, namespace=namespace)
    assert demo.end() == 0, demo.text
    assert demo.text.count("✓") == 9
    assert "✗" not in demo.text
    assert "3 downloads completed and 4 begun" in demo.text
    assert "4 processes, 3 models, 4 claims, one of them a takeover" in demo.text
    assert re.search(
        r"replica (\d) \(pid \d+\) took over (\S+): token \d+, attempt 2; replica (?!\1)", demo.text
    )
    assert "were woken by a message" in demo.text
    assert len(demo.replicas()) == 4
    assert all(is_gone(pid) for pid in demo.replicas().values())
    assert list(folder.iterdir()) == []
    with redis.Redis.from_url(server_url) as client:
        meta = f"pyregistry:{{{namespace}}}:meta"
        assert keys_of(client, namespace) == [meta], "the clock of a namespace that was named stays"
        left = client.hmget(meta, ["bytes:DOWNLOADING", "bytes:DOWNLOADED", "cache_id"])
        assert left == [b"0", b"0", None]


def test_on_a_terminal_it_shows_a_table(demos: Any, folder: Path, server_url: str) -> None:
    """The demo on a terminal shows a table with progress, and the outcome."""
    screen, terminal = pty.openpty()
    demo = demos(output=terminal, url=server_url)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError), open(screen, "rb", buffering=0) as stream:  # noqa: PTH123 - a descriptor
        while chunk := stream.read(65536):  # ends with EIO where nobody has the terminal open any more
            shown += chunk
    text = shown.decode()
    assert demo.end() == 0, text
    assert "progress" in text
    assert "━" in text
    assert "was killed at" in text
    assert "All 9 promises were kept" in text
    assert list(folder.iterdir()) == []
    found = re.search(r"the namespace is (demo-\w+)", text)
    assert found
    with redis.Redis.from_url(server_url) as client:
        assert keys_of(client, found[1]) == []


def test_processes_that_ignore_the_answer_are_found_out(demos: Any, folder: Path) -> None:
    """The demo reports processes that download without a claim."""
    demo = demos(faulty=True)
    assert demo.end() == 1, demo.text
    assert "✗ Each model was downloaded by one process" in demo.text
    assert "✗ No half-written file was ever in a published place" in demo.text
    assert "promises were broken" in demo.text
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_good_order(demos: Any, folder: Path, number: signal.Signals) -> None:
    """A signal ends the demo with all its processes and files."""
    demo = demos()
    demo.read_until("has the claim")
    server = demo.server()
    demo.process.send_signal(number)
    demo.process.send_signal(number)  # an impatient second one changes nothing
    assert demo.end() == 128 + number, demo.text
    assert f"Stopped by {number.name}." in demo.text
    assert "Traceback" not in demo.text
    assert len(demo.replicas()) == 4
    assert all(is_gone(pid) for pid in [server, *demo.replicas().values()])
    assert list(folder.iterdir()) == []


def test_when_it_is_killed_its_processes_end_by_themselves(demos: Any) -> None:
    """The processes of a killed demo end by themselves."""
    demo = demos()
    demo.read_until("has the claim")
    server = demo.server()
    demo.process.kill()
    demo.end()
    assert len(demo.replicas()) == 4
    assert_all_gone(server, *demo.replicas().values())


def test_a_process_that_ends_by_itself_ends_it(demos: Any, folder: Path) -> None:
    """A replica that ends by itself ends the demo with an error."""
    demo = demos()
    demo.read_until("processes want the same")
    os.kill(demo.replicas()[3], signal.SIGTERM)
    assert demo.end() == 1, demo.text
    assert re.search(r"replica 3 \(pid \d+\) ended by itself \(-15\)", demo.text)
    assert list(folder.iterdir()) == []


def test_it_gives_up_when_its_time_is_over(demos: Any, folder: Path) -> None:
    """The demo ends with an error after its timeout."""
    demo = demos(timeout=0.01)
    assert demo.end() == 1, demo.text
    assert "The time was up before all processes were connected." in demo.text
    assert list(folder.iterdir()) == []


# As a function


def test_a_namespace_with_models_is_left_alone(server_url: str, namespace: str, registry: Registry) -> None:
    """The demo refuses a namespace that has models."""
    registry.set_status("acme/model", ModelProvider.S3, ModelStatus.DOWNLOADED, None)
    with pytest.raises(ConfigurationError, match=namespace):
        run(url=server_url, namespace=namespace)
    assert registry.get_status("acme/model") is ModelStatus.DOWNLOADED


def test_a_namespace_that_stands_for_a_cache_is_left_alone(
    server_url: str, namespace: str, registry: Registry, tmp_path: Path
) -> None:
    """The demo refuses a namespace that belongs to a cache."""

    def download(claim: object, folder: Path) -> None:
        (folder / "file").write_text("x")

    registry.ensure("acme/model", "S3", download, store=FolderStore(tmp_path))
    registry.delete_model("acme/model")
    with pytest.raises(ConfigurationError, match="stands for a cache"):
        run(url=server_url, namespace=namespace)


def test_no_server() -> None:
    """The demo without its server raises RegistryUnavailable."""
    with pytest.raises(RegistryUnavailable):
        run(url="redis://127.0.0.1:1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"processes": 1},
        {"processes": 65},
        {"models": 0},
        {"models": len(known_models()) + 1},
        {"lease": 0},
        {"timeout": -1},
        {"namespace": "no spaces"},
    ],
)
def test_wrong_arguments(wrong: dict[str, Any]) -> None:
    """An invalid argument raises InvalidArgument with its name."""
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        run(**wrong)


def test_without_rich_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rich the error says what to install."""
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'pyregistry-redis\[cli,embedded\]'"):
        run()


def test_the_models_of_the_data_file() -> None:
    """The models of the data file are distinct and cover every provider."""
    models = known_models()
    assert {model.provider for model in models} == {str(each) for each in ModelProvider}
    assert len({model.key for model in models}) == len(models) == 16
    assert all(re.fullmatch(r"[\w.-]+", model.key) for model in models)


def test_the_file_server_counts() -> None:
    """The file server serves its files and counts the downloads."""

    def fail(replica: int) -> None:
        pytest.fail(f"stalled for replica {replica}")

    http = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    one, other = real_contents(2, 100_000)
    assert one != other
    assert 100_000 <= len(one) < len(other)
    with FileServer({"a": one, "b": other}, rate=1e9, stalls="b", on_stall=fail) as server:
        assert http.open(f"{server.url}/a").read() == one
        assert http.open(f"{server.url}/b").read() == other, "nobody's claim, so it does not stall"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            http.open(f"{server.url}/c")
    assert (server.started, server.completed) == ({"a": 1, "b": 1}, {"a": 1, "b": 1})
    assert server.manifest["a"].size == len(one)


# The verdict

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
MODELS = [Model(Provider("S3"), "a"), Model(Provider("S3"), "b")]
FILES = [File(10, "aa"), File(20, "bb")]


def record(model: int, token: int, **more: Any) -> ModelRecord:
    return ModelRecord(
        MODELS[model].name,
        ModelProvider.S3,
        ModelStatus.DOWNLOADED,
        NOW,
        NOW + timedelta(seconds=token),
        token=token,
        size_bytes=FILES[model].size,
        location=f"models/S3--{MODELS[model].name}/{token}",
        **more,
    )


def won(model: int, token: int, **more: Any) -> Won:
    return Won(model, token, **{"attempts": 1, "lease_expires_at": NOW + timedelta(seconds=5), **more})


TAKEOVER = won(0, 3, attempts=2, taken_over=True, previous_owner="replica 1", previous_bytes_done=4)
HALF_WAY = ModelRecord(
    "a",
    ModelProvider.S3,
    ModelStatus.DOWNLOADING,
    NOW,
    NOW,
    token=1,
    owner="replica 1",
    bytes_done=4,
    lease_expires_at=NOW + timedelta(seconds=2),
)
# Replica 1 was killed with model 0, which replica 2 took over when 2 s were over; replica 3 got model 1.
GOOD = Evidence(
    models=MODELS,
    files=FILES,
    lease=3.0,
    killed=Killed(1, 0, HALF_WAY),
    claims=[(1, won(0, 1)), (3, won(1, 2)), (2, TAKEOVER)],
    verified=[(replica, Verified(model, FILES[model])) for replica in (2, 3) for model in (0, 1)],
    started={0: 2, 1: 1},
    completed={0: 1, 1: 1},
    early=[],
    published={"models/S3--a/3/S3--a": FILES[0], "models/S3--b/2/S3--b": FILES[1]},
    abandoned=["staging/S3a/1/S3--a"],
    staged=[],
    touched=[1, 0],
    records=[record(1, 2), record(0, 3)],
    counts=StatusCounts(0, 2, 0),
    exit_codes={1: -9, 2: 0, 3: 0},
)
ONCE, CLAIM, TAKEN, TOKENS, WHOLE, PARTIAL, ORDER, AGREE, ENDED = range(9)


def test_a_good_run() -> None:
    """A faultless run breaks no promise."""
    assert [promise.broken for promise in judge(GOOD)] == [[]] * 9


@pytest.mark.parametrize(
    ("changed", "broken"),
    [
        ({"completed": {0: 1, 1: 2}}, {ONCE}),
        ({"completed": {0: 1}}, {ONCE}),
        ({"started": {0: 1, 1: 1}}, {ONCE}),
        ({"started": {0: 2, 1: 2}}, {ONCE}),
        ({"claims": [*GOOD.claims, (2, won(1, 1))]}, {CLAIM, TOKENS}),
        ({"claims": GOOD.claims[:2]}, {CLAIM, TAKEN, AGREE}),
        ({"killed": None}, {ONCE, CLAIM, TAKEN, WHOLE, ENDED}),
        ({"killed": Killed(3, 0, HALF_WAY)}, {TAKEN, WHOLE, ENDED}),
        ({"lease": 3.001}, {TAKEN}),
        ({"claims": [*GOOD.claims[:2], (1, TAKEOVER)]}, {TAKEN}),
        ({"claims": [(1, won(0, 1)), (3, won(1, 2)), (2, won(0, 3))]}, {TAKEN, TOKENS}),
        ({"claims": [(1, won(0, 4)), *GOOD.claims[1:]]}, {TAKEN, TOKENS, AGREE}),
        ({"claims": [(1, won(0, 1)), (3, won(1, 1)), (2, TAKEOVER)]}, {TOKENS, AGREE}),
        ({"verified": GOOD.verified[1:]}, {WHOLE}),
        ({"verified": [*GOOD.verified[1:], (2, Verified(0, File(9, "aa")))]}, {WHOLE}),
        ({"verified": [*GOOD.verified[1:], (2, Verified(0, File(10, "ab")))]}, {WHOLE}),
        ({"early": ["models/S3--a/3/S3--a"]}, {PARTIAL}),
        ({"abandoned": []}, {PARTIAL}),
        ({"abandoned": ["staging/S3a/3/S3--a"]}, {PARTIAL}),
        ({"abandoned": ["staging/S3a/1/S3--b"]}, {PARTIAL}),
        ({"staged": ["staging/S3a/1/S3--a"]}, {PARTIAL}),
        ({"touched": [0, 1]}, {ORDER}),
        ({"records": GOOD.records[::-1]}, {ORDER}),
        ({"records": GOOD.records[:1]}, {ORDER, AGREE}),
        ({"records": [record(1, 9), record(0, 3)]}, {ORDER, AGREE}),
        ({"published": {"models/S3--b/2/S3--b": FILES[1]}}, {AGREE}),
        ({"published": {**GOOD.published, "models/S3--a/3/S3--a": File(10, "ab")}}, {AGREE}),
        ({"published": {**GOOD.published, "models/S3--a/1/S3--a": FILES[0]}}, {AGREE}),
        ({"counts": StatusCounts(1, 2, 0)}, {AGREE}),
        ({"counts": StatusCounts(0, 1, 0)}, {AGREE}),
        ({"exit_codes": {1: -9, 2: 0, 3: 1}}, {ENDED}),
        ({"exit_codes": {1: 0, 2: 0, 3: 0}}, {ENDED}),
        ({"exit_codes": {1: -9, 2: 0, 3: 0, 4: 0}}, {WHOLE}),
    ],
)
def test_every_broken_promise_is_seen(changed: dict[str, Any], broken: set[int]) -> None:
    """Each fault of a run breaks exactly its promises."""
    promises = judge(replace(GOOD, **changed))
    assert {place for place, promise in enumerate(promises) if promise.broken} == broken
