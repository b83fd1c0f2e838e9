"""tools/build_lua: what it makes of sources, what it refuses, and whether the committed files are what it makes."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyregistry._redis.protocol.records import StoredRecord
from tools.build_lua.compose import Composer
from tools.build_lua.contract import Arg, Row, read_contract
from tools.build_lua.files import LUA, build, compose_all, lock_lines, readme_with_table
from tools.build_lua.layout import Element, Layout, differences, read_layout

ROOT = Path(__file__).parents[2]
LAYOUT = Layout((Element("status", ""), Element("token", 0), Element("owner", ""), Element("extra", 0)))

TEMPLATE = """\
-- For authors: this comment is left out.

--@include front

--@bindings

-- Set later.
local judge, unused_too

--@at-start?

for item = 1, items do
  --@item
  if not stored then
    --@when-absent?
  end
  if not judge then
    --@include functions

    --@when-undecided
  end
  judge({BLANK}, KNOWN)
end
"""
FRONT = """\
-- For authors.

-- The largest integer.
local MAX_INT = 9007199254740991

-- Nothing uses this.
local NEVER = 5
"""
FUNCTIONS = """\
-- Return the token.
local function needed() return record[TOKEN] end

-- Nothing uses this,
local function unused()
  return also_unused() -- needed()
end

-- nor this,
function unused_too()
  return 1
end

-- nor this.
local function also_unused()
  if true then return {BLANK} end

  return 0
end
"""
SOURCE = """\
#!lua flags=allow-oom
-- sample: does nothing.
--
-- Template: frame
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

--@when-absent

first = first or by

--@when-undecided

function judge()
  return record[OWNER], needed()
end
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (
        ("templates/frame", TEMPLATE),
        ("includes/front", FRONT),
        ("includes/functions", FUNCTIONS),
    ):
        path = tmp_path / f"{name}.lua"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def compose(folder: Path, source: str) -> str:
    return Composer(folder, LAYOUT).compose("sample", 3, source)


def test_a_header_is_read() -> None:
    """read_contract returns every field of a header."""
    contract, rest = read_contract("sample.v3", SOURCE)
    assert contract.script == "sample.v3"
    assert contract.template == "frame"
    assert contract.keys == ("meta", "index")
    assert contract.args == (Arg("channel", "str"), Arg("by", "word"))
    assert contract.item_keys == ("record_key", "holds_key")
    assert contract.item_args == (Arg("token", "int"), Arg("done", "int?"), Arg("force", "flag"))
    assert contract.rows == (Row("absent", "unchanged", "nothing"),)
    assert contract.event == "none"
    assert contract.writes
    assert not read_contract("sample.v3", SOURCE.replace("allow-oom", "no-writes"))[0].writes
    assert rest.startswith("\nlocal first\n")


def test_the_whole_text(folder: Path) -> None:
    """Pieces are indented, positions stand for names, and nothing unused is left."""
    header = SOURCE.partition("local first")[0].rstrip("\n")
    assert compose(folder, SOURCE) == (
        header
        + """
--
-- Composed by tools/build_lua from src/sample.v3.lua: change that file.

-- The largest integer.
local MAX_INT = 9007199254740991

local items = (#KEYS - 2) / 2
if items % 1 ~= 0 or items < 1 or items > 64 or #ARGV ~= 2 + items * 3 then
  error({err = 'ERR pyregistry: sample.v3 takes 1 to 64 items, not '
    .. #KEYS .. ' keys and ' .. #ARGV .. ' arguments'}, 0)
end
local meta = KEYS[1]
local index = KEYS[2]
local channel = ARGV[1]
local by = ARGV[2]
if by == '' then
  error({err = 'ERR pyregistry: by is empty'}, 0)
end
local record_key, holds_key
local token, done, force
local last_token, last_done, last_force

-- Set later.
local judge, unused_too

local first

for item = 1, items do
  record_key = KEYS[1 + item * 2]
  holds_key = KEYS[2 + item * 2]
  local a = 2 + (item - 1) * 3
  if ARGV[a + 1] ~= last_token then
    last_token = ARGV[a + 1]
    token = tonumber(last_token)
    if not token or token < 0 or token > MAX_INT or token % 1 ~= 0 then
      error({err = 'ERR pyregistry: token is not a whole number of 0 to 2^53 - 1'}, 0)
    end
  end
  if ARGV[a + 2] ~= last_done then
    last_done = ARGV[a + 2]
    done = tonumber(last_done)
    if done and (done < 0 or done > MAX_INT or done % 1 ~= 0) or not done and last_done ~= '' then
      error({err = 'ERR pyregistry: done is not a whole number of 0 to 2^53 - 1'}, 0)
    end
  end
  if ARGV[a + 3] ~= last_force then
    last_force = ARGV[a + 3]
    force = last_force == '1'
    if not force and last_force ~= '0' then
      error({err = 'ERR pyregistry: force is neither 0 nor 1'}, 0)
    end
  end
  if not stored then
    first = first or by
  end
  if not judge then
    -- Return the token.
    local function needed() return record[--[[TOKEN]] 2] end

    function judge()
      return record[--[[OWNER]] 3], needed()
    end
  end
  judge({'', 0, ''}, 3)
end
"""
    )


