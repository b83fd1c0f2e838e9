"""``python -m pyregistry``: the same as the command ``pyregistry``."""

from __future__ import annotations

import sys

from pyregistry.cli import main

sys.exit(main())
