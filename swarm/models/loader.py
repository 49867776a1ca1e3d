"""A span of layers, read from a folder of safetensors as a small transformers model.

Knows nothing of sequences, KV caches or kernels: what it returns computes plainly.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig

from swarm.errors import ModelError
from swarm.models.architecture import (
    FOREIGN_FAILURES,
    fp8_block,
    layer_types,
    load_config,
    read_config,
    skeleton,
    torch_dtype,
)
from swarm.models.carried import Carried
from swarm.models.checkpoint import Checkpoint
from swarm.models.fp8 import plain
from swarm.types import LayerSpan

_IGNORED = re.compile(r"layers\.(\d+)\.")


def load_span(
    folder: Path, span: LayerSpan, dtype: str, device: str = "cpu", attention: str = "eager"
) -> PreTrainedModel:
    """Return layers ``span`` of the model in ``folder`` as a base model without embedding and final norm.

    Its ``forward(inputs_embeds=[1, tokens, hidden], position_ids=[1, tokens])`` gives the span's output as
    ``last_hidden_state``; its ``carried`` says what else goes in and out. Only the tensors of these layers are
    read. ``attention`` names the implementation that transformers calls. Raises ModelError when a tensor is
    missing or left over.
    """
    config = load_config(folder)
    config._attn_implementation = attention
    base = skeleton(config)
    if span.end > len(base.layers):
        raise ModelError(
            f"{folder.name} has {len(base.layers)} layers; {span.described()} are not all among them"
        )
    rotary = _rotary(base, config)  # before the config is cut: it may look at every layer's type
    _narrow(base, span, config)
    _drop_ends(base, span)
    base.rotary_emb = rotary
    base.carried = Carried.of(config)
    base.layers.to(torch_dtype(dtype))
    _fill_layers(
        base, Checkpoint.open(folder), span, torch_dtype(dtype), device, block=fp8_block(read_config(folder))
    )
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


def _narrow(base: PreTrainedModel, span: LayerSpan, config: PreTrainedConfig, renumber: bool = True) -> None:
    """Keep ``base.layers[span]`` and give ``base`` a config that describes no others.

    The layers keep the whole config: some count layers in it. Input scaling belongs to layer 0 alone.
    """
    base.layers = nn.ModuleList(list(base.layers)[span.start : span.end])
    base.config = copy.deepcopy(config)
    kinds = layer_types(config)
    if kinds is not None:
        base.config.layer_types = kinds[span.start : span.end]
    base.config.num_hidden_layers = len(span)
    if span.start > 0 and hasattr(base, "embedding_multiplier"):
        base.embedding_multiplier = 1.0
    if renumber:
        for index, layer in enumerate(base.layers):
            for module in layer.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = index


def _rotary(base: PreTrainedModel, config: PreTrainedConfig) -> nn.Module:
    """Build the rotary embedding outside the meta device: its numbers are computed, not stored."""
    made = getattr(base, "rotary_emb", None)
    if made is None:
        return nn.Identity()  # the family has none, or its layers have their own
    try:
        rotary: nn.Module = type(made)(config)
    except FOREIGN_FAILURES as exc:
        raise ModelError(f"{config.model_type}: its rotary embedding can't be built: {exc}") from exc
    return rotary


def _drop_ends(base: PreTrainedModel, span: LayerSpan) -> None:
    """Leave out what the origin computes: embedding, each layer's own input, final norm."""
    base.norm = nn.Identity()
    base.embed_tokens = nn.Identity()
    if getattr(base, "hidden_size_per_layer_input", None):
        base.embed_tokens_per_layer = nn.Identity()
        base.per_layer_model_projection = nn.Identity()
        base.per_layer_projection_norm = nn.Identity()
        base.project_per_layer_inputs = _as_they_came
    if hasattr(base, "first_kv_shared_layer_idx"):
        base.first_kv_shared_layer_idx = (
            -1
        )  # where rows are cut to those that get logits: here all are wanted
    ignored = base._keys_to_ignore_on_load_unexpected
    if ignored:
        base._keys_to_ignore_on_load_unexpected = {_renumbered(pattern, span) for pattern in ignored}


def _as_they_came(_: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return inputs


def _renumbered(pattern: str, span: LayerSpan) -> str:
    """Return a pattern of ignored keys for layers that are counted from the span's start."""
    return _IGNORED.sub(lambda found: f"layers.{int(found[1]) - span.start}.", pattern)


def _fill_layers(
    base: PreTrainedModel,
    checkpoint: Checkpoint,
    span: LayerSpan,
    dtype: torch.dtype,
    device: str,
    *,
    block: tuple[int, int] | None,
) -> None:
    """Read the tensors of ``span`` into ``base``; every one must have its place, and every place its tensor."""
    names: dict[str, str] = {}
    layer_key = re.compile(re.escape(checkpoint.prefix) + r"layers\.(\d+)\.")
    for key in checkpoint.keys:
        match = layer_key.match(key)
        if match and int(match[1]) in span:
            names[f"layers.{int(match[1]) - span.start}.{key[match.end() :]}"] = key
    with checkpoint.reading(names.values()) as read:
        tensors = {name: read(key) for name, key in names.items()}
        if block is not None:
            tensors = plain(tensors, block, dtype)
        _convert_into(base, tensors, checkpoint.name, dtype, device)


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
