from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.engine import kv_pool
from swarm.engine.kv_pool import KVBudget, KVLayout, LayerKV, SequenceKV, floor_of
from swarm.errors import BadTensorError, KVFullError

FULL = LayerKV(heads=2, dim=4, window=None)
LAYOUT = KVLayout((FULL, FULL, FULL), itemsize=2)
TOKEN_BYTES = 3 * 2 * 2 * 4 * 2


def test_the_budget_counts_whole_blocks_and_gives_them_back():
    budget = KVBudget(100 * TOKEN_BYTES, block_tokens=16)
    assert budget.reserve("a", LAYOUT, 17) == 32
    assert budget.used_bytes == 32 * TOKEN_BYTES
    assert budget.free_tokens(LAYOUT) == 64
    budget.release("a")
    assert budget.used_bytes == 0
    budget.release("a")
    assert len(budget) == 0


def test_a_reservation_that_does_not_fit_changes_nothing():
    budget = KVBudget(40 * TOKEN_BYTES, block_tokens=16)
    budget.reserve("a", LAYOUT, 16)
    with pytest.raises(KVFullError) as refused:
        budget.reserve("b", LAYOUT, 32)
    assert refused.value.free_bytes == 24 * TOKEN_BYTES
    with pytest.raises(KVFullError):
        budget.reserve("a", LAYOUT, 48)
    assert "b" not in budget
    assert budget.used_bytes == 16 * TOKEN_BYTES


def test_growing_pays_only_the_difference_and_never_shrinks():
    budget = KVBudget(64 * TOKEN_BYTES, block_tokens=16)
    budget.reserve("a", LAYOUT, 32)
    assert budget.reserve("a", LAYOUT, 60) == 64
    assert budget.reserve("a", LAYOUT, 5) == 64
    assert budget.used_bytes == 64 * TOKEN_BYTES


def test_window_layers_reserve_no_more_than_twice_their_window_and_slack():
    windowed = KVLayout((LayerKV(2, 4, window=100),), itemsize=2)
    most = 2 * (100 + kv_pool.WINDOW_SLACK)
    assert windowed.bytes_for(100_000) == most * 2 * 2 * 4 * 2
    assert windowed.bytes_for(10) == 10 * 2 * 2 * 4 * 2


@pytest.fixture
def small_slack(monkeypatch):
    monkeypatch.setattr(kv_pool, "WINDOW_SLACK", 6)


def write(kv: SequenceKV, first: int, count: int) -> None:
    """Append tokens whose keys are their positions and whose values are the negatives."""
    views = kv.append_views(count)
    numbers = torch.arange(first, first + count, dtype=torch.float32).view(1, 1, count, 1)
    for layer, view in enumerate(views):
        view.write_key.copy_((numbers + 1000 * layer).expand_as(view.write_key))
        view.write_value.copy_((-numbers - 1000 * layer).expand_as(view.write_value))


def read(kv: SequenceKV) -> list[tuple[list[int], list[int]]]:
    """Append one token and return what each layer reads before it, without its layer's offset."""
    views = kv.append_views(1)
    kv.truncate(kv.length - 1)
    found = []
    for layer, view in enumerate(views):
        keys = (view.read_key[0, 0, :-1, 0] - 1000 * layer).long().tolist()
        values = (-view.read_value[0, 0, :-1, 0] - 1000 * layer).long().tolist()
        found.append((keys, values))
    return found


@settings(deadline=None)
@given(st.data())
def test_what_was_written_is_read_back_whatever_the_order_of_steps(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_pool, "WINDOW_SLACK", 6)
        window = data.draw(st.integers(1, 7), label="window")
        layout = KVLayout((FULL, LayerKV(1, 4, window), FULL), itemsize=4)
        kv = SequenceKV(layout, 30, torch.float32, "cpu")
        for _ in range(data.draw(st.integers(1, 25), label="steps")):
            if data.draw(st.integers(0, 4)) == 0:
                kv.truncate(data.draw(st.integers(min(kv.floor, kv.length), kv.length), label="cut"))
            count = data.draw(st.integers(1, 9), label="count")
            if kv.length + count + 1 > kv.tokens:
                kv.grow(kv.tokens + 30)
            write(kv, kv.length, count)
            everything = list(range(kv.length))
            recent = everything[max(0, kv.length + 1 - window) :]
            assert read(kv) == [(everything,) * 2, (recent,) * 2, (everything,) * 2]


def test_going_back_below_the_floor_is_refused(small_slack):
    kv = SequenceKV(KVLayout((LayerKV(1, 4, 4),), 4), 100, torch.float32, "cpu")
    for position in range(60):
        write(kv, position, 1)
    assert kv.floor > 0
    kv.truncate(kv.floor)
    with pytest.raises(BadTensorError):
        kv.truncate(kv.floor - 1)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(1, 12))
def test_the_floor_promised_outside_is_never_below_the_real_one(counts, window):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_pool, "WINDOW_SLACK", 9)
        layout = KVLayout((FULL, LayerKV(1, 4, window)), 4)
        kv = SequenceKV(layout, sum(counts), torch.float32, "cpu")
        for count in counts:
            kv.append_views(count)
            assert kv.floor <= floor_of(layout, kv.length)
