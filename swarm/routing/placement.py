"""Which layers nobody holds, and which a joining node should take. Knows nothing of memory or weights."""

from __future__ import annotations

from swarm.routing.view import SwarmView
from swarm.types import LayerSpan, ModelId, missing_spans


def missing_layers(view: SwarmView, model: ModelId, layers: int) -> tuple[LayerSpan, ...]:
    """Return the holes that the live spans of ``model`` leave in layers 0..layers-1, in order."""
    return missing_spans(layers, [held.span for held in view.spans if held.model == model])


def choose_span(view: SwarmView, model: ModelId, layers: int) -> LayerSpan:
    """Return what a joining node should hold: the largest hole (the first of equals), or all layers if none."""
    holes = missing_layers(view, model, layers)
    return max(holes, key=len, default=LayerSpan(0, layers))
