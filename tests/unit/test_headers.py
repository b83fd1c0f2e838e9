"""The scripts as text, without a server: headers, bindings, lock, state table, and what Python sends."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from pyregistry._core.model_key import ModelKey
from pyregistry._core.validation import target
from pyregistry._core.values import Default, ProgressUpdate
from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.operations import OPEN, SCRIPTS, Ops
from pyregistry._redis.protocol.request import Op, pack
from pyregistry._redis.protocol.scripts import Arg, Row, Script, compose, load, lock_lines, lua_folder
from pyregistry.backend.values import Cancellation, Ending, StatusChange
from pyregistry.models import Claim, EventKind, ModelStatus
from tools import lock_scripts

ROOT = Path(__file__).parents[2]
LUA = ROOT / "lua"
ALL = (OPEN, *SCRIPTS)
WRITERS_THAT_GROW = {"claim", "retry", "set_status", "set_branch"}
READERS = {"check", "read", "page", "counts", "now", "branch"}


def source(script: Script) -> str:
    return (LUA / f"{script.name}.v{script.version}.lua").read_text("utf-8")


def said(script: Script, field: str) -> str:
    """What a header says, to the line of the next field."""
    found = re.search(rf"(?ms)^-- {field}: (.*?)(?=^-- [A-Z][\w-]+: |^--$|^$)", source(script))
    assert found is not None
    return found[1]


# The loader

PRELUDE = """\
-- prelude

--@bindings

local judge, idle_too

--@section clock

now = 1

--@section rights

needs('TIME')

--@section server

local server = found

--@section records

-- For whoever needs it.
local function needed() return record[TOKEN] end

-- Nobody needs this,
local function idle()
  return also_idle()
end

-- nor this,
function idle_too()
  return 1
end

-- nor that.
local function also_idle()
  if true then return {BLANK} end

  return 0
end

--@section status

local status = stored

--@section numbers

local function text_of() return 1 end

--@section batch

--@clock
for item = 1, items do
  --@item
  if not stored then
    --@absent
  end
  if not judge then
    --@records
    --@script
  end
  judge({BLANK}, KNOWN)
end
--@numbers
text_of()
"""
SOURCE = """\
#!lua flags=allow-oom
-- sample: does nothing.
--
-- Prelude: 1
-- Keys: meta, index
-- Args: channel:str, by:word
-- Item keys: record_key, holds_key
-- Item args: token:int, done:int?, force:flag
-- Reply: nothing
-- Errors: none
-- Re-send: safe
-- Event: none
--
-- Row: absent | unchanged | nothing

local first

--@absent

first = first or by

--@records

function judge()
  return record[OWNER], needed()
end
"""


@pytest.fixture
def preludes(tmp_path: Path) -> Path:
    (tmp_path / "prelude.v1.lua").write_text(PRELUDE)
    return tmp_path


def test_a_header_is_read(preludes: Path) -> None:
    script = compose("sample", 3, SOURCE, preludes)
    assert repr(script) == "sample.v3"
    assert script.keys == ("meta", "index")
    assert script.args == (Arg("channel", "str"), Arg("by", "word"))
    assert script.item_keys == ("record_key", "holds_key")
    assert script.item_args == (Arg("token", "int"), Arg("done", "int?"), Arg("force", "flag"))
    assert script.rows == (Row("absent", "unchanged", "nothing"),)
    assert script.writes
    assert script.event == "none"


def test_the_text_is_put_together_from_the_header(preludes: Path) -> None:
    """The whole of it: what is named is bound, what is idle is left out, and elements are positions."""
    fields = wire.StoredRecord.__struct_fields__
    token, owner = (fields.index(name) + 1 for name in ("token", "owner"))
    blank = ", ".join("''" if each == "" else "0" for each in wire.StoredRecord.__struct_defaults__[:token])
    script = compose("sample", 3, SOURCE, preludes)
    takes = "sample.v3 takes 1 to 64 items, not ' .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments"
    header, _, judge = SOURCE.partition("\n")[2].partition("local first")
    assert script.text == (
        f"""\
#!lua flags=allow-oom
-- prelude

