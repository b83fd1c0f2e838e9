"""`pyregistry watch` and `pyregistry top`: what they show, in which form, and how they end."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pyregistry import Claim, Claimed, Provider, Registry
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry.cli.exit_codes import Exit
from tests.support.cli import COMMAND, ROOT, SECONDS, without_colours
from tests.support.commands import Start
from tests.support.faults.proxy import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.conftest import MakeServer


@pytest.fixture
def listens(server_url: str, namespace: str) -> Iterator[Callable[[], None]]:
    """Waits until somebody has subscribed to the namespace's events."""
    with redis.Redis.from_url(server_url) as client:

        def subscribers() -> int:
            answer: Any = client.execute_command("PUBSUB", "SHARDNUMSUB", Keyspace(namespace).channel)
            return int(answer[1])

        def wait() -> None:
            until(lambda: subscribers() > 0, "it listens", SECONDS)

        yield wait


def claim(registry: Registry, name: str = "org/m", provider: str = "S3", **more: Any) -> Claim:
    result = registry.try_claim_for_download(
        name, Provider(provider), **{"lease": 3600, "owner": "host:1", **more}
    )
    assert isinstance(result, Claimed)
    return result.claim


def story(registry: Registry) -> Claim:
    """Four events of one model."""
    claimed = claim(registry, expected_bytes=100)
    registry.refresh_download_claim(claimed, bytes_done=50, message="ha\tlf")
    registry.finish_download_claim(claimed, "ERROR", "no route", retry_in=3600)
    registry.delete_model("org/m")
    return claimed


# watch


def test_in_a_pipe_events_are_lines(start: Start, registry: Registry) -> None:
    """`watch` in a pipe prints one row for each event, without claim ids."""
    run = start("watch", "--count", 4)
    run.says("watching ")
    claimed = story(registry)
    ended = run.end()
    assert ended.code == Exit.DONE, ended.err
    head, *rows = [line.split("\t") for line in ended.out.splitlines()]
    events = [dict(zip(head, row, strict=True)) for row in rows]
    assert [each["KIND"] for each in events] == ["claimed", "renewed", "failed", "deleted"]
    assert {each["MODEL_NAME"] for each in events} == {"org/m"}
    renewed, failed = events[1:3]
    assert (renewed["BYTES_DONE"], renewed["BYTES_TOTAL"], renewed["MESSAGE"]) == ("50", "100", r"ha\tlf")
    assert (failed["STATUS"], failed["MESSAGE"], failed["OWNER"]) == ("ERROR", "no route", "host:1")
    assert datetime.fromisoformat(failed["AT"].replace("Z", "+00:00")).tzinfo is not None
    assert claimed.claim_id not in ended.out + ended.err, "it is a secret"


def test_events_as_json(start: Start, registry: Registry, listens: Callable[[], None]) -> None:
    """`watch --json` prints one document for each event, without claim ids."""
    run = start("watch", "--json", "--count", 4)
    listens()
    claimed = story(registry)
    ended = run.end()
    assert (ended.code, ended.err) == (Exit.DONE, "")
    events = [json.loads(line) for line in ended.out.splitlines()]
    assert [each["kind"] for each in events] == ["claimed", "renewed", "failed", "deleted"]
    assert all(set(each) == {"kind", "at", "by", "record"} for each in events)
    assert events[1]["record"]["bytes_done"] == 50
    assert events[3]["by"] == registry.owner
    assert claimed.claim_id not in ended.out


def test_only_some_events(start: Start, registry: Registry) -> None:
    """`watch` filters by model and provider."""
    of_model = start("watch", "org/m", "--count", 2)
    of_provider = start("watch", "-p", "Ngc", "--count", 2)
    of_model.says("watching ")
    of_provider.says("watching ")
    claim(registry, "org/m", "S3")
    claim(registry, "org/other", "S3")
    claim(registry, "org/other", "Ngc")
    claim(registry, "org/m", "Ngc", revision="v1")

    def seen(out: str) -> list[list[str]]:
        return [line.split("\t")[3:6] for line in out.splitlines()[1:]]

    assert seen(of_model.end().out) == [["S3", "org/m", ""], ["Ngc", "org/m", "v1"]]
    assert seen(of_provider.end().out) == [["Ngc", "org/other", ""], ["Ngc", "org/m", "v1"]]


def test_it_ends_by_itself(start: Start) -> None:
    """`watch` ends after --for and --count."""
    ended = start("watch", "--for", 0.2).end()
    assert (ended.code, len(ended.out.splitlines())) == (Exit.DONE, 1)
    assert start("watch", "--count", 0).end().code == Exit.DONE


