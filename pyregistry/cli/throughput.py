"""Estimate the speed and remaining time of a download from its observed progress. Nothing is stored."""

from __future__ import annotations

from collections import deque

__all__ = ["Pace"]

_WINDOW = 30.0  # seconds over which a speed is averaged
_SILENT = 5.0  # seconds without progress after which that time also lowers the speed


class Pace:
    """The observed progress of one download. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._token = 0
        self._seen: deque[tuple[float, int]] = deque()
        self._since = 0.0

    def saw(self, at: float, token: int, done: int | None) -> None:
        """Record a progress report.

        Args:
            at: Time of the report.
            token: Token of the claim. Another token starts a new download.
            done: Bytes done; None if unknown.
        """
        if token != self._token:
            self._token, self._since = token, at
            self._seen.clear()
        if done is None or (self._seen and self._seen[-1][1] == done):
            return
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # the download restarted
        self._seen.append((at, done))
        # Keep one sample from before the window: it is the start of the window.
        while len(self._seen) > 2 and self._seen[1][0] < at - _WINDOW:
            self._seen.popleft()

    def speed(self, at: float) -> float | None:
        """Return the speed in bytes per second; None with fewer than two samples."""
        if len(self._seen) < 2:
            return None
        (began, first), (last, done) = self._seen[0], self._seen[-1]
        until = last if at - last < _SILENT else at
        return (done - first) / (until - began) if until > began else None

    def seconds_left(self, at: float, total: int | None) -> float | None:
        """Return the remaining seconds at the current speed; None if the speed or the total is unknown."""
        speed = self.speed(at)
        if not speed or not total or not self._seen:
            return None
        return max(total - self._seen[-1][1], 0) / speed

    def silence(self, at: float) -> float:
        """Return the seconds since the last observed progress."""
        return at - (self._seen[-1][0] if self._seen else self._since)
