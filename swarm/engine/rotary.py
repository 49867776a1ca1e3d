"""Rotary embeddings that depend on a sequence's length, computed for each sequence of a packed row.

transformers looks at the largest position of the whole row; in a packed row that is another session's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from swarm.engine.attention import Segment


class RotaryBySequence(nn.Module):
    """Calls the family's rotary embedding once for each segment.

    longrope chooses its factors by the tokens a session was opened for, so that they don't change inside it: an
    answer that outgrows them is opened anew and computed from its first token on, as transformers does;
    dynamic scaling follows the session's own length, as transformers does for a lone sequence.
    """

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary
        self.segments: Sequence[Segment] = ()

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        cosines, sines = [], []
        for segment in self.segments:
            self._forget_other_lengths()
            rows = slice(segment.start, segment.start + segment.count)
            last = torch.tensor([[max(segment.reserved - 1, 0)]], device=position_ids.device)
            own = position_ids[:, rows] if self._dynamic else torch.cat([position_ids[:, rows], last], dim=1)
            cos, sin = self.rotary(x, own, *args, **kwargs)
            cosines.append(cos[:, : segment.count])
            sines.append(sin[:, : segment.count])
        return torch.cat(cosines, dim=1), torch.cat(sines, dim=1)

    @property
    def _dynamic(self) -> bool:
        return any("dynamic" in kind for kind in rope_types(self.rotary))

    def _forget_other_lengths(self) -> None:
        """Undo what the rotary embedding keeps of the longest sequence it has seen."""
        for name in [name for name in vars(self.rotary) if name.endswith("max_seq_len_cached")]:
            setattr(self.rotary, name, self.rotary.original_max_seq_len)
        for name, buffer in list(self.rotary.named_buffers(recurse=False)):
            if name.endswith("original_inv_freq"):
                self.rotary.register_buffer(name.replace("original_", ""), buffer.clone(), persistent=False)


def rope_types(rotary: nn.Module) -> list[str]:
    """Return the rotary types in use, one, or one for each layer type."""
    kind = getattr(rotary, "rope_type", "default")
    return list(kind.values()) if isinstance(kind, dict) else [kind]


def separate_sequences(base: PreTrainedModel) -> None:
    """Wrap ``base.rotary_emb`` if its type looks at the length of what it is given."""
    if any(kind == "longrope" or "dynamic" in kind for kind in rope_types(base.rotary_emb)):
        base.rotary_emb = RotaryBySequence(base.rotary_emb)
