"""Which hops of a path lack which keys and values, and in what order they get them. Pure; sends nothing.

After a failure some hops of the new path hold the answer's KV and some nothing. What a hop lacks comes from the hop
before it, which replays what it sent on, or from the origin, which embeds the tokens again; so only lost spans compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarm.sessions.window import StepWindow

ORIGIN = -1
"""The place before the first hop."""


@dataclass(frozen=True, slots=True)
class HopState:
    """What a hop said when it opened: KV of ``length`` tokens, what of it the log covers, and its layers."""

    length: int
    log_from: int = -1
    """-1: it never replays."""
    floor: int = 0
    layers: int = 1


@dataclass(frozen=True, slots=True)
class Flow:
    """Positions ``start`` up to ``end`` go from ``source`` through the hops up to, but not including, ``until``."""

    source: int
    start: int
    end: int
    until: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Fill by ``flows``, one after another; then every hop goes on from ``position``."""

    position: int
    flows: tuple[Flow, ...]


def plan(hops: Sequence[HopState], target: int, *, fixed: frozenset[int] = frozenset()) -> Plan | None:
    """Return the cheapest way to bring every hop to ``target`` tokens, in layers times tokens computed.

    Every length that a hop has may be the position from which all hops compute. Hops in ``fixed`` may not be taken
    back. None: no way leads there without taking a hop back below its floor.
    """
    total = sum(hop.layers for hop in hops)
    best: tuple[int, Plan] | None = None
    for position in sorted({0, *(min(hop.length, target) for hop in hops)}, reverse=True):
        flows = _flows(hops, position, fixed)
        if flows is None:
            continue
        cost = sum(
            (flow.end - flow.start) * sum(hop.layers for hop in hops[flow.source + 1 : flow.until])
            for flow in flows
        )
        cost += (target - position) * total
        if best is None or cost < best[0]:
            best = cost, Plan(position, flows)
    return None if best is None else best[1]


def _flows(hops: Sequence[HopState], position: int, fixed: frozenset[int]) -> tuple[Flow, ...] | None:
    """Bring every hop to ``position``: those that have least first, the last of them and its equal neighbours."""
    lengths, logs = [hop.length for hop in hops], [hop.log_from for hop in hops]
    if any(length > position and position < hops[at].floor for at, length in enumerate(lengths)):
        return None
    flows: list[Flow] = []
    while (least := min(lengths)) < position:
        last = max(at for at, length in enumerate(lengths) if length == least)
        first = last
        while first > 0 and lengths[first - 1] == least:
            first -= 1
        source = first - 1
        if source >= 0 and not 0 <= logs[source] <= least:
            if source in fixed or least < hops[source].floor:
                return None
            lengths[source] = least  # it can't say what it sent on, so it computes it again
            continue
        end = min(position, lengths[source] if source >= 0 else position)
        flows.append(Flow(source, least, end, last + 1))
        for at in range(first, last + 1):
            lengths[at], logs[at] = end, min(logs[at], least)
    return tuple(flows)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One fill step."""

    flow: Flow
    start: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.count


class Filler:
    """Walks through flows in chunks, a few at a time; a flow begins when the one before it has arrived."""

    def __init__(self, window: StepWindow, *, chunk: int, most: int) -> None:
        self._window = window
        self._chunk = chunk
        self._most = most
        self._flows: list[Flow] = []
        self._next = 0
        self._sent: dict[int, Chunk] = {}

    @property
    def done(self) -> bool:
        return not self._flows

    @property
    def deadline(self) -> float | None:
        return self._window.deadline

    def add(self, flows: Sequence[Flow]) -> None:
        if not self._flows and flows:
            self._next = flows[0].start
        self._flows.extend(flows)

    def next(self) -> Chunk | None:
        """Return what to send now; None while the window is full, or the flow's end is under way."""
        if not self._flows or len(self._window) >= self._most:
            return None
        flow = self._flows[0]
        count = min(self._chunk, flow.end - self._next)
        return Chunk(flow, self._next, count) if count > 0 else None

    def sent(self, chunk: Chunk, now: float) -> int:
        """Record that a chunk is under way; return its number."""
        step = self._window.sent(chunk.count, 0, now)
        self._sent[step] = chunk
        self._next = chunk.end
        return step

    def filled(self, step: int, now: float) -> Chunk | None:
        """Take the answer to a chunk; None for one that is not awaited."""
        if step != self._window.expected:
            return None
        self._window.answered(step, now)
        chunk = self._sent.pop(step)
        if chunk.end == chunk.flow.end:
            self._flows.pop(0)
            if self._flows:
                self._next = self._flows[0].start
        return chunk

    def moved(self, now: float) -> None:
        self._window.moved(now)

    def late(self, now: float) -> bool:
        return self._window.late(now)
