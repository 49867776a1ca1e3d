"""Which sequences should share a step: who is waited for, and how many rows are enough. Pure.

Every step has a fixed price (the weights' way through memory), so two half-full steps cost almost twice a full one.
A sequence whose layers are all here is back as soon as its token is sampled; without waiting, sequences that once
came late would stay apart for ever, in cohorts of their own. Sequences whose path leads over S hops are not waited
for. There S cohorts of equal size keep all hops busy: n sequences then take the time of n / S rows a token, so that
no step takes more than its share of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarm.engine.jobs import SequenceKey, StepJob

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
        self._elsewhere: dict[SequenceKey, int] = {}
        self._in_steps = 0.0
        self._last_step = 0.0

    def stepped(self, seconds: float) -> None:
        self._in_steps += seconds
        self._last_step = seconds

    def answered(self, jobs: Iterable[StepJob], now: float) -> None:
        """These steps are done; their sequences come back with their next tokens."""
        for job in jobs:
            if job.hops == 1:
                self._left[job.key] = now - self._in_steps
            else:
                self._elsewhere[job.key] = job.hops

    def share(self, waiting: Sequence[StepJob]) -> int:
        """Return how many of the ``waiting`` sequences the next step should take, at least 1."""
        hops = [*(job.hops for job in waiting), *self._elsewhere.values()]
        return max(1, -(-len(hops) // max(min(hops, default=1), 1)))

    def returned(self, key: SequenceKey, now: float) -> None:
        self._elsewhere.pop(key, None)
        left = self._left.pop(key, None)
        if left is not None:
            known = self._away.get(key)
            away = now - self._in_steps - left
            self._away[key] = away if known is None else MEMORY * known + (1 - MEMORY) * away

    def ended(self, key: SequenceKey) -> None:
        self._left.pop(key, None)
        self._away.pop(key, None)
        self._elsewhere.pop(key, None)

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
