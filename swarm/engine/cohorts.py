"""When to wait a moment for sequences that are about to come back, so that they share a step. Pure.

Every step has a fixed price (the weights' way through memory), so two half-full steps cost almost twice a full one.
A sequence whose layers are all here is back as soon as its token is sampled; without waiting, sequences that once
came late would stay apart for ever, in cohorts of their own. Sequences whose path leads over other hops are not
waited for: there the cohorts are what keeps all hops busy.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarm.engine.jobs import SequenceKey

WORTH_WAITING = 0.5
"""A sequence is waited for if it should be away for at most that part of the last step's time."""
PATIENCE = 2.0
"""It is given up that many times later than expected."""
NEW_SECONDS = 0.003
"""Expected absence of a sequence seen for the first time."""
MEMORY = 0.7


class Cohorts:
    """Remembers how long each sequence stays away between its steps.

    Steps of others that run meanwhile don't count: what matters is how long the thread would have to wait. So all
    times here are of a clock that stands still while a step runs: ``now`` minus the seconds spent in steps.
    """

    def __init__(self) -> None:
        self._away: dict[SequenceKey, float] = {}
        self._left: dict[SequenceKey, float] = {}
        self._in_steps = 0.0
        self._last_step = 0.0

    def stepped(self, seconds: float) -> None:
        self._in_steps += seconds
        self._last_step = seconds

    def answered(self, keys: Iterable[SequenceKey], now: float) -> None:
        """These sequences' steps are done; they come back with their next tokens."""
        for key in keys:
            self._left[key] = now - self._in_steps

    def returned(self, key: SequenceKey, now: float) -> None:
        left = self._left.pop(key, None)
        if left is not None:
            known = self._away.get(key)
            away = now - self._in_steps - left
            self._away[key] = away if known is None else MEMORY * known + (1 - MEMORY) * away

    def ended(self, key: SequenceKey) -> None:
        self._left.pop(key, None)
        self._away.pop(key, None)

    def patience(self, now: float) -> float:
        """Return for how many seconds it pays to wait for more sequences."""
        clock = now - self._in_steps
        most = WORTH_WAITING * self._last_step
        until = clock
        for key, left in list(self._left.items()):
            away = self._away.get(key, NEW_SECONDS)
            give_up = left + PATIENCE * away
            if give_up <= clock:
                del self._left[key]
            elif away <= most:
                until = max(until, give_up)
        return until - clock
