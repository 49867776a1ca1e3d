"""Rows that hold more than hidden states: what goes in at a boundary is what came out there."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from swarm.models.carried import Carried
from swarm.types import LayerSpan
from tests.support.families import LAYERS, settings

HIDDEN, PER_LAYER = 64, 8


@pytest.fixture
def carried():
    return Carried.of(AutoConfig.for_model("gemma4_text", **settings("gemma4_text")))


def test_rows_of_most_families_are_hidden_states():
    carried = Carried.of(AutoConfig.for_model("llama", **settings("llama")))
    assert carried.plain
    assert {carried.width(boundary) for boundary in range(LAYERS + 1)} == {HIDDEN}
    rows = torch.ones(3, HIDDEN)
    hidden, more = carried.unpack(rows, LayerSpan(2, 4))
    assert hidden is rows
    assert more == {}


def test_a_boundary_has_the_inputs_to_come_and_the_keys_that_later_layers_read(carried):
    # Layers 3 to 5 read: the sliding one what layer 2 made, the full ones what layer 1 made.
    full, sliding = 2 * 2 * 32, 2 * 2 * 16
    to_come = [(LAYERS - boundary) * PER_LAYER for boundary in range(LAYERS + 1)]
    crossing = [0, 0, full, full + sliding, full, full, 0]
    assert [carried.width(boundary) for boundary in range(LAYERS + 1)] == [
        HIDDEN + inputs + states for inputs, states in zip(to_come, crossing, strict=True)
    ]


def test_what_a_span_does_not_use_goes_through_it_unchanged(carried):
    rows = torch.randn(5, carried.width(3))
    hidden, more = carried.unpack(rows, LayerSpan(3, 4))
    assert torch.equal(hidden, rows[:, :HIDDEN])
    assert more["per_layer_inputs"].shape == (1, 5, 1, PER_LAYER)
    assert more["shared_kv_states"]["sliding_attention"][0].shape == (1, 2, 5, 16)
    out = carried.pack(hidden, rows, more, LayerSpan(3, 4))
    assert out.shape == (5, carried.width(4))
    again, later = carried.unpack(out, LayerSpan(4, 6))
    assert torch.equal(again, hidden)
    assert torch.equal(
        later["per_layer_inputs"].flatten(), rows[:, HIDDEN + PER_LAYER :][:, : 2 * PER_LAYER].flatten()
    )
    for kind in ("full_attention",):
        for before, after in zip(
            more["shared_kv_states"][kind], later["shared_kv_states"][kind], strict=True
        ):
            assert torch.equal(before, after)
