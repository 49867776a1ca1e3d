"""What goes with the hidden state from span to span, in families whose layers need more than that.

Gemma 4's small models give every layer an input of its own, made from the token at the origin, and let the last
layers read keys and values that earlier ones made. Both travel as further columns of each row, so that a span may
end at any layer and token ids stay at the origin. Rows of all other families are just their hidden states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import KVSharingDict

from swarm.types import LayerSpan


@dataclass(frozen=True, slots=True)
class SharedKV:
    """Keys and values of layer ``producer`` that every layer of its kind from ``first_reader`` on reads."""

    kind: str
    producer: int
    first_reader: int
    last_reader: int
    heads: int
    dim: int

    def crosses(self, boundary: int) -> bool:
        """Whether a span that begins at ``boundary`` reads what an earlier one made."""
        return self.producer < boundary <= self.last_reader

    @property
    def columns(self) -> int:
        return 2 * self.heads * self.dim


@dataclass(frozen=True, slots=True)
class Carried:
    """The columns of a row at each boundary: hidden state, inputs of the layers to come, shared keys and values."""

    hidden: int
    layers: int
    per_layer: int = 0
    shared: tuple[SharedKV, ...] = ()

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Carried:
        """Read it off a family's configuration."""
        per_layer = getattr(config, "hidden_size_per_layer_input", None) or 0
        return cls(config.hidden_size, config.num_hidden_layers, per_layer, _shared(config))

    @property
    def plain(self) -> bool:
        """Whether rows are hidden states and nothing else."""
        return not self.per_layer and not self.shared

    def width(self, boundary: int) -> int:
        """Return the columns of a row between layers ``boundary`` - 1 and ``boundary``."""
        crossing = sum(shared.columns for shared in self.shared if shared.crosses(boundary))
        return self.hidden + (self.layers - boundary) * self.per_layer + crossing

    def unpack(self, rows: torch.Tensor, span: LayerSpan) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return the hidden states [rows, hidden] and further arguments of the span's ``forward``.

        ``rows`` are [rows, width(span.start)].
        """
        if self.plain:
            return rows, {}
        crossing = [shared for shared in self.shared if shared.crosses(span.start)]
        sizes = [self.hidden, (self.layers - span.start) * self.per_layer, *(s.columns for s in crossing)]
        hidden, inputs, *states = torch.split(rows, sizes, dim=1)
        made = KVSharingDict()
        for shared, columns in zip(crossing, states, strict=True):
            pair = columns.reshape(1, len(rows), 2, shared.heads, shared.dim).permute(2, 0, 3, 1, 4)
            made[shared.kind] = (pair[0], pair[1])
        more: dict[str, Any] = {"shared_kv_states": made} if self.shared else {}
        if self.per_layer:
            own = inputs.reshape(1, len(rows), self.layers - span.start, self.per_layer)
            more["per_layer_inputs"] = own[:, :, : len(span)]
        return hidden, more

    def pack(
        self, out: torch.Tensor, rows: torch.Tensor, more: dict[str, Any], span: LayerSpan
    ) -> torch.Tensor:
        """Return [rows, width(span.end)]: ``out`` [rows, hidden] and what later spans need.

        ``rows`` and ``more`` are what went into the span, its forward having added to the latter.
        """
        if self.plain:
            return out
        later = self.hidden + len(span) * self.per_layer
        parts = [out, rows[:, later : later + (self.layers - span.end) * self.per_layer]]
        for shared in self.shared:
            if shared.crosses(span.end):
                pair = torch.stack(more["shared_kv_states"][shared.kind])  # [2, 1, heads, rows, dim]
                parts.append(pair.permute(1, 3, 0, 2, 4).reshape(len(out), shared.columns))
        return torch.cat(parts, dim=1)


def _shared(config: PreTrainedConfig) -> tuple[SharedKV, ...]:
    modes = getattr(config, "kv_sharing_modes", None)
    if not modes or "reuse" not in modes:
        return ()
    found = []
    for producer, mode in enumerate(modes):
        kind = config.layer_types[producer]
        readers = [i for i, how in enumerate(modes) if how == "reuse" and config.layer_types[i] == kind]
        if mode == "store" and readers:
            own = config.per_layer_config[producer]
            found.append(
                SharedKV(kind, producer, readers[0], readers[-1], own.num_key_value_heads, own.head_dim)
            )
    return tuple(found)
