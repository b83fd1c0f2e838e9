"""The scripts as text, without a server: their headers, and what Python sends."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from pyregistry._core.model_key import ModelKey
from pyregistry._core.validation import target
from pyregistry._core.values import Default, ProgressUpdate
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.request import Request, pack
from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.protocol.scripts import BATCH, Script, load, lua_folder
from pyregistry._redis.protocol.transitions import OPEN, SCRIPTS
from pyregistry.backend.values import Cancellation, Ending, StatusChange
from pyregistry.models import Claim, EventKind, ModelStatus
from tools.build_lua import bindings
from tools.build_lua.contract import Contract, Row, read_contract

ROOT = Path(__file__).parents[2]
LUA = ROOT / "lua"
ALL = (OPEN, *SCRIPTS)
WRITERS_THAT_GROW = {"claim", "retry", "set_status", "set_branch"}
READERS = {"check", "read", "page", "counts", "now", "branch"}


def contract(script: Script) -> Contract:
    return read_contract(repr(script), script.text)[0]


def code(script: Script) -> str:
    """The text without comments, and without the names of elements, which are comments."""
    return re.sub(r"--\[\[.*?\]\]|--.*", "", script.text)


def said(script: Script, field: str) -> str:
    """What a header says, to the line of the next field."""
    found = re.search(rf"(?ms)^-- {field}: (.*?)(?=^-- [A-Z][\w-]+: |^--$|^$)", script.text)
    assert found is not None
    return found[1]


# The files


def test_the_folder_holds_what_the_operations_run() -> None:
    """dist has the scripts that the package loads, and no others."""
    assert lua_folder() == LUA
    assert {path.name for path in (LUA / "dist").iterdir()} == {f"{script!r}.lua" for script in ALL}


@pytest.mark.parametrize("script", ALL, ids=repr)
def test_the_text_that_runs_is_the_file(script: Script) -> None:
    """The text of a script is its file, its SHA1 is that of the bytes, and its flags are read."""
    raw = (LUA / "dist" / f"{script!r}.lua").read_bytes()
    assert script.text.encode() == raw
    assert script.sha == hashlib.sha1(raw).hexdigest()
    assert script.writes == contract(script).writes


def test_a_script_that_is_not_there() -> None:
    """load raises FileNotFoundError for an unknown version."""
    with pytest.raises(FileNotFoundError):
        load("claim", 99)


def test_the_scripts_read_what_a_batch_is() -> None:
    """Python, the tool and the texts have the same limit."""
    assert BATCH == bindings.BATCH
    assert all(f"items > {BATCH} " in script.text for script in ALL if contract(script).item_keys)


def test_the_blocking_half_is_the_asyncio_half() -> None:
    """Each generated module is what its asyncio twin gives."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "unasync.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


# The state machine, as it was designed: the rows of these scripts, in the order in which they win

DESIGN = """\
claim, retry | the claim that ended last has this `claim_id` | unchanged | AlreadyExists(status); not won (a late copy)
claim | absent | DOWNLOADING, `attempts` 1 | Claimed
claim, retry | DOWNLOADING, same `claim_id`, lease over or not | lease ends at the later of its end and now + lease (None stays) | Claimed again, same token (a re-sent request)
claim | DOWNLOADING, lease over or released, `attempts` >= `max_attempts` (if given) | ERROR, `Owner lost ...`, the attempts are used up: with a cool-down, or permanent without one | AlreadyExists(ERROR)
claim | DOWNLOADING, lease over or released | DOWNLOADING, new claim, `attempts`+1 | Claimed: taken over, from whom, how far it had got
claim | DOWNLOADING, live lease or none | unchanged | AlreadyExists(DOWNLOADING), lease left
claim | EVICTING, lease over | DOWNLOADING, new claim, `attempts` 1 | Claimed: taken over
claim | DOWNLOADED, ERROR, EVICTING | unchanged | AlreadyExists(status)
retry | ERROR, not permanent, its attempts are used up, cool-down over | DOWNLOADING, new claim, `attempts` 1 | Claimed
retry | ERROR, not permanent, back-off over, `attempts` < `max_attempts` (if given) | DOWNLOADING, new claim, `attempts`+1 | Claimed
retry | anything else | unchanged | not won
renew | DOWNLOADING, same claim, `order` not above that of the progress stored | lease extended (never shortened) | renewed, lease left (a late copy)
renew | DOWNLOADING, same claim | lease extended (never shortened), progress and its `order` stored | renewed, lease left
renew | that claim ended last, by finish or release | unchanged | ended by yourself (not lost)
finish | DOWNLOADING, same claim (its lease may be over, as long as nobody took over) | DOWNLOADED or ERROR | done
finish | that claim ended last, with this status, even if a later claim runs | unchanged | done again
release | DOWNLOADING, same claim | DOWNLOADING without a claim, lease over, attempt not counted, progress kept | done
release | that claim ended last, by release | unchanged | done again
renew, finish, release | anything else | unchanged | lost
set_status | EVICTING with a live lease; or to EVICTING | unchanged | refused
set_status | DOWNLOADING, to DOWNLOADING | message changed; claim, lease, token stay | done
set_status | anything else | that status, and what is said of it; claim, lease, back-off, permanence cleared, `attempts` 0, a new token; how the last claim ended stays | done
cancel | by token: another token | unchanged | not cancelled
cancel | DOWNLOADING, lease over or not | ERROR, the attempts are used up; permanent, or a cool-down of `retry_in` | done: whose it was
cancel | by token: ERROR, and the claim that ended last was cancelled | unchanged | done again
cancel | anything else | unchanged | refused
touch | DOWNLOADING, DOWNLOADED, ERROR | `last_used` bumped | known
touch | EVICTING; absent | unchanged | known; not known
delete | by token: another token, or absent | unchanged | not deleted
delete | EVICTING with a live lease, or held, unless forced | unchanged | refused
delete | anything else | absent | deleted or not, per provider
"""  # noqa: E501 - a table


