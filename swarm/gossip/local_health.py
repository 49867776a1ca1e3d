"""How far this process trusts its own timing (Lifeguard). Knows nothing of members.

A process that is late itself sees late peers everywhere: every sign of own lateness makes it more patient.
"""

from __future__ import annotations

MAX_SCORE = 3
DECAY_SECONDS = 5.0


class LocalHealth:
    """A score from 0 (on time) to MAX_SCORE; it falls by one for each DECAY_SECONDS without a new sign."""

    def __init__(self, now: float) -> None:
        self._score = 0
        self._since = now

    def worsen(self, now: float, by: int = 1) -> None:
        self._settle(now)
        self._score = min(self._score + by, MAX_SCORE)
        self._since = now

    def factor(self, now: float) -> float:
        """Return what to multiply timeouts with: 1 when healthy."""
        self._settle(now)
        return 1.0 + self._score

    def _settle(self, now: float) -> None:
        steps = int((now - self._since) / DECAY_SECONDS)
        if steps > 0:
            self._score = max(self._score - steps, 0)
            self._since += steps * DECAY_SECONDS
