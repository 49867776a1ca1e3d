"""A loaded span of layers: one packed forward for the new tokens of many sequences.

Knows nothing of queues or threads; belongs to the compute thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from swarm.engine.attention import ATTENTION, PackedBatch, Segment
from swarm.engine.fused import accelerate
from swarm.engine.kernels import replace_modules
from swarm.engine.kv_pool import KVLayout, LayerKV, SequenceKV
from swarm.engine.quantized import held_bytes, maker
from swarm.engine.rotary import RotaryBySequence, separate_sequences
from swarm.errors import ModelError
from swarm.models.loader import sub_span
from swarm.types import LayerSpan

_PROBE = "swarm_probe"
_PROBING = threading.Lock()
"""The probe is registered under one name for the whole process, in which several engines may load spans."""


@dataclass(slots=True)
class OpenSequence:
    """An open sequence: the layers it uses and its keys and values, allocated at its first step."""

    part: LayerSpan
    tokens: int
    opened_for: int
    kv: SequenceKV | None = None


class Stage:
    """Layers ``span`` of one model, ready to compute any part of them."""

    def __init__(
        self,
        base: PreTrainedModel,
        span: LayerSpan,
        dtype: torch.dtype,
        device: str,
        second_copy_bytes: int = 0,
        *,
        quantize: str = "none",
    ) -> None:
        self.span = span
        self.dtype = dtype
        self.device = device
        self.hidden_size: int = base.config.hidden_size
        separate_sequences(base)
        self._base = base
        self._parts: dict[LayerSpan, PreTrainedModel] = {}
        whole_bytes = sum(tensor.nbytes for tensor in base.parameters())
        self.weight_bytes = held_bytes(base, quantize)
        self.layout = _probe(base, self.hidden_size, dtype, device)
        make = maker(quantize, second_copy=whole_bytes <= second_copy_bytes)
        if isinstance(base.rotary_emb, RotaryBySequence):
            if quantize != "none":
                replace_modules(base.layers, make)
        else:
            accelerate(base.layers, base.rotary_emb, self.layout, self.hidden_size, make)
        for parameter in base.parameters():
            parameter.data = parameter.data.clone()  # the file's pages go when nothing refers to them

    @property
    def shares_prefixes(self) -> bool:
        """Whether a token's keys depend on what stands before it only, and not on the whole sequence's length."""
        return not isinstance(self._base.rotary_emb, RotaryBySequence)

    def layout_of(self, part: LayerSpan) -> KVLayout:
        return self.layout.part(part.start - self.span.start, len(part))

    def new_kv(self, part: LayerSpan, tokens: int) -> SequenceKV:
        return SequenceKV(self.layout_of(part), tokens, self.dtype, self.device)

    def forward(self, part: LayerSpan, hidden: torch.Tensor, segments: Sequence[Segment]) -> torch.Tensor:
        """Run packed rows [rows, hidden] through layers ``part``; the segments name each row's sequence."""
        model = self._parts.get(part)
        if model is None:
            model = self._parts[part] = sub_span(self._base, self.span, part)
        positions = torch.cat([torch.arange(s.position, s.position + s.count) for s in segments])
        if isinstance(model.rotary_emb, RotaryBySequence):
            model.rotary_emb.segments = segments
        out: torch.Tensor = model(
            inputs_embeds=hidden[None],
            position_ids=positions.to(self.device)[None],
            use_cache=False,
            batch=PackedBatch(segments, part.start - self.span.start),
        ).last_hidden_state
        return out[0]


@contextlib.contextmanager
def _attention_of(configs: Iterable[Any], name: str) -> Iterator[None]:
    for config in configs:
        config._attn_implementation_internal = name
    try:
        yield
    finally:
        for config in configs:
            config._attn_implementation_internal = ATTENTION


def _probe(base: PreTrainedModel, hidden_size: int, dtype: torch.dtype, device: str) -> KVLayout:
    """Run one token through ``base`` and note what each layer hands to attention.

    Raises ModelError for a family whose layers don't store keys and values in the usual way.
    """
    seen: dict[int, LayerKV] = {}

    def note(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *_: Any,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        if key.shape != value.shape or query.shape[-1] != key.shape[-1]:
            raise ModelError(
                f"{base.config.model_type}: keys and values of different shapes are not supported"
            )
        seen[module.layer_idx] = LayerKV(key.shape[1], key.shape[3], options.get("sliding_window"))
        return query.transpose(1, 2), None

    configs = {id(m.config): m.config for m in base.modules() if hasattr(m, "config")}
    with _PROBING, _attention_of(configs.values(), _PROBE):
        AttentionInterface.register(_PROBE, note)
        if isinstance(base.rotary_emb, RotaryBySequence):
            base.rotary_emb.segments = (Segment(0, 1, 0, (), 1),)
        base(
            inputs_embeds=torch.zeros(1, 1, hidden_size, dtype=dtype, device=device),
            position_ids=torch.zeros(1, 1, dtype=torch.long, device=device),
            use_cache=False,
        )
    if sorted(seen) != list(range(len(base.layers))):
        raise ModelError(f"{base.config.model_type}: not every layer attends in the usual way")
    return KVLayout(tuple(seen[index] for index in range(len(seen))), dtype.itemsize)