@pytest.mark.parametrize("script", ALL, ids=repr)
def test_the_rows_are_those_of_the_design(script: Script) -> None:
    """The rows of each header are those of the state table."""
    wanted = [
        Row(*rest)
        for names, *rest in (line.split(" | ") for line in DESIGN.splitlines())
        if script.name in names.split(", ")
    ]
    assert list(contract(script).rows) == wanted


# What a header says is what the script does


@pytest.mark.parametrize("script", ALL, ids=repr)
def test_flags(script: Script) -> None:
    """Only what may grow is refused when memory is full."""
    flags = script.text.partition("\n")[0]
    if script.name in READERS:
        assert flags == "#!lua flags=no-writes"
    else:
        assert flags == ("#!lua" if script.name in WRITERS_THAT_GROW else "#!lua flags=allow-oom")


@pytest.mark.parametrize("script", ALL, ids=repr)
def test_no_key_or_argument_is_idle(script: Script) -> None:
    """Each is used, not only bound and checked."""
    header, text = contract(script), code(script)
    names = [*header.keys, *header.item_keys, *(arg.name for arg in (*header.args, *header.item_args))]
    text = re.sub(r"'(?:[^'\\]|\\.)*'", "''", text)
    for name in names:
        checks = rf"(?m)^ *(?:local )?{name} = .*\n(?: *if (?:not )?{name}\b.* then\n +error\(.*\n *end\n)?"
        rest = re.sub(r"(?m)^ *local [\w, ]+$", "", re.sub(checks, "", text))
        assert re.search(rf"\b{name}\b", rest), name


@pytest.mark.parametrize("script", ALL, ids=repr)
def test_events(script: Script) -> None:
    """The kinds that a header names are those that the script publishes."""
    source = (LUA / "src" / f"{script!r}.lua").read_text("utf-8")
    text = re.sub(r"--.*", "", source)
    named = {kind for kind in EventKind if re.search(rf"\b{kind}\b", said(script, "Event"))}
    assert {kind for kind in EventKind if f"'{kind}'" in text} == named
    assert bool(named) != contract(script).event.startswith("none")


REPLIES = {
    "claim": wire.ClaimReply,
    "retry": wire.RetryReply,
    "renew": wire.RenewReply,
    "finish": wire.EndReply,
    "release": wire.EndReply,
    "set_status": wire.SetReply,
    "cancel": wire.CancelReply,
    "touch": wire.TouchReply,
    "delete": wire.DeleteReply,
    "read": wire.ReadReply,
}


@pytest.mark.parametrize("name", REPLIES)
def test_replies(name: str) -> None:
    """The words that a header says an answer begins with are those that Python can read."""
    script = load(name, 1)
    words = {
        word for pair in re.findall(r'\["(\w+)"(?: or "(\w+)")?', said(script, "Reply")) for word in pair
    }
    tags = [struct.__struct_config__.tag for struct in get_args(REPLIES[name])]
    assert words - {""} == set(tags)


