"""The door's queue: requests wait here for room in the swarm, for a bounded time, holding nothing.

Who is next decides line.py. Knows no HTTP, and of an answer only how many tokens it has.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

from swarm.api.line import Line, Running, Waiting, seconds_until_room
from swarm.errors import OverloadedError
from swarm.node.front import GenerationStats

MAX_OPENING = 16
"""So many requests of one line reserve at once; one, as long as the swarm was found full."""
RETRY_SECONDS = 0.25
"""About so often a full swarm is asked again when no answer of this door has ended: others' may have."""
_SMOOTHING = 0.1

_TOO_MANY = "too many requests wait for room already"

T = TypeVar("T")


class _DisplacedError(Exception):
    """Another key's request took this one's place in the queue."""


@dataclass(eq=False, slots=True)
class Place:
    """What an admitted request holds until ``end``, which may be called twice."""

    scope: str
    tokens: int
    max_tokens: int
    since: float
    end: Callable[[], None] = field(default=lambda: None)
    stats: GenerationStats = field(default_factory=GenerationStats)


@dataclass(eq=False, slots=True)
class _OneLine:
    name: Hashable
    line: Line
    turns: dict[Waiting, asyncio.Future[None]] = field(default_factory=dict)
    opening: int = 0
    width: int = MAX_OPENING
    paused: asyncio.TimerHandle | None = None


