"""A rate of bytes, kept by waiting after what was spent. Reads no clock."""

from __future__ import annotations

BURST_SECONDS = 0.05


class Pace:
    """Says when the next bytes may go. A rate of 0 is no limit; it may differ each time."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until something may be sent; 0 for now."""
        return max(0.0, self._free_at - now)

    def spend(self, octets: int, rate: int, now: float) -> None:
        """Note that ``octets`` go now, at ``rate`` bytes a second."""
        if rate > 0:
            self._free_at = max(self._free_at, now - BURST_SECONDS) + octets / rate