def test_nothing_is_run_but_what_was_meant() -> None:
    """No KEYS, no SCAN, no other channel; one place in a script that publishes."""
    everything: set[str] = set()
    for script in ALL:
        text = code(script)
        called = re.findall(r"\b(?:call|pcall|get)\('(\w+)'", text)
        assert called.count("SPUBLISH") <= 1
        # Every call names its command, or it would not have been found.
        others = re.findall(r"pcall\((?:cmsgpack|redis)\.", text)
        assert len(re.findall(r"\b(?:call|pcall|get)\(", text)) == len(called) + len(others)
        everything |= {*called}
    assert everything == {
        "DEL", "GET", "HMGET", "HSET", "INFO", "MSET", "SPUBLISH", "TIME", "TYPE", "ZADD", "ZCARD", "ZCOUNT",
        "ZRANGE", "ZREM", "ZSCORE",
    }  # fmt: skip


# What Python sends is what the header says

CLAIM = Claim("m", "HuggingFace", None, None, "the id", "the owner", 77, 60.0, None)
SECOND_CLAIM = Claim("n", "S3", "r", "s", "another id", "the owner", 88, 30.0, None)
OPS = RequestFactory("space", "the caller", ())
PREFIX = "pyregistry:{space}:"
KEYS = {
    "meta": "meta", "index_downloading": "downloading", "index_downloaded": "downloaded",
    "index_error": "error", "index_evicting": "evicting", "any_record": "model:x", "any_holds": "holds:x",
    "branches": "branches",
}  # fmt: skip
ENTRIES = ("HuggingFace:m", "S3@r#s:n")


def targets() -> list[ModelKey]:
    return [target("m", "HuggingFace", None, None), target("n", "S3", "r", "s")]


def by_item(**args: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{name: values[at] for name, values in args.items()} for at in (0, 1)]


def both(**args: Any) -> list[dict[str, Any]]:
    return [args, args]


