"""Whether a hop has become much slower than it was, or than others that hold its layers. Pure.

What counts is the time a hop computed, for the rows that shared its pass: a queue is load, which routing spreads, and
answers that all fled from it at once would only carry it elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.protocol.messages import HopTime

SLOW_FACTOR = 3.0
SLOW_STEPS = 5
MORE_THAN_OTHERS = 2.0
WORTH_SECONDS = 0.02
"""A hop that loses less a step is not worth a move."""
ROWS_THAT_DOUBLE_A_PASS = 16
WEIGHT = 0.1
"""Of the newest step in what is usual."""
LEARNING_STEPS = 3


class SlowHops:
    """Watches the decode steps of one path."""

    def __init__(self, expected: Sequence[float] = ()) -> None:
        """``expected`` are the seconds a hop, or its best rival if that is slower, said it takes for a token."""
        self._expected = tuple(expected)
        self._usual: list[float] = []
        self._slow: list[int] = []
        self._steps = 0

    def observe(self, times: Sequence[HopTime]) -> int | None:
        """Take one step's times; return the place of a hop that was slow for the last steps, if there is one.

        Where all hops are slow at once they share a machine, or this process is slow: nobody is left for that.
        """
        seconds = [_alone(time) for time in times]
        if len(seconds) != len(self._usual):
            self._usual, self._slow, self._steps = seconds, [0] * len(seconds), 0
        self._steps += 1
        factors = [taken / max(self._limit(place), 1e-6) for place, taken in enumerate(seconds)]
        found = None
        for place, (taken, factor) in enumerate(zip(seconds, factors, strict=True)):
            others = min((other for at, other in enumerate(factors) if at != place), default=1.0)
            lost = taken * (1 - 1 / factor) if factor else 0.0
            if factor > max(SLOW_FACTOR, MORE_THAN_OTHERS * others) and lost > WORTH_SECONDS:
                self._slow[place] += 1
                if self._slow[place] >= SLOW_STEPS:
                    found = place
            else:
                self._slow[place] = 0
                self._usual[place] += WEIGHT * (taken - self._usual[place])
        return found

    def _limit(self, place: int) -> float:
        known = list(self._expected[place : place + 1])
        if self._steps > LEARNING_STEPS:
            known.append(self._usual[place])
        return min(known, default=float("inf"))


def _alone(time: HopTime) -> float:
    """Return about the seconds that one row would have taken."""
    return time.compute_microseconds / 1e6 / (1 + max(0, time.batch_rows - 1) / ROWS_THAT_DOUBLE_A_PASS)
