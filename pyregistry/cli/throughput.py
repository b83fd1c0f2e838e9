"""How fast a download is, and how long it will take: from what was seen of it, never stored."""

from __future__ import annotations

from collections import deque

__all__ = ["Pace"]

_WINDOW = 30.0  # seconds that a speed is the mean of
_SILENT = 5.0  # seconds without news after which the silence counts as well


class Pace:
    """What was seen of one download; times are seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._token = 0
        self._seen: deque[tuple[float, int]] = deque()
        self._since = 0.0

    def saw(self, at: float, token: int, done: int | None) -> None:
        """Then it had got so far; another token is another download."""
        if token != self._token:
            self._token, self._since = token, at
            self._seen.clear()
        if done is None or (self._seen and self._seen[-1][1] == done):
            return
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # it began again
        self._seen.append((at, done))
        # One that is older than the window is where the window begins.
        while len(self._seen) > 2 and self._seen[1][0] < at - _WINDOW:
            self._seen.popleft()

    def speed(self, at: float) -> float | None:
        """Bytes per second; ``None``: too little was seen."""
        if len(self._seen) < 2:
            return None
        (began, first), (last, done) = self._seen[0], self._seen[-1]
        until = last if at - last < _SILENT else at
        return (done - first) / (until - began) if until > began else None

    def seconds_left(self, at: float, total: int | None) -> float | None:
        """At this speed; ``None``: nobody knows."""
        speed = self.speed(at)
        if not speed or not total or not self._seen:
            return None
        return max(total - self._seen[-1][1], 0) / speed

    def silence(self, at: float) -> float:
        """Seconds without progress, as far as was seen."""
        return at - (self._seen[-1][0] if self._seen else self._since)
