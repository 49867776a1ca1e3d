"""How a node comes from the spans it holds to those that its user wants. Decides; loads nothing, reads no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from swarm.errors import SwarmError
from swarm.types import LayerSpan, missing_spans


class NobodyElseError(SwarmError):
    """A change that would leave layers to nobody."""

    def __init__(self, model: str, lost: Sequence[LayerSpan], why: str = "") -> None:
        which = " and ".join(span.described() for span in lost)
        super().__init__(
            f"nobody else holds {which} of {model}: {why or 'without them it could not be served'}. "
            "Start another node that holds them first, or force the change (--force)."
        )
        self.lost = tuple(lost)


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be loaded and what is to be left, in which order."""

    loads: tuple[LayerSpan, ...]
    retires: tuple[LayerSpan, ...]
    retires_first: bool = False
    """Both do not fit into memory side by side."""


def plan_change(
    held: Sequence[LayerSpan],
    wanted: Sequence[LayerSpan],
    others: Sequence[LayerSpan],
    *,
    model: str,
    layers: int,
    fits: Callable[[Sequence[LayerSpan]], bool],
    force: bool,
) -> Change:
    """Return how to come from ``held`` to ``wanted``, both this node's spans of one model with ``layers`` layers.

    ``others`` are the spans of other nodes, ``fits`` says whether spans fit into this node's memory together; that
    ``wanted`` does by itself is the caller's to check. Raises NobodyElseError for a change that leaves layers to
    nobody, for good or while the new span loads, unless it is forced.
    """
    loads = tuple(span for span in wanted if span not in held)
    retires = tuple(span for span in held if span not in wanted)
    if not force and (lost := lost_layers(held, wanted, others, layers)):
        raise NobodyElseError(model, lost)
    first = bool(loads) and bool(retires) and not fits([*held, *loads])
    if first and not force:
        meanwhile = [span for span in held if span in wanted]
        if lost := lost_layers(held, meanwhile, others, layers):
            raise NobodyElseError(
                model,
                lost,
                "the old span and the new one do not fit into this node's memory side by side, so answers "
                "would have to wait while the new one loads",
            )
    return Change(loads, retires, first)


def lost_layers(
    before: Iterable[LayerSpan], after: Iterable[LayerSpan], others: Iterable[LayerSpan], layers: int
) -> tuple[LayerSpan, ...]:
    """Return the layers that somebody holds before a change of this node's spans, and nobody after it, in order."""
    others = list(others)
    missing = {layer for hole in missing_spans(layers, [*others, *before]) for layer in _layers(hole)}
    # What was missing already is not lost: to the search for holes it is held.
    known = [LayerSpan(layer, layer + 1) for layer in sorted(missing)]
    return missing_spans(layers, [*others, *after, *known])


def _layers(span: LayerSpan) -> range:
    return range(span.start, span.end)
