"""How long to wait before the next try."""

from __future__ import annotations

import random


def backoff(attempt: int) -> float:
    """Seconds to wait before an attempt, with jitter so that a fleet does not come back as one."""
    return 0.02 * 4.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
