"""Check the subjects of commits: one line of at most 72 characters, without a full stop, then an empty line.

    python3 tools/commit_subject.py FILE            check the message in a file (for the hook commit-msg)
    python3 tools/commit_subject.py --range A..B    check the commits of a range

The exit code is 1 if a subject is wrong.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MAX_LENGTH = 72
MADE_BY_GIT = ("Merge ", 'Revert "', "fixup! ", "squash! ", "amend! ")


def faults(message: str) -> list[str]:
    """Return the faults of a commit message's subject. Messages that git generates have none."""
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    subject = lines[0] if lines else ""
    if subject.startswith(MADE_BY_GIT):
        return []
    found = []
    if not subject.strip():
        found.append("it is empty")
    if len(subject) > MAX_LENGTH:
        found.append(f"it has {len(subject)} characters, more than {MAX_LENGTH}")
    if subject.endswith("."):
        found.append("it ends with a full stop")
    if len(lines) > 1 and lines[1].strip():
        found.append("the line after it is not empty")
    return found


def messages(arguments: list[str]) -> list[str]:
    """Return the messages that the arguments name. Exit with the usage if the arguments are wrong."""
    if len(arguments) == 2 and arguments[0] == "--range":
        log = ["git", "log", "--format=%B%x00", arguments[1]]
        output = subprocess.run(log, capture_output=True, text=True, check=True).stdout
        return [message.strip("\n") for message in output.split("\0") if message.strip()]
    if len(arguments) == 1 and not arguments[0].startswith("-"):
        return [Path(arguments[0]).read_text("utf-8")]
    sys.exit((__doc__ or "").strip())


def main() -> int:
    """Print all faults; return the exit code."""
    wrong = 0
    for message in messages(sys.argv[1:]):
        for fault in faults(message):
            print(f"commit subject {message.partition(chr(10))[0]!r}: {fault}", file=sys.stderr)
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
