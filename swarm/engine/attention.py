"""Attention of packed rows over each sequence's own keys and values, as transformers calls it.

Knows nothing of jobs or scheduling: a PackedBatch says which rows belong to which sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from swarm.engine.kv_pool import LayerViews

ATTENTION = "swarm_packed"
"""The name under which transformers finds ``attend``."""

_FEW_ROWS = 8
"""Up to so many query rows, the heads that share a key are stacked as rows: 3 to 5 times faster in bfloat16."""


class Scores(NamedTuple):
    """How scores are made: their factor (None: 1 / sqrt(dim)), soft cap, and one attention sink a head."""

    scaling: float | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None


class Segment:
    """The consecutive rows of one sequence in a packed batch: ``count`` tokens from ``position`` on."""

    __slots__ = ("_masks", "count", "position", "reserved", "start", "views")

    def __init__(
        self, start: int, count: int, position: int, views: Sequence[LayerViews], reserved: int
    ) -> None:
        self.start = start
        self.count = count
        self.position = position
        self.views = views
        self.reserved = reserved
        """Tokens that the sequence was opened for."""
        self._masks: dict[tuple[int | None, int], torch.Tensor] = {}

    def mask(self, window: int | None, copies: int, like: torch.Tensor) -> torch.Tensor:
        """Return 0 where a row may look and -inf elsewhere, [copies x count, read tokens]; made once a step."""
        made = self._masks.get((window, copies))
        if made is None:
            first = 0 if window is None else max(0, self.position + 1 - window)
            queries = torch.arange(self.position, self.position + self.count, device=like.device)[:, None]
            keys = torch.arange(first, self.position + self.count, device=like.device)[None, :]
            hidden = keys > queries
            if window is not None:
                hidden |= keys <= queries - window
            made = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            made = made.masked_fill_(hidden, float("-inf")).repeat(copies, 1)
            self._masks[window, copies] = made
        return made


class PackedBatch:
    """Which rows of a packed forward belong to which sequence; ``first_layer`` is the index of its first layer."""

    __slots__ = ("_rotations", "first_layer", "segments", "sizes")

    def __init__(self, segments: Sequence[Segment], first_layer: int) -> None:
        self.segments = segments
        self.first_layer = first_layer
        self.sizes = [segment.count for segment in segments]
        self._rotations: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def rotation(self, embeddings: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin as [1, rows, 1, dim], the first half of sin negated: x cos + roll(x) sin.

        All layers of a forward get the same tuple, so this is computed once a step.
        """
        made = self._rotations.get(id(embeddings))
        if made is None:
            cos, sin = embeddings
            half = sin.shape[-1] // 2
            signed = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
            made = self._rotations[id(embeddings)] = (cos[:, :, None], signed[:, :, None])
        return made


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_: torch.Tensor | None,
    batch: PackedBatch,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """Store the new keys and values, then attend; query [1, heads, rows, dim] gives [1, rows, heads, dim]."""
    return attend_packed(batch, module.layer_idx, (query, key, value), Scores(scaling, softcap, s_aux)), None


def attend_packed(
    batch: PackedBatch, index: int, rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor], scores: Scores
) -> torch.Tensor:
    """Attention of layer ``index`` of the loaded span over packed queries, keys and values.

    ``rows`` are [1, heads, rows, dim]; the result is [1, rows, heads, dim].
    """
    layer = index - batch.first_layer
    segments = batch.segments
    if len(segments) == 1:
        return _attend_one(segments[0], layer, rows, scores).transpose(1, 2)
    parts = zip(*(torch.split(x, batch.sizes, 2) for x in rows), strict=True)
    outs = [_attend_one(segment, layer, part, scores) for segment, part in zip(segments, parts, strict=True)]
    return torch.cat(outs, dim=2).transpose(1, 2)


def _attend_one(segment: Segment, layer: int, rows: tuple[torch.Tensor, ...], scores: Scores) -> torch.Tensor:
    """Return [1, heads, count, dim] for the rows of one sequence."""
    query, key, value = rows
    views = segment.views[layer]
    views.write_key.copy_(key)
    views.write_value.copy_(value)
    count = segment.count
    shape = query.shape
    groups = shape[1] // key.shape[1]
    if scores.softcap is not None or scores.sinks is not None:
        return _attend_plainly(segment, views, query, scores)
    if count <= _FEW_ROWS:
        stacked = query.reshape(1, shape[1] // groups, groups * count, shape[3])
        mask = None if count == 1 else segment.mask(views.window, groups, query)
        out = functional.scaled_dot_product_attention(
            stacked, views.read_key, views.read_value, mask, scale=scores.scaling
        )
        return out.reshape(shape)
    causal = segment.position == 0 and (views.window is None or count <= views.window)
    return functional.scaled_dot_product_attention(
        query,
        views.read_key,
        views.read_value,
        None if causal else segment.mask(views.window, 1, query),
        is_causal=causal,
        scale=scores.scaling,
        enable_gqa=groups > 1,
    )


def _attend_plainly(segment: Segment, views: LayerViews, query: torch.Tensor, how: Scores) -> torch.Tensor:
    """Attention with soft-capped scores or attention sinks, which the fused kernel does not have."""
    groups = query.shape[1] // views.read_key.shape[1]
    key = views.read_key.repeat_interleave(groups, dim=1)
    value = views.read_value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if how.scaling is None else how.scaling)
    if how.softcap is not None:
        scores = torch.tanh(scores / how.softcap) * how.softcap
    if segment.count > 1:
        scores = scores + segment.mask(views.window, 1, query)
    if how.sinks is None:
        return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value
    column = how.sinks.reshape(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1).to(scores.dtype)
    shares = torch.softmax(torch.cat([scores, column], dim=-1), dim=-1, dtype=torch.float32)
    return shares[..., :-1].to(query.dtype) @ value


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, lambda *_, **__: None)
