"""Which waiting steps run together next. Pure: holds no tensors, reads no clock.

Continuous batching after Orca and vLLM: rows of answers first, then prompt chunks within the token budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from swarm.engine.jobs import SequenceKey, StepJob

DECODE_ROWS = 16
"""A step of at most so many tokens counts as decoding (one token and its drafts), not as prefill."""

Group = Hashable
"""Steps of one group can share a forward pass: the same model and the same layers."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A step in the queue: ``order`` counts arrivals, ``since`` is when the wait began."""

    job: StepJob
    group: Group
    order: int
    since: float


@dataclass(frozen=True, slots=True)
class Cut:
    """A truncation that waits for the steps before it."""

    key: SequenceKey
    length: int


class Scheduler:
    """Steps by sequence, first in, first out within each; only the first of a sequence can run next."""

    def __init__(self, token_budget: int) -> None:
        self._budget = max(token_budget, 1)
        self._queues: dict[SequenceKey, deque[Waiting | Cut]] = {}
        self._arrivals = 0
        self._steps = 0

    def __len__(self) -> int:
        return self._steps

    def add(self, job: StepJob, group: Group, since: float) -> None:
        self._arrivals += 1
        self._steps += 1
        self._queues.setdefault(job.key, deque()).append(Waiting(job, group, self._arrivals, since))

    def cut(self, key: SequenceKey, length: int) -> None:
        self._queues.setdefault(key, deque()).append(Cut(key, length))

    def drop(self, key: SequenceKey) -> list[Waiting]:
        """Forget all that waits for ``key``; return the steps among it."""
        dropped = [item for item in self._queues.pop(key, ()) if isinstance(item, Waiting)]
        self._steps -= len(dropped)
        return dropped

    def due_cuts(self) -> list[Cut]:
        """Take the truncations that no step stands before any more."""
        due: list[Cut] = []
        for key in list(self._queues):
            queue = self._queues[key]
            while queue and isinstance(queue[0], Cut):
                due.append(queue.popleft())  # type: ignore[arg-type]  # isinstance does not narrow an index
            if not queue:
                del self._queues[key]
        return due

    def next_batch(self, share: Callable[[Sequence[StepJob]], int] = len) -> list[Waiting]:
        """Take the steps of the next forward pass, all of one group; empty when nothing waits.

        ``share`` says how many of the waiting decode steps to take at most. The group is that of the oldest step, so
        that no group starves another. A step that alone exceeds the budget runs when it is the first prefill of its
        turn.
        """
        heads = sorted((q[0] for q in self._queues.values() if isinstance(q[0], Waiting)), key=_by_order)
        if not heads:
            return []
        heads = [head for head in heads if head.group == heads[0].group]
        decode = [head for head in heads if head.job.count <= DECODE_ROWS]
        prefill = [head for head in heads if head.job.count > DECODE_ROWS]
        chosen: list[Waiting] = []
        rows = 0
        for head in decode[: share([head.job for head in decode])] if decode else ():
            if chosen and rows + head.job.count > self._budget:
                break
            chosen.append(head)
            rows += head.job.count
        for index, head in enumerate(prefill):
            if rows + head.job.count > self._budget and (index > 0 or rows >= self._budget):
                break
            chosen.append(head)
            rows += head.job.count
        for head in chosen:
            self._take(head.job.key)
        return chosen

    def _take(self, key: SequenceKey) -> None:
        queue = self._queues[key]
        queue.popleft()
        self._steps -= 1
        if not queue:
            del self._queues[key]


def _by_order(waiting: Waiting) -> int:
    return waiting.order
