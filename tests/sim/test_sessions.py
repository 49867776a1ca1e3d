"""Answers under mixed faults: the right text, exactly once, and everything free again at the end (I1-I7, I14)."""

from __future__ import annotations

import pytest

from swarm.types import LayerSpan
from tests.sim.session_engine import LAYERS
from tests.sim.sessions import SessionWorld, run


@pytest.mark.parametrize("seed", range(12))
def test_mixed_faults_change_lose_and_double_no_token(seed):
    assert run(seed).problems == []


@pytest.mark.parametrize("seed", range(100, 103))
def test_a_larger_swarm_keeps_its_promises_too(seed):
    assert run(seed, nodes=20, seconds=15.0).problems == []


def test_one_seed_gives_one_history():
    first, again, other = run(5), run(5), run(6)
    assert first.history == again.history
    assert first.messages == again.messages
    assert first.history != other.history


def three_by_two() -> SessionWorld:
    world = SessionWorld(1)
    for name, start in (("a", 0), ("b", 2), ("c", 4), ("a2", 0), ("b2", 2), ("c2", 4)):
        world.add(name, LayerSpan(start, start + LAYERS // 3))
    world.add("door", None)
    world.run(1.0)
    return world


def ask(world: SessionWorld, *, tokens: int = 100, prompt: int = 200):
    door = world.nodes["door"]
    return world.ask(
        door,
        tuple(range(prompt)),
        tokens=tokens,
        seed=7,
        vocabulary=1 << 16,
        deadline_seconds=120.0,
        drafts=0,
    )


def hop(world: SessionWorld, answer, place: int):
    return world.nodes[answer.core.path.hops[place].node]


def finished(world: SessionWorld, answer) -> bool:
    world.run(60.0)
    world.check_end()
    return world.problems == [] and answer.outcome == "length" and answer.emitted == answer.text


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_hop_that_is_stopped_and_goes_on_later_disturbs_nobody(place):
    world = three_by_two()
    answer = ask(world)
    world.run(1.0)
    stopped = hop(world, answer, place)
    world.pause(stopped)
    world.run(20.0)
    assert answer.outcome == "length"
    world.resume(stopped)
    assert finished(world, answer)


@pytest.mark.parametrize("one_way", [False, True])
def test_two_hops_that_can_not_reach_each_other_are_not_put_side_by_side_again(one_way):
    world = three_by_two()
    answer = ask(world, tokens=400)
    world.run(1.0)
    first, second = hop(world, answer, 0), hop(world, answer, 1)
    hole = world.cut([first], [second], one_way=one_way)
    world.run(15.0)
    places = [found.node for found in answer.core.last_path.hops]
    assert (first.id, second.id) != tuple(places[:2])
    assert answer.emitted
    world.heal(hole)
    assert finished(world, answer)


def test_no_replacement_until_a_node_comes_back_and_then_only_that_span_computes():
    world = three_by_two()
    for name in ("a2", "b2", "c2"):
        world.kill(world.nodes[name])
    answer = ask(world)
    world.run(1.0)
    world.kill(world.nodes["b"])
    before = world.nodes["a"].engine.computed
    world.run(30.0)
    assert answer.outcome == ""
    assert len(world.nodes["a"].sessions) == 1, "its lease is renewed while the answer waits"
    world.restart(world.nodes["b"])
    assert finished(world, answer)
    assert world.nodes["a"].engine.computed - before <= len(answer.text)


def test_the_kv_of_a_door_that_dies_is_freed_by_the_lease_at_the_latest():
    world = three_by_two()
    answer = ask(world, tokens=1000)
    world.run(1.0)
    world.door_deaths_are_heard = False
    world.kill(world.nodes["door"])
    assert answer.outcome == "lost"
    world.run(15.0)
    world.check_end()
    assert world.problems == []


def test_a_prefill_longer_than_the_lease_keeps_its_kv():
    world = three_by_two()
    answer = ask(world, tokens=3, prompt=300)
    for node in world.nodes.values():
        node.engine.slowness = 350.0
    world.run(13.0)
    assert answer.emitted == []
    assert answer.outcome == ""
    world.run(60.0)
    assert finished(world, answer)
    assert answer.core.recoveries == 0


def test_a_rolling_restart_with_drain_fails_nothing_and_recovers_nothing():
    world = three_by_two()
    answers = [ask(world, tokens=400) for _ in range(6)]
    world.run(1.0)
    for name in ("a", "b", "c", "a2", "b2", "c2"):
        node = world.nodes[name]
        world.drain(node)
        world.run(4.0)
        assert node.stage.foreign_sessions == 0
        world.kill(node)
        world.restart(node)
        world.run(3.0)
    assert all(finished(world, answer) for answer in answers)
    assert all(answer.core.recoveries == 0 for answer in answers)
    assert sum(answer.core.moves for answer in answers) >= len(answers)