def test_optional_hooks_leave_nothing_behind(folder: Path) -> None:
    """A script without an optional hook has none of the lines around it."""
    source = SOURCE.replace("--@when-absent\n\nfirst = first or by\n\n", "").replace("local first\n\n", "")
    text = compose(folder, source)
    assert "if not stored" not in text
    assert "first" not in text
    assert "\n\n\n" not in text


def test_a_script_without_items(folder: Path) -> None:
    """A script without items checks the numbers of its keys and arguments."""
    (folder / "templates" / "simple.lua").write_text("--@bindings\n\n--@at-start\n")
    source = SOURCE.replace("-- Template: frame", "-- Template: simple")
    source = (
        re.sub(r"-- Item .*\n", "", source).partition("local first")[0] + "--@include functions\n\nunused()\n"
    )
    text = compose(folder, source)
    assert "#KEYS ~= 2 or #ARGV ~= 2" in text
    assert "local function unused()" in text, "what is used,"
    assert "local function also_unused()" in text, "and what that uses"
    assert "local function needed()" not in text, "a comment is no use"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("#!lua flags=allow-oom", "", "first line"),
        ("#!lua", " #!lua", "first line"),
        ("#!lua flags=allow-oom", "#!lua flags=", "first line"),
        ("#!lua", "#!luajit", "first line"),
        ("-- Keys: meta, index\n", "", "lacks Keys"),
        ("-- Args: channel:str, by:word\n", "", "lacks Args"),
        ("-- Template: frame\n", "", "lacks Template"),
        ("-- Reply: nothing\n", "", "lacks Reply"),
        ("-- Errors: none\n", "", "lacks Errors"),
        ("-- Re-send: safe\n", "", "lacks Re-send"),
        ("-- Event: none\n", "", "lacks Event"),
        ("-- Errors: none\n-- Re-send: safe\n-- Event: none\n", "", "lacks Errors, Event, Re-send"),
        ("-- Template: frame\n", "\n-- Template: frame\n", "lacks"),
        ("-- Event: none\n", "-- Event: none\n-- Event: none\n", "Event is given twice"),
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
        ("Template: frame", "Template: ../frame", "not the name of a file in templates"),
        ("| unchanged | nothing", "| unchanged", "unpack"),
        ("| unchanged | nothing", "| unchanged | nothing | more", "unpack"),
        ("--@when-undecided", "--@when-present", "lacks the hook --@when-undecided"),
        ("--@when-absent", "--@when-present", "frame has no hook --@when-present"),
        ("--@when-absent", "--@when-undecided", "a hook twice"),
        ("--@when-absent", "--@at-start", "text before --@at-start"),
        ("first = first or by", "--@item", "--@item stands 2 times"),
        ("first = first or by", "--@bindings", "--@bindings stands 2 times"),
        ("first = first or by", "--@include", "lacks the hook --@include"),
        ("first = first or by", "--@when absent", "--@when absent is no hook"),
        ("first = first or by", "--@include ../front", "not the name of a file in includes"),
    ],
)
def test_a_source_that_does_not_fit(folder: Path, old: str, new: str, why: str) -> None:
    """A source that does not fit raises ValueError with the reason."""
    assert SOURCE.count(old) == 1
    with pytest.raises(ValueError, match=why):
        compose(folder, SOURCE.replace(old, new))


def test_a_template_or_an_include_that_is_not_there(folder: Path) -> None:
    """A missing template or include raises FileNotFoundError with its name."""
    with pytest.raises(FileNotFoundError, match="other"):
        compose(folder, SOURCE.replace("Template: frame", "Template: other"))
    with pytest.raises(FileNotFoundError, match="other"):
        compose(folder, SOURCE.replace("first = first or by", "--@include other"))


@pytest.mark.parametrize("line", ["--@bindings", "  --@item", "--@at-start?", "    --@when-undecided"])
def test_a_template_that_does_not_fit(folder: Path, line: str) -> None:
    """A template without a required mark raises ValueError with the script."""
    (folder / "templates" / "frame.lua").write_text(TEMPLATE.replace(f"{line}\n", ""))
    with pytest.raises(ValueError, match=r"sample\.v3: "):
        compose(folder, SOURCE)


# The layout of a record


def test_python_has_the_layout_of_record_toml() -> None:
    """StoredRecord has the elements and defaults of record.toml, in order."""
    layout = read_layout(LUA / "record.toml")
    assert differences(layout, StoredRecord.__struct_fields__, StoredRecord.__struct_defaults__) == []


