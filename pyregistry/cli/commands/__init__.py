"""The commands. Each asks the registry, and says what the answer means."""

from __future__ import annotations

from importlib import import_module

# Importing a module adds its commands, and the help lists them in that order.
for _name in ("reading", "live", "claims", "run", "changes", "servers"):
    import_module(f"{__name__}.{_name}")
