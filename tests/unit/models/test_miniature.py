"""Small models of the same kind: configurations as the real ones have them, narrowed and still telling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from swarm.models.miniature import VOCABULARY, WINDOW, miniature

REAL: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
    "qwen3_moe": {
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
    },
    "gpt_oss": {"num_hidden_layers": 36, "num_local_experts": 128, "num_experts_per_tok": 4},
    "gemma4_text": {"hidden_size": 1536, "num_hidden_layers": 35, "num_kv_shared_layers": 20},
    "gemma4_text.dense": {"hidden_size": 5376, "num_hidden_layers": 60, "hidden_size_per_layer_input": 0},
    "qwen3_5_text": {"hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 24},
    "granite": {
        "hidden_size": 4096,
        "num_hidden_layers": 40,
        "embedding_multiplier": 12.0,
        "logits_scaling": 16.0,
    },
}
SCALARS = (
    "num_hidden_layers",
    "layer_types",
    "rope_parameters",
    "rms_norm_eps",
    "embedding_multiplier",
    "logits_scaling",
    "num_kv_shared_layers",
    "num_experts_per_tok",
    "tie_word_embeddings",
    "decoder_sparse_step",
)


@pytest.mark.parametrize("family", sorted(REAL))
def test_layers_and_scalars_stay_and_widths_shrink(family):
    real = AutoConfig.for_model(family.partition(".")[0], **REAL[family])
    small = miniature(real)
    assert type(small) is type(real)
    for name in SCALARS:
        assert getattr(small, name, None) == getattr(real, name, None), name
    assert small.vocab_size == VOCABULARY
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(small)
    layers = real.num_hidden_layers
    assert sum(parameter.numel() for parameter in model.parameters()) < layers * 400_000


def test_windows_shrink_to_less_than_a_check_computes():
    real = AutoConfig.for_model("gemma3_text", sliding_window=4096)
    assert miniature(real).sliding_window == WINDOW


def test_what_the_real_model_leaves_out_stays_out():
    for inputs, kept in ((0, False), (256, True)):
        real = AutoConfig.for_model("gemma4_text", hidden_size_per_layer_input=inputs)
        assert bool(miniature(real).hidden_size_per_layer_input) is kept


def test_queries_that_are_scaled_far_behind_are_scaled_within_a_check():
    small = miniature(AutoConfig.for_model("ministral3"))
    assert small.rope_parameters["original_max_position_embeddings"] == WINDOW
    assert small.rope_parameters["factor"] == 16.0


def test_heads_that_share_keys_still_do():
    for heads, shared in ((8, True), (32, False)):
        real = AutoConfig.for_model(
            "llama", hidden_size=1024, num_attention_heads=32, num_key_value_heads=heads
        )
        small = miniature(real)
        assert (small.num_attention_heads > small.num_key_value_heads) is shared
        assert small.head_dim == real.head_dim