def test_differences_are_told() -> None:
    """differences names each element that differs, or that one side lacks."""
    names, defaults = ("status", "token", "owner", "extra"), ("", 0, "", 0)
    assert differences(LAYOUT, names, defaults) == []
    assert differences(LAYOUT, (*names[:3], "other"), defaults) == [
        "element 4: ('extra', 0) in record.toml, ('other', 0) in Python"
    ]
    assert differences(LAYOUT, names, ("", 0, "", "")) == [
        "element 4: ('extra', 0) in record.toml, ('extra', '') in Python"
    ]
    assert differences(LAYOUT, names[:3], defaults[:3]) == [
        "element 4: ('extra', 0) in record.toml, none in Python"
    ]
    assert differences(Layout(LAYOUT.elements[:3]), names, defaults) == [
        "element 4: none in record.toml, ('extra', 0) in Python"
    ]


@pytest.mark.parametrize("default", ["1", "true", '"x"', "0.5"])
def test_a_default_says_nothing(tmp_path: Path, default: str) -> None:
    """A default in record.toml must be 0 or an empty text."""
    path = tmp_path / "record.toml"
    path.write_text(f'[[element]]\nname = "status"\ndefault = {default}\n')
    with pytest.raises(ValueError, match="the default of status"):
        read_layout(path)


@pytest.mark.parametrize("names", [("status", "status"), ("Status",), ("2nd",)])
def test_the_name_of_an_element(tmp_path: Path, names: tuple[str, ...]) -> None:
    """The names in record.toml are lower-case identifiers, and unique."""
    path = tmp_path / "record.toml"
    path.write_text("".join(f'[[element]]\nname = "{name}"\ndefault = 0\n' for name in names))
    with pytest.raises(ValueError, match="not a name, or a name twice"):
        read_layout(path)


# The committed files


def test_the_committed_files_are_what_the_sources_give() -> None:
    """Otherwise: run `python -m tools.build_lua`. A released script is frozen: write a new version."""
    command = [sys.executable, "-m", "tools.build_lua", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == ""


def test_the_lock_pins_the_bytes_that_run() -> None:
    """scripts.lock has the SHA1 of each file in dist."""
    lines = []
    for path in (LUA / "dist").iterdir():
        name, version, _ = path.name.split(".")
        lines.append(f"{name} {version[1:]} {hashlib.sha1(path.read_bytes()).hexdigest()}")
    assert sorted((LUA / "scripts.lock").read_text().splitlines()) == sorted(lines)


@pytest.mark.parametrize("changed", ["src/claim.v1.lua", "templates/transition.lua", "includes/claims.lua"])
def test_a_changed_line_changes_what_is_made(tmp_path: Path, changed: str) -> None:
    """A changed source, template or include changes the scripts that use it, and no others."""
    folder = tmp_path / "lua"
    shutil.copytree(LUA, folder)
    file = folder / changed
    file.write_text(file.read_text("utf-8").replace("return ", "return  ", 1), "utf-8")
    stale = {path.name for path, text in build(folder).items() if path.read_text("utf-8") != text}
    transitions = {
        f"{script}.lua" for script, text in compose_all(folder).items() if "-- Template: transition\n" in text
    }
    users = {
        "src/claim.v1.lua": {"claim.v1.lua"},
        "templates/transition.lua": transitions,
        "includes/claims.lua": {
            name for name in transitions if "is_live" in (LUA / "dist" / name).read_text()
        },
    }
    assert stale == users[changed] | {"scripts.lock"}


def test_the_lock_and_the_table_are_in_order() -> None:
    """The lock is sorted and complete, and a README without marks is refused."""
    texts = compose_all(LUA)
    assert list(texts) == sorted(texts)
    assert len(lock_lines(texts).splitlines()) == len(texts)
    with pytest.raises(ValueError, match="marks"):
        readme_with_table("no table", [])


@pytest.mark.parametrize("path", sorted((LUA / "dist").iterdir()), ids=lambda path: path.name)
def test_the_text_can_be_read_as_it_runs(path: Path) -> None:
    """Indented by blocks; no marks and no trailing blanks; elements by position and name."""
    text = path.read_text("utf-8")
    assert "--@" not in text
    assert not re.search(r"[ \t]+$|\t", text, re.MULTILINE)
    assert not re.search(r"\b(?:BLANK|KNOWN)\b|\[[A-Z_]+\](?!\])", text)
    layout = read_layout(LUA / "record.toml")
    for name, position in re.findall(r"--\[\[([A-Z_]+)\]\] (\d+)\]", text):
        assert layout.elements[int(position) - 1].name == name.lower()
    depth = 0
    for line in text.splitlines():
        bare = re.sub(r"'(?:[^'\\]|\\.)*'", "''", re.sub(r"--\[\[.*?\]\]", "", line))
        bare = re.sub(r"--.*", "", bare)
        begins = len(re.findall(r"\b(?:then|do|function)\b", bare))
        blocks = begins - len(re.findall(r"\b(?:end|elseif)\b", bare))
        brackets = len(re.findall(r"[{(]", bare)) - len(re.findall(r"[})]", bare))
        starts_lower = bool(re.match(r" *(?:end|else|elseif|[})])", bare))
        if bare.strip() and not bare.strip().startswith(("or ", "and ", "..")):
            assert len(bare) - len(bare.lstrip()) == 2 * (depth - starts_lower), line
        depth += blocks + max(-1, min(brackets, 1))
    assert depth == 0
