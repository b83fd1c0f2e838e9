"""How long to wait before the next try."""

from __future__ import annotations

import random

FIRST_PAUSE_S = 0.2
"""The first pause between looks at what sends no news: files, or a registry that is away."""

LONGEST_PAUSE_S = 2.0
"""The longest of these pauses."""


def backoff(attempt: int) -> float:
    """Seconds to wait before an attempt, with jitter so that a fleet does not come back as one."""
    return 0.02 * 4.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
