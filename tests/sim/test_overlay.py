"""Swarms too large for a full mesh: few links each, and still everybody knows who lives."""

from __future__ import annotations

from swarm.gossip.member import Health
from swarm.gossip.overlay import FEWEST, MOST
from tests.sim.large import form
from tests.sim.network import Conditions
from tests.sim.world import World


def large_swarm(count: int, seed: int = 1, **conditions: float) -> World:
    """Return a swarm in which all know all, and nobody has too many links."""
    world = World(seed, conditions=Conditions(delay_seconds=0.02, **conditions))
    world.swarm(count)
    world.run_until(lambda: known_to_all(world), 10.0)
    world.run_until(lambda: degrees(world)[-1] <= MOST, 60.0, step=0.5)
    return world


def known_to_all(world: World) -> bool:
    alive = world.alive()
    return world.converged() and all(
        len([m for m in p.membership.members() if m.health is Health.ALIVE]) == len(alive) for p in alive
    )


def degrees(world: World) -> list[int]:
    return sorted(len(process.links) for process in world.alive())


def test_a_hundred_that_join_at_once_by_one_know_each_other_within_four_seconds():
    world = World(1, conditions=Conditions(delay_seconds=0.05, loss=0.01))
    world.swarm(100)
    assert world.run_until(lambda: known_to_all(world), 4.0) < 4.0
    world.run_until(lambda: degrees(world)[0] >= FEWEST and degrees(world)[-1] <= MOST, 60.0, step=0.5)
    assert not world.ever(" SUSPECT ")


def test_three_hundred_that_join_within_a_second_agree_whatever_is_lost():
    formed = form(300, seed=2, loss=0.05)
    assert formed.seconds < 6.0
    assert formed.suspected == 0


def test_a_settled_overlay_changes_no_link():
    world = large_swarm(60)
    world.run(5.0)
    before = len(world.ever("closes the link"))
    links = [sorted(peer.name for peer in process.links) for process in world.alive()]
    world.run(60.0)
    assert links == [sorted(peer.name for peer in process.links) for process in world.alive()]
    assert len(world.ever("closes the link")) == before


def test_from_28_members_to_42_and_back_nobody_is_suspected():
    world = World(1, conditions=Conditions(delay_seconds=0.02))
    world.swarm(28)
    world.run_until(lambda: degrees(world)[0] == 27, 5.0)
    for number in range(28, 42):
        world.start(f"n{number}", bootstrap=["n0"])
        world.run(0.2)
    world.run_until(lambda: degrees(world)[-1] <= MOST, 60.0, step=0.5)
    assert known_to_all(world)
    for number in range(41, 26, -1):
        world.processes[f"n{number}"].leave()
        world.run(0.2)
    world.run_until(lambda: degrees(world)[0] == 26, 10.0)
    world.run(5.0)
    assert not world.ever(" SUSPECT ")
    assert not world.ever(" DEAD ")
    assert known_to_all(world)


def test_no_more_than_two_links_a_second_are_closed_and_never_one_that_carries_a_session():
    world = World(1)
    busy = {f"n{number}" for number in range(1, 20)}
    world.carrying["n0"] = busy
    world.swarm(42)
    world.run_until(lambda: known_to_all(world), 5.0)
    start, before = world.now, len(world.ever("n0 closes the link"))
    world.run(10.0)
    own = len(world.ever("n0 closes the link")) - before
    assert 0 < own <= 2 * (world.now - start) + 4
    carried = {world.processes[name].key.node_id[:8] for name in busy}
    assert not [line for line in world.ever("n0 closes the link") if line.split()[-1] in carried]


def test_in_an_overlay_the_dead_are_buried_by_all_and_only_they():
    world = large_swarm(60)
    dead = [f"n{number}" for number in (3, 14, 15, 9, 26)]
    for name in dead:
        world.processes[name].kill()
    world.run_until(lambda: all(world.all_see(name, Health.DEAD) for name in dead), 12.0)
    world.run(30.0)
    assert known_to_all(world)
    gone = {world.processes[name].key.node_id[:8] for name in dead}
    assert {line.split()[3] for line in world.ever(" SUSPECT ")} <= gone


def test_in_an_overlay_a_silent_node_is_buried_though_no_connection_of_it_breaks():
    world = large_swarm(60)
    others = [name for name in world.processes if name != "n7"]
    world.cut(["n7"], others)
    world.run_until(lambda: all(world.health(o, "n7") is Health.DEAD for o in others), 25.0)


def test_in_an_overlay_a_broken_link_kills_neither_end():
    world = large_swarm(60)
    one = world.processes["n5"]
    other = sorted(peer.name for peer in one.links)[0]
    world.cut(["n5"], [other])
    world.run(60.0)
    assert not world.ever(" DEAD ")
    assert degrees(world)[0] >= FEWEST - 1


def test_in_an_overlay_a_changed_load_is_known_to_nearly_all_within_a_second():
    world = large_swarm(60)
    world.run(3.0)
    busy = world.processes["n7"]
    figures = {"sessions": 1, "tokens_per_second": 1.0, "rss_bytes": 1, "spans": ()}
    busy.act(lambda now: busy.membership.update_load(now, queued_rows=77, **figures))
    world.run(1.3)
    seen = [world.seen(process.name, "n7") for process in world.alive()]
    assert (
        sum(
            member is not None and member.load is not None and member.load.queued_rows == 77
            for member in seen
        )
        >= 54
    )


def test_an_overlay_cut_in_two_for_a_minute_agrees_within_five_seconds_of_healing():
    world = large_swarm(60)
    one, other = [f"n{i}" for i in range(30)], [f"n{i}" for i in range(30, 60)]
    hole = world.cut(one, other)
    world.run(60.0)
    assert all(world.health(a, b) is Health.DEAD for a in one for b in other)
    assert all(world.health(a, b) is Health.ALIVE for a in one for b in one if a != b)
    world.heal(hole)
    assert world.run_until(lambda: known_to_all(world), 5.0) < 5.0
