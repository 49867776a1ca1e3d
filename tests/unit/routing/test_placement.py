"""What a node should hold, at first and later."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.routing.placement import (
    Holder,
    Machine,
    choose_move,
    choose_span,
    layer_rates,
    missing_layers,
    uncoming_layers,
)
from swarm.routing.view import Intention, SpanView, SwarmView
from swarm.types import BootId, LayerSpan, ModelId, NodeId, missing_spans

MODEL = ModelId("tiny", "0" * 64)
ME = NodeId("m" * 32)


def machine(most: int = 30, *, seconds: float = 0.01, layers: int = 30, **more: object) -> Machine:
    return Machine(ME, seconds, tuple(min(layers, start + most) for start in range(layers)), **more)


def view_of(
    *held: tuple[int, int] | tuple[int, int, float],
    model: ModelId = MODEL,
    doors: dict[NodeId, float] | None = None,
) -> SwarmView:
    return SwarmView(
        tuple(
            SpanView(
                NodeId(str(n) * 32),
                BootId(b"bootboot"),
                model,
                LayerSpan(*span[:2]),
                "float32",
                (*span, 0.01)[2],
            )
            for n, span in enumerate(held)
        ),
        doors=doors or {},
    )


def intention(number: int, start: int, end: int, *, firm: bool = False) -> Intention:
    return Intention(NodeId(str(number) * 32), MODEL, LayerSpan(start, end), firm, 0.01)


def test_layers_that_nobody_holds_or_loads_are_told_from_those_on_their_way():
    view = replace(view_of((0, 10)), intentions=(intention(3, 8, 20), intention(4, 25, 30)))
    assert missing_layers(view, MODEL, 30) == (LayerSpan(10, 30),)
    assert uncoming_layers(view, MODEL, 30) == (LayerSpan(20, 25),)
    assert uncoming_layers(view, MODEL, 20) == ()


@pytest.mark.parametrize(
    ("held", "chosen"),
    [
        ((), (0, 30)),
        (((0, 15),), (15, 30)),
        (((5, 10), (15, 30)), (0, 15)),
        (((0, 15), (15, 30)), (0, 30)),
        (((0, 30), (0, 15)), (15, 30)),
    ],
)
def test_with_memory_for_all_a_node_takes_what_is_lacking_or_relieves_the_slowest_layers(held, chosen):
    assert choose_span(view_of(*held), MODEL, machine()).span == LayerSpan(*chosen)


@pytest.mark.parametrize(
    ("held", "most", "chosen"),
    [
        ((), 12, (0, 12)),
        (((0, 12),), 12, (12, 24)),
        (((0, 12), (12, 24)), 12, (24, 30)),
        (((0, 10), (20, 30)), 5, (10, 15)),
        (((0, 5), (8, 20)), 11, (20, 30)),
        (((0, 3), (5, 30)), 11, (3, 14)),
    ],
)
def test_a_hole_is_filled_as_far_as_memory_goes_without_leaving_more_pieces(held, most, chosen):
    assert choose_span(view_of(*held), MODEL, machine(most)).span == LayerSpan(*chosen)


def test_the_slowest_layers_are_relieved_first():
    assert choose_span(view_of((0, 20), (20, 30)), MODEL, machine(20)).span == LayerSpan(0, 20)
    slow_end = view_of((0, 15), (15, 30, 0.05))
    assert choose_span(slow_end, MODEL, machine(15)).span == LayerSpan(15, 30)


def test_a_machine_that_holds_a_door_counts_as_slower_there():
    """Both halves are equally long, but the first one's node also computes heads for all requests."""
    first, second = NodeId("0" * 32), NodeId("1" * 32)
    assert choose_span(view_of((0, 15), (15, 30), doors={first: 0.05}), MODEL, machine(15)).span == LayerSpan(
        0, 15
    )
    assert choose_span(
        view_of((0, 15), (15, 30), doors={second: 0.05}), MODEL, machine(15)
    ).span == LayerSpan(15, 30)


def test_layers_that_others_intend_count_as_held():
    assert choose_span(view_of((0, 10)), MODEL, machine(10), [intention(5, 10, 20)]).span == LayerSpan(20, 30)


def test_spans_of_another_model_fill_no_hole():
    view = view_of((0, 30), model=ModelId("other", "1" * 64))
    assert missing_layers(view, MODEL, 30) == (LayerSpan(0, 30),)


