"""The embedded server that a user's processes share."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import redis

from pyregistry import embedded
from pyregistry.embedded import process as server_process
from pyregistry.embedded import shared_url, stop_shared, stop_unused
from pyregistry.embedded.binary import find_binary
from pyregistry.errors import ConfigurationError, EmbeddedUnavailable
from tests.support.embedded import LIMIT, answers, has, put, python, run, server_pid, wait_until
from tests.support.faults.mounts import on_mount

ASK_FOR_URL = """
from pyregistry.embedded import shared_url
print("ready", flush=True)
input()
print(shared_url(), flush=True)
"""


def test_processes_that_start_at_once_share_one_server(folders: Path) -> None:
    """Processes that start at once share one server, which outlives them."""
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
    """Threads that start at once share one server."""
    with ThreadPoolExecutor(8) as pool:
        urls = set(pool.map(lambda _: shared_url(), range(8)))
    assert len(urls) == 1


def test_its_folders_are_private(folders: Path) -> None:
    """The folders and files of the shared server are private."""
    url = shared_url()
    assert url.startswith(f"unix://{folders}/run/pyregistry/")
    for folder in ("share/pyregistry", "run/pyregistry"):
        assert (folders / folder).stat().st_mode & 0o777 == 0o700
    for file in (folders / "run/pyregistry").iterdir():
        assert file.stat().st_mode & 0o777 == 0o700


def test_stop_and_start_keep_the_data(folders: Path) -> None:
    """The shared server keeps its data over a stop."""
    assert not stop_shared()
    url = shared_url()
    put(url, "key")
    assert stop_shared()
    assert not answers(url)
    assert not stop_shared()
    assert has(shared_url(), "key")


def test_a_killed_server_leaves_nothing_in_the_way(folders: Path) -> None:
    """The shared server starts again after it was killed, with its data."""
    url = shared_url()
    put(url, "key")
    os.kill(server_pid(url), signal.SIGKILL)
    wait_until(lambda: not answers(url), "the server has ended")
    assert has(shared_url(), "key")


def test_a_file_that_was_cut_off_leaves_nothing_in_the_way(folders: Path) -> None:
    """The shared server starts with a truncated append-only file."""
    put(shared_url(), "key")
    stop_shared()
    (file,) = (folders / "share/pyregistry/appendonlydir").glob("*.incr.aof")
    with file.open("ab") as end:
        end.write(b"*3\r\n$3\r\nSET\r\n$3\r\nke")
    assert has(shared_url(), "key")


def test_two_data_folders_are_two_servers(folders: Path) -> None:
    """Each data folder has its own server, by whichever name."""
    first, second = shared_url(folders / "one"), shared_url(folders / "two")
    assert server_pid(first) != server_pid(second)
    (folders / "link").symlink_to(folders / "one")
    assert shared_url(folders / "link") == first, "a folder is the same by all its names"


def test_two_logins_share_one_server(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two logins with different runtime folders share one server."""
    url = shared_url()
    (folders / "other").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folders / "other"))
    assert shared_url() == url


@pytest.mark.parametrize("runtime", [None, "relative", "/no/such/folder"])
def test_without_a_runtime_folder_it_is_in_the_temporary_one(
    runtime: str | None, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a runtime folder the socket is in the temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    if runtime is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert shared_url().startswith(f"unix://{folders}/pyregistry-{os.geteuid()}/")


def test_after_a_logout_the_server_is_restarted(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server whose socket was removed is restarted with its data."""
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
    """A server whose data folder was removed is replaced and ends."""
    url = shared_url()
    old = server_pid(url)
    shutil.rmtree(folders / "share")
    assert shared_url() == url
    assert server_pid(url) != old
    wait_until(lambda: str(folders) not in server_process.command_line(old), "the old server has ended")


@pytest.mark.parametrize("what", ["open", "link"])
def test_a_runtime_folder_that_others_could_change_is_refused(what: str, folders: Path) -> None:
    """A runtime folder open to others, or a link, raises ConfigurationError."""
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
    """A runtime folder opened later raises ConfigurationError."""
    shared_url()
    (folders / "run/pyregistry").chmod(0o777)
    with pytest.raises(ConfigurationError, match="open to other users: chmod 700"):
        shared_url()
    (folders / "run/pyregistry").chmod(0o700)
    assert stop_shared()


def test_a_runtime_folder_too_long_for_a_socket(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime folder too long for a socket raises ConfigurationError."""
    (folders / ("long" * 25)).mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folders / ("long" * 25)))
    with pytest.raises(ConfigurationError, match="too long for a unix socket"):
        shared_url()


