"""One node's claims, loads and moves, step by step."""

from __future__ import annotations

from swarm.routing.placement import Machine
from swarm.routing.placer import GAIN_SECONDS, HOLE_SECONDS, SETTLE_SECONDS, Intend, Load, Placer, Retire, Say
from swarm.routing.view import Intention, SpanView, SwarmView
from swarm.types import BootId, LayerSpan, ModelId, NodeId

MODEL = ModelId("tiny", "0" * 64)
LOW, ME, HIGH = (NodeId(letter * 32) for letter in "amz")


def machine(most: int = 5, seconds: float = 0.01) -> Machine:
    return Machine(ME, seconds, tuple(min(10, start + most) for start in range(10)))


def span(node: NodeId, start: int, end: int, seconds: float = 0.01) -> SpanView:
    return SpanView(node, BootId(b"bootboot"), MODEL, LayerSpan(start, end), "float32", seconds)


def view(*spans: SpanView, intended: tuple[Intention, ...] = ()) -> SwarmView:
    others = len({one.node for one in (*spans, *intended)} - {ME})
    return SwarmView(spans, layers={MODEL: 10}, others=others, intentions=intended)


def intends(node: NodeId, start: int, end: int, *, firm: bool = False) -> Intention:
    return Intention(node, MODEL, LayerSpan(start, end), firm, 0.01)


def placer() -> Placer:
    return Placer(ME, MODEL, max)


def tick(one: Placer, seen: SwarmView, now: float, *, beside: bool = True, most: int = 5) -> list[object]:
    one.tick(seen, machine(most), beside, now)
    return [action for action in one.actions() if not isinstance(action, Say)]


def holding(start: int, end: int, seen: SwarmView) -> Placer:
    """A placer that has come to hold these layers at time 0."""
    one = placer()
    tick(one, seen, -5.0, most=end - start)
    assert tick(one, seen, 0.0, most=end - start)[-1] == Load(LayerSpan(start, end))
    one.loaded()
    one.actions()
    return one


def test_who_is_alone_loads_at_once():
    found = tick(placer(), view(), 0.0, most=10)
    assert found == [Intend(LayerSpan(0, 10)), Intend(LayerSpan(0, 10), firm=True), Load(LayerSpan(0, 10))]


def test_a_claim_settles_before_it_is_acted_on():
    one, seen = placer(), view(span(LOW, 0, 5))
    assert tick(one, seen, 0.0) == [Intend(LayerSpan(5, 10))]
    assert tick(one, seen, SETTLE_SECONDS[1] - 0.01) == []
    assert tick(one, seen, SETTLE_SECONDS[1]) == [Intend(LayerSpan(5, 10), firm=True), Load(LayerSpan(5, 10))]
    one.loaded()
    assert one.held == LayerSpan(5, 10)
    assert one.actions() == [Intend(None)]


def test_of_two_claims_of_one_hole_the_smaller_id_has_it():
    one = placer()
    tick(one, view(span(HIGH, 0, 4)), 0.0)
    rival = view(span(HIGH, 0, 4), intended=(intends(LOW, 4, 9),))
    assert tick(one, rival, 2.0)[0] != Load(LayerSpan(4, 9))
    assert one.claimed is not None
    assert 9 in one.claimed


def test_a_claim_of_a_larger_id_gives_way_unless_it_is_being_loaded():
    one, hole = placer(), span(LOW, 0, 5)
    tick(one, view(hole), 0.0)
    weak = view(hole, intended=(intends(HIGH, 5, 10),))
    assert tick(one, weak, 2.0)[-1] == Load(LayerSpan(5, 10))
    other = placer()
    tick(other, view(hole), 0.0)
    firm = view(hole, intended=(intends(HIGH, 5, 10, firm=True),))
    assert not any(isinstance(action, Load) for action in tick(other, firm, 2.0))


def test_a_failed_load_is_tried_again_later():
    one = placer()
    tick(one, view(), 0.0, most=10)
    one.failed(1.0)
    assert one.actions() == [Intend(None)]
    assert tick(one, view(), 2.0, most=10) == []
    assert Load(LayerSpan(0, 10)) in tick(one, view(), 12.0, most=10)


def test_a_node_moves_to_a_hole_beside_its_old_span_and_then_drops_that():
    before = view(span(LOW, 0, 5))
    one = holding(5, 10, before)
    whole = view(span(LOW, 0, 5), span(ME, 5, 10), span(HIGH, 5, 10))
    assert tick(one, whole, 10.0) == []
    hole = view(span(ME, 5, 10), span(HIGH, 5, 10))
    assert tick(one, hole, 20.0) == []
    assert tick(one, hole, 20.0 + HOLE_SECONDS[1]) == [Intend(LayerSpan(0, 5))]
    assert tick(one, hole, 25.0) == [Intend(LayerSpan(0, 5), firm=True), Load(LayerSpan(0, 5))]
    one.loaded()
    assert one.actions() == [], "others must not rely on the old span, so the intention stands"
    both = view(span(ME, 5, 10), span(ME, 0, 5), span(HIGH, 5, 10))
    assert tick(one, both, 26.0) == [Retire(LayerSpan(5, 10))]
    one.retired(27.0)
    assert one.actions() == [Intend(None)]
    assert one.held == LayerSpan(0, 5)


