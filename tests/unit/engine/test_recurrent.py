"""States instead of keys: room, floors, and sequences that share a forward without sharing a state."""

from __future__ import annotations

import pytest
import torch

from swarm.engine.kv_pool import KVBudget, KVLayout, LayerKV, SequenceKV, floor_of
from swarm.engine.recurrent import LayerState
from swarm.errors import BadTensorError

HYBRID = KVLayout((LayerKV(0, 0, None, state_bytes=800), LayerKV(2, 8, None)), 4)


def test_a_state_takes_the_same_room_whatever_the_length():
    assert HYBRID.bytes_per_token == 2 * 2 * 8 * 4
    assert HYBRID.bytes_for(10) - HYBRID.bytes_for(4) == 6 * HYBRID.bytes_per_token
    assert HYBRID.bytes_for(1) == 800 + HYBRID.bytes_per_token
    states_only = HYBRID.part(0, 1)
    assert states_only.bytes_for(1) == states_only.bytes_for(10_000) == 800
    assert KVBudget(900, 16).free_tokens(states_only) > 10_000
    assert KVBudget(700, 16).free_tokens(states_only) == 0


def test_a_sequence_with_states_goes_back_to_its_beginning_or_nowhere():
    kv = SequenceKV(HYBRID, 16, torch.float32, "cpu")
    state = kv.append_views(5)[0].state
    state.update_recurrent_state(torch.ones(1, 2), 0)
    assert kv.floor == floor_of(HYBRID, 5) == 5
    with pytest.raises(BadTensorError):
        kv.truncate(4)
    kv.truncate(5)
    assert state.get_recurrent_state(0) is not None
    kv.truncate(0)
    assert kv.length == 0
    assert state.get_recurrent_state(0) is None


def test_convolution_states_keep_the_last_tokens():
    state = LayerState()
    first = torch.arange(6.0).view(1, 2, 3)
    assert state.update_conv_state(first, 0, conv_kernel_size=4).shape == (1, 2, 4)
    assert state.has_previous_state()
    whole = state.update_conv_state(torch.tensor([[[7.0], [8.0]]]), 0, conv_kernel_size=4)
    assert whole[0, 0].tolist() == [0, 0, 1, 2, 7]
    assert state.get_conv_state(0)[0, 0].tolist() == [0, 1, 2, 7]
    assert state.octets == 2 * 4 * 4


def test_a_batch_gives_each_sequence_its_own_row_back():
    states = [LayerState(), LayerState()]
    for number, state in enumerate(states):
        state.update_conv_state(torch.full((1, 2, 3), float(number)), 0, conv_kernel_size=3)
        state.update_recurrent_state(torch.full((1, 4), float(number)), 0)
    both = LayerState.of_many(states)
    assert both.get_recurrent_state(0).shape == (2, 4)
    both.update_recurrent_state(both.get_recurrent_state(0) + 10, 0)
    both.hand_back(states)
    assert [float(state.get_recurrent_state(0)[0, 0]) for state in states] == [10, 11]
    assert [float(state.get_conv_state(0)[0, 0, 0]) for state in states] == [0, 1]


def test_layers_that_read_another_s_keys_store_none_unless_it_is_elsewhere():
    own, reader = LayerKV(2, 8, None), LayerKV(2, 8, None, source=0)
    layout = KVLayout((own, reader, reader), 4)
    assert layout.bytes_per_token == 2 * 2 * 8 * 4
    later = layout.part(1, 2)
    assert [layer.source for layer in later.layers] == [None, 0]
    assert later.bytes_per_token == layout.bytes_per_token
    kv = SequenceKV(layout, 4, torch.float32, "cpu")
    views = kv.append_views(2)
    assert views[1] is views[0]
