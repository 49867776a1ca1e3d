"""What a path costs: measured links, compute and queues, in seconds. Knows nothing of the search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from swarm.routing.view import SpanView, SwarmView
from swarm.types import BootId, LayerSpan, ModelId, NodeId

ROWS_THAT_DOUBLE_A_PASS = 16
"""Decode is bound by reading weights: about so many rows share a pass before it takes twice as long."""

TIE_BREAK = 0.05
"""Replicas whose costs differ by less than this part count as equal, and the salt chooses between them."""


HOP_SECONDS = 0.001
"""What a hop adds to a token beside link and layers: frames, wake-ups, queues of the event loop (docs/benchmarks.md).
Without it, noise in round trips made paths visit nodes that they don't need."""

SAME_NODE_SECONDS = 1e-5
"""Added for going from one span to another of the same node: one span that holds both is better."""


@dataclass(frozen=True, slots=True)
class PathHop:
    """One node's part of a path. ``span`` may be less than the node has loaded."""

    node: NodeId
    boot: BootId
    span: LayerSpan
    dtype: str


def link_seconds(view: SwarmView, source: NodeId, target: NodeId) -> float:
    """Return the one-way time of a link; 0 within one node, infinity where the view says unreachable."""
    if source == target:
        return 0.0
    if (source, target) in view.unreachable:
        return math.inf
    return view.links.get((source, target), view.default_link_seconds)


def queue_seconds(span: SpanView) -> float:
    """Return how much longer a token takes on ``span`` because of the rows already waiting there."""
    return span.queued_rows / ROWS_THAT_DOUBLE_A_PASS * span.seconds_per_layer * len(span.span)


def path_seconds(view: SwarmView, model: ModelId, origin: NodeId, hops: Sequence[PathHop]) -> float:
    """Return the predicted time of one decode token of ``model`` from ``origin`` over ``hops`` and back.

    Each hop costs the link to it, what handing over takes, and its layers and queue at the fastest span of its dtype
    that holds them all.
    """
    total = 0.0
    here: NodeId | None = None
    for hop in hops:
        held = [
            s
            for s in view.spans
            if (s.node, s.boot, s.dtype, s.model) == (hop.node, hop.boot, hop.dtype, model)
            and s.span.covers(hop.span)
        ]
        again = hop.node == here
        total += min(
            (s.seconds_per_layer * len(hop.span) + (0.0 if again else queue_seconds(s)) for s in held),
            default=math.inf,
        )
        total += SAME_NODE_SECONDS if again else HOP_SECONDS + link_seconds(view, here or origin, hop.node)
        here = hop.node
    return total + link_seconds(view, here or origin, origin)


def expected_seconds(view: SwarmView, model: ModelId, hops: Sequence[PathHop]) -> tuple[float, ...]:
    """Return for each hop what it says it computes for one token, or its best rival if that is slower.

    A hop without a rival is expected to take any time: nobody could do its work faster.
    """
    found = []
    for hop in hops:
        by_node: dict[NodeId, float] = {}
        for span in view.spans:
            if span.model == model and span.span.covers(hop.span):
                seconds = span.seconds_per_layer * len(hop.span)
                by_node[span.node] = min(seconds, by_node.get(span.node, math.inf))
        own = by_node.pop(hop.node, 0.0)
        found.append(max(own, min(by_node.values(), default=math.inf)))
    return tuple(found)


def tie_break(salt: int, node: NodeId) -> float:
    """Return a factor of 1 to 1 + TIE_BREAK that differs by salt and node; exactly 1 for salt 0."""
    if salt == 0:
        return 1.0
    digest = blake2b(f"{salt}:{node}".encode(), digest_size=8).digest()
    return 1.0 + TIE_BREAK * int.from_bytes(digest, "big") / 2**64
