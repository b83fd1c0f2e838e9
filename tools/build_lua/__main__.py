"""Write, or compare, what is made of the Lua sources.

    python -m tools.build_lua            writes lua/dist, lua/scripts.lock, and the state table of lua/README.md
    python -m tools.build_lua --check    only compares; exit code 1 if something differs

Both compare the record of Python with lua/record.toml. A script of a tagged version is frozen: write a new version.
"""

from __future__ import annotations

import argparse
import sys

from tools.build_lua.files import LUA, build
from tools.build_lua.layout import differences, read_layout


def main() -> int:
    """Write or compare."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.build_lua",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    files = build(LUA)
    stale = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
    surplus = [path for path in sorted((LUA / "dist").glob("*")) if path not in files]
    for path in (*stale, *surplus):
        name = path.relative_to(LUA.parent)
        print(f"{name} is not what the sources give: run python -m tools.build_lua" if check else name)
    if not check:
        (LUA / "dist").mkdir(exist_ok=True)
        for path in stale:
            path.write_text(files[path], "utf-8")
        for path in surplus:
            path.unlink()
    # Last, because the package can't be imported before its scripts are there.
    from pyregistry._redis.protocol.records import StoredRecord

    wrong = differences(
        read_layout(LUA / "record.toml"), StoredRecord.__struct_fields__, StoredRecord.__struct_defaults__
    )
    for line in wrong:
        print(line)
    return 1 if wrong or (check and (stale or surplus)) else 0


if __name__ == "__main__":
    sys.exit(main())