def test_where_both_spans_do_not_fit_the_old_one_is_drained_first():
    one = holding(5, 10, view(span(LOW, 0, 5)))
    hole = view(span(ME, 5, 10), span(HIGH, 5, 10))
    tick(one, hole, 20.0)
    tick(one, hole, 24.0)
    assert tick(one, hole, 26.0, beside=False) == [
        Intend(LayerSpan(0, 5), firm=True),
        Retire(LayerSpan(5, 10)),
    ]
    one.retired(27.0)
    assert one.actions()[-1] == Load(LayerSpan(0, 5))


def test_a_hole_that_closes_again_moves_nobody():
    one = holding(5, 10, view(span(LOW, 0, 5)))
    hole = view(span(ME, 5, 10), span(HIGH, 5, 10))
    tick(one, hole, 20.0)
    assert tick(one, view(span(LOW, 0, 5), span(ME, 5, 10), span(HIGH, 5, 10)), 21.0) == []
    assert tick(one, hole, 60.0) == [], "the time counts anew"


def test_the_old_span_stays_while_its_layers_have_no_other_holder():
    one = holding(5, 10, view(span(LOW, 0, 5)))
    hole = view(span(ME, 5, 10), span(HIGH, 5, 10))
    tick(one, hole, 20.0)
    tick(one, hole, 24.0)
    tick(one, hole, 26.0)
    one.loaded()
    died = view(span(ME, 5, 10), span(ME, 0, 5))
    assert tick(one, died, 27.0) == []
    back = view(span(ME, 5, 10), span(ME, 0, 5), span(LOW, 5, 10))
    assert tick(one, back, 28.0) == [Retire(LayerSpan(5, 10))]


def test_of_two_that_could_drop_the_same_layers_one_waits():
    """Both have loaded something else and hold 5:10 still: the smaller id drops it, the larger one waits."""
    one = holding(5, 10, view(span(LOW, 0, 5)))
    hole = view(span(ME, 5, 10), span(HIGH, 5, 10))
    for now in (20.0, 24.0, 26.0):
        tick(one, hole, now)
    one.loaded()
    held = (span(ME, 5, 10), span(ME, 0, 5))
    smaller_leaves = view(*held, span(LOW, 5, 10), intended=(intends(LOW, 0, 5, firm=True),))
    assert tick(one, smaller_leaves, 27.0) == []
    larger_leaves = view(*held, span(HIGH, 5, 10), intended=(intends(HIGH, 0, 5, firm=True),))
    assert tick(one, larger_leaves, 28.0) == [Retire(LayerSpan(5, 10))]


def test_a_gain_in_speed_has_to_last_and_is_not_followed_by_another_at_once():
    one = holding(5, 10, view(span(LOW, 0, 5)))
    lopsided = view(span(LOW, 0, 5, 0.1), span(ME, 5, 10), span(HIGH, 5, 10))
    assert tick(one, lopsided, 20.0) == []
    assert tick(one, lopsided, 20.0 + GAIN_SECONDS[0] - 1) == []
    assert tick(one, lopsided, 20.0 + GAIN_SECONDS[1]) == [Intend(LayerSpan(0, 5))]
    assert tick(one, lopsided, 90.0)[-1] == Load(LayerSpan(0, 5))
    one.loaded()
    assert tick(one, view(*lopsided.spans, span(ME, 0, 5)), 91.0) == [Retire(LayerSpan(5, 10))]
    one.retired(92.0)
    one.actions()
    back = view(span(LOW, 0, 5), span(ME, 0, 5), span(HIGH, 5, 10, 0.2))
    for now in (93.0, 120.0, 150.0):
        assert tick(one, back, now) == []


def test_what_a_node_holds_already_is_adopted_and_a_second_span_is_left_once_others_hold_it():
    one = placer()
    one.adopt([LayerSpan(0, 2), LayerSpan(2, 7)])
    assert one.held == LayerSpan(2, 7)
    assert tick(one, view(span(ME, 0, 2), span(ME, 2, 7), span(LOW, 7, 10)), 0.0) == []
    seen = view(span(ME, 0, 2), span(ME, 2, 7), span(LOW, 7, 10), span(HIGH, 0, 2))
    assert tick(one, seen, 1.0) == [Retire(LayerSpan(0, 2))]
