"""Compose the Lua scripts: ``python -m tools.build_lua`` writes them, ``--check`` only compares.

The sources are ``lua/src``, ``lua/templates``, ``lua/includes`` and ``lua/record.toml``. The results are
``lua/dist``, ``lua/scripts.lock`` and the state table of ``lua/README.md``. No import of the package is needed
to compose, so a script that does not fit can be repaired.
"""

from __future__ import annotations
