"""A small random model of the same kind as a given one: every layer and scalar of it, only narrower.

Layer count, pattern of kinds, scalings, caps, rotary settings and head sizes stay; widths, heads, experts, vocabulary
and windows shrink, and so does a context behind which queries are scaled. Knows nothing of spans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

VOCABULARY = 96
WINDOW = 7
"""Tokens that window layers see in a miniature: fewer than a check computes."""

_NARROW = 64
_INNER = 32
_FIXED: dict[str, int | None] = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "hidden_size_per_layer_input": 8,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "sliding_window": WINDOW,
    "attention_chunk_size": WINDOW,
}
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_k")
_INTO_THE_SUM = ("o_proj", "out_proj", "down_proj")
"""In names of the matrices whose products are added to the hidden state."""
_ROTARY = ("rope_parameters", "rope_scaling")
_NOT_WIDTHS = frozenset([*_ROTARY, "quantization_config"])
_SCALED_BEHIND = "llama_4_scaling_beta"
"""In the rotary settings of families that scale queries behind ``original_max_position_embeddings``."""


def miniature(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a narrow configuration of the same class. Raises what transformers raises for one it can't make."""
    stored = config.to_dict()
    heads = stored.get("num_attention_heads") or 1
    key_heads = stored.get("num_key_value_heads") or heads
    hidden = stored.get("hidden_size") or _NARROW
    dim = stored.get("head_dim") or hidden // heads
    own_head_dim = stored.get("head_dim") is not None and stored["head_dim"] * heads != hidden
    sizes: dict[str, Any] = {
        "num_attention_heads": 2,
        "num_key_value_heads": 1 if key_heads < heads else 2,
        "hidden_size": _NARROW if own_head_dim else 2 * dim,
    }
    if value_heads := stored.get("linear_num_value_heads"):
        sizes["linear_num_value_heads"] = 4 if value_heads > stored["linear_num_key_heads"] else 2
    chosen = max((stored.get(name) or 1 for name in _CHOSEN), default=1)
    experts = max(8, 2 * chosen)
    small = _shrunk(stored, sizes, experts if (stored.get("n_group") or 1) == 1 else None)
    small.pop("dtype", None)
    return type(config).from_dict(small)


def _shrunk(stored: Mapping[str, Any], sizes: Mapping[str, Any], experts: int | None) -> dict[str, Any]:
    """Narrow every width that is given, in the settings of single layers too."""
    small: dict[str, Any] = {}
    for name, value in stored.items():
        if isinstance(value, dict) and name not in _NOT_WIDTHS:
            small[name] = _shrunk(value, sizes, experts)
        elif not value or isinstance(value, bool):
            small[name] = value  # 0 and None leave a part out, and it stays out
        elif name in _ROTARY and _SCALED_BEHIND in value:
            small[name] = {**value, "original_max_position_embeddings": WINDOW}
        elif name in sizes:
            small[name] = sizes[name]
        elif name in _FIXED:
            small[name] = _FIXED[name]
        elif str(name).endswith("intermediate_size"):
            small[name] = _INNER
        elif name in _EXPERTS and experts is not None and isinstance(value, int):
            small[name] = min(value, experts)
        else:
            small[name] = value
    return small


def random_model(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """Return a float32 model of ``config`` whose numbers depend on ``seed`` alone; none of them is 0 or 1.

    What each layer adds is small where layers are many (Radford et al., "Language Models are Unsupervised Multitask
    Learners", 2019): else deep hybrids with linear attention enlarge rounding to more than a check allows.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="eager"
        )
        for name, parameter in model.named_parameters():
            _fill(name, parameter)
            if any(part in name for part in _INTO_THE_SUM) and parameter.dim() > 1:
                parameter.data.mul_((2 * config.num_hidden_layers) ** -0.5)
    return model.eval().requires_grad_(False)


def _fill(name: str, parameter: torch.Tensor) -> None:
    noise = torch.randn(parameter.shape)
    if (
        parameter.dim() < 2
    ):  # norms, biases, sinks: near what the family begins with, so that a lost one shows
        parameter.data.add_(noise, alpha=0.2)
    elif "embed" in name:
        parameter.data.copy_(noise)
    else:
        parameter.data.copy_(noise).mul_(parameter.shape[-1] ** -0.5)


def saved(model: PreTrainedModel, folder: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """Save ``model`` in ``folder``; return its function from ids [tokens] to logits [tokens, vocabulary]."""
    model.save_pretrained(folder)

    def logits(ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = model(input_ids=ids[None], use_cache=False).logits[0]
        return out.float()

    return logits
