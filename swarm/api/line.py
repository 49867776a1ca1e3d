"""Who waits for room, who is next and how long that may take. Pure: no clock of its own, no tasks.

Between keys the next is the one whose running answers hold the least KV, and among equals the one that was let in
for the least so far: start-time fair queueing (Goyal, Vin and Cheng, 1996) with what is held put first. Within a
key it is first come, first served.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

MAX_SECONDS = 3600.0


@dataclass(eq=False, slots=True)
class Waiting:
    """A request that waits. ``tokens`` is the KV it asks for on every hop."""

    scope: str
    tokens: int


class Line:
    """The requests that wait for one model, by key. ``held`` counts the KV tokens each key's answers hold."""

    def __init__(self, held: Mapping[str, int]) -> None:
        self._held = held
        self._waiting: dict[str, deque[Waiting]] = {}
        self._let_in: Counter[str] = Counter()
        self._trying: Counter[str] = Counter()
        """Tokens of those taken off, of whom it is not known yet whether there is room."""

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Waiting]:
        return (waiting for queue in self._waiting.values() for waiting in queue)

    def add(self, waiting: Waiting, *, first: bool = False) -> None:
        """Put a request at the end of its key's queue, or back in front of it."""
        queue = self._waiting.get(waiting.scope)
        if queue is None:
            queue = self._waiting[waiting.scope] = deque()
            # A key that comes back after a pause has no claim to what it did not ask for meanwhile.
            others = [self._let_in[scope] for scope in self._waiting if scope != waiting.scope]
            self._let_in[waiting.scope] = max(self._let_in[waiting.scope], min(others, default=0))
        if first:
            queue.appendleft(waiting)
        else:
            queue.append(waiting)

    def take(self) -> Waiting | None:
        """Take off who is next; one of ``put_back`` and ``decided`` follows."""
        scope = min(self._waiting, key=lambda scope: (self._holds(scope), self._let_in[scope]), default=None)
        if scope is None:
            return None
        waiting = self._waiting[scope].popleft()
        self._trying[scope] += waiting.tokens
        self._tidy(scope)
        return waiting

    def put_back(self, waiting: Waiting) -> None:
        """There was no room for who was taken: it is the first of its key again."""
        self.decided(waiting, let_in=False)
        self.add(waiting, first=True)

    def decided(self, waiting: Waiting, *, let_in: bool) -> None:
        """Who was taken has found room, or is gone."""
        self._trying[waiting.scope] -= waiting.tokens
        if let_in:
            self._let_in[waiting.scope] += waiting.tokens
        if not self._waiting and not +self._trying:
            self._let_in.clear()
            self._trying.clear()

    def remove(self, waiting: Waiting) -> None:
        """Forget who waits no more; one that was taken is ignored."""
        queue = self._waiting.get(waiting.scope)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            self._tidy(waiting.scope)

    def waiting(self, scope: str) -> int:
        return len(self._waiting.get(scope, ()))

    def longest(self) -> Waiting | None:
        """Return the last request of the key that waits with the most."""
        queue = max(self._waiting.values(), key=len, default=None)
        return queue[-1] if queue else None

    def place(self, scope: str) -> int:
        """Return how many rooms must come free before a newcomer of ``scope`` gets one."""
        own = self.waiting(scope)
        return (
            1 + own + sum(min(len(queue), own + 1) for name, queue in self._waiting.items() if name != scope)
        )

    def _holds(self, scope: str) -> int:
        return self._held.get(scope, 0) + self._trying[scope]

    def _tidy(self, scope: str) -> None:
        if not self._waiting[scope]:
            del self._waiting[scope]


@dataclass(frozen=True, slots=True)
class Running:
    """An answer under way, as far as it is. ``seconds`` is since it was let in."""

    seconds: float
    tokens: int
    max_tokens: int


def seconds_until_room(place: int, running: Sequence[Running], typical_tokens: float | None) -> float | None:
    """Return when so many of the running answers will have ended; None when nothing is known of their pace.

    ``typical_tokens`` is how long answers have been; one that is longer already may take all it asked for.
    """
    paces = [answer.seconds / answer.tokens for answer in running if answer.tokens and answer.seconds > 0]
    if not paces:
        return None
    usual = fmean(paces)
    left, whole = [], []
    for answer in running:
        pace = answer.seconds / answer.tokens if answer.tokens and answer.seconds > 0 else usual
        expected = answer.max_tokens
        if typical_tokens is not None and answer.tokens < typical_tokens:
            expected = min(expected, math.ceil(typical_tokens))
        left.append(max(0, expected - answer.tokens) * pace)
        whole.append(expected * pace)
    rounds, index = divmod(place - 1, len(left))
    return min(MAX_SECONDS, sorted(left)[index] + rounds * fmean(whole))
