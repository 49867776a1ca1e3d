"""A decoder layer of the Llama shape with fewer, larger operations; proved equal to the original at load.

Knows nothing of spans. Families of other shapes keep transformers' own layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from swarm.engine.attention import PackedBatch, Scores, Segment, attend_packed
from swarm.engine.kernels import Kernel, Maker, joined, norm, plain, replace_modules, same
from swarm.engine.kv_pool import KVLayout, SequenceKV

_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_SEPARATE = {"q_proj", "k_proj", "v_proj", "o_proj"}
_CHECK_TOKENS = 6
_SMALL = 64
"""What rows of about 1 are divided by for the comparison."""
_FAR = 1 << 20
"""A position behind every context at which a family changes what it computes."""


class FusedLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): one product for q, k and v, one for gate and up."""

    def __init__(self, layer: Any, index: int, make: Maker) -> None:
        super().__init__()
        attention = layer.self_attn
        mlp = layer.mlp
        self.index = index
        self.dim: int = attention.head_dim
        self.key_heads = attention.k_proj.weight.shape[0] // self.dim
        self.heads = attention.q_proj.weight.shape[0] // self.dim
        self.scores = Scores(attention.scaling)
        self.rotates: bool = bool(getattr(attention, "use_rope", True))
        self.norm_in = norm(layer.input_layernorm)
        self.norm_mid = norm(layer.post_attention_layernorm)
        self.norm_heads = (
            (norm(attention.q_norm), norm(attention.k_norm)) if hasattr(attention, "q_norm") else None
        )
        self.qkv = joined([attention.q_proj, attention.k_proj, attention.v_proj], make)
        self.out = joined([attention.o_proj], make)
        self.gate_up = joined([mlp.gate_proj, mlp.up_proj], make)
        self.down = joined([mlp.down_proj], make)
        self.inner: int = mlp.gate_proj.weight.shape[0]
        self.activation: Kernel = functional.silu if _is_silu(mlp.act_fn) else mlp.act_fn

    @property
    def products(self) -> tuple[Kernel, Kernel, Kernel, Kernel]:
        return self.qkv, self.out, self.gate_up, self.down

    def forward(
        self,
        hidden: torch.Tensor,
        *,
        batch: PackedBatch,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **_: Any,
    ) -> torch.Tensor:
        """Return the layer's output for packed rows [1, rows, hidden]."""
        hidden = self._attend(self.norm_in(hidden), batch, position_embeddings).add_(hidden)
        gate, up = self.gate_up(self.norm_mid(hidden)).chunk(2, -1)
        return self.down(self.activation(gate).mul_(up)).add_(hidden)

    def _attend(
        self, normed: torch.Tensor, batch: PackedBatch, rotary: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        rows = normed.shape[1]
        heads = self.qkv(normed).view(1, rows, -1, self.dim)
        turned = heads[:, :, : self.heads + self.key_heads]
        query, key, value = torch.split(heads, [self.heads, self.key_heads, self.key_heads], 2)
        if self.norm_heads is not None:
            query, key = self.norm_heads[0](query), self.norm_heads[1](key)
            turned = torch.cat([query, key], 2)
            query, key = torch.split(turned, [self.heads, self.key_heads], 2)
        if self.rotates:
            cos, sin = batch.rotation(rotary)
            swapped = turned.roll(self.dim // 2, -1).mul_(sin)
            turned.mul_(cos).add_(swapped)
        rows_of = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        mixed = attend_packed(batch, self.index, rows_of, self.scores)
        return self.out(mixed.reshape(1, rows, -1))


def _is_silu(activation: Any) -> bool:
    probe = torch.linspace(-8, 8, _CHECK_TOKENS)
    return torch.equal(activation(probe), functional.silu(probe))


def accelerate(
    layers: nn.ModuleList, rotary: nn.Module, layout: KVLayout, hidden_size: int, make: Maker
) -> None:
    """Replace ``layers`` in place by fused ones where these give the same results, else speed up their parts."""
    for index, layer in enumerate(layers):
        # The shape is proved with torch's products: what ``make`` makes was compared alone, and may round weights.
        if _has_llama_shape(layer) and _gives_the_same(
            FusedLayer(layer, index, plain), layer, rotary, layout, hidden_size
        ):
            layers[index] = FusedLayer(layer, index, make)
        else:
            replace_modules(layer, make)


def _has_llama_shape(layer: Any) -> bool:
    if {name for name, _ in layer.named_children()} != _PARTS:
        return False
    attention = {name for name, _ in layer.self_attn.named_children()}
    mlp = {name for name, _ in layer.mlp.named_children()}
    own = [
        name
        for module in (layer, layer.self_attn, layer.mlp)
        for name, _ in module.named_parameters(recurse=False)
    ]
    return (
        attention in (_SEPARATE, _SEPARATE | {"q_norm", "k_norm"})
        and mlp == {"gate_proj", "up_proj", "down_proj", "act_fn"}
        and not own
        and not _looks_at_positions(layer.self_attn)
    )


def _looks_at_positions(attention: nn.Module) -> bool:
    """Whether more than the rotation depends on positions: Ministral 3 scales queries behind its first context."""
    return "position_ids" in inspect.signature(attention.forward).parameters


def _gives_the_same(
    fused: nn.Module, layer: nn.Module, rotary: nn.Module, layout: KVLayout, hidden_size: int
) -> bool:
    """Run a few tokens and then one more, far behind them, through both layers and compare."""
    weight = next(layer.parameters())
    rows = torch.arange(1, (_CHECK_TOKENS + 1) * hidden_size + 1, device=weight.device) * 0.7
    # Small rows: norms make them large again, and what a layer adds is not lost in the rounding of what it adds to.
    rows = rows.sin().div(_SMALL).view(1, -1, hidden_size).to(weight.dtype)
    results = []
    for candidate in (fused, layer):
        kv = SequenceKV(layout, _CHECK_TOKENS + 1, weight.dtype, str(weight.device))
        try:
            outs = [
                _run(candidate, rotary, kv, rows[:, :_CHECK_TOKENS], 0),
                _run(candidate, rotary, kv, rows[:, _CHECK_TOKENS:], _FAR),
            ]
        except (RuntimeError, TypeError):  # shapes or arguments that this layer's shape does not have
            if candidate is layer:
                raise
            return False
        results.append(torch.cat(outs, dim=1))
    return same(results[0], results[1])


def _run(layer: nn.Module, rotary: nn.Module, kv: SequenceKV, rows: torch.Tensor, first: int) -> torch.Tensor:
    position = kv.length
    segments: Sequence[Segment] = [
        Segment(0, rows.shape[1], position, kv.append_views(rows.shape[1]), kv.tokens)
    ]
    positions = torch.arange(first, first + rows.shape[1], device=rows.device)[None]
    out: torch.Tensor = layer(
        rows,
        attention_mask=None,
        position_ids=positions,
        position_embeddings=rotary(rows, positions),
        batch=PackedBatch(segments, 0),
    )
    return out
