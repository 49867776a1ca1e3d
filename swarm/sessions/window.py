"""Steps under way on one path: numbered, in order, each with a deadline. Pure; knows no messages."""

from __future__ import annotations

from dataclasses import dataclass, replace

ROWS_PER_DECODE_TIME = 4
"""A prefill chunk is predicted to take a decode step's time for each so many of its tokens."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    count: int
    rows: int
    until: float


class StepWindow:
    """The steps of one epoch whose outputs are awaited; outputs come in the order of the steps."""

    def __init__(self, *, step_seconds: float, min_seconds: float, factor: float) -> None:
        """``step_seconds`` is the path's predicted time for one decode token."""
        self._step_seconds = step_seconds
        self._min_seconds = min_seconds
        self._factor = factor
        self._next = 0
        self._waiting: dict[int, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def expected(self) -> int | None:
        """The step whose output comes next, or None when nothing is under way."""
        return next(iter(self._waiting), None)

    @property
    def deadline(self) -> float | None:
        return next((waiting.until for waiting in self._waiting.values()), None)

    @property
    def rows(self) -> int:
        """How many rows the next output must have."""
        return next((waiting.rows for waiting in self._waiting.values()), 0)

    def sent(self, count: int, rows: int, now: float) -> int:
        """Record a step of ``count`` tokens that asks for ``rows`` rows; return its number."""
        step = self._next
        self._next += 1
        self._waiting[step] = _Waiting(count, rows, now + self._patience(count))
        return step

    def answered(self, step: int, now: float) -> None:
        """Take a step off; the one after it gets the whole time from here."""
        del self._waiting[step]
        self.moved(now)

    def moved(self, now: float) -> None:
        """The path is at work on the oldest step: its deadline starts anew."""
        step = self.expected
        if step is not None:
            waiting = self._waiting[step]
            self._waiting[step] = replace(waiting, until=now + self._patience(waiting.count))

    def late(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline

    def _patience(self, count: int) -> float:
        predicted = self._step_seconds * max(1.0, count / ROWS_PER_DECODE_TIME)
        return max(self._min_seconds, self._factor * predicted)