def test_a_folder_that_can_not_be_made(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder that can not be made raises ConfigurationError."""
    (folders / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(folders / "file"))
    with pytest.raises(ConfigurationError, match="can't be made"):
        shared_url()


def test_a_lock_that_somebody_else_holds(folders: Path) -> None:
    """A lock held by another process raises EmbeddedUnavailable within the timeout."""
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
    """A file system without locks raises ConfigurationError that names the variable to set."""
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
    """A shared server that hangs raises EmbeddedUnavailable with its process and log."""
    pid = server_pid(shared_url())
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(EmbeddedUnavailable, match=rf"process {pid} .*server\.log"):
            shared_url(timeout=0.1)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_server_that_does_not_start_is_told_with_the_log(folders: Path) -> None:
    """A shared server that does not start raises EmbeddedUnavailable with the log."""
    put(shared_url(), "key")
    stop_shared()
    (file,) = (folders / "share/pyregistry/appendonlydir").glob("*.incr.aof")
    file.write_bytes(b"nonsense\r\n" + file.read_bytes())
    with pytest.raises(EmbeddedUnavailable, match=r"(?s)did not start.*Bad file format"):
        shared_url()


def test_a_program_of_ones_own(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYREGISTRY_SERVER_BINARY names the program of the shared server."""
    program = folders / "program"
    program.write_text(f'#!/bin/sh\ntouch "{folders}/used"\nexec "{find_binary()}" "$@"\n')
    program.chmod(0o700)
    monkeypatch.setenv("PYREGISTRY_SERVER_BINARY", str(program))
    assert answers(shared_url())
    assert (folders / "used").exists()


def test_no_forked_child_ever_holds_the_lock(folders: Path) -> None:
    """A forked child never holds the lock of the shared server."""
    assert (
        run(f"""
import os, threading
from pathlib import Path
from pyregistry.embedded.locks import locked

def start_and_stop():
    while not done.is_set():
        with locked(Path({str(folders)!r})):
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
with locked(Path({str(folders)!r})) as lock:
    print("taken" if lock is None else "free")
""")
        == "free"
    )


# --- in the foreground


def test_foreground(folders: Path) -> None:
    """run_foreground serves the shared data on a port until a signal."""
    port = server_process.free_port()
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
    """stop_shared ends a server in the foreground."""
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
            found += all(word in command.read_bytes() for word in (b"embedded/idle.py", os.fsencode(folders)))
    return found


def test_a_server_that_nobody_uses_ends_by_itself(folders: Path) -> None:
    """A shared server without clients ends after idle_timeout and keeps its data."""
    url = shared_url(idle_timeout=0.5)
    put(url, "key")
    socket_file = Path(unquote(urlsplit(url).path))
    wait_until(lambda: not socket_file.exists(), "it has ended")
    wait_until(lambda: not watchers(folders), "and its watcher")
    assert not list((folders / "run/pyregistry").iterdir())
    assert has(shared_url(idle_timeout=None), "key")
    assert watchers(folders) == 0


def test_a_server_that_has_a_client_goes_on(folders: Path) -> None:
    """A shared server with a client does not end."""
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
    """stop_unused stops a server without clients alone."""
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
    """`serve --stop` stops an unused server, and with --force any."""

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