def test_a_harmfully_slow_machine_is_left_out_with_a_reason_unless_layers_are_missing():
    slow = machine(30, seconds=0.2)
    left_out = choose_span(view_of((0, 15), (15, 30)), MODEL, slow)
    assert left_out.span is None
    assert "200.0 ms" in left_out.reason
    assert "--layers" in left_out.reason
    assert choose_span(view_of((0, 15)), MODEL, slow).span == LayerSpan(15, 30)


def test_a_machine_for_no_layer_is_left_out_with_a_reason():
    choice = choose_span(view_of(), MODEL, machine(0))
    assert choice.span is None
    assert "--memory" in choice.reason


def test_a_node_moves_to_a_hole_when_another_holds_what_it_holds():
    view = view_of((0, 15), (0, 15))
    moving = Machine(NodeId("1" * 32), 0.01, machine(15).reach)
    move = choose_move(view, MODEL, moving, LayerSpan(0, 15))
    assert move is not None
    assert move.span == LayerSpan(15, 30)
    assert move.fills


def test_a_node_that_alone_holds_layers_stays_or_grows_but_opens_no_hole():
    alone = Machine(NodeId("0" * 32), 0.01, machine(15).reach)
    assert choose_move(view_of((0, 15)), MODEL, alone, LayerSpan(0, 15)) is None
    larger = Machine(NodeId("0" * 32), 0.01, machine(20).reach)
    grown = choose_move(view_of((0, 15)), MODEL, larger, LayerSpan(0, 15))
    assert grown is not None
    assert grown.span == LayerSpan(0, 20)


def test_a_small_gain_moves_nobody_and_a_large_one_does():
    third = Machine(NodeId("2" * 32), 0.01, machine(15).reach)
    balanced = view_of((0, 15), (15, 30), (0, 15))
    assert choose_move(balanced, MODEL, third, LayerSpan(0, 15)) is None
    lopsided = view_of((0, 15), (15, 30, 0.1), (0, 15))
    move = choose_move(lopsided, MODEL, third, LayerSpan(0, 15))
    assert move is not None
    assert move.span == LayerSpan(15, 30)
    assert not move.fills


def test_two_nodes_that_hold_the_same_do_not_both_leave():
    view = view_of((0, 10), (0, 10))
    second = Machine(NodeId("1" * 32), 0.01, machine(10).reach)
    assert choose_move(view, MODEL, second, LayerSpan(0, 10), [intention(0, 10, 20)]) is None


spans = st.tuples(st.integers(0, 11), st.integers(1, 12)).map(lambda t: LayerSpan(t[0], min(12, t[0] + t[1])))
swarms = st.lists(st.tuples(spans, st.sampled_from([0.001, 0.004, 0.02])), max_size=6)


def swarm_view(held: list[tuple[LayerSpan, float]]) -> SwarmView:
    return view_of(*((span.start, span.end, seconds) for span, seconds in held))


@settings(max_examples=150, deadline=None)
@given(swarms, st.integers(1, 12), st.sampled_from([0.001, 0.004]))
def test_a_chosen_span_fits_and_fills_as_many_missing_layers_as_any_other(held, most, seconds):
    mine = machine(most, seconds=seconds, layers=12)
    view = swarm_view(held)
    chosen = choose_span(view, MODEL, mine).span
    holes = missing_spans(12, [span for span, _ in held])
    if chosen is None:
        assert not holes
        return
    assert chosen.end <= mine.reach[chosen.start]
    lacking = {layer for hole in holes for layer in range(hole.start, hole.end)}
    filled = len(lacking & set(range(chosen.start, chosen.end)))
    assert filled == max(
        len(lacking & set(range(start, end)))
        for start in range(12)
        for end in range(start + 1, start + most + 1)
    )


@settings(max_examples=150, deadline=None)
@given(swarms, spans, st.integers(1, 12))
def test_a_move_opens_no_hole_and_is_worth_it(held, own, most):
    me = Machine(ME, 0.004, machine(most, layers=12).reach)
    view = swarm_view(held)
    move = choose_move(view, MODEL, me, own)
    if move is None:
        return
    others = [span for span, _ in held]

    def lacking(span: LayerSpan) -> set[int]:
        return {layer for hole in missing_spans(12, [*others, span]) for layer in range(hole.start, hole.end)}

    assert lacking(move.span) <= lacking(own)
    if move.fills:
        assert len(lacking(move.span)) < len(lacking(own))
        return

    def slowest(span: LayerSpan) -> float:
        holders = [Holder(NodeId(str(n) * 32), one, seconds) for n, (one, seconds) in enumerate(held)]
        rates = layer_rates([*holders, Holder(ME, span, 0.004)], {}, 12)
        return 1 / min(rate for rate in rates if rate > 0)

    assert slowest(move.span) <= slowest(own) * 0.8001
