"""The scripts that this version of pyregistry runs."""

from __future__ import annotations

from typing import Final

from pyregistry._redis.protocol.scripts import load

SCHEMA: Final = 1
"""The newest schema of a namespace that this version supports."""

OPEN: Final = load("open", 1)
CHECK: Final = load("check", 1)
CLAIM: Final = load("claim", 1)
RETRY: Final = load("retry", 1)
RENEW: Final = load("renew", 1)
FINISH: Final = load("finish", 1)
RELEASE: Final = load("release", 1)
SET_STATUS: Final = load("set_status", 1)
CANCEL: Final = load("cancel", 1)
TOUCH: Final = load("touch", 1)
DELETE: Final = load("delete", 1)
READ: Final = load("read", 1)
PAGE: Final = load("page", 1)
COUNTS: Final = load("counts", 1)
NOW: Final = load("now", 1)
CACHE: Final = load("cache", 1)
BRANCH: Final = load("branch", 1)
SET_BRANCH: Final = load("set_branch", 1)

#: Every script except `open`, which runs first on each connection.
SCRIPTS: Final = (
    CHECK,
    CLAIM,
    RETRY,
    RENEW,
    FINISH,
    RELEASE,
    SET_STATUS,
    CANCEL,
    TOUCH,
    DELETE,
    READ,
    PAGE,
    COUNTS,
    NOW,
    CACHE,
    BRANCH,
    SET_BRANCH,
)
