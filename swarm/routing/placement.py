"""Which layers nobody holds, and which span a node should hold. Knows nothing of bytes: what fits is an argument.

The model of load: a node that holds n layers spends n x seconds per layer on a token, and its front door's share of
the tokens on norm and head. A layer is served at the sum of its holders' rates; the slowest layer bounds the swarm
(the rule of Petals, which balances the sum of throughputs over blocks; here speeds and lengths of spans differ).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from swarm.routing.view import Intention, SwarmView
from swarm.types import LayerSpan, ModelId, NodeId, missing_spans

HARMFUL_FACTOR = 4.0
"""A machine that is that many times slower a layer than the rest is left out while nothing is missing."""

WORTH_MOVING = 0.2
"""A running node moves only when the slowest layer becomes faster by that part."""

SAME = 1.05
"""Times of the slowest layer that differ by less than this factor count as equal: the next criterion decides."""

SAME_MEAN = 1.01
"""The same for the mean, which one span of many changes little."""

MOST_EDGES = 64
"""Larger models are cut at so many places, and where spans of others begin and end."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A node that looks for a span. ``reach[a]`` is where the longest span from layer a that fits ends (a: none)."""

    node: NodeId
    seconds_per_layer: float
    reach: tuple[int, ...]
    door_seconds: float = 0.0
    """What norm and head take of a token at its front door; 0: it has none."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A span as placement counts it, loaded or about to be."""

    node: NodeId
    span: LayerSpan
    seconds_per_layer: float


