"""From the spans that are held to those that are wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.routing.pinning import Change, NobodyElseError, lost_layers, plan_change
from swarm.types import LayerSpan, missing_spans

LAYERS = 10


def spans(*texts: str) -> list[LayerSpan]:
    return [LayerSpan.parse(text) for text in texts]


def room_for(layers: int) -> Callable[[Sequence[LayerSpan]], bool]:
    return lambda held: sum(map(len, held)) <= layers


def plan(held: str, wanted: str, others: str, *, room: int = 100, force: bool = False) -> Change:
    return plan_change(
        spans(*held.split()),
        spans(*wanted.split()),
        spans(*others.split()),
        model="org/model",
        layers=LAYERS,
        fits=room_for(room),
        force=force,
    )


def test_what_is_new_is_loaded_before_what_is_old_is_left():
    assert plan("0:5", "3:8", "0:10") == Change(tuple(spans("3:8")), tuple(spans("0:5")))


def test_what_is_held_already_and_wanted_stays():
    assert plan("0:2 3:8", "0:2 5:9", "0:10") == Change(tuple(spans("5:9")), tuple(spans("3:8")))
    assert plan("0:5", "0:5", "") == Change((), ())


def test_layers_are_not_left_to_nobody_unless_forced():
    with pytest.raises(
        NobodyElseError, match=r"nobody else holds layers 0:3 and layers 9:10 of org/model"
    ) as refused:
        plan("0:10", "3:9", "4:6")
    assert refused.value.lost == tuple(spans("0:3", "9:10"))
    assert plan("0:10", "3:9", "4:6", force=True) == Change(tuple(spans("3:9")), tuple(spans("0:10")))


def test_layers_that_nobody_held_before_are_no_reason_to_refuse():
    assert plan("3:5", "4:9", "0:4") == Change(tuple(spans("4:9")), tuple(spans("3:5")))


def test_where_both_do_not_fit_the_old_is_left_first_if_others_hold_it_meanwhile():
    assert plan("0:5", "4:9", "0:5", room=6).retires_first
    with pytest.raises(NobodyElseError, match="do not fit into this node's memory side by side"):
        plan("0:5", "0:6", "6:10", room=6)
    assert plan("0:5", "0:6", "6:10", room=6, force=True).retires_first


some_spans = st.lists(
    st.tuples(st.integers(0, LAYERS - 1), st.integers(1, LAYERS)).filter(lambda at: at[0] < at[1]).map(
        lambda at: LayerSpan(*at)
    ),
    max_size=4,
)  # fmt: skip


@given(some_spans, some_spans, some_spans)
def test_lost_is_exactly_what_is_missing_after_and_was_not_before(before, after, others):
    def missing(held: list[LayerSpan]) -> set[int]:
        return {layer for hole in missing_spans(LAYERS, held) for layer in range(hole.start, hole.end)}

    lost = lost_layers(before, after, others, LAYERS)
    found = {layer for span in lost for layer in range(span.start, span.end)}
    assert found == missing([*others, *after]) - missing([*others, *before])
