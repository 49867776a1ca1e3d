"""Requests a minute, counted for each key over the last sixty seconds. Pure: the clock is an argument."""

from __future__ import annotations

from collections import defaultdict, deque

WINDOW_SECONDS = 60.0


class Rates:
    """When each scope asked within the window; only scopes with a limit are counted."""

    def __init__(self) -> None:
        self._asked: defaultdict[str, deque[float]] = defaultdict(deque)

    def take(self, scope: str, limit: int, now: float) -> float:
        """Count a request and return 0, or return the seconds until ``scope`` may ask again."""
        asked = self._asked[scope]
        while asked and asked[0] <= now - WINDOW_SECONDS:
            asked.popleft()
        if len(asked) >= limit:
            return asked[0] + WINDOW_SECONDS - now
        asked.append(now)
        return 0.0
