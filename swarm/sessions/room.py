"""Whose session ends when a hop has no KV left. Pure; frees nothing itself.

An origin may use more than its share while nobody else needs it, and gives way when somebody does: so one member can't
starve the rest, and a swarm with one front door still uses all of its memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from swarm.sessions.hop_session import HopKey
from swarm.types import NodeId

SMOOTHING = 0.2
FIRST_RETRY_MILLISECONDS = 1000
MIN_RETRY_MILLISECONDS = 100
MAX_RETRY_MILLISECONDS = 60_000


@dataclass(frozen=True, slots=True)
class Shortage:
    """A session asks for so many bytes more; ``grows`` if it has begun."""

    key: HopKey
    wanted_bytes: int
    grows: bool


class Turnover:
    """How often a session ends at this hop, and so when room may be expected."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._gap_seconds: float | None = None

    def ended(self, now: float) -> None:
        if self._last is not None:
            gap = now - self._last
            known = self._gap_seconds
            self._gap_seconds = gap if known is None else known + SMOOTHING * (gap - known)
        self._last = now

    def retry_milliseconds(self, now: float) -> int:
        """Return the usual time between two ends, or what has passed since the last if that is more."""
        if self._last is None:
            return FIRST_RETRY_MILLISECONDS
        seconds = max(self._gap_seconds or 0.0, now - self._last)
        return min(MAX_RETRY_MILLISECONDS, max(MIN_RETRY_MILLISECONDS, round(seconds * 1000)))


def gives_way(need: Shortage, held: dict[HopKey, int], *, own: NodeId, share_bytes: float) -> HopKey | None:
    """Return the session that ends for another's need, or None when the need is to be refused.

    ``held`` has the bytes of every session, the oldest first. ``own`` is this node's front door, which no share bounds.

    * Who stays within the share takes the youngest session of the origin that is furthest beyond its own.
    * A session that grows takes the youngest of all, or of its own origin's if that is beyond its share: the oldest
      always goes on, so that some answer ends and makes room. If it is the youngest itself, it waits.
    """
    by_origin: Counter[NodeId] = Counter()
    for key, size in held.items():
        by_origin[key.origin] += size
    origin = need.key.origin
    within = origin == own or by_origin[origin] + need.wanted_bytes <= share_bytes
    beyond = {
        other: size for other, size in by_origin.items() if other not in (own, origin) and size > share_bytes
    }
    if within and beyond:
        most = max(beyond, key=lambda other: (beyond[other], other))
        return _youngest(held, most)
    if not need.grows:
        return None
    youngest = _youngest(held, None if within else origin)
    return None if youngest == need.key else youngest


def _youngest(held: dict[HopKey, int], origin: NodeId | None) -> HopKey | None:
    return next((key for key in reversed(held) if origin in (None, key.origin)), None)
