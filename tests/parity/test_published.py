"""Models as they are published: their layers, patterns and scalars pass the check that every node makes at load."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from swarm.engine.selfcheck import ensure_splittable

_FIVE = ["sliding_attention"] * 5 + ["full_attention"]
_YARN = {"rope_type": "yarn", "beta_fast": 32.0, "beta_slow": 1.0}
_GEMMA4: dict[str, Any] = {"head_dim": 256, "global_head_dim": 512, "final_logit_softcapping": 30.0}

PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama-3.2-1B": ("llama", {
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 64, "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "high_freq_factor": 4.0,
            "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
        },
    }),
    "Qwen3-235B-A22B": ("qwen3_moe", {
        "hidden_size": 4096, "num_hidden_layers": 94, "num_attention_heads": 64, "num_key_value_heads": 4,
        "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True,
    }),
    "Qwen3.5-27B": ("qwen3_5_text", {
        "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 24, "num_key_value_heads": 4,
        "head_dim": 256, "linear_num_key_heads": 16, "linear_num_value_heads": 48,
    }),
    "Phi-4-mini": ("phi3", {
        "hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8,
        "sliding_window": 262144, "tie_word_embeddings": True, "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 4096,
            "short_factor": [1.0] * 48, "long_factor": [1 + 0.5 * i for i in range(48)],
        },
    }),
    "Gemma-3-27B": ("gemma3_text", {
        "hidden_size": 5376, "num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 16,
        "head_dim": 128, "sliding_window": 1024, "query_pre_attn_scalar": 168,
    }),
    "Gemma-4-31B": ("gemma4_text", {
        **_GEMMA4, "hidden_size": 5376, "num_hidden_layers": 60, "num_attention_heads": 32,
        "num_key_value_heads": 16, "num_global_key_value_heads": 4, "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0, "layer_types": _FIVE * 10,
    }),
    "Gemma-4-26B-A4B": ("gemma4_text", {
        **_GEMMA4, "hidden_size": 2816, "num_hidden_layers": 30, "num_attention_heads": 16,
        "num_key_value_heads": 8, "num_global_key_value_heads": 2, "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0, "layer_types": _FIVE * 5, "enable_moe_block": True,
        "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704,
    }),
    "Gemma-4-E4B": ("gemma4_text", {
        **_GEMMA4, "hidden_size": 2560, "num_hidden_layers": 42, "num_attention_heads": 8,
        "num_key_value_heads": 2, "num_kv_shared_layers": 18, "hidden_size_per_layer_input": 256,
        "layer_types": _FIVE * 7,
    }),
    "Ministral-3-3B": ("ministral3", {
        "hidden_size": 3072, "num_hidden_layers": 26, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "tie_word_embeddings": True,
        "rope_parameters": {
            **_YARN, "rope_theta": 1000000.0, "factor": 16.0, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 16384, "llama_4_scaling_beta": 0.1,
        },
    }),
    "gpt-oss-20b": ("gpt_oss", {
        "num_hidden_layers": 24, "num_local_experts": 32, "num_experts_per_tok": 4, "sliding_window": 128,
        "rope_parameters": {
            **_YARN, "rope_theta": 150000.0, "factor": 32.0, "original_max_position_embeddings": 4096,
            "truncate": False,
        },
    }),
    "Mixtral-8x7B": ("mixtral", {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "sliding_window": None, "num_local_experts": 8, "num_experts_per_tok": 2,
    }),
    "SmolLM3-3B": ("smollm3", {
        "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 4,
        "no_rope_layers": [1, 1, 1, 0] * 9, "tie_word_embeddings": True,
    }),
    "OLMo-2-7B": ("olmo2", {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}),
    "Granite-3.3-8B": ("granite", {
        "hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8,
        "embedding_multiplier": 12.0, "logits_scaling": 16.0, "residual_multiplier": 0.22,
        "attention_multiplier": 0.0078125, "tie_word_embeddings": True,
    }),
    "GLM-4-9B": ("glm4", {
        "hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 2,
        "head_dim": 128,
    }),
    "Command-R7B": ("cohere2", {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "logit_scale": 0.25, "sliding_window": 4096,
    }),
}  # fmt: skip


@pytest.mark.parametrize("model", sorted(PUBLISHED))
def test_a_published_model_can_be_split(model, tmp_path):
    family, described = PUBLISHED[model]
    AutoConfig.for_model(family, **described).save_pretrained(tmp_path / model)
    ensure_splittable(tmp_path / model, tmp_path / "checks")
    assert list((tmp_path / "checks").iterdir())
