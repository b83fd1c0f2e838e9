"""`pyregistry run`: what it says meanwhile, and the words and numbers it says."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import threading
import time
from datetime import datetime, timezone
from itertools import count
from typing import Any

from pyregistry import Claimed, ModelRecord, ModelRef, ModelStatus, Registry
from pyregistry.cli.exit_codes import Exit
from pyregistry.cli.progress import waiting_words
from pyregistry.cli.throughput import Pace
from tests.support.cli import COMMAND, ROOT, SECONDS
from tests.support.commands import Start, sh
from tests.support.faults.proxy import until

# What is said meanwhile


def test_who_waits_in_a_pipe_gets_lines(start: Start, registry: Registry) -> None:
    """A waiting `run` in a pipe prints progress and error in plain lines."""
    result = registry.try_claim_for_download(
        "m", "HuggingFace", lease=3600, owner="slow", expected_bytes=4096
    )
    assert isinstance(result, Claimed)
    registry.refresh_download_claim(result.claim, bytes_done=1024)
    run = start("run", "m", "--retry", 1, *sh("true"))
    run.says("pyregistry: m: slow downloads it, 25 % done\n")
    registry.finish_download_claim(result.claim, "ERROR", "no\nroute", permanent=True)
    ended = run.end()
    assert ended.code == Exit.DOWNLOAD_FAILED
    assert r"no\nroute" in ended.err
    assert "\x1b" not in ended.err


def test_on_a_terminal_it_is_one_line(env: dict[str, str], registry: Registry) -> None:
    """A waiting `run` on a terminal redraws one line."""
    result = registry.try_claim_for_download(
        "m", "HuggingFace", lease=3600, owner="slow", expected_bytes=4096
    )
    assert isinstance(result, Claimed)
    leader, follower = pty.openpty()
    seen = bytearray()

    def read() -> None:
        # Linux tells the end of a terminal by this error.
        with contextlib.suppress(OSError):
            while chunk := os.read(leader, 4096):
                seen.extend(chunk)

    reader = threading.Thread(target=read)
    process = subprocess.Popen(
        [*COMMAND, "run", "m", "--", "true"],
        env={**env, "TERM": "xterm-256color"},
        cwd=ROOT,
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    reader.start()
    try:
        until(lambda: b"slow downloads it" in seen, "it waits", SECONDS)
        for done in count(1024, 64):
            registry.refresh_download_claim(result.claim, bytes_done=min(done, 4000))
            if b" left" in seen and b" B/s" in seen and b" % done" in seen:
                break
            assert done < 100_000, seen
            time.sleep(0.1)  # a pace, from which a speed can be told
        registry.finish_download_claim(result.claim, "DOWNLOADED")
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        reader.join(SECONDS)
        os.close(leader)
    text = seen.decode()
    assert "\x1b[2K" in text, "the line is drawn anew"
    assert text.endswith("pyregistry: m is there: downloaded by slow\r\n")


# Words and numbers


def test_pace() -> None:
    """The speed is that of recent reports, and falls with silence."""
    pace = Pace()
    assert pace.speed(0.0) is None
    pace.saw(0.0, 1, None)
    pace.saw(1.0, 1, 100)
    assert pace.speed(1.0) is None
    pace.saw(3.0, 1, 300)
    assert pace.speed(3.0) == 100
    assert pace.speed(7.0) == 100, "reports are not to be expected more often"
    assert pace.speed(21.0) == 10, "silence counts, once it is one"
    assert pace.silence(21.0) == 18
    assert pace.seconds_left(3.0, 1300) == 10
    assert pace.seconds_left(3.0, 200) == 0
    assert pace.seconds_left(3.0, None) is None
    pace.saw(4.0, 1, 50)
    assert pace.speed(4.0) is None, "it began again"
    pace.saw(5.0, 2, 50)
    assert pace.silence(6.0) == 1
    for second in range(6, 100):
        pace.saw(float(second), 2, 50 + 10 * min(second, 60) + max(second - 60, 0))
    assert pace.speed(99.0) == 1, "what is long ago does not count"
    assert Pace().seconds_left(0.0, 10) is None


def test_words_for_who_waits() -> None:
    """The line of a waiting `run` describes each state of the record."""
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    ref = ModelRef("m\x1b", "S3", "v1")

    def words(status: ModelStatus, **more: Any) -> str:
        return waiting_words(ref, ModelRecord("m\x1b", "S3", status, now, now, **more), Pace(), 0.0)

    assert waiting_words(ref, None, Pace(), 0.0) == r"m\x1b @v1: nobody downloads it"
    downloading = words(ModelStatus.DOWNLOADING, owner="host:1", attempts=2, bytes_done=2048, message="half")
    assert downloading == r"m\x1b @v1: host:1 downloads it, attempt 2, 2.0 KiB done, half"
    assert "has no owner" in words(ModelStatus.DOWNLOADING)
    assert "attempt 2 failed: why" in words(ModelStatus.ERROR, attempts=2, message="why")
    assert "host:1 evicts it" in words(ModelStatus.EVICTING, owner="host:1")
    assert "its files are looked for" in words(ModelStatus.DOWNLOADED)
