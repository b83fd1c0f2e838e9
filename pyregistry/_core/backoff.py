"""Delays between attempts."""

from __future__ import annotations

import random

FIRST_PAUSE_S = 0.2
"""First pause, in seconds, between polls of a source without events: files, or an unavailable registry."""

LONGEST_PAUSE_S = 2.0
"""Longest pause between these polls, in seconds."""


def backoff(attempt: int) -> float:
    """Return the seconds to wait before an attempt.

    The delay is 0.02 s, multiplied by 4 for each further attempt. Jitter of 0.5 to 1.5 spreads the attempts of a fleet.

    Args:
        attempt: Number of the attempt, from 1.
    """
    return 0.02 * 4.0 ** (attempt - 1) * random.uniform(0.5, 1.5)
