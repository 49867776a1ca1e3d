"""A model's ends, read from a folder of safetensors: embedding, final norm and head. Knows no kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from swarm.errors import ModelError
from swarm.models.architecture import load_config, skeleton, stateful_mixers, torch_dtype
from swarm.models.carried import Carried
from swarm.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class ModelEnds:
    """What stands before layer 0 and behind the last layer."""

    embedding: nn.Module
    """Maps ids to the rows that layer 0 takes; its matrices are the mapped file's, rows are copied on use."""
    norm: nn.Module
    head_weight: torch.Tensor
    """[vocabulary, hidden] in the file's dtype, memory-mapped: copy or pack it before computing with it."""
    head_bias: torch.Tensor | None
    logits_divisor: float
    logits_factor: float
    softcap: float | None
    hidden_size: int
    vocabulary: int
    keeps_states: bool
    """Some layer keeps a state, which can't go back to an earlier token: nothing is drafted."""

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
        """Return [len(ids), columns]. Raises IndexError for an id outside the vocabulary."""
        rows = self._table[torch.tensor(ids, dtype=torch.long)].to(device=self._device, dtype=self._dtype)
        self._lookup.weight = nn.Parameter(rows, requires_grad=False)
        out: torch.Tensor = self._lookup(torch.arange(len(ids), device=self._device))
        return out


class WithLayerInputs(nn.Module):
    """Embedded tokens followed by the input that each layer gets of its own (Gemma 4's small models)."""

    def __init__(self, embedding: RowTable, per_layer: RowTable, base: PreTrainedModel) -> None:
        super().__init__()
        self._embedding = embedding
        self._per_layer = per_layer
        self._base = base  # the family's own projection and norm

    def forward(self, ids: Sequence[int]) -> torch.Tensor:
        """Return [len(ids), hidden + layers x per layer]."""
        rows: torch.Tensor = self._embedding(ids)
        inputs: Any = self._per_layer(ids)
        inputs = inputs.reshape(1, len(ids), self._base.config.num_hidden_layers, -1)
        mixed = self._base.project_per_layer_inputs(rows[None], inputs)
        return torch.cat([rows, mixed.reshape(len(ids), -1)], dim=1)


def load_ends(folder: Path, dtype: str, device: str = "cpu") -> ModelEnds:
    """Return the ends of the model in ``folder``; of its large tensors none is read now."""
    config = load_config(folder)
    checkpoint = Checkpoint.open(folder)
    base = skeleton(config)
    wanted = torch_dtype(dtype)
    table = checkpoint.mapped(checkpoint.base_key("embed_tokens.weight"))
    return ModelEnds(
        embedding=_embedding(base, checkpoint, table, wanted, device),
        norm=_filled(base.norm, "norm", checkpoint, wanted, device),
        head_weight=_head_weight(checkpoint, config, table),
        head_bias=checkpoint.mapped("lm_head.bias") if "lm_head.bias" in checkpoint.keys else None,
        logits_divisor=float(getattr(config, "logits_scaling", None) or 1.0),
        logits_factor=float(1.0 if getattr(config, "logit_scale", None) is None else config.logit_scale),
        softcap=getattr(config, "final_logit_softcapping", None),
        hidden_size=config.hidden_size,
        vocabulary=table.shape[0],
        keeps_states=any(stateful_mixers(layer) for layer in base.layers),
    )


def _embedding(
    base: PreTrainedModel, checkpoint: Checkpoint, table: torch.Tensor, dtype: torch.dtype, device: str
) -> nn.Module:
    embedding = RowTable(table, _lookup(base.embed_tokens, base.config, device), dtype, device)
    if not Carried.of(base.config).per_layer:
        return embedding
    for name in ("per_layer_model_projection", "per_layer_projection_norm"):
        _filled(getattr(base, name), name, checkpoint, dtype, device)
    per_layer = checkpoint.mapped(checkpoint.base_key("embed_tokens_per_layer.weight"))
    lookup = _lookup(base.embed_tokens_per_layer, base.config, device)
    return WithLayerInputs(embedding, RowTable(per_layer, lookup, dtype, device), base)


def _lookup(lookup: Any, config: PreTrainedConfig, device: str) -> nn.Module:
    """Return a family's embedding module, to be given a few rows as its whole matrix."""
    lookup.padding_idx = None
    scale = getattr(lookup, "scalar_embed_scale", None)
    if scale is not None:
        lookup.embed_scale = torch.tensor(scale, device=device)
    for name, buffer in lookup.named_buffers():
        if buffer.is_meta:
            raise ModelError(f"{config.model_type}: the embedding's {name} can't be rebuilt")
    module: nn.Module = lookup
    return module


def _filled(module: Any, name: str, checkpoint: Checkpoint, dtype: torch.dtype, device: str) -> nn.Module:
    """Give ``module`` its tensors. Raises ModelError for one that is missing or of another shape."""
    filled: nn.Module = module.to_empty(device=device).to(dtype)
    for own, parameter in filled.named_parameters():
        key = checkpoint.base_key(f"{name}.{own}")
        stored = checkpoint.mapped(key)
        if stored.shape != parameter.shape:
            raise ModelError(f"{checkpoint.name}: {key} is {[*stored.shape]}, not {[*parameter.shape]}")
        parameter.data.copy_(stored)
    return filled.eval().requires_grad_(False)


def _head_weight(checkpoint: Checkpoint, config: PreTrainedConfig, table: torch.Tensor) -> torch.Tensor:
    """Return the head's matrix: its own, or the embedding's where the model ties them."""
    if getattr(config, "tie_word_embeddings", False):
        return table
    return checkpoint.mapped(checkpoint.first_of("lm_head.weight", "language_model.lm_head.weight"))
