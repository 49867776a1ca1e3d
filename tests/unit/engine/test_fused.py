"""Fused layers stand in for those of a family only where these give the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swarm.engine import fused
from swarm.engine.attention import ATTENTION
from swarm.engine.fused import FusedLayer, accelerate
from swarm.engine.kernels import plain
from swarm.engine.kv_pool import KVLayout
from swarm.engine.stage import _probe
from swarm.models.loader import load_span
from swarm.types import LayerSpan
from tests.support.models import random_model

HIDDEN = 64


@pytest.fixture
def loaded(tmp_path):
    """Two layers of a family in bfloat16, and the layout of their keys and values."""

    def load(family: str) -> tuple[nn.Module, KVLayout]:
        span = LayerSpan(0, 2)
        folder = random_model(family, {}, tmp_path / family).local.folder
        base = load_span(folder, span, "bfloat16", attention=ATTENTION)
        return base, _probe(base, torch.zeros(1, HIDDEN, dtype=torch.bfloat16), base.carried, span)

    return load


@torch.inference_mode()
def test_a_layer_that_adds_little_is_compared_by_what_it_adds(loaded):
    base, layout = loaded("qwen3")
    layer = base.layers[0]
    layer.self_attn.o_proj.weight.mul_(0.001)
    layer.mlp.down_proj.weight.zero_()
    candidate = FusedLayer(layer, 0, plain)
    assert fused._gives_the_same(candidate, layer, base.rotary_emb, layout, HIDDEN)
    candidate.rotates = False
    assert not fused._gives_the_same(candidate, layer, base.rotary_emb, layout, HIDDEN)


@pytest.mark.parametrize(("family", "replaced"), [("qwen3", True), ("smollm3", True), ("ministral3", False)])
@torch.inference_mode()
def test_layers_whose_queries_are_scaled_by_position_stay_the_family_s_own(family, replaced, loaded):
    base, layout = loaded(family)
    accelerate(base.layers, base.rotary_emb, layout, HIDDEN, plain)
    assert all(isinstance(layer, FusedLayer) is replaced for layer in base.layers)
