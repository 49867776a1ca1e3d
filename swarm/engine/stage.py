"""A loaded span of layers: one packed forward for the new tokens of many sequences.

Knows nothing of queues or threads; belongs to the compute thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from swarm.engine.attention import ATTENTION, PackedBatch, Segment
from swarm.engine.decode import CompiledSpan, proved
from swarm.engine.experts import replace_experts, separable_experts
from swarm.engine.fused import accelerate
from swarm.engine.kernels import replace_modules
from swarm.engine.kv_pool import KVLayout, LayerKV, LayerViews, SequenceKV
from swarm.engine.quantized import held_bytes, maker
from swarm.engine.recurrent import LayerState, separate_states
from swarm.engine.rotary import RotaryBySequence, separate_sequences
from swarm.errors import ModelError
from swarm.models.carried import Carried
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
        self._carried: Carried = base.carried
        separate_sequences(base)
        self._has_states = separate_states(base.layers)
        self._base = base
        self._parts: dict[LayerSpan, PreTrainedModel] = {}
        whole_bytes = sum(tensor.nbytes for tensor in base.parameters())
        experts = separable_experts(base.layers) if quantize != "none" else []
        self.weight_bytes = held_bytes(base, quantize, experts)
        rows = torch.zeros(1, self.width_into(span), dtype=dtype, device=device)
        self.layout = _probe(base, rows, self._carried, span)
        for module in experts:
            replace_experts(module, maker(quantize, second_copy=False))
        make = maker(quantize, second_copy=whole_bytes <= second_copy_bytes)
        if isinstance(base.rotary_emb, RotaryBySequence):
            if quantize != "none":
                replace_modules(base.layers, make)
        else:
            accelerate(base.layers, base.rotary_emb, self.layout, self.hidden_size, make)
        for parameter in base.parameters():
            parameter.data = parameter.data.clone()  # the file's pages go when nothing refers to them
        self._compiled: CompiledSpan | None = None
        if self._carried.plain and not self._has_states:
            self._compiled = proved(base, self.layout, self.hidden_size, dtype, device)

    @property
    def shares_prefixes(self) -> bool:
        """Whether a sequence can begin with a part of another's: keys depend on what stands before them only."""
        return not isinstance(self._base.rotary_emb, RotaryBySequence) and not self._has_states

    def width_into(self, part: LayerSpan) -> int:
        """Return the columns of a row that layers ``part`` take: the hidden state and what is carried with it."""
        return self._carried.width(part.start)

    def layout_of(self, part: LayerSpan) -> KVLayout:
        return self.layout.part(part.start - self.span.start, len(part))

    def new_kv(self, part: LayerSpan, tokens: int) -> SequenceKV:
        return SequenceKV(self.layout_of(part), tokens, self.dtype, self.device)

    def forward(self, part: LayerSpan, hidden: torch.Tensor, segments: Sequence[Segment]) -> torch.Tensor:
        """Run packed rows [rows, width_into(part)] through layers ``part``; segments name each row's sequence."""
        if self._compiled is not None and self._compiled.takes(segments):
            return self._compiled.forward(
                hidden, segments, part.start - self.span.start, self.layout_of(part)
            )
        model = self._parts.get(part)
        if model is None:
            model = self._parts[part] = sub_span(self._base, self.span, part)
        positions = torch.cat([torch.arange(s.position, s.position + s.count) for s in segments])
        if isinstance(model.rotary_emb, RotaryBySequence):
            model.rotary_emb.segments = segments
        states, more = self._carried.unpack(hidden, part)
        out: torch.Tensor = model(
            inputs_embeds=states[None],
            position_ids=positions.to(self.device)[None],
            use_cache=False,
            batch=PackedBatch(segments, part.start - self.span.start),
            **more,
        ).last_hidden_state
        return self._carried.pack(out[0], hidden, more, part)


@contextlib.contextmanager
def _attention_of(configs: Iterable[Any], name: str) -> Iterator[None]:
    for config in configs:
        config._attn_implementation_internal = name
    try:
        yield
    finally:
        for config in configs:
            config._attn_implementation_internal = ATTENTION


def _probe(base: PreTrainedModel, rows: torch.Tensor, carried: Carried, span: LayerSpan) -> KVLayout:
    """Run one token, a row [1, columns], through ``base`` and note what each layer hands to attention or keeps.

    Raises ModelError for a family whose layers store something else.
    """
    seen: dict[int, LayerKV] = {}
    keys: list[torch.Tensor] = []

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
        index = module.layer_idx
        if index in seen:
            raise ModelError(f"{base.config.model_type}: a layer that attends twice is not supported")
        source = next((layer for layer, known in zip(seen, keys, strict=True) if known is key), None)
        seen[index] = LayerKV(key.shape[1], key.shape[3], options.get("sliding_window"), source=source)
        keys.append(key)
        return query.transpose(1, 2), None

    states = [LayerState() for _ in base.layers]
    empty = rows.new_empty(1, 0, 0, 0)
    views = [LayerViews(empty, empty, empty, empty, None, state) for state in states]
    segments = (Segment(0, 1, 0, views, 1),)
    configs = {id(m.config): m.config for m in base.modules() if hasattr(m, "config")}
    hidden, more = carried.unpack(rows, span)
    with _PROBING, _attention_of(configs.values(), _PROBE):
        AttentionInterface.register(_PROBE, note)
        if isinstance(base.rotary_emb, RotaryBySequence):
            base.rotary_emb.segments = segments
        base(
            inputs_embeds=hidden[None],
            position_ids=torch.zeros(1, 1, dtype=torch.long, device=rows.device),
            use_cache=False,
            batch=PackedBatch(segments, 0),
            **more,
        )
    layers = []
    for index, state in enumerate(states):
        layer = seen.get(index, LayerKV(0, 0, None))
        if not layer.heads and not state.octets:
            raise ModelError(
                f"{base.config.model_type}: layer {span.start + index} neither attends in the usual way "
                "nor keeps a state that swarm knows how to hold"
            )
        layers.append(replace(layer, state_bytes=state.octets))
    return KVLayout(tuple(layers), rows.dtype.itemsize)
