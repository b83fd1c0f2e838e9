"""Ask embedded servers, and run code in processes of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    from collections.abc import Callable

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
