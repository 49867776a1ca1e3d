"""A view in which some hops are settled, so that a search finds only what lies between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from swarm.routing.cost import PathHop
from swarm.routing.view import SpanView, SwarmView
from swarm.types import LayerSpan, ModelId, missing_spans

UNKNOWN_SECONDS_PER_LAYER = 0.001
"""Of a hop that the view knows nothing of, as when its node is leaving; its cost decides nothing here."""


def patched(view: SwarmView, model: ModelId, layers: int, held: Sequence[PathHop]) -> SwarmView | None:
    """Return ``view`` with the layers of ``held`` on those hops only; None when they overlap or there are none.

    Nodes of ``held`` take no further layers: what they have computed belongs to their hop as it is.
    """
    spans = sorted(hop.span for hop in held)
    if not spans or any(before.end > after.start for before, after in pairwise(spans)):
        return None
    nodes = {hop.node for hop in held}
    holes = missing_spans(layers, spans)
    kept = [_settled(view, model, hop) for hop in held]
    others = [span for span in view.spans if span.model == model and span.node not in nodes]
    filling = [replace(span, span=part) for span in others for part in _parts(span.span, holes)]
    return replace(view, spans=(*kept, *filling))


def _settled(view: SwarmView, model: ModelId, hop: PathHop) -> SpanView:
    for span in view.spans:
        if (span.node, span.boot, span.model) == (hop.node, hop.boot, model) and span.span.covers(hop.span):
            return replace(span, span=hop.span)
    return SpanView(hop.node, hop.boot, model, hop.span, hop.dtype, UNKNOWN_SECONDS_PER_LAYER)


def _parts(span: LayerSpan, holes: Sequence[LayerSpan]) -> Iterator[LayerSpan]:
    for hole in holes:
        start, end = max(span.start, hole.start), min(span.end, hole.end)
        if start < end:
            yield LayerSpan(start, end)
