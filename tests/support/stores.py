"""What tests of a store do again and again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

from pyregistry import Claim, FolderStore, ModelRecord, ModelRef, ModelStatus
from pyregistry.store import Published

REF = ModelRef("org/model", "HuggingFace")
FOLDER = "HuggingFace=org%2Fmodel"
WHEN = datetime(2025, 1, 1, tzinfo=timezone.utc)

# All is imported before the rights to read it are given up.
_AS_USER = """
import os, sys
from tests.support.stores import *
uid, gid, groups, umask, code = sys.argv[1:6]
sys.argv[1:6] = []
os.umask(int(umask, 8))
os.setgroups([int(each) for each in groups.split(",") if each])
os.setgid(int(gid))
os.setuid(int(uid))
exec(code)
"""


def claim_of(token: int, ref: ModelRef = REF) -> Claim:
    return Claim(
        ref.name, ref.provider or "S3", ref.revision, ref.subset, f"id-{token}", "me", token, 30.0, None
    )


def record_at(location: str | None) -> ModelRecord:
    return ModelRecord("m", "S3", ModelStatus.DOWNLOADED, WHEN, WHEN, location=location)


def yes() -> bool:
    return True


def stage(store: FolderStore, token: int, ref: ModelRef = REF, content: bytes = b"weights") -> Claim:
    claim = claim_of(token, ref)
    (store.staging(claim) / "file").write_bytes(content)
    return claim


def publish(store: FolderStore, token: int, ref: ModelRef = REF, content: bytes = b"weights") -> Published:
    return store.publish(stage(store, token, ref, content), yes)


def tokens(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def failing(number: int) -> Callable[..., NoReturn]:
    def fail(*_args: object, **_options: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def as_user(
    code: str, *args: object, uid: int, gid: int, groups: Sequence[int] = (), umask: int = 0o022
) -> str:
    """Runs it in a process of another user; what it prints. The tests must be root's."""
    process = start_as_user(code, *args, uid=uid, gid=gid, groups=groups, umask=umask)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return said.strip()


def start_as_user(
    code: str, *args: object, uid: int, gid: int, groups: Sequence[int] = (), umask: int = 0o022
) -> subprocess.Popen[str]:
    words = [str(uid), str(gid), ",".join(map(str, groups)), f"{umask:o}", code, *map(str, args)]
    return subprocess.Popen(
        [sys.executable, "-c", _AS_USER, *words],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
