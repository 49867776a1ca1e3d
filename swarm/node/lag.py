"""How late the event loop runs what is due: the delay of a short timer, over the last minute. Reads no clock itself."""

from __future__ import annotations

from collections import deque

SAMPLES = 1200


class LoopLag:
    """The last delays of a periodic timer, in seconds."""

    def __init__(self) -> None:
        self._delays: deque[float] = deque(maxlen=SAMPLES)

    def observe(self, delay_seconds: float) -> None:
        self._delays.append(max(0.0, delay_seconds))

    def percentiles(self) -> dict[str, float]:
        """Return p50, p99 and the maximum in milliseconds; zeros before the first sample."""
        ordered = sorted(self._delays) or [0.0]
        last = len(ordered) - 1
        found = {"p50": ordered[last // 2], "p99": ordered[int(0.99 * last)], "max": ordered[-1]}
        return {name: round(seconds * 1e3, 2) for name, seconds in found.items()}