local items = (#KEYS - 2) / 2
if items % 1 ~= 0 or items < 1 or items > 64 or #ARGV ~= 2 + items * 3 then
  error({{err = 'ERR pyregistry: {takes}'}}, 0)
end
local meta = KEYS[1]
local index = KEYS[2]
local channel
channel = ARGV[1]
local by
by = ARGV[2]
if by == '' then
  error({{err = 'ERR pyregistry: by is empty'}}, 0)
end
local record_key, holds_key, token, done, force, last_token, last_done, last_force

local judge, idle_too

{header}local first
now = 1

for item = 1, items do
record_key = KEYS[1 + item * 2]
holds_key = KEYS[2 + item * 2]
local a = 2 + (item - 1) * 3
if ARGV[a + 1] ~= last_token then
  last_token = ARGV[a + 1]
  token = tonumber(last_token)
  if not token or token < 0 or token > MAX_INT or token % 1 ~= 0 then
    error({{err = 'ERR pyregistry: token is not a whole number of 0 to 2^53 - 1'}}, 0)
  end
end
if ARGV[a + 2] ~= last_done then
  last_done = ARGV[a + 2]
  done = tonumber(last_done)
  if done and (done < 0 or done > MAX_INT or done % 1 ~= 0) or not done and last_done ~= '' then
    error({{err = 'ERR pyregistry: done is not a whole number of 0 to 2^53 - 1'}}, 0)
  end
end
if ARGV[a + 3] ~= last_force then
  last_force = ARGV[a + 3]
  force = last_force == '1'
  if not force and last_force ~= '0' then
    error({{err = 'ERR pyregistry: force is neither 0 nor 1'}}, 0)
  end
end
  if not stored then

first = first or by
  end
  if not judge then
-- For whoever needs it.
local function needed() return record[{token}] end

function judge()
  return record[{owner}], needed()
end
  end
  judge({{{blank}}}, {token})
end
local function text_of() return 1 end

text_of()
"""
    )
    assert script.sha == hashlib.sha1(script.text.encode()).hexdigest()
    assert judge


def test_a_script_that_judges_no_items_binds_them_itself(preludes: Path) -> None:
    source = SOURCE.replace("\n--@records\n\nfunction judge()", "\n--@clock\n  --@item\nlook = function()")
    source = source.replace(", needed()", ", idle()")
    text = compose("sample", 1, source, preludes).text
    assert "\nnow = 1\n\nrecord_key = KEYS" in text, "what binds an item, where it says so"
    assert "local function idle(" in text, "and what that needs:"
    assert "local function also_idle(" in text
    blank = ", ".join("''" if each == "" else "0" for each in wire.StoredRecord.__struct_defaults__[:8])
    assert f"return {{{blank}}}" in text, "up to the last that is named"
    assert "\nnow = 1\n" in text, "the clock, where it says so"
    assert "judge()" not in text
    assert "needed" not in text


def test_a_reader_says_so(preludes: Path) -> None:
    script = compose("sample", 1, SOURCE.replace("allow-oom", "no-writes"), preludes)
    assert not script.writes


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("#!lua flags=allow-oom", "", "first line"),
        ("#!lua", " #!lua", "first line"),
        ("#!lua flags=allow-oom", "#!lua flags=", "first line"),
        ("#!lua", "#!luajit", "first line"),
        ("-- Keys: meta, index\n", "", "lacks Keys"),
        ("-- Args: channel:str, by:word\n", "", "lacks Args"),
        ("-- Prelude: 1\n", "", "lacks Prelude"),
        ("-- Reply: nothing\n", "", "lacks Reply"),
        ("-- Errors: none\n", "", "lacks Errors"),
        ("-- Re-send: safe\n", "", "lacks Re-send"),
        ("-- Event: none\n", "", "lacks Event"),
        ("-- Errors: none\n-- Re-send: safe\n-- Event: none\n", "", "lacks Errors, Event, Re-send"),
        ("-- Prelude: 1\n", "\n-- Prelude: 1\n", "lacks"),
        ("-- Event: none\n", "-- Event: none\n-- Event: none\n", "Event is said twice"),
        ("channel:str", "channel", "not name:type"),
        ("channel:str", "channel:text", "not name:type"),
        ("channel:str", "2nd:str", "not name:type"),
        ("channel:str", ":str", "not name:type"),
        ("force:flag", "force:bool", "not name:type"),
        ("force:flag", "token:flag", "a name twice"),
        ("force:flag", "channel:flag", "a name twice"),
        ("force:flag", "meta:flag", "a name twice"),
        ("meta, index", "meta, meta", "a name twice"),
        ("meta, index", "meta, an index", "not a name"),
        ("record_key, holds_key", "record_key, meta", "a name twice"),
        ("-- Item keys: record_key, holds_key\n", "", "no key of an item"),
        ("record[OWNER]", "record[OWNRE]", "has no OWNRE"),
        ("-- Prelude: 1", "-- Prelude: one", "one"),
        ("| unchanged | nothing", "| unchanged", "unpack"),
        ("| unchanged | nothing", "| unchanged | nothing | more", "unpack"),
    ],
)
def test_a_header_that_does_not_fit(preludes: Path, old: str, new: str, why: str) -> None:
    assert SOURCE.count(old) == 1
    with pytest.raises(ValueError, match=why):
        compose("sample", 1, SOURCE.replace(old, new), preludes)


def test_preludes_that_do_not_fit(preludes: Path) -> None:
    with pytest.raises(FileNotFoundError):
        compose("sample", 1, SOURCE.replace("Prelude: 1", "Prelude: 2"), preludes)
    for line in ("--@bindings", "--@script", "--@item", "--@clock", "--@absent", "--@records", "--@numbers"):
        (preludes / "prelude.v2.lua").write_text(PRELUDE.replace(line, "-- nothing"))
        with pytest.raises(ValueError, match=f"sample.v1: not one line {line}"):
            compose("sample", 1, SOURCE.replace("Prelude: 1", "Prelude: 2"), preludes)
    for section in ("clock", "rights", "server", "records", "status", "numbers", "batch"):
        (preludes / "prelude.v2.lua").write_text(PRELUDE.replace(f"--@section {section}\n", ""))
        with pytest.raises(ValueError, match="its sections are not clock, rights, server, records, "):
            compose("sample", 1, SOURCE.replace("Prelude: 1", "Prelude: 2"), preludes)


def test_a_script_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        load("claim", 99)


# The files


def test_the_folder_holds_what_the_operations_run() -> None:
    assert lua_folder() == LUA
    assert {repr(script) for script in lock_scripts.all_scripts()} == {repr(script) for script in ALL}


def test_the_lock_pins_every_script() -> None:
    """A released script is frozen; that another has changed is said by `python tools/lock_scripts.py`."""
    assert (LUA / "scripts.lock").read_text() == lock_lines(lock_scripts.all_scripts())


@pytest.mark.parametrize("changed", ["claim.v1.lua", "prelude.v1.lua"])
@pytest.mark.parametrize("old_and_new", [("local ", "local  "), ("\n\n", "\n-- a word\n\n")])
def test_a_changed_line_does_not_pass_the_lock(
    tmp_path: Path, changed: str, old_and_new: tuple[str, str]
) -> None:
    folder = tmp_path / "lua"
    shutil.copytree(LUA, folder)
    file = folder / changed
    file.write_text(file.read_text("utf-8").replace(*old_and_new, 1), "utf-8")
    again = [
        compose(each.name, each.version, (folder / f"{each!r}.lua").read_text("utf-8"), folder)
        for each in ALL
    ]
    lines = set((LUA / "scripts.lock").read_text().splitlines())
    other = set(lock_lines(again).splitlines()) - lines
    assert {line.split()[0] for line in other} == (
        {"claim"} if changed.startswith("claim") else {script.name for script in ALL}
    )


def test_the_state_table_of_the_readme_is_that_of_the_headers() -> None:
    readme = (LUA / "README.md").read_text("utf-8")
    assert lock_scripts.readme_with_table(readme, lock_scripts.all_scripts()) == readme
    assert lock_scripts.state_table(lock_scripts.all_scripts()) in readme


def test_the_blocking_half_is_the_asyncio_half() -> None:
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
    wanted = [
        Row(*rest)
        for names, *rest in (line.split(" | ") for line in DESIGN.splitlines())
        if script.name in names.split(", ")
    ]
    assert list(script.rows) == wanted


# What a header says is what the script does


@pytest.mark.parametrize("script", ALL, ids=repr)
def test_flags(script: Script) -> None:
    """Only what may grow is refused when memory is full."""
    flags = source(script).partition("\n")[0]
    if script.name in READERS:
        assert flags == "#!lua flags=no-writes"
    else:
        assert flags == ("#!lua" if script.name in WRITERS_THAT_GROW else "#!lua flags=allow-oom")


@pytest.mark.parametrize("script", ALL, ids=repr)
def test_no_key_or_argument_is_idle(script: Script) -> None:
    """Each is named in the script, or in the prelude's part that the script uses."""
    code = re.sub(r"--.*", "", source(script))
    prelude = (lua_folder() / "prelude.v1.lua").read_text()
    rights = prelude[prelude.index("--@section rights") : prelude.index("--@section records")]
    by_prelude = {
        "meta",
        "channel",
        "record_key",
        *(f"index_{each}" for each in ("downloading", "downloaded", "error", "evicting")),
    }
    for name in (*script.keys, *script.item_keys, *(arg.name for arg in (*script.args, *script.item_args))):
        assert (
            re.search(rf"\b{name}\b", code)
            or ("function judge(" in code and name in by_prelude)
            or (name == "meta" and "--@clock" in source(script))
            or (name.startswith("index_") and "--@status" in source(script))
            or ("--@rights" in source(script) and re.search(rf"\b{name}\b", rights))
        ), name


@pytest.mark.parametrize("script", ALL, ids=repr)
def test_events(script: Script) -> None:
    """The kinds that a header names are those that the script publishes."""
    code = re.sub(r"--.*", "", source(script)).replace("pack({'renewed'", "").replace("pack({'deleted'", "")
    named = {kind for kind in EventKind if re.search(rf"\b{kind}\b", said(script, "Event"))}
    assert {kind for kind in EventKind if f"'{kind}'" in code} == named
    assert bool(named) != script.event.startswith("none")


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
    """No KEYS, no SCAN, no other channel; one place that publishes."""
    code = "".join(re.sub(r"--.*", "", path.read_text("utf-8")) for path in LUA.glob("*.lua"))
    called = re.findall(r"\b(?:call|pcall)\('(\w+)'", code)
    assert set(called) == {
        "DEL", "GET", "HMGET", "HSET", "INFO", "MSET", "SPUBLISH", "TIME", "TYPE", "ZADD", "ZCARD", "ZCOUNT",
        "ZRANGE", "ZREM", "ZSCORE",
    }  # fmt: skip
    assert called.count("SPUBLISH") == 1
    # Every call names its command, or it would not have been found.
    others = re.findall(r"pcall\((?:cmsgpack|redis)\.", code)
    assert len(re.findall(r"\b(?:call|pcall)\(", code)) == len(called) + len(others)


# What Python sends is what the header says

CLAIM = Claim("m", "HuggingFace", None, None, "the id", "the owner", 77, 60.0, None)
SECOND_CLAIM = Claim("n", "S3", "r", "s", "another id", "the owner", 88, 30.0, None)
OPS = Ops("space", "the caller", ())
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
SENT: dict[str, tuple[Op[Any], dict[str, Any], list[dict[str, Any]]]] = {
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
    op, shared, items = SENT[script.name]
    assert op.head.script is script
    places = {"record_key": "model:", "holds_key": "holds:"}
    keys = [PREFIX + KEYS[name] for name in script.keys]
    for at in range(len(items)):
        for name in script.item_keys:
            if name == "index_key":
                keys.append(PREFIX + ("downloading", "downloaded", "error", "evicting")[at])
            else:
                keys.append(PREFIX + places[name] + ENTRIES[at])
    assert [*op.head.keys, *op.keys] == keys
    shared = {"channel": PREFIX + "events"} | shared
    argv = [shared[arg.name] for arg in script.args]
    argv += [each[arg.name] for each in items for arg in script.item_args]
    assert [*op.head.argv, *op.argv] == argv
    assert op.items in (0, len(items))
    assert all(set(each) == {arg.name for arg in script.item_args} for each in items)
    command = (script.sha, len(keys), *keys, *argv)
    assert op.head.command([op]) == ("EVALSHA", *command)
    assert op.head.packed([op]) == op.packed() == op.packed() == pack(("EVALSHA", *command))


@pytest.mark.parametrize("claim_id", [None, "mine", "méin"])
@pytest.mark.parametrize("expected_bytes", [None, 0, 2**53 - 1])
@pytest.mark.parametrize("owner", [None, "50 % of ü"])
def test_a_claim_is_packed_as_hiredis_would(
    claim_id: str | None, expected_bytes: int | None, owner: str | None
) -> None:
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

LEAST: list[Op[Any]] = [
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
def test_arguments_are_of_the_types_that_the_header_says(op: Op[Any]) -> None:
    """With everything said, and with as little as can be."""
    assert op.head.script is not None
    types = [arg.type for arg in op.head.script.args]
    values = [*op.head.argv, *op.argv]
    while len(types) < len(values):
        types += [arg.type for arg in op.head.script.item_args]
    for value, kind in zip(values, types, strict=True):
        assert re.fullmatch(FIT[kind], str(value)), (value, kind)


@pytest.mark.parametrize("script", ALL, ids=repr)
def test_what_may_be_sent_again(script: Script) -> None:
    """Without a word about conditions in the header, the operation says the same."""
    op, words = SENT[script.name][0], said(script, "Re-send")
    assert op.head.resend is words.startswith("safe")
