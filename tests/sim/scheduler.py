"""A virtual clock: callbacks in order of time, then of scheduling. Knows nothing of what they do."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Scheduler:
    """Time moves only in ``run_until``, from event to event."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Run ``action`` at ``time``; at once, in its turn, if that has passed."""
        heapq.heappush(self._events, (max(time, self.now), next(self._numbers), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now + seconds, action)

    def run_until(self, time: float) -> None:
        while self._events and self._events[0][0] <= time:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = time
