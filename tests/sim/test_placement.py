"""Swarms whose nodes choose their layers, in virtual time: joining at once, dying, slow ones, churn."""

from __future__ import annotations

import random

import pytest

from swarm.types import LayerSpan, ModelId
from tests.sim.placing import LAYERS, MODEL, OTHER, PlacedSwarm


def swarm_of(most: list[int], seed: int, **more: object) -> PlacedSwarm:
    """Start nodes with memory for so many layers at the same moment, and run until all hold something."""
    swarm = PlacedSwarm(seed)
    for number, layers in enumerate(most):
        swarm.add(f"n{number}", layers, **more)
    swarm.world.run_until(swarm.settled, within=60)
    return swarm


@pytest.mark.parametrize("seed", range(3))
def test_nodes_that_start_at_once_with_just_enough_memory_leave_no_hole(seed: int) -> None:
    swarm = swarm_of([6, 6, 6, 6], seed)
    assert swarm.missing() == ()
    assert all(swarm.holders(layer) == 1 for layer in range(LAYERS)), "no two took the same layers"
    assert swarm.moves == 0


@pytest.mark.parametrize("seed", range(3))
def test_mixed_memory_covers_the_model_as_long_as_it_suffices(seed: int) -> None:
    swarm = swarm_of([3, 12, 5, 8, 2, 24], seed)
    assert swarm.missing() == ()
    for node in swarm.running:
        assert len(node.spans[0]) <= node.most


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("roomy", [True, False])
def test_a_dead_nodes_layers_are_taken_by_one_node_that_can_be_spared(seed: int, roomy: bool) -> None:
    swarm = swarm_of([8, 8, 8, 8, 8, 8], seed, roomy=roomy)
    assert all(swarm.holders(layer) == 2 for layer in range(LAYERS))
    first, second = (node for node in swarm.running if LayerSpan(8, 16) in node.spans)
    swarm.kill(first.process.name)
    swarm.world.run(30)
    assert swarm.moves == 0, "the other holder is enough"
    swarm.kill(second.process.name)
    assert swarm.missing() == (LayerSpan(8, 16),)
    swarm.world.run_until(swarm.covered, within=20)
    swarm.world.run_until(swarm.settled, within=20)
    assert swarm.covered(), "the mover dropped nothing that only it held"
    assert swarm.moves == 1


@pytest.mark.parametrize("seed", range(2))
def test_a_spare_node_moves_to_a_bottleneck_and_stays_there(seed: int) -> None:
    swarm = PlacedSwarm(seed)
    for name, seconds in (("quick", 0.001), ("slow", 0.003)):
        swarm.add(name, 12, seconds_per_layer=seconds)
        swarm.world.run_until(swarm.settled, within=30)
    # Both halves are held. The third sees a slow half; the slow half's holder is then replaced by a quick one.
    spare = swarm.add("spare", 12)
    swarm.world.run_until(swarm.settled, within=30)
    assert spare.spans == [LayerSpan(12, 24)]
    swarm.kill("slow")
    swarm.add("slow", 12, seconds_per_layer=0.003)
    swarm.world.run(30)
    swarm.nodes["quick"].process.kill()
    swarm.add("quick", 12)
    swarm.world.run_until(lambda: swarm.covered() and swarm.settled(), within=60)
    swarm.world.run(180)
    moves = swarm.moves
    swarm.world.run(600)
    assert swarm.covered()
    assert swarm.moves == moves, "what is balanced stays"


def churn(swarm: PlacedSwarm, rng: random.Random, times: int, models: tuple[ModelId, ...] = (MODEL,)) -> int:
    """Kill nodes and start dead ones again, one after the other at random; return how many were killed."""
    deaths = 0
    for _ in range(times):
        name = rng.choice(sorted(swarm.nodes))
        node = swarm.nodes[name]
        if node.process.running:
            swarm.kill(name)
            deaths += 1
        else:
            swarm.add(name, node.most, models=models)
        swarm.world.run(rng.uniform(5, 40))
    return deaths


def check_settles(swarm: PlacedSwarm, models: tuple[ModelId, ...], within: float) -> None:
    """Start who is dead; all of ``models`` must be covered soon, and then nobody moves any more."""
    for name, node in list(swarm.nodes.items()):
        if not node.process.running:
            swarm.add(name, node.most, models=models)
    swarm.world.run_until(lambda: swarm.covered(*models) and swarm.settled(), within=within)
    swarm.world.run(300)
    moves = swarm.moves
    swarm.world.run(300)
    assert swarm.covered(*models)
    assert swarm.moves == moves


@pytest.mark.parametrize("seed", range(2))
def test_churn_moves_few_and_ends_covered_and_quiet(seed: int) -> None:
    swarm = swarm_of([8, 8, 12, 12, 16, 6, 6], seed)
    deaths = churn(swarm, random.Random(seed), 16)
    assert swarm.moves <= 2 * deaths, "a death moves no crowd"
    check_settles(swarm, (MODEL,), within=120)


def test_a_harmfully_slow_node_serves_only_when_it_is_needed() -> None:
    swarm = swarm_of([12, 12], seed=1)
    slow = swarm.add("slow", 24, seconds_per_layer=0.05)
    swarm.world.run(60)
    assert slow.spans == []
    swarm.kill("n1")
    swarm.world.run_until(swarm.covered, within=30)
    assert len(slow.spans) == 1


BOTH = (MODEL, OTHER)


def two_models(most: list[int], seed: int) -> PlacedSwarm:
    """Start nodes that are told two models, with memory for so many layers of both together."""
    swarm = PlacedSwarm(seed)
    for number, layers in enumerate(most):
        swarm.add(f"n{number}", layers, models=BOTH)
    return swarm


@pytest.mark.parametrize("seed", range(3))
def test_nodes_told_two_models_cover_both_with_memory_for_little_more(seed: int) -> None:
    swarm = two_models([16, 10, 14, 12], seed)
    swarm.world.run_until(lambda: swarm.covered(*BOTH), within=60)
    swarm.world.run(120)
    assert swarm.covered(*BOTH)
    for node in swarm.running:
        assert sum(len(span) for slot in node.slots.values() for span in slot.spans) <= node.most


@pytest.mark.parametrize("seed", range(3))
def test_a_hole_in_one_model_is_filled_by_who_has_memory_that_the_other_leaves(seed: int) -> None:
    swarm = PlacedSwarm(seed)
    swarm.add("first", 24)
    swarm.add("second", 24, models=(OTHER,))
    swarm.world.run_until(lambda: swarm.covered(*BOTH), within=60)
    both = swarm.add("both", 48, models=BOTH)
    swarm.world.run_until(lambda: all(slot.spans for slot in both.slots.values()), within=60)
    swarm.kill("second")
    swarm.world.run_until(lambda: swarm.covered(*BOTH), within=60)
    assert both.slots[OTHER].spans == [LayerSpan(0, LAYERS)]


@pytest.mark.parametrize("seed", range(2))
def test_churn_among_nodes_with_two_models_ends_covered_and_quiet(seed: int) -> None:
    swarm = two_models([16, 16, 24, 24, 12], seed)
    swarm.world.run(30)
    deaths = churn(swarm, random.Random(seed), 10, BOTH)
    assert swarm.moves <= 4 * deaths, "a death moves no crowd, in either model"
    check_settles(swarm, BOTH, within=180)
