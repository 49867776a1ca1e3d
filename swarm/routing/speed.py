"""How fast a span of layers computes: as it was measured at load, and as real passes show it since.

A node is often busy with other things while it loads (compiling, other nodes that start on the same machine), and then
says for ever that it is slow. So what passes really took corrects the claim downward. Upward it never goes: a machine
that others use for a while would make paths and spans wander. Pure: knows no clock.
"""

from __future__ import annotations

import statistics

WINDOW = 8
"""So many passes of one row say something together; their median counts."""

WINDOW_OF_MANY = 3
"""The same for passes of many rows, which are few and long."""

TIMES_AGAIN = 3
"""A span is measured so often again, when its node is idle."""

WORTH_TELLING = 0.9
"""A claim is corrected by at least that factor: what depends on it is not asked anew for every wobble."""

MANY_ROWS = 32
"""Passes of so many rows and more show what a row of a prompt takes."""


class _Lowered:
    """A number of seconds that medians of what was seen can lower."""

    def __init__(self, seconds: float, window: int) -> None:
        self.seconds = seconds
        self._window = window
        self._seen: list[float] = []

    def note(self, seconds: float) -> None:
        self._seen.append(seconds)
        if len(self._seen) == self._window:
            usual = statistics.median(self._seen)
            self._seen.clear()
            self.lower(usual)

    def lower(self, seconds: float) -> None:
        if seconds and (not self.seconds or seconds < self.seconds * WORTH_TELLING):
            self.seconds = seconds


class SpanSpeed:
    """Seconds of one layer of a loaded span: for one row alone, and for each further row of the same pass."""

    def __init__(self, seconds_per_layer: float, seconds_per_row: float) -> None:
        self._one = _Lowered(seconds_per_layer, WINDOW)
        self._more = _Lowered(seconds_per_row, WINDOW_OF_MANY)
        self.again = TIMES_AGAIN
        """How often it is still to be measured again."""

    @property
    def seconds_per_layer(self) -> float:
        return self._one.seconds

    @property
    def seconds_per_row(self) -> float:
        return self._more.seconds

    def measured(self, seconds_per_layer: float, seconds_per_row: float) -> None:
        """Take what measuring again gave."""
        self.again -= 1
        self._one.lower(seconds_per_layer)
        self._more.lower(seconds_per_row)

    def note(self, layers: int, rows: int, seconds: float) -> None:
        """Take what a pass of ``rows`` through ``layers`` layers of the span took."""
        if rows == 1:
            self._one.note(seconds / layers)
        elif rows >= MANY_ROWS:
            self._more.note(max(seconds / layers - self._one.seconds, 0.0) / (rows - 1))
