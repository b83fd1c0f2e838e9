"""The commands. Each one calls the registry and explains the result."""

from __future__ import annotations

from importlib import import_module

# Importing a module registers its commands. The help lists them in this order.
for _name in ("reading", "live", "claims", "run", "changes", "servers"):
    import_module(f"{__name__}.{_name}")
