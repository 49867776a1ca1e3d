"""What a joining node takes."""

from __future__ import annotations

import pytest

from swarm.routing.placement import choose_span, missing_layers
from swarm.routing.view import SpanView, SwarmView
from swarm.types import BootId, LayerSpan, ModelId, NodeId

MODEL = ModelId("tiny", "0" * 64)


def view_of(*held: tuple[int, int], model: ModelId = MODEL) -> SwarmView:
    return SwarmView(
        tuple(
            SpanView(NodeId(str(n) * 32), BootId(b"bootboot"), model, LayerSpan(*span), "float32", 0.01)
            for n, span in enumerate(held)
        )
    )


@pytest.mark.parametrize(
    ("held", "chosen"),
    [
        ((), (0, 30)),
        (((0, 15),), (15, 30)),
        (((0, 5), (8, 20)), (20, 30)),
        (((5, 10), (15, 30)), (0, 5)),
        (((0, 15), (15, 30)), (0, 30)),
    ],
)
def test_a_joining_node_takes_the_largest_hole_or_everything(held, chosen):
    assert choose_span(view_of(*held), MODEL, 30) == LayerSpan(*chosen)


def test_spans_of_another_model_fill_no_hole():
    view = view_of((0, 30), model=ModelId("other", "1" * 64))
    assert missing_layers(view, MODEL, 30) == (LayerSpan(0, 30),)
