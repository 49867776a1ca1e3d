"""Whole swarms: who joins is known to all, who dies is declared dead by all, who lives never is."""

from __future__ import annotations

import pytest

from swarm.gossip.member import Health
from tests.sim.network import Conditions
from tests.sim.world import World


def joined(world: World, count: int, within: float = 20.0) -> float:
    def everybody_knows_everybody() -> bool:
        return (
            world.all_linked()
            and world.converged()
            and all(len(process.membership.members()) == count for process in world.alive())
        )

    return world.run_until(everybody_knows_everybody, within)


def swarm_of(count: int, seed: int = 1, conditions: Conditions | None = None) -> World:
    world = World(seed, conditions=conditions)
    world.swarm(count)
    joined(world, count)
    world.run(2.0)
    return world


@pytest.mark.parametrize("count", [3, 10, 40])
def test_everybody_who_joins_is_known_to_all_within_two_seconds(count: int):
    world = World(1, conditions=Conditions(delay_seconds=0.02, jitter_seconds=0.01))
    world.swarm(count)
    assert joined(world, count) < 2.0


def test_a_node_whose_bootstrap_address_is_down_joins_when_it_comes_up():
    world = World(1)
    world.start("first")
    world.processes["first"].kill()
    world.start("second", bootstrap=["first"])
    world.run(60.0)
    world.start("first")
    assert joined(world, 2) < 4.0


def test_newcomers_that_find_each_other_first_still_find_the_swarm():
    world = World(1)
    world.start("first")
    world.processes["first"].kill()
    world.start("second", bootstrap=["first"])
    world.start("third", bootstrap=["first", "second"])
    world.run(60.0)
    world.start("first")
    assert joined(world, 3) < 4.0


def test_a_node_that_is_given_its_own_address_as_bootstrap_joins_by_the_others():
    world = World(1)
    world.start("a")
    b = world.start("b")
    b.membership.bootstrap((b.address, world.processes["a"].address), world.now)
    assert joined(world, 2) < 1.0
    world.run(30.0)
    assert world.converged()


@pytest.mark.parametrize(("count", "within"), [(2, 6.0), (3, 4.5), (10, 4.5), (40, 6.5)])
def test_a_crashed_node_is_declared_dead_by_everyone(count: int, within: float):
    world = swarm_of(count)
    world.processes["n1"].kill()
    world.run_until(lambda: world.all_see("n1", Health.DEAD), within)
    assert world.converged()
    assert not any(world.seen(p.name, "n1").routable for p in world.alive())


@pytest.mark.parametrize("count", [3, 10])
def test_a_node_behind_a_black_hole_is_declared_dead_by_everyone(count: int):
    world = swarm_of(count)
    others = [f"n{number}" for number in range(count) if number != 1]
    world.cut(["n1"], others)
    world.run_until(lambda: all(world.health(o, "n1") is Health.DEAD for o in others), 8.0)


def test_two_nodes_that_crash_together_are_both_declared_dead():
    world = swarm_of(4)
    world.processes["n1"].kill()
    world.processes["n2"].kill()
    world.run_until(lambda: world.all_see("n1", Health.DEAD) and world.all_see("n2", Health.DEAD), 6.0)


def test_the_last_survivor_declares_all_others_dead():
    world = swarm_of(5)
    for name in ("n1", "n2", "n3", "n4"):
        world.processes[name].kill()
    world.run_until(lambda: all(world.all_see(f"n{i}", Health.DEAD) for i in range(1, 5)), 8.0)


def test_a_link_that_fails_between_two_nodes_kills_neither():
    world = swarm_of(5)
    world.cut(["n1"], ["n2"])
    world.run(3.5)
    node = world.processes["n2"].key.node_id
    link = world.processes["n1"].membership.links().get(node)
    assert link is None or link.suspect
    world.run(60.0)
    assert not world.ever(" DEAD ")
    assert not world.ever(" SUSPECT ")


def test_a_link_that_fails_in_one_direction_is_suspect_at_both_ends():
    world = swarm_of(4)
    world.cut(["n1"], ["n2"], one_way=True)
    world.run(3.5)
    one, two = world.processes["n1"], world.processes["n2"]
    assert one.membership.links()[two.key.node_id].suspect
    assert two.membership.links()[one.key.node_id].suspect
    assert not world.ever(" SUSPECT ")


def test_a_member_that_only_one_other_can_reach_is_buried_by_nobody():
    world = swarm_of(8)
    others = [f"n{number}" for number in range(8) if number not in (2, 5)]
    world.cut(["n2"], others)
    world.run(120.0)
    assert not world.ever(f"sees {world.processes['n2'].key.node_id[:8]} DEAD")
    assert world.seen("n0", "n2").record.incarnation < 20


def test_who_leaves_is_never_suspected():
    world = swarm_of(5)
    world.processes["n3"].leave()
    world.run_until(lambda: world.all_see("n3", Health.LEFT), 0.5)
    world.run(40.0)
    assert not world.ever(" SUSPECT ")
    assert world.all_see("n3", Health.LEFT)


def test_who_left_may_come_back():
    world = swarm_of(4)
    world.processes["n3"].leave()
    world.run(5.0)
    world.start("n3", bootstrap=["n0"])
    world.run_until(lambda: world.all_see("n3", Health.ALIVE), 2.0)


def test_a_tombstone_never_travels():
    world = swarm_of(3)
    world.processes["n2"].kill()
    world.run_until(lambda: world.all_see("n2", Health.DEAD), 6.0)
    world.start("late", bootstrap=["n0"])
    world.run(30.0)
    assert world.seen("late", "n2") is None
    assert world.health("n0", "n2") is Health.DEAD
