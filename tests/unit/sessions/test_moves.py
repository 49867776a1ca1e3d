"""Hops that still work are left without a pause, and the text is what it would have been."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.protocol.messages import Hop
from swarm.sessions.effects import ChosenPath
from swarm.types import LayerSpan, NodeId
from tests.unit.sessions.conftest import DTYPE

THREE = {"a": LayerSpan(0, 2), "b": LayerSpan(2, 4), "c": LayerSpan(4, 6)}
TWICE = {**THREE, "a2": LayerSpan(0, 2), "b2": LayerSpan(2, 4), "c2": LayerSpan(4, 6)}
PROMPT = tuple(range(300, 380))
TOKENS = 60


def used(run):
    return {hop.node[0]: hop.node for hop in run.core.path.hops}


def twin(name):
    return name[0] if name.endswith("2") else name + "2"


@pytest.mark.parametrize("place", ["a", "b", "c"])
def test_a_draining_hop_is_left_at_a_token_boundary_and_nobody_else_computes_again(place, world, undisturbed):
    run = world(4, TWICE)
    run.ask(PROMPT, TOKENS)
    first, held_by_the_left = {}, []

    def drain():
        first.update(used(run))
        run.drain(first[place])

    run.at(1.2, drain)
    run.at(2.5, lambda: held_by_the_left.append(len(run.hops[NodeId(first[place])].sessions)))
    run.run()
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert (run.core.moves, run.core.recoveries) == (1, 0)
    assert run.core.last_path.hops["abc".index(place)].node == twin(first[place])
    assert held_by_the_left == [0]
    for letter, name in first.items():
        assert run.hops[NodeId(name)].computed <= len(PROMPT) + TOKENS + 20, letter
    assert run.violations == []


def test_a_move_pauses_an_answer_for_less_than_a_recovery(world):
    gaps = {}
    for what in ("drain", "kill"):
        run = world(4, TWICE)
        run.ask(PROMPT, TOKENS)
        run.at(1.2, lambda run=run, what=what: getattr(run, what)(used(run)["b"]))
        run.run()
        gaps[what] = max(after - before for before, after in pairwise(run.emitted_at))
    assert gaps["drain"] < 0.7 * gaps["kill"]


def test_an_answer_stays_where_it_is_while_there_is_nowhere_to_go(world, undisturbed):
    run = world(4, THREE)
    run.ask(PROMPT, TOKENS)
    run.at(1.0, lambda: run.drain("b"))
    run.run()
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert (run.core.moves, run.core.recoveries) == (0, 0)


def test_it_moves_as_soon_as_somebody_else_can_take_over(world, undisturbed):
    run = world(4, TWICE)
    run.kill("b2")
    run.ask(PROMPT, 100)
    run.at(1.0, lambda: run.drain("b"))
    run.at(1.5, lambda: run.start("b2"))
    run.run()
    assert run.emitted == undisturbed(PROMPT, 100)
    assert run.core.moves == 1


def test_a_prefill_that_drains_goes_on_and_moves_at_its_first_token(world, undisturbed):
    run = world(4, TWICE)
    run.ask(PROMPT, TOKENS)
    run.at(0.1, lambda: run.drain(used(run)["b"]))
    run.run()
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert run.core.moves == 1
    assert run.core.recoveries == 0


def test_a_replacement_that_dies_while_it_is_filled_costs_nothing(world, undisturbed):
    run = world(4, {**TWICE, "b3": LayerSpan(2, 4)})
    run.ask(PROMPT, TOKENS)

    def drain():
        old = used(run)["b"]
        run.drain(old)
        run.at(run.now + 0.03, lambda: [run.kill(name) for name in ("b", "b2", "b3") if name != old][:1])

    run.at(1.2, drain)
    run.run()
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert run.core.recoveries == 0


def test_the_hop_that_is_left_dies_before_its_replacement_is_filled(world, undisturbed):
    run = world(4, TWICE)
    run.ask(PROMPT, TOKENS)

    def drain():
        old = used(run)["b"]
        run.drain(old)
        run.at(run.now + 0.03, lambda: run.kill(old))

    run.at(1.2, drain)
    run.run()
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    for name in ("a", "a2", "c", "c2"):
        assert run.hops[NodeId(name)].computed <= len(PROMPT) + TOKENS + 20


def test_a_hop_that_becomes_ten_times_slower_is_left(world, undisturbed):
    run = world(4, TWICE)
    run.ask(PROMPT, 100)
    first = {}

    def slow_down():
        first.update(used(run))
        run.hops[NodeId(first["b"])].seconds = 0.1

    run.at(1.5, slow_down)
    run.run()
    assert run.emitted == undisturbed(PROMPT, 100)
    assert (run.core.moves, run.core.recoveries) == (1, 0)
    assert run.core.last_path.hops[1].node == twin(first["b"])


def test_a_slow_hop_that_nobody_can_replace_is_kept(world, undisturbed):
    run = world(4, THREE)
    run.ask(PROMPT, 100)
    run.at(1.5, lambda: setattr(run.hops[NodeId("b")], "seconds", 0.1))
    run.run()
    assert run.emitted == undisturbed(PROMPT, 100)
    assert (run.core.moves, run.core.recoveries) == (0, 0)


def test_a_slow_hop_that_can_be_replaced_does_not_wait_for_one_that_can_not(world, undisturbed):
    run = world(4, {**THREE, "c2": LayerSpan(4, 6)})
    run.ask(PROMPT, 100)
    begun: list[tuple[str, int]] = []

    def slow_down():
        begun.append((used(run)["c"], len(run.emitted)))
        run.hops[NodeId("b")].seconds = 0.002
        run.hops[NodeId(begun[0][0])].seconds = 0.1

    run.at(1.2, lambda: setattr(run.hops[NodeId("b")], "seconds", 0.1))
    run.at(2.5, slow_down)
    left: list[int] = []
    emitted = run.emitted

    def watch():
        if run.core.path is not None and used(run)["c"] != begun[0][0]:
            left.append(len(emitted))
        elif not run.core.ended:
            run.at(run.now + 0.01, watch)

    run.at(2.6, watch)
    run.run()
    assert run.emitted == undisturbed(PROMPT, 100)
    assert run.core.moves == 1
    assert left[0] - begun[0][1] <= 12


def test_a_hop_whose_node_now_holds_more_from_the_same_layer_on_is_not_opened_beside_itself(
    world, undisturbed
):
    """A node knows a session by its first layer: the new hop would end the one at work."""
    run = world(4, THREE)
    run.ask(PROMPT, TOKENS)

    def grow():
        run.hops[NodeId("a")].span = LayerSpan(0, 4)
        run.core.leave(NodeId("a"), run.now, one_span=True)

    run.at(1.2, grow)
    run.run()
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert (run.core.moves, run.core.recoveries) == (1, 0)
    assert [hop.span for hop in run.core.last_path.hops] == [LayerSpan(0, 4), LayerSpan(4, 6)]
    run.settle()
    assert run.sessions_open() == 0


def test_a_hop_that_comes_to_anothers_place_on_its_node_is_not_opened_beside_it(world, undisturbed):
    run = world(4, {"a": LayerSpan(0, 3), "b": LayerSpan(3, 6), "d": LayerSpan(0, 2)})
    run.ask(PROMPT, TOKENS)
    find = run.find_path

    def leave():
        b, d = run.hops[NodeId("b")], run.hops[NodeId("d")]
        hops = (
            Hop(d.node, d.boot, LayerSpan(0, 2)),
            Hop(b.node, b.boot, LayerSpan(2, 3)),
            Hop(b.node, b.boot, LayerSpan(3, 6)),
        )
        found = ChosenPath(hops, DTYPE, 0.01)
        run.find_path = lambda wish: found if wish.moving else find(wish)
        run.core.leave(NodeId("a"), run.now)

    run.at(1.2, leave)
    run.run()
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert (run.core.moves, run.core.recoveries) == (1, 0)
    assert len(run.core.last_path.hops) == 3
    run.settle()
    assert run.sessions_open() == 0


@given(
    seed=st.integers(0, 10_000),
    events=st.lists(
        st.tuples(
            st.floats(0.05, 3.0), st.sampled_from(sorted(TWICE)), st.sampled_from(["drain", "kill", "start"])
        ),
        max_size=8,
    ),
    log_bytes=st.sampled_from([0, 12000, 1 << 28]),
    vocabulary=st.sampled_from([2, 1 << 16]),
)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_moves_and_losses_in_any_order_change_no_token(
    world, undisturbed, seed, events, log_bytes, vocabulary
):
    run = world(seed, TWICE, vocabulary=vocabulary)
    for hop in run.hops.values():
        hop.log_bytes = log_bytes
        hop.start()
    prompt = tuple(token % vocabulary for token in PROMPT[:37])
    run.ask(prompt, TOKENS, deadline=60.0)
    for when, name, what in events:
        run.at(when, lambda n=name, w=what: getattr(run, w)(n))
    run.run()
    text = undisturbed(prompt, TOKENS, vocabulary)
    assert run.emitted == text[: len(run.emitted)]
    if run.error is None:
        assert run.emitted == text
    assert run.violations == []
    run.settle()
    assert run.sessions_open() == 0