class Admission:
    """One a front door. ``starving`` says whether answers that have begun lack room: they go before new ones."""

    def __init__(
        self, *, queue_seconds: float, max_waiting: int, starving: Callable[[], bool] = lambda: False
    ) -> None:
        self._queue_seconds = queue_seconds
        self._max_waiting = max_waiting
        self._starving = starving
        self._held: Counter[str] = Counter()
        self._places: set[Place] = set()
        self._lines: dict[Hashable, _OneLine] = {}
        self._typical_tokens: float | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn now; up to MAX_OPENING that are trying may come back to them."""
        return sum(len(one.line) for one in self._lines.values())

    @property
    def running(self) -> int:
        """How many answers hold room now."""
        return len(self._places)

    async def admit(
        self,
        line: Hashable,
        place: Place,
        attempt: Callable[[], Awaitable[T]],
        *,
        seconds: float,
    ) -> T:
        """Return what ``attempt`` returns, as soon as it is this request's turn and there is room.

        ``attempt`` raises OverloadedError when there is none; it is then repeated. Raises OverloadedError after the
        queue's seconds (``seconds`` if these are fewer), or at once when too many wait. ``line`` tells apart what
        does not compete.
        """
        loop = asyncio.get_running_loop()
        one = self._lines.setdefault(line, _OneLine(line, Line(self._held)))
        waiting = Waiting(place.scope, place.tokens)
        if self.waiting >= self._max_waiting and not self._displace(place.scope):
            raise self._overloaded(one, place.scope, _TOO_MANY, None)
        until = loop.time() + min(self._queue_seconds, seconds)
        one.line.add(waiting)
        try:
            while True:
                await self._turn(one, waiting, until)
                try:
                    result = await self._attempt(one, waiting, attempt)
                except OverloadedError as exc:
                    if loop.time() >= until:
                        raise self._overloaded(one, place.scope, str(exc), exc) from exc
                    continue
                self._begin(place, loop.time())
                return result
        except TimeoutError:
            waited = min(self._queue_seconds, seconds)
            raise self._overloaded(one, place.scope, f"no room within {waited:g} s", None) from None
        except _DisplacedError:
            raise self._overloaded(one, place.scope, _TOO_MANY, None) from None
        finally:
            one.line.remove(waiting)
            self._next(one)

    def retry_after(self, scope: str | None = None, place: int = 1, hint: int = 1) -> int:
        """Return in how many whole seconds room can be expected, from what is under way here (of one key).

        ``hint`` is what a hop said, for when nothing is known here.
        """
        now = asyncio.get_running_loop().time()
        running = [
            Running(now - held.since, held.stats.completion_tokens, held.max_tokens)
            for held in self._places
            if scope in (None, held.scope)
        ]
        seconds = seconds_until_room(place, running, self._typical_tokens)
        return hint if seconds is None else max(1, math.ceil(seconds))

    # --- inside ---

    async def _turn(self, one: _OneLine, waiting: Waiting, until: float) -> None:
        """Wait for this request's turn. Raises TimeoutError at ``until``."""
        turn = one.turns[waiting] = asyncio.get_running_loop().create_future()
        try:
            self._next(one)
            async with asyncio.timeout_at(until):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                one.opening -= 1
                one.line.decided(waiting, let_in=False)
            raise
        finally:
            del one.turns[waiting]

    def _displace(self, scope: str) -> bool:
        """Let a newcomer take the place of the last of the key that waits with the most, if it has fewer.

        Else one key could fill the whole queue (the buffer stealing of McKenney's stochastic fairness queueing, 1990).
        """
        waiting = sum(one.line.waiting(scope) for one in self._lines.values())
        ends = [(last, one) for one in self._lines.values() if (last := one.line.longest()) is not None]
        last, one = max(ends, key=lambda end: end[1].line.waiting(end[0].scope))
        if one.line.waiting(last.scope) <= waiting + 1:
            return False
        one.line.remove(last)
        if not one.turns[last].done():
            one.turns[last].set_exception(_DisplacedError())
        return True

    async def _attempt(self, one: _OneLine, waiting: Waiting, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            result = await attempt()
        except OverloadedError:
            one.width = 1
            one.line.put_back(waiting)
            self._pause(one)
            raise
        except BaseException:
            one.line.decided(waiting, let_in=False)
            raise
        finally:
            one.opening -= 1
        one.line.decided(waiting, let_in=True)
        one.width = min(MAX_OPENING, one.width * 2)
        return result

    def _next(self, one: _OneLine) -> None:
        """Give turns to those whose turn it is; forget the line when nobody is in it."""
        while one.paused is None and one.opening < one.width and len(one.line):
            if self._starving():
                self._pause(one)
                return
            taken = one.line.take()
            if taken is None:
                return
            turn = one.turns[taken]
            if turn.done():  # cancelled: its request is about to leave the line
                one.line.decided(taken, let_in=False)
                continue
            one.opening += 1
            turn.set_result(None)
        if not (one.opening or len(one.line) or one.paused):
            self._lines.pop(one.name, None)

    def _pause(self, one: _OneLine) -> None:
        if one.paused is None:
            # With jitter, or two doors that fill the last room by halves would go on doing so.
            delay = RETRY_SECONDS * random.uniform(0.5, 1.5)
            one.paused = asyncio.get_running_loop().call_later(delay, self._resume, one)

    def _resume(self, one: _OneLine) -> None:
        if one.paused is not None:
            one.paused.cancel()
            one.paused = None
        self._next(one)

    def _begin(self, place: Place, now: float) -> None:
        place.since = now
        place.end = lambda: self._end(place)
        self._places.add(place)
        self._held[place.scope] += place.tokens

    def _end(self, place: Place) -> None:
        if place not in self._places:
            return
        self._places.discard(place)
        self._held[place.scope] -= place.tokens
        if not self._held[place.scope]:
            del self._held[place.scope]
        tokens = place.stats.completion_tokens
        if tokens:
            before = self._typical_tokens
            self._typical_tokens = tokens if before is None else before + _SMOOTHING * (tokens - before)
        for one in list(self._lines.values()):
            self._resume(one)

    def _overloaded(
        self, one: _OneLine, scope: str, why: str, refusal: OverloadedError | None
    ) -> OverloadedError:
        """Say when to come again: by then a newcomer finds room within the time it may wait."""
        hint = (refusal.retry_after_seconds if refusal else None) or 1
        first = self.retry_after(hint=hint)
        whole = self.retry_after(place=one.line.place(scope), hint=hint)
        seconds = max(first, whole - math.floor(self._queue_seconds))
        text = why if refusal else f"The swarm is full: {why}. Try again in {seconds} s."
        return OverloadedError(text, seconds)