def test_a_gap_is_told(start: Start, registry: Registry, server_url: str) -> None:
    """`watch` prints a gap after a broken connection."""
    lines, documents = start("watch", "--count", 40), start("watch", "--json", "--count", 40)
    stop, begun = threading.Event(), threading.Event()

    def renew() -> None:
        # What happens before they listen again is missed: so something happens again and again; slowly at first, so
        # that the one that begins first has not seen all that it counts before the other begins.
        claimed = claim(registry)
        for done in count(1):
            registry.refresh_download_claim(claimed, bytes_done=done)
            begun.wait(0.5)
            if stop.wait(0.05):
                return

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        said = {}
        for run in (lines, documents):  # who has not begun can miss nothing
            assert run.process.stdout is not None
            said[run] = run.process.stdout.readline()
            while b"org/m" not in said[run]:
                said[run] += run.process.stdout.readline()
        with redis.Redis.from_url(server_url) as client:
            assert client.client_kill_filter(_type="pubsub") == 2
        begun.set()
        for run in (lines, documents):
            assert run.process.stdout is not None
            said[run] += run.process.stdout.read()
            assert run.process.wait(SECONDS) == Exit.DONE
    finally:
        begun.set()
        stop.set()
        thread.join()
    rows = [line.split("\t") for line in said[lines].decode().splitlines()]
    gaps = [dict(zip(rows[0], row, strict=True)) for row in rows[1:] if row[1] == "gap"]
    assert [(each["MODEL_NAME"], bool(each["MESSAGE"])) for each in gaps] == [("", True)]
    found = [json.loads(line) for line in said[documents].splitlines()]
    assert [set(each) for each in found if each["kind"] == "gap"] == [{"kind", "at", "why"}]


@pytest.mark.parametrize("json_too", [True, False])
def test_ctrl_c_ends_it(
    start: Start, registry: Registry, listens: Callable[[], None], json_too: bool
) -> None:
    """`watch` writes events at once, and SIGINT exits with INTERRUPTED."""
    run = start("watch", *(["--json"] if json_too else []))
    listens()
    claim(registry)
    assert run.process.stdout is not None
    while b"org/m" not in run.process.stdout.readline():
        pass  # written at once, though it is a pipe
    run.send(signal.SIGINT)
    ended = run.end()
    assert ended.code == Exit.INTERRUPTED
    assert "Traceback" not in ended.err


def test_nobody_answers(start: Start) -> None:
    """`watch` and `top` without a server exit with UNAVAILABLE."""
    for command in ("watch", "top"):
        assert start("--url", "redis://127.0.0.1:1", command).end().code == Exit.UNAVAILABLE


def test_the_server_goes(start: Start, make_server: MakeServer) -> None:
    """`watch` exits with UNAVAILABLE when the server stops."""
    server = make_server()
    run = start("--url", server.url, "--timeout", 0.5, "watch")
    run.says("watching ")
    server.stop()
    ended = run.end()
    assert ended.code == Exit.UNAVAILABLE
    assert "Traceback" not in ended.err


def test_a_reader_that_has_gone(start: Start, registry: Registry) -> None:
    """`watch` into a closed pipe exits with BROKEN_PIPE."""
    run = start("watch")
    run.says("watching ")
    assert run.process.stdout is not None
    run.process.stdout.close()
    claim(registry)
    assert run.process.wait(SECONDS) == Exit.BROKEN_PIPE
    assert "Traceback" not in run.err


@pytest.mark.parametrize(
    "words",
    [["watch", ""], ["watch", "-p", "1x"], ["watch", "--count", "-1"], ["watch", "--for", "-1"]],
)
def test_wrong_calls(start: Start, words: list[str]) -> None:
    """A wrong call of `watch` or `top` exits with WRONG_CALL."""
    ended = start(*words).end()
    assert ended.code == Exit.WRONG_CALL
    assert "Traceback" not in ended.err


# On a terminal


