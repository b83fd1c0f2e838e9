"""Detection of gevent and eventlet, which patch the standard library to replace threads by greenlets.

The library works in both if they patch the whole standard library before the library is imported. A lock that was
created earlier is a lock of the operating system. The second greenlet that waits for such a lock blocks the thread.
The first greenlet, which holds the lock, then can't run to release it. Therefore the library refuses a process that was
patched later or in part, because such a process would deadlock.
"""

from __future__ import annotations

import sys
from typing import Final

from pyregistry.errors import ConfigurationError

__all__ = ["EVENTLET", "GREENLETS", "check_runtime"]

_MODULES = {"select", "socket", "threading"}


def _patched() -> tuple[str, frozenset[str]]:
    """Return the patching runtime (empty: none) and the patched modules among those that the library uses."""
    names: frozenset[str] = frozenset()
    if (gevent := sys.modules.get("gevent.monkey")) is not None:
        names = frozenset(name for name in _MODULES if gevent.is_module_patched(name))
    if names:
        return "gevent", names
    if (eventlet := sys.modules.get("eventlet.patcher")) is not None:
        # eventlet's name "thread" covers three modules.
        known = {name: name.removesuffix("ing") for name in _MODULES}
        names = frozenset(name for name, known_as in known.items() if eventlet.is_monkey_patched(known_as))
    return ("eventlet" if names else ""), names


_at_import: Final = _patched()
_fully_patched: Final = _at_import[1] == _MODULES

GREENLETS: Final = bool(_at_import[0])
"""Whether greenlets replace threads."""

EVENTLET: Final = _at_import[0] == "eventlet"
"""Whether the greenlets are those of eventlet."""

_PATCH_LINES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}


def check_runtime() -> None:
    """Check that the library can wait for another thread in this process.

    Raises:
        ConfigurationError: gevent or eventlet patched the standard library in part, or after the import.
    """
    if _fully_patched or ("gevent.monkey" not in sys.modules and "eventlet.patcher" not in sys.modules):
        return
    by, names = _patched()
    if not names:
        return
    if names == _MODULES:
        what = f"{by} has patched the standard library after pyregistry was imported"
    else:
        what = f"{by} has patched {', '.join(sorted(names))}, but not {', '.join(sorted(_MODULES - names))}"
    raise ConfigurationError(
        f"{what}: two greenlets that wait for each other would stop this process for good. Let "
        f"`{_PATCH_LINES[by]}` be the first line of the program; with gunicorn that is the first line of its "
        "configuration file (gunicorn.conf.py), or leave out --preload, and import pyregistry in the workers alone"
    )
