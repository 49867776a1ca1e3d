"""Small random models of every family, with the settings that a careless split would get wrong."""

from __future__ import annotations

from typing import Any

LAYERS = 6
VOCABULARY = 160
CONTEXT = 512

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.25,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
_WINDOW = 9
_PATTERN = ["sliding_attention", "full_attention", "sliding_attention"] * 2
_GEMMA4: dict[str, Any] = {
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": _WINDOW,
    "layer_types": [*_PATTERN[:5], "full_attention"],
    "hidden_size_per_layer_input": 0,
    "final_logit_softcapping": 3.0,
}
_LINEAR: dict[str, Any] = {
    "initializer_range": 0.08,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "arcee": {},
    "ernie4_5": {"use_bias": True},
    "seed_oss": {"head_dim": 24, "attention_out_bias": True},
    "qwen2": {"use_sliding_window": True, "sliding_window": _WINDOW, "max_window_layers": 2},
    "qwen3": {
        "head_dim": 32,
        "use_sliding_window": True,
        "sliding_window": _WINDOW,
        "max_window_layers": 3,
        "tie_word_embeddings": True,
    },
    "mistral": {"sliding_window": _WINDOW, "head_dim": 24},
    "ministral": {"sliding_window": _WINDOW, "layer_types": _PATTERN, "head_dim": 16},
    "ministral3": {
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "llama_4_scaling_beta": 0.5,
        },
    },
    "phi3": {"sliding_window": _WINDOW, "partial_rotary_factor": 0.5},
    "gemma2": {
        "head_dim": 24,
        "sliding_window": _WINDOW,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 2.5,
        "query_pre_attn_scalar": 20,
    },
    "gemma3_text": {
        "head_dim": 24,
        "sliding_window": _WINDOW,
        "layer_types": _PATTERN,
        "final_logit_softcapping": 3.5,
        "query_pre_attn_scalar": 20,
    },
    "gemma4_text": {  # the small ones: an input for each layer, and keys and values that several layers read
        **_GEMMA4,
        "layer_types": [*_PATTERN[:3], "sliding_attention", "full_attention", "full_attention"],
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 3,
        "use_double_wide_mlp": True,
    },
    "gemma4_text.dense": {
        **_GEMMA4,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
    },
    "gemma4_text.moe": {
        **_GEMMA4,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 32,
    },
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.3,
        "logits_scaling": 2.5,
    },
    "cohere2": {"logit_scale": 0.4, "sliding_window": _WINDOW, "layer_types": _PATTERN, "head_dim": 16},
    "glm": {"head_dim": 16, "partial_rotary_factor": 0.5},
    "glm4": {"head_dim": 16, "partial_rotary_factor": 0.5, "attention_bias": True},
    "olmo2": {},
    "exaone4": {"sliding_window": _WINDOW, "layer_types": _PATTERN},
    "smollm3": {
        "no_rope_layers": [1, 0, 1, 1, 0, 1],
        "use_sliding_window": True,
        "sliding_window": _WINDOW,
        "layer_types": _PATTERN,
    },
    "gpt_oss": {
        "initializer_range": 0.15,
        "head_dim": 16,
        "sliding_window": _WINDOW,
        "layer_types": _PATTERN,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": _WINDOW},
    "gemma": {"head_dim": 24},
    "cohere": {"logit_scale": 0.4, "use_qk_norm": True},
    "glm4_moe": {
        "head_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 2,
        "use_qk_norm": True,
    },
    "granitemoe": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.3,
        "logits_scaling": 2.5,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "olmo3": {"sliding_window": _WINDOW, "layer_types": _PATTERN},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 48, "decoder_sparse_step": 2},
    "qwen3_5_text": {**_LINEAR, "head_dim": 16},
    "qwen3_5_moe_text": {**_LINEAR, **_EXPERTS, "head_dim": 16, "shared_expert_intermediate_size": 48},
    "qwen3_next": {
        **_LINEAR,
        **_EXPERTS,
        "head_dim": 16,
        "shared_expert_intermediate_size": 48,
        "decoder_sparse_step": 2,
    },
    "qwen3_moe": {**_EXPERTS, "head_dim": 16, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
}


KEEP_STATES = {"qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"}
"""Families with linear attention, whose layers can't take a token back."""


def settings(family: str) -> dict[str, Any]:
    """Return the arguments of a family's configuration class; what follows a dot tells variants of one apart."""
    return {**_COMMON, **SETTINGS[family]}