@dataclass(frozen=True, slots=True)
class Score:
    """How well a set of holders serves a model: ``key`` orders, smaller is better."""

    missing: int
    pieces: int
    """Holes that the missing layers make."""
    bottleneck_seconds: float
    """Time between tokens of the slowest layer that is held, all its holders busy; 0 if none is held."""
    mean_seconds: float
    hops: int
    """Fewest spans that cover every layer in a chain; 0 when layers are missing."""
    held: int
    """Layers of the candidate."""

    @property
    def key(self) -> tuple[int, int, int, int, int, int]:
        return (
            self.missing,
            self.pieces,
            _step(self.bottleneck_seconds),
            _step(self.mean_seconds, SAME_MEAN),
            self.hops,
            self.held,
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """What a node should hold, or None; and why, for the person who runs it."""

    span: LayerSpan | None
    reason: str


@dataclass(frozen=True, slots=True)
class Move:
    """A better span for a running node. ``fills`` says whether it covers layers that nobody holds."""

    span: LayerSpan
    fills: bool
    reason: str


def missing_layers(view: SwarmView, model: ModelId, layers: int) -> tuple[LayerSpan, ...]:
    """Return the holes that the live spans of ``model`` leave in layers 0..layers-1, in order."""
    return missing_spans(layers, [held.span for held in view.spans if held.model == model])


def uncoming_layers(view: SwarmView, model: ModelId, layers: int) -> tuple[LayerSpan, ...]:
    """Return those of the holes that nobody means to fill either, in order."""
    coming = [one.span for one in view.intentions if one.model == model]
    return missing_spans(layers, [held.span for held in view.spans if held.model == model] + coming)


def choose_span(
    view: SwarmView, model: ModelId, machine: Machine, intended: Iterable[Intention] = ()
) -> Choice:
    """Return the span of ``model`` with which ``machine`` helps the swarm most.

    Holes come first (the most layers, the fewest holes left), then the slowest layer, all layers, hops and memory.
    Layers that are ``intended`` by others count as held. The order of candidates makes the choice deterministic.
    """
    layers = len(machine.reach)
    holders = _holders(view, model, machine, intended)
    problem = _problem(machine, holders)
    if problem:
        return Choice(None, problem)
    scorer = _Scorer(view, machine, holders)
    best = min(_candidates(machine, holders), key=lambda span: (scorer.score(span).key, span))
    holes = missing_spans(layers, [holder.span for holder in holders])
    if holes:
        lacking = ", ".join(hole.described() for hole in holes)
        return Choice(best, f"the swarm lacks {lacking}")
    return Choice(best, "nothing is lacking; there it adds most to the slowest layers")


def choose_move(
    view: SwarmView,
    model: ModelId,
    machine: Machine,
    held: LayerSpan,
    intended: Iterable[Intention] = (),
) -> Move | None:
    """Return where a node that holds ``held`` should move, or None when that isn't worth it.

    A move never opens a hole. It is worth it if fewer layers are missing after it, or if the slowest layer becomes
    faster by WORTH_MOVING; such a move waits while anybody else intends anything.
    """
    intended = [one for one in intended if one.model == model and one.node != machine.node]
    # Who moves leaves what it holds: two nodes that hold the same may not both rely on the other to stay.
    moving = {one.node for one in intended}
    staying = replace(view, spans=tuple(span for span in view.spans if span.node not in moving))
    others = _holders(staying, model, machine, intended)
    scorer = _Scorer(view, machine, others)
    lacking, now = scorer.missing(held), scorer.score(held)
    scored = [
        (score.key, span, score)
        for span in _candidates(machine, others)
        if span != held and not (scorer.missing(span) & ~lacking).any()
        for score in (scorer.score(span),)
    ]
    if not scored:
        return None
    _, span, after = min(scored, key=lambda one: one[:2])
    if after.missing < now.missing:
        holes = missing_spans(len(machine.reach), [*(holder.span for holder in others), held])
        return Move(span, True, f"nobody holds {', '.join(hole.described() for hole in holes)}")
    if now.missing or intended or after.bottleneck_seconds > now.bottleneck_seconds * (1 - WORTH_MOVING):
        return None
    gain = now.bottleneck_seconds / after.bottleneck_seconds
    return Move(span, False, f"the slowest layers become {gain:.1f} times as fast")


# --- the arithmetic -----------------------------------------------------------------------------------------


def _holders(
    view: SwarmView, model: ModelId, machine: Machine, intended: Iterable[Intention]
) -> tuple[Holder, ...]:
    """Return what others hold or intend to hold; a span that is loaded and still intended counts once."""
    found = {
        (one.node, one.span): one.seconds_per_layer or machine.seconds_per_layer
        for one in intended
        if one.model == model and one.node != machine.node
    }
    found |= {
        (span.node, span.span): span.seconds_per_layer
        for span in view.spans
        if span.model == model and span.node != machine.node
    }
    return tuple(Holder(node, span, seconds) for (node, span), seconds in sorted(found.items()))


def _problem(machine: Machine, holders: Sequence[Holder]) -> str:
    """Return why the machine should hold nothing, or the empty text."""
    layers = len(machine.reach)
    if all(end <= start for start, end in enumerate(machine.reach)):
        return "not one layer fits into the memory that this node may use; give it more with --memory"
    if missing_spans(layers, [holder.span for holder in holders]):
        return ""
    usual = statistics.median(holder.seconds_per_layer for holder in holders)
    if machine.seconds_per_layer > HARMFUL_FACTOR * usual:
        return (
            f"this machine takes {machine.seconds_per_layer * 1e3:.1f} ms a layer and token, the others "
            f"{usual * 1e3:.1f}: answers through it would be slower than without it, and nothing is lacking. "
            "It serves when layers go missing; --layers A:B makes it serve at once"
        )
    return ""


def _candidates(machine: Machine, holders: Sequence[Holder]) -> Iterable[LayerSpan]:
    layers = len(machine.reach)
    edges = {0, layers, *range(0, layers, -(-layers // MOST_EDGES))}
    for holder in holders:
        edges |= {holder.span.start, min(holder.span.end, layers)}
    starts = sorted(edge for edge in edges if edge < layers)
    # The longest span that ends at an edge may begin between edges.
    for end in sorted(edges):
        first = next((start for start in range(end) if machine.reach[start] >= end), None)
        if first is not None:
            starts.append(first)
    for start in sorted(set(starts)):
        reached = machine.reach[start]
        ends = {edge for edge in edges if start < edge <= reached}
        if reached > start:
            ends.add(reached)
        yield from (LayerSpan(start, end) for end in sorted(ends))


class _Scorer:
    """Scores candidates for one machine beside the same others."""

    def __init__(self, view: SwarmView, machine: Machine, others: Sequence[Holder]) -> None:
        self._layers = len(machine.reach)
        self._spans = [holder.span for holder in others]
        self._seconds = machine.seconds_per_layer
        doors = dict(view.doors)
        if machine.door_seconds:
            doors[machine.node] = machine.door_seconds
        self._share = machine.door_seconds / max(len(doors), 1)
        self._rates = layer_rates(others, doors, self._layers)

    def missing(self, span: LayerSpan) -> npt.NDArray[np.bool_]:
        """Return which layers nobody holds, [layers], once the machine holds ``span``."""
        lacking: npt.NDArray[np.bool_] = self._rates <= 0
        lacking[span.start : span.end] = False
        return lacking

    def score(self, span: LayerSpan) -> Score:
        rates = self._rates.copy()
        rates[span.start : span.end] += 1.0 / max(len(span) * self._seconds + self._share, 1e-9)
        lacking = rates <= 0
        times = 1.0 / rates[~lacking]
        missing = int(lacking.sum())
        return Score(
            missing=missing,
            pieces=int((np.diff(lacking.astype(np.int8), prepend=0) == 1).sum()) if missing else 0,
            bottleneck_seconds=float(times.max()),
            mean_seconds=float(times.mean()),
            hops=0 if missing else _fewest_hops([*self._spans, span], self._layers),
            held=len(span),
        )


def layer_rates(
    holders: Iterable[Holder], doors: Mapping[NodeId, float], layers: int
) -> npt.NDArray[np.float64]:
    """Return the tokens a second at which each layer is served when all its holders are busy, [layers].

    ``doors`` are the seconds that norm and head take of a token, for nodes with a front door; all get as many requests.
    """
    spans: dict[NodeId, list[Holder]] = {}
    for holder in holders:
        spans.setdefault(holder.node, []).append(holder)
    rates = np.zeros(layers)
    for node, held in spans.items():
        seconds = sum(len(holder.span) * holder.seconds_per_layer for holder in held)
        covered = np.zeros(layers, dtype=bool)
        for holder in held:
            covered[holder.span.start : holder.span.end] = True
        rates[covered] += 1.0 / max(seconds + doors.get(node, 0.0) / max(len(doors), 1), 1e-9)
    return rates


def _fewest_hops(spans: Sequence[LayerSpan], layers: int) -> int:
    """Return the size of the smallest cover: always the span that begins in time and reaches farthest."""
    hops = reached = 0
    while reached < layers:
        reached = max(span.end for span in spans if span.start <= reached)
        hops += 1
    return hops


def _step(seconds: float, same: float = SAME) -> int:
    """Return a number that is equal for times that differ little."""
    return round(math.log(seconds) / math.log(same)) if seconds > 0 else -(1 << 30)