# An operation of two items where there can be two; its shared arguments; those of its items.
SENT: dict[str, tuple[Request[Any], dict[str, Any], list[dict[str, Any]]]] = {
    "open": (OPS.open(), {"schema": 1}, []),
    "check": (OPS.check(), {"schema": 1}, []),
    "claim": (
        OPS.claiming("HuggingFace", None, None, 9.5, "o", 4, 2.5).claim("m", "the id", 5),
        {"owner": "o", "lease": 9_500_000, "max_attempts": 4, "cooldown": 2_500_000},
        [{"claim_id": "the id", "expected_bytes": 5}],
    ),
    "retry": (
        OPS.retry(targets()[0], lease=9.5, claim_id="the id", owner="o", max_attempts=4),
        {"owner": "o", "lease": 9_500_000, "max_attempts": 4},
        [{"claim_id": "the id"}],
    ),
    "renew": (
        OPS.renew(
            [CLAIM, SECOND_CLAIM],
            lease=Default.ITS_OWN,
            updates=[ProgressUpdate("x", 1, 2, 5), ProgressUpdate("y", 3, 4, 6)],
        ),
        {},
        by_item(
            claim_id=("the id", "another id"),
            token=(77, 88),
            lease=(60_000_000, 30_000_000),
            says=(1, 1),
            message=("x", "y"),
            bytes_done=(1, 3),
            bytes_total=(2, 4),
            order=(5, 6),
        ),
    ),
    "finish": (
        OPS.finish(CLAIM, Ending(ModelStatus.DOWNLOADED, "x", 3, "l", "r")),
        {},
        [
            {
                "claim_id": "the id", "token": 77, "status": "DOWNLOADED", "message": "x", "size_bytes": 3,
                "location": "l", "resolved_revision": "r", "retry_in": 0, "permanent": 0,
                "max_attempts": 0, "cooldown": 0,
            }
        ],
    ),
    "release": (OPS.release(CLAIM), {}, [{"claim_id": "the id", "token": 77}]),
    "set_status": (
        OPS.set_status(targets()[0], StatusChange(ModelStatus.ERROR, "x", retry_in=7)),
        {"by": "the caller"},
        [
            {
                "status": "ERROR", "message": "x", "retry_in": 7_000_000, "permanent": 0, "size_bytes": 0,
                "location": "",
            }
        ],
    ),
    "cancel": (
        OPS.cancel(targets()[0], Cancellation("x", expected_token=77, retry_in=7)),
        {"by": "the caller"},
        [
            {
                "token": 77, "message": "cancelled by the caller: x", "retry_in": 7_000_000, "permanent": 0,
            }
        ],
    ),
    "touch": (OPS.touch(targets()), {}, both()),
    "delete": (
        OPS.delete(targets(), expected_token=77, force=True),
        {"by": "the caller"},
        both(token=77, force=1),
    ),
    "read": (OPS.read(targets()), {}, both()),
    "page": (OPS.page(None, 5, 50), {"from": 5, "limit": 50}, [{}] * 4),
    "counts": (OPS.counts(), {}, []),
    "now": (OPS.now(), {}, []),
    "cache": (OPS.cache("the cache"), {"proposed": "the cache"}, []),
    "branch": (OPS.branch(targets()[1]), {"branch": "S3@r#s:n", "spelling": "S3:n"}, []),
    "set_branch": (
        OPS.set_branch(targets()[1], "c1", "the name", 77),
        {"branch": "S3@r#s:n", "commit": "c1", "spelling": "S3:n", "canonical": "the name", "asked": 77},
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("script", ALL, ids=repr)
def test_what_is_sent_is_what_the_header_says(script: Script) -> None:
    """A request sends the keys and arguments of the header, in order."""
    op, shared, items = SENT[script.name]
    assert op.head.script is script
    places = {"record_key": "model:", "holds_key": "holds:"}
    header = contract(script)
    keys = [PREFIX + KEYS[name] for name in header.keys]
    for at in range(len(items)):
        for name in header.item_keys:
            if name == "index_key":
                keys.append(PREFIX + ("downloading", "downloaded", "error", "evicting")[at])
            else:
                keys.append(PREFIX + places[name] + ENTRIES[at])
    assert [*op.head.keys, *op.keys] == keys
    shared = {"channel": PREFIX + "events"} | shared
    argv = [shared[arg.name] for arg in header.args]
    argv += [each[arg.name] for each in items for arg in header.item_args]
    assert [*op.head.argv, *op.argv] == argv
    assert op.items in (0, len(items))
    assert all(set(each) == {arg.name for arg in header.item_args} for each in items)
    command = (script.sha, len(keys), *keys, *argv)
    assert op.head.command([op]) == ("EVALSHA", *command)
    assert op.head.packed([op]) == op.packed() == op.packed() == pack(("EVALSHA", *command))


@pytest.mark.parametrize("claim_id", [None, "mine", "méin"])
@pytest.mark.parametrize("expected_bytes", [None, 0, 2**53 - 1])
@pytest.mark.parametrize("owner", [None, "50 % of ü"])
def test_a_claim_is_packed_as_hiredis_would(
    claim_id: str | None, expected_bytes: int | None, owner: str | None
) -> None:
    """A claim packs to the same bytes as with hiredis."""
    for name in ("m", "organisation/name", "模型", "100 %d"):
        op = OPS.claiming("S3", "né", None, 5, owner, None).claim(name, claim_id, expected_bytes)
        assert op.packed() == op.head.packed([op]) == pack(op.head.command([op]))


FIT = {
    "str": r"(?s).*",
    "word": r"(?s).+",
    "int": r"\d+",
    "int?": r"\d*",
    "flag": r"[01]",
}

LEAST: list[Request[Any]] = [
    OPS.open(),
    OPS.claiming("HuggingFace", None, None, None, None, None).claim("m", None, None),
    OPS.claims(targets(), lease=Default.KEPT, owner=None, max_attempts=None),
    OPS.retry(targets()[0], lease=Default.KEPT, claim_id=None, owner=None, max_attempts=None),
    OPS.renew([CLAIM, SECOND_CLAIM], lease=None),
    OPS.renew([CLAIM], lease=1, updates=[ProgressUpdate(None)]),
    OPS.finish(CLAIM, Ending(ModelStatus.ERROR, retry_in=0.5, permanent=True)),
    OPS.release(CLAIM),
    OPS.set_status(targets()[0], StatusChange(ModelStatus.ERROR)),
    OPS.touch(targets()),
    OPS.delete(targets(), expected_token=None, force=False),
    OPS.page(None, 0, 1),
    OPS.check(),
    OPS.branch(targets()[0]),
    OPS.set_branch(targets()[0], "c1", "m", 0),
]  # fmt: skip


@pytest.mark.parametrize("op", [*LEAST, *(op for op, _, _ in SENT.values())], ids=lambda op: op.head.name)
def test_arguments_are_of_the_types_that_the_header_says(op: Request[Any]) -> None:
    """With everything said, and with as little as can be."""
    assert op.head.script is not None
    header = contract(op.head.script)
    types = [arg.type for arg in header.args]
    values = [*op.head.argv, *op.argv]
    while len(types) < len(values):
        types += [arg.type for arg in header.item_args]
    for value, kind in zip(values, types, strict=True):
        assert re.fullmatch(FIT[kind], str(value)), (value, kind)


@pytest.mark.parametrize("script", ALL, ids=repr)
def test_what_may_be_sent_again(script: Script) -> None:
    """Without a word about conditions in the header, the operation says the same."""
    op, words = SENT[script.name][0], said(script, "Re-send")
    assert op.head.resend is words.startswith("safe")
