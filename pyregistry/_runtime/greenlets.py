"""Runtimes that patch the standard library so that greenlets take the place of threads: gevent and eventlet.

The library works in both, if all of it has been patched before the library is imported. A lock that was made before
is the operating system's: the second greenlet that waits for it stops the thread, and with it the first one, which
would release it. So a process that was patched later, or in part, is refused rather than stopped for good.
"""

from __future__ import annotations

import sys
from typing import Final

from pyregistry.errors import ConfigurationError

__all__ = ["EVENTLET", "GREENLETS", "check_runtime"]

_MODULES = {"select", "socket", "threading"}


def _patched() -> tuple[str, frozenset[str]]:
    """What has patched the standard library, and which modules of those that the library uses."""
    names: frozenset[str] = frozenset()
    if (gevent := sys.modules.get("gevent.monkey")) is not None:
        names = frozenset(name for name in _MODULES if gevent.is_module_patched(name))
    if names:
        return "gevent", names
    if (eventlet := sys.modules.get("eventlet.patcher")) is not None:
        known = {name: name.removesuffix("ing") for name in _MODULES}  # its "thread" is three modules
        names = frozenset(name for name, known_as in known.items() if eventlet.is_monkey_patched(known_as))
    return ("eventlet" if names else ""), names


_at_import: Final = _patched()
_whole: Final = _at_import[1] == _MODULES

GREENLETS: Final = bool(_at_import[0])
"""Whether greenlets take the place of threads."""

EVENTLET: Final = _at_import[0] == "eventlet"
"""Whether they are eventlet's."""

_FIRST = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}


def check_runtime() -> None:
    """May the library wait for another thread here?

    Raises:
        ConfigurationError: gevent or eventlet patched the standard library in part, or after the import.
    """
    if _whole or ("gevent.monkey" not in sys.modules and "eventlet.patcher" not in sys.modules):
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
        f"`{_FIRST[by]}` be the first line of the program; with gunicorn that is the first line of its "
        "configuration file (gunicorn.conf.py), or leave out --preload, and import pyregistry in the workers alone"
    )
