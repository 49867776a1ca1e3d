"""A span of layers, or a model's ends, read from a folder of safetensors as small transformers models.

Knows nothing of sequences, KV caches or kernels: what it returns computes plainly.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.utils.logging import disable_progress_bar

from swarm.errors import ModelError
from swarm.models.checkpoint import Checkpoint
from swarm.types import DTYPES, LayerSpan

FAMILIES = frozenset(
    [
        "arcee",
        "cohere2",
        "ernie4_5",
        "exaone4",
        "gemma2",
        "gemma3_text",
        "glm",
        "glm4",
        "gpt_oss",
        "granite",
        "llama",
        "ministral",
        "ministral3",
        "mistral",
        "mixtral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "seed_oss",
        "smollm3",
    ]
)
"""Model types whose spans were shown to give the logits of the whole model (tests/parity)."""

_LAYER_KEY = re.compile(r"(?:model\.)?layers\.(\d+)\.")

disable_progress_bar()


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype of one of swarm.types.DTYPES. Raises ModelError for any other name."""
    if name not in DTYPES:
        raise ModelError(f"dtype {name!r} is not supported; use one of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def load_config(folder: Path) -> PreTrainedConfig:
    """Return the configuration in ``folder``. Raises ModelError for a family that spans can't serve."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as exc:
        raise ModelError(f"{folder.name}: config.json can't be used: {exc}") from exc
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"{folder.name}: models of type {config.model_type!r} can't be split into spans yet; "
            f"supported: {', '.join(sorted(FAMILIES))}"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"{folder.name}: quantised checkpoints are not supported; use the original weights")
    if getattr(config, "use_bidirectional_attention", False):
        raise ModelError(f"{folder.name}: bidirectional attention can't be served token by token")
    return config


def load_span(
    folder: Path, span: LayerSpan, dtype: str, device: str = "cpu", attention: str = "eager"
) -> PreTrainedModel:
    """Return layers ``span`` of the model in ``folder`` as a base model without embedding and final norm.

    Its ``forward(inputs_embeds=[1, tokens, hidden], position_ids=[1, tokens])`` gives the span's output as
    ``last_hidden_state``. Only the tensors of these layers are read. ``attention`` names the implementation
    that transformers calls. Raises ModelError when a tensor is missing or left over.
    """
    config = load_config(folder)
    config._attn_implementation = attention
    base = _skeleton(config)
    if span.end > len(base.layers):
        raise ModelError(
            f"{folder.name} has {len(base.layers)} layers; {span.described()} are not all among them"
        )
    rotary = type(base.rotary_emb)(config)  # before the config is cut: it may look at every layer's type
    _narrow(base, span, config)
    base.norm = nn.Identity()
    base.embed_tokens = nn.Identity()
    base.rotary_emb = rotary
    base.layers.to(torch_dtype(dtype))
    _fill_layers(base, Checkpoint.open(folder), span, torch_dtype(dtype), device)
    base.rotary_emb.to(device)
    return base.eval().requires_grad_(False)


def sub_span(base: PreTrainedModel, held: LayerSpan, part: LayerSpan) -> PreTrainedModel:
    """Return layers ``part`` of ``base``, which holds ``held``, as a model that shares its modules."""
    if not held.covers(part):
        raise ModelError(f"{part.described()} are not within {held.described()}")
    view = copy.copy(base)
    view._modules = dict(base._modules)
    _narrow(view, LayerSpan(part.start - held.start, part.end - held.start), base.config, renumber=False)
    return view


def _skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """Return the whole base model without memory behind its tensors."""
    with torch.device("meta"):
        base: PreTrainedModel = MODEL_MAPPING[type(config)](config)
    return base


def _narrow(base: PreTrainedModel, span: LayerSpan, config: PreTrainedConfig, renumber: bool = True) -> None:
    """Keep ``base.layers[span]`` and give ``base`` a config that describes no others.

    The layers keep the whole config: some count layers in it. Input scaling belongs to layer 0 alone.
    """
    base.layers = nn.ModuleList(list(base.layers)[span.start : span.end])
    base.config = copy.deepcopy(config)
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None:
        base.config.layer_types = layer_types[span.start : span.end]
    base.config.num_hidden_layers = len(span)
    if span.start > 0 and hasattr(base, "embedding_multiplier"):
        base.embedding_multiplier = 1.0
    if renumber:
        for index, layer in enumerate(base.layers):
            for module in layer.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = index


def _fill_layers(
    base: PreTrainedModel, checkpoint: Checkpoint, span: LayerSpan, dtype: torch.dtype, device: str
) -> None:
    """Read the tensors of ``span`` into ``base``; every one must have its place, and every place its tensor."""
    names: dict[str, str] = {}
    for key in checkpoint.keys:
        match = _LAYER_KEY.match(key)
        if match and int(match[1]) in span:
            names[f"layers.{int(match[1]) - span.start}.{key[match.end() :]}"] = key
    with checkpoint.reading(names.values()) as read:
        _convert_into(base, {name: read(key) for name, key in names.items()}, checkpoint.name, dtype, device)


def _convert_into(
    base: PreTrainedModel, tensors: dict[str, Any], name: str, dtype: torch.dtype, device: str
) -> None:
    """Put ``tensors`` into ``base`` by transformers' own conversion rules (merged experts, renamed keys)."""
    load_config = LoadStateDictConfig(
        dtype=dtype,
        dtype_plan=base._get_dtype_plan(dtype),
        device_map={"": torch.device(device)},
        weight_mapping=get_model_conversion_mapping(base),
    )
    info, _ = convert_and_load_state_dict_in_model(base, tensors, load_config)
    base._adjust_missing_and_unexpected_keys(info)
    wrong = {
        "missing": sorted(info.missing_keys),
        "unexpected": sorted(info.unexpected_keys),
        "of the wrong shape": sorted(str(entry[0]) for entry in info.mismatched_keys),
        "not convertible": sorted(info.conversion_errors),
    }
    for what, keys in wrong.items():
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ModelError(f"{name}: tensors {what}: {', '.join(keys[:3])}{more}")
    left = [key for key, tensor in [*base.named_parameters(), *base.named_buffers()] if tensor.is_meta]
    if left:
        raise ModelError(f"{name}: {left[0]} is not stored in the checkpoint and can't be rebuilt")


@dataclass(frozen=True)
class ModelEnds:
    """What stands before layer 0 and behind the last layer: embedding, final norm, head."""

    embedding: nn.Module
    """Maps ids to scaled rows; its weight is the memory-mapped file, rows are copied on use."""
    norm: nn.Module
    head_weight: torch.Tensor
    """[vocabulary, hidden] in the file's dtype, memory-mapped: copy or pack it before computing with it."""
    head_bias: torch.Tensor | None
    logits_divisor: float
    logits_factor: float
    softcap: float | None
    hidden_size: int
    vocabulary: int

    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        """Apply what the family does to the head's product: granite's and cohere's scales, gemma's softcap."""
        if self.logits_divisor != 1.0:
            logits = logits / self.logits_divisor
        if self.logits_factor != 1.0:
            logits = logits * self.logits_factor
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


class RowTable(nn.Module):
    """An embedding whose matrix stays in the file: each look-up reads only the rows it needs."""

    def __init__(self, table: torch.Tensor, lookup: nn.Module, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self._table = table
        self._lookup = lookup  # the family's own embedding: it may scale rows
        self._dtype = dtype
        self._device = device

    def forward(self, ids: Sequence[int]) -> torch.Tensor:
        """Return [len(ids), hidden]. Raises IndexError for an id outside the vocabulary."""
        rows = self._table[torch.tensor(ids, dtype=torch.long)].to(device=self._device, dtype=self._dtype)
        self._lookup.weight = nn.Parameter(rows, requires_grad=False)
        out: torch.Tensor = self._lookup(torch.arange(len(ids), device=self._device))
        return out


def load_ends(folder: Path, dtype: str, device: str = "cpu") -> ModelEnds:
    """Return the ends of the model in ``folder``; of its tensors only the final norm's is read now."""
    config = load_config(folder)
    checkpoint = Checkpoint.open(folder)
    base = _skeleton(config)
    wanted = torch_dtype(dtype)
    table = checkpoint.mapped(checkpoint.first_of("model.embed_tokens.weight", "embed_tokens.weight"))
    return ModelEnds(
        embedding=RowTable(table, _lookup(base, config, device), wanted, device),
        norm=_norm(base, checkpoint, wanted, device),
        head_weight=_head_weight(checkpoint, config, table),
        head_bias=checkpoint.mapped("lm_head.bias") if "lm_head.bias" in checkpoint.keys else None,
        logits_divisor=float(getattr(config, "logits_scaling", None) or 1.0),
        logits_factor=float(1.0 if getattr(config, "logit_scale", None) is None else config.logit_scale),
        softcap=getattr(config, "final_logit_softcapping", None),
        hidden_size=config.hidden_size,
        vocabulary=table.shape[0],
    )


def _lookup(base: PreTrainedModel, config: PreTrainedConfig, device: str) -> nn.Module:
    """Return the family's embedding module, to be given a few rows as its whole matrix."""
    lookup: Any = base.embed_tokens
    lookup.padding_idx = None
    scale = getattr(lookup, "scalar_embed_scale", None)
    if scale is not None:
        lookup.embed_scale = torch.tensor(scale, device=device)
    for name, buffer in lookup.named_buffers():
        if buffer.is_meta:
            raise ModelError(f"{config.model_type}: the embedding's {name} can't be rebuilt")
    module: nn.Module = lookup
    return module


def _norm(base: PreTrainedModel, checkpoint: Checkpoint, dtype: torch.dtype, device: str) -> nn.Module:
    """Return the final norm with its weights."""
    norm: nn.Module = base.norm.to_empty(device=device).to(dtype)
    for name, parameter in norm.named_parameters():
        key = checkpoint.first_of(f"model.norm.{name}", f"norm.{name}")
        parameter.data.copy_(checkpoint.mapped(key))
    return norm.eval().requires_grad_(False)


def _head_weight(checkpoint: Checkpoint, config: PreTrainedConfig, table: torch.Tensor) -> torch.Tensor:
    """Return the head's matrix: its own, or the embedding's where the model ties them."""
    if getattr(config, "tie_word_embeddings", False):
        return table
    return checkpoint.mapped(checkpoint.first_of("lm_head.weight"))