class Terminal:
    """A command on a terminal of its own; a context manager."""

    def __init__(self, words: tuple[str, ...], env: Mapping[str, str], columns: int, lines: int) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        hidden = ("NO_COLOR", "COLUMNS", "LINES")
        self.process = subprocess.Popen(
            [*COMMAND, *words],
            env={
                **{name: value for name, value in env.items() if name not in hidden},
                "TERM": "xterm-256color",
            },
            cwd=ROOT,
            stdin=follower,
            stdout=follower,
            stderr=follower,
        )
        os.close(follower)
        self._seen = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        # Linux tells the end of a terminal by this error.
        with contextlib.suppress(OSError):
            while chunk := os.read(self._leader, 65536):
                self._seen.extend(chunk)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(SECONDS)
        os.close(self._leader)

    @property
    def raw(self) -> str:
        """All that was written."""
        return self._seen.decode(errors="replace").replace("\r\n", "\n")

    @property
    def text(self) -> str:
        """The same without what moves and colours."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)

    def shows(self, pattern: str) -> None:
        """Wait until that is there."""
        until(lambda: re.search(pattern, self.text), f"{pattern} in\n{self.text}", SECONDS)


def test_events_on_a_terminal(env: dict[str, str], registry: Registry) -> None:
    """`watch` on a terminal prints one readable line for each event."""
    with Terminal(("watch", "--count", "9"), env, 200, 40) as terminal:
        terminal.shows("watching")
        story(registry)
        lost = claim(registry, revision="v1", lease=0.000001)
        taken = claim(registry, revision="v1", owner="host:2")
        assert lost.token < taken.token
        registry.release_download_claim(taken)
        registry.set_status("red", Provider("Own"), "ERROR", "\x1b[31mby hand")
        registry.finish_download_claim(claim(registry, "late"), "DOWNLOADED", size_bytes=2048, location="l/1")
        assert terminal.process.wait(SECONDS) == 0
        terminal.shows("late")
        raw, text = terminal.raw, terminal.text
    assert "\x1b[31mby" not in raw, "a text's own codes are shown, not obeyed"
    lines = [re.sub(r"  +", "  ", line[10:]) for line in text.splitlines()[1:]]
    assert re.match(r"\d\d:\d\d:\d\d  claimed", text.splitlines()[1])
    assert lines[0].startswith("claimed  org/m  S3  host:1, attempt 1, token ")
    assert lines[1] == r"renewed  org/m  S3  host:1, 50 % done, 50 B of 100 B, ha\tlf"
    assert lines[2].startswith("failed  org/m  S3  host:1, attempt 1, no retry for 60 min, no route")
    assert lines[3] == f"deleted  org/m  S3  by {registry.owner}"
    assert lines[5].startswith("taken over  org/m @v1  S3  host:2, from host:1, attempt 2, token ")
    assert lines[7] == rf"set  red  Own  ERROR, by {registry.owner}, \x1b[31mby hand"


# top


def scene(registry: Registry) -> None:
    """One of each kind."""
    running = claim(registry, "org/running", owner="host:1", expected_bytes=2**20)
    registry.refresh_download_claim(running, bytes_done=2**19)
    claim(registry, "org/stuck", owner="host:2", lease=0.000001)
    registry.set_status("org/hand", "Ngc", "DOWNLOADING")
    for name, more in (("later", {"retry_in": 3600}), ("never", {"permanent": True}), ("soon", {})):
        registry.finish_download_claim(claim(registry, f"org/{name}"), "ERROR", f"why {name}", **more)
    for name in ("old", "new"):
        there = claim(registry, f"org/{name}")
        registry.finish_download_claim(there, "DOWNLOADED", size_bytes=2**30, location=f"models/{name}")


def test_top_as_json(start: Start, registry: Registry) -> None:
    """`top --json` prints counts, downloads, errors and least used models."""
    scene(registry)
    frame = start("top", "--json").end().json
    assert frame["namespace"] == registry.namespace
    assert frame["statuses"] == {
        "DOWNLOADING": {"models": 3, "bytes": 2**20},
        "DOWNLOADED": {"models": 2, "bytes": 2**31},
        "ERROR": {"models": 3, "bytes": 0},
        "EVICTING": {"models": 0, "bytes": 0},
    }
    running, stuck, by_hand = frame["downloading"]
    assert running["record"]["model_name"] == "org/running"
    assert (running["bytes_per_second"], running["seconds_left"], running["stuck"]) == (None, None, None)
    at, since = (
        datetime.fromisoformat(text.replace("Z", "+00:00")) for text in (frame["at"], running["since"])
    )
    assert timedelta(0) <= at - since < timedelta(hours=1)
    assert re.fullmatch(r"lease over for \d+ \w+", stuck["stuck"])
    assert by_hand["stuck"] is None
    assert [each["model_name"] for each in frame["errors"]] == ["org/later", "org/never", "org/soon"]
    assert [each["location"] for each in frame["least_recently_used"]] == ["models/old", "models/new"]


@pytest.mark.parametrize("options", [[], ["--once"]])
def test_top_in_a_pipe(start: Start, registry: Registry, options: list[str]) -> None:
    """`top` in a pipe prints four tables."""
    scene(registry)
    ended = start("top", *options).end()
    assert (ended.code, ended.err) == (0, "")
    tables = [[line.split("\t") for line in table.splitlines()] for table in ended.out.split("\n\n")]
    statuses, downloads, errors, oldest = (
        [dict(zip(head, row, strict=True)) for row in rows] for head, *rows in tables
    )
    assert statuses[0] == {"STATUS": "DOWNLOADING", "MODELS": "3", "BYTES": str(2**20)}
    assert [each["MODEL_NAME"] for each in downloads] == ["org/running", "org/stuck", "org/hand"]
    assert (downloads[0]["BYTES_DONE"], downloads[0]["OWNER"], downloads[0]["STUCK"]) == (
        str(2**19),
        "host:1",
        "",
    )
    assert [(each["PERMANENT"], bool(each["RETRY_AT"])) for each in errors] == [
        ("false", True), ("true", False), ("false", False),
    ]  # fmt: skip
    assert [each["SIZE_BYTES"] for each in oldest] == [str(2**30)] * 2


LONG = "meta/" + "long-" * 20 + "name"
WHY = "why it has failed, told at length: " + "word " * 30 + "END"


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_nothing_is_lost_on_a_terminal(env: dict[str, str], registry: Registry, columns: int) -> None:
    """`top` on a narrow terminal wraps long texts and loses none."""
    held = claim(
        registry, LONG, owner="a-host-with-a-long-name.some-region.example:4711", expected_bytes=2**20
    )
    registry.refresh_download_claim(held, bytes_done=2**19, message="shard 3 of 17\tfrom a mirror")
    registry.finish_download_claim(claim(registry, "org/never"), "ERROR", WHY, permanent=True)
    with Terminal(("top", "--once"), env, columns, 60) as terminal:
        assert terminal.process.wait(SECONDS) == 0
        terminal.shows("END")
        text = terminal.text
    assert max(map(len, text.splitlines())) <= columns
    together = re.sub(r"\s+", "", text)
    for words in ("a-host-with-a-long-name.some-region.example:4711", r"shard 3 of 17\tfrom a mirror", WHY):
        assert re.sub(r"\s+", "", words) in together
    assert "50 %" in text
    # A name goes on below itself, beside which the cells are.
    column = "".join(line.split("  ")[0].strip() for line in text.splitlines() if not line.startswith("  "))
    assert LONG in column


def test_a_message_is_seen_while_top_runs(env: dict[str, str], registry: Registry) -> None:
    """`top` shows a new progress message while it runs."""
    held = claim(registry, "org/running", expected_bytes=10)
    with Terminal(("top",), env, 80, 24) as terminal:
        terminal.shows("org/running")
        registry.refresh_download_claim(held, bytes_done=5, message="verifying")
        terminal.shows("verifying")
        terminal.shows("1 client listens, this too")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(SECONDS) == Exit.INTERRUPTED


def test_who_listens_is_counted(
    start: Start, env: dict[str, str], registry: Registry, server_url: str
) -> None:
    """`show` and `top` count the clients that listen."""
    scene(registry)
    assert start("show", "org/running", "--json").end().json["listeners"] == 0
    with (
        Registry.from_url(server_url, registry.namespace) as other,
        registry.watch(),
        other.watch("any", "S3"),
    ):
        assert start("show", "org/running", "--json").end().json["listeners"] == 2
        assert "listeners\t2\n" in start("show", "org/running").end().out
        assert start("top", "--json").end().json["listeners"] == 2
        with Terminal(("show", "org/running"), env, 100, 40) as terminal:
            terminal.shows("2 clients listen to this namespace, for any model")
        with Terminal(("top", "--once"), env, 100, 40) as terminal:
            terminal.shows(r"2 clients listen *\n")


def test_where_the_server_does_not_tell_who_listens(
    start: Start, env: dict[str, str], make_server: MakeServer
) -> None:
    """`show` and `top` work where listeners can not be counted."""
    server = make_server()
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "a", "on", ">pw", "~*", "&*", "+@all", "-pubsub|shardnumsub")
    with Registry.from_url(server.url, "n") as registry:
        claim(registry, "m")
    options = ("--url", server.url.replace("redis://", "redis://a:pw@"), "--namespace", "n")
    shown = start("show", "m", "--json", *options).end()
    assert (shown.code, shown.json["listeners"]) == (0, None)
    assert start("top", "--json", *options).end().json["listeners"] is None
    with Terminal(("top", "--once", *options), env, 100, 40) as terminal:
        terminal.shows("1 DOWNLOADING")
        assert terminal.process.wait(SECONDS) == 0
        assert "listen" not in terminal.text


def test_top_of_nothing(start: Start) -> None:
    """`top` of an empty namespace prints zeros."""
    ended = start("top").end()
    assert ended.code == 0
    assert ended.out.startswith("STATUS\tMODELS\tBYTES\nDOWNLOADING\t0\t0\n")


def test_one_frame_on_a_terminal(env: dict[str, str], registry: Registry) -> None:
    """`top --once` prints one frame that fits the terminal."""
    scene(registry)
    for columns in (80, 160):
        with Terminal(("top", "--once"), env, columns, 40) as terminal:
            assert terminal.process.wait(SECONDS) == 0
            terminal.shows("LONGEST UNUSED[^z]*org/new.*\n")
            raw, text = without_colours(terminal.raw), terminal.text
        assert raw == text, "nothing is drawn anew"
        assert "3 DOWNLOADING 1.0 MiB   2 DOWNLOADED 2.0 GiB   3 ERROR" in text
        assert max(map(len, text.splitlines())) <= columns
        assert re.search(r"^org/running  S3 .* 50 %  1.0 MiB .* host:1 *$", text, re.MULTILINE)
        assert re.search(r"^org/never  S3 +1  never +why never *$", text, re.MULTILINE)
        assert re.search(r"^org/later  S3 +1  in \d+ min +why later *$", text, re.MULTILINE)
        assert re.search(r"^org/old  S3 +.* 1.0 GiB  models/old *$", text, re.MULTILINE)
    assert re.search(r"^org/stuck  S3 .* lease over for \d+ \w+: host:2 *$", text, re.MULTILINE)
    assert re.search(r"^org/hand  Ngc .* lease never ends: nobody *$", text, re.MULTILINE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_top_goes_on_until_a_signal(env: dict[str, str], registry: Registry, number: signal.Signals) -> None:
    """`top` follows changes until a signal and restores the screen."""
    claimed = claim(registry, "org/running", expected_bytes=10**9)
    with Terminal(("top",), env, 120, 24) as terminal:
        terminal.shows("org/running")
        done = itertools.count(10**6, 10**5)

        def speed() -> re.Match[str] | None:
            registry.refresh_download_claim(claimed, bytes_done=min(next(done), 10**9 - 1))
            return re.search(r" MiB/s +\d+ (s|min) +host:1", terminal.text)

        until(speed, "how fast it is", SECONDS)
        registry.try_claim_for_download("org/second", "S3", lease=60)
        terminal.shows("org/second")
        registry.finish_download_claim(claimed, "DOWNLOADED", location="models/1")
        terminal.shows("1 DOWNLOADED")
        terminal.process.send_signal(number)
        assert terminal.process.wait(SECONDS) == 128 + number
        until(
            lambda: terminal.raw.endswith("\x1b[?1049l\x1b[?25h") or "\x1b[?25h" in terminal.raw[-40:],
            "the end",
        )
        raw = terminal.raw
    assert raw.count("\x1b[?1049h") == raw.count("\x1b[?1049l") == 1, "the screen is as it was"
    assert "Traceback" not in raw


def test_top_goes_on_without_a_server(env: dict[str, str], make_server: MakeServer, tmp_path: Path) -> None:
    """`top` shows an error while the server is away, and goes on."""
    server = make_server()
    with Terminal(("--url", server.url, "--timeout", "0.5", "top"), env, 120, 24) as terminal:
        terminal.shows("0 DOWNLOADING")
        server.stop()
        terminal.shows("Error|no answer|refused")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(SECONDS) == Exit.INTERRUPTED


def test_top_fits_on_the_screen(env: dict[str, str], registry: Registry) -> None:
    """`top` fits the screen and counts what it leaves out."""
    for number in range(30):
        claim(registry, f"org/d{number:02}")
        registry.set_status(f"org/e{number:02}", "S3", "ERROR")
        registry.set_status(f"org/t{number:02}", "S3", "DOWNLOADED")
    with Terminal(("top",), env, 100, 20) as terminal:
        terminal.shows(r"LONGEST UNUSED[^\x1b]*and \d+ more")
        frame = terminal.text.split("pyregistry ")[1]
        assert len(frame.rstrip().splitlines()) <= 20
        for name in ("org/d00", "org/e00", "org/t00"):
            assert name in frame
        assert len(re.findall(r"and \d+ more", frame)) == 3
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(SECONDS) == Exit.INTERRUPTED
