"""Layers that keep a state instead of keys and values (linear attention): one state for each sequence and layer.

A mixer's forward sees the rows of one sequence, or one row of each of several, never a packed row of many. Knows no
formula: what a state is and how it changes is transformers' business. States can't go back to an earlier token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from swarm.models.architecture import stateful_mixers

if TYPE_CHECKING:
    from swarm.engine.attention import PackedBatch, Segment


class LayerState:
    """Convolution and recurrent states of one layer of one sequence, asked for as transformers' Cache is."""

    def __init__(self) -> None:
        self._conv: dict[int, torch.Tensor] = {}
        self._recurrent: dict[int, torch.Tensor] = {}

    @property
    def octets(self) -> int:
        return sum(tensor.nbytes for tensor in [*self._conv.values(), *self._recurrent.values()])

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        return self._conv.get(state_idx)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        return self._recurrent.get(state_idx)

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int = 0) -> bool:
        return state_idx in self._conv

    def is_recording_past(self, layer_idx: int) -> bool:
        return False

    def update_conv_state(
        self,
        new: torch.Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Append ``new`` [1, channels, tokens], keep the last columns, and return all there was."""
        known = self._conv.get(state_idx)
        size = conv_kernel_size or (new if known is None else known).shape[-1]
        if known is not None:
            whole = torch.cat([known, new], dim=-1)
        else:
            whole = nn.functional.pad(new, (max(0, size - new.shape[-1]), 0))
        self._conv[state_idx] = whole[..., -size:].clone()
        return whole

    def update_recurrent_state(
        self, new: torch.Tensor, layer_idx: int, state_idx: int = 0, **_: Any
    ) -> torch.Tensor:
        self._recurrent[state_idx] = new
        return new

    def clear(self) -> None:
        """Become the state before the first token."""
        self._conv.clear()
        self._recurrent.clear()

    @classmethod
    def of_many(cls, states: Sequence[LayerState]) -> LayerState:
        """Return the states of several sequences as those of a batch, one row each."""
        both = cls()
        for own, theirs in (
            (both._conv, [s._conv for s in states]),
            (both._recurrent, [s._recurrent for s in states]),
        ):
            for index in theirs[0]:
                own[index] = torch.cat([one[index] for one in theirs])
        return both

    def hand_back(self, states: Sequence[LayerState]) -> None:
        """Give each sequence of a batch its row."""
        for row, state in enumerate(states):
            state._conv = {index: tensor[row : row + 1] for index, tensor in self._conv.items()}
            state._recurrent = {index: tensor[row : row + 1] for index, tensor in self._recurrent.items()}


def separate_states(layers: nn.ModuleList) -> bool:
    """Make every mixer with a state compute each sequence of a packed row by itself; say whether there are any."""
    found = False
    for index, layer in enumerate(layers):
        for mixer in stateful_mixers(layer):
            mixer.forward = _by_sequence(mixer.forward, index)
            found = True
    return found


def _by_sequence(forward: Any, index: int) -> Any:
    def run(
        hidden_states: torch.Tensor,
        cache_params: object = None,
        attention_mask: object = None,
        *,
        batch: PackedBatch,
        **options: Any,
    ) -> torch.Tensor:
        def call(rows: torch.Tensor, state: LayerState) -> torch.Tensor:
            out: torch.Tensor = forward(rows, cache_params=state, attention_mask=None, **options)
            return out

        def state_of(segment: Segment) -> LayerState:
            state = segment.views[index - batch.first_layer].state
            if state is None:
                raise RuntimeError(f"layer {index} keeps a state that its sequences have no room for")
            return state

        together = [s for s in batch.segments if s.count == 1 and state_of(s).has_previous_state()]
        out = torch.empty_like(hidden_states)
        if len(together) > 1:
            starts = [segment.start for segment in together]
            states = [state_of(segment) for segment in together]
            both = LayerState.of_many(states)
            out[0, starts] = call(hidden_states[0, starts][:, None], both)[:, 0]
            both.hand_back(states)
        else:
            together = []
        alone = [segment for segment in batch.segments if segment not in together]
        for segment in alone:
            rows = slice(segment.start, segment.start + segment.count)
            out[:, rows] = call(hidden_states[:, rows], state_of(segment))
        return out

    return run
