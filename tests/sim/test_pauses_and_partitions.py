"""Faults that end: pauses, partitions, loss and restarts. Everybody is back, nobody was buried for good."""

from __future__ import annotations

import pytest

from swarm.gossip.member import Health
from tests.sim.network import Conditions
from tests.sim.test_joining_and_dying import joined, swarm_of
from tests.sim.world import World


@pytest.mark.parametrize("count", [3, 10])
def test_a_process_that_stood_still_for_two_seconds_refutes(count: int):
    world = swarm_of(count)
    world.processes["n1"].pause()
    world.run(2.5)
    assert world.all_see("n1", Health.SUSPECT)
    world.processes["n1"].resume()
    world.run_until(lambda: world.all_see("n1", Health.ALIVE) and world.converged(), 2.0)
    assert not world.ever(" DEAD ")
    assert world.seen("n0", "n1").record.incarnation == 2


@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_process_that_stood_still_for_thirty_seconds_is_dead_and_then_back(count: int):
    world = swarm_of(count)
    world.processes["n1"].pause()
    world.run_until(lambda: world.all_see("n1", Health.DEAD), 8.0)
    world.run(22.0)
    world.processes["n1"].resume()
    took = world.run_until(lambda: world.all_see("n1", Health.ALIVE) and world.all_linked(), 5.0)
    assert took < 5.0
    world.run_until(world.converged, 2.0)


def test_who_wakes_from_a_pause_accuses_nobody():
    world = swarm_of(6)
    world.processes["n1"].pause()
    world.run(30.0)
    before = len(world.history)
    world.processes["n1"].resume()
    world.run(20.0)
    n1 = world.processes["n1"].key.node_id[:8]
    accused = [line for line in world.history[before:] if " SUSPECT " in line and f"sees {n1}" not in line]
    assert accused == []


@pytest.mark.parametrize("sizes", [(2, 1), (3, 3), (9, 1), (18, 2)])
def test_both_sides_of_a_partition_bury_each_other_and_meet_again(sizes: tuple[int, int]):
    count = sum(sizes)
    world = swarm_of(count)
    names = [f"n{number}" for number in range(count)]
    one, other = names[: sizes[0]], names[sizes[0] :]
    hole = world.cut(one, other)
    world.run(60.0)
    assert all(world.health(a, b) is Health.DEAD for a in one for b in other)
    assert all(world.health(b, a) is Health.DEAD for a in one for b in other)
    assert all(world.health(a, b) is Health.ALIVE for a in one for b in one if a != b)
    world.heal(hole)
    everybody_is_back = lambda: all(world.all_see(name, Health.ALIVE) for name in names)  # noqa: E731
    assert world.run_until(lambda: everybody_is_back() and world.converged(), 5.0) < 5.0


@pytest.mark.parametrize(("loss", "seed"), [(0.01, 1), (0.05, 1), (0.05, 4)])
def test_loss_kills_nobody(loss: float, seed: int):
    world = swarm_of(8, seed=seed, conditions=Conditions(delay_seconds=0.05, loss=loss))
    before = sum(process.suspected_links for process in world.alive())
    world.run(300.0)
    assert not world.ever(" DEAD ")
    assert world.converged()
    link_hours = 8 * 7 / 2 * 300 / 3600
    false_reroutes = sum(process.suspected_links for process in world.alive()) - before
    assert false_reroutes <= 2 * link_hours


@pytest.mark.parametrize("raw_loss", [0.01, 0.05])
def test_even_messages_that_vanish_kill_nobody(raw_loss: float):
    world = swarm_of(8, conditions=Conditions(delay_seconds=0.05, raw_loss=raw_loss))
    world.run(300.0)
    assert not world.ever(" DEAD ")


def test_a_node_that_is_late_itself_buries_nobody():
    world = swarm_of(6)
    slow = world.processes["n2"]
    for _ in range(40):
        slow.pause()
        world.run(0.7)
        slow.resume()
        world.run(0.3)
    assert not world.ever(" DEAD ")


@pytest.mark.parametrize("lost", [False, True], ids=["incarnation file kept", "incarnation file lost"])
def test_a_restart_with_the_same_identity_is_back_within_three_seconds(lost: bool):
    world = swarm_of(5)
    world.processes["n2"].act(lambda now: world.processes["n2"].membership.update_self(now, name="before"))
    world.run(1.0)
    for _ in range(3):
        world.processes["n2"].kill()
        if lost:
            world.lose_disk("n2")
        new = world.start("n2", bootstrap=["n0"])
        world.run_until(
            lambda boot=new.boot: all(
                (seen := world.seen(p.name, "n2")) is not None
                and seen.health is Health.ALIVE
                and seen.record.boot == boot
                and seen.routable
                for p in world.alive()
            ),
            3.0,
        )
        world.run(0.5)
    assert not world.processes["n2"].identity_elsewhere


def test_a_dead_node_restarted_with_its_incarnation_file_lost_comes_back():
    world = swarm_of(4)
    world.processes["n2"].kill()
    world.run_until(lambda: world.all_see("n2", Health.DEAD), 6.0)
    world.lose_disk("n2")
    world.start("n2", bootstrap=["n0"])
    world.run_until(lambda: world.all_see("n2", Health.ALIVE) and world.converged(), 3.0)


def test_the_newcomer_of_two_processes_with_one_key_notices_and_the_other_stays():
    world = swarm_of(4)
    original = world.processes["n2"]
    hole = world.cut(["n0", "n2"], ["n1", "n3", "copy"])
    world.run(70.0)
    copy = world.start("copy", bootstrap=["n1"], key=original.key)
    world.run(10.0)
    assert not copy.identity_elsewhere
    world.heal(hole)
    world.run_until(lambda: copy.identity_elsewhere, 10.0)
    copy.kill()
    world.run(20.0)
    assert not original.identity_elsewhere
    assert world.all_see("n2", Health.ALIVE)


def test_clocks_that_are_off_by_hours_change_nothing():
    def history(offsets: list[float]) -> list[str]:
        world = World(1, conditions=Conditions(delay_seconds=0.03, loss=0.02))
        for number, offset in enumerate(offsets):
            world.start(f"n{number}", bootstrap=["n0"] if number else [], clock_offset=offset)
        joined(world, len(offsets))
        world.processes["n1"].kill()
        world.run_until(lambda: world.all_see("n1", Health.DEAD), 6.0)
        return [line.split(" ", 1)[1] for line in world.history if " DEAD " in line or "SUSPECT" in line]

    told = history([0.0] * 5)
    assert told
    assert sorted(history([0.0, 3600.0, -1800.0, 7200.0, 90000.0])) == sorted(told)


def test_a_node_that_comes_and_goes_disturbs_only_itself():
    world = swarm_of(8)
    flapping = world.processes["n3"].key.node_id[:8]
    for _ in range(12):
        world.processes["n3"].kill()
        world.run(2.0)
        world.start("n3", bootstrap=["n0"])
        world.run(3.0)
    world.run_until(lambda: world.all_see("n3", Health.ALIVE) and world.converged(), 10.0)
    blamed = [
        line for line in world.ever(" SUSPECT ") + world.ever(" DEAD ") if f"sees {flapping}" not in line
    ]
    assert blamed == []
    assert not world.processes["n3"].identity_elsewhere


@pytest.mark.parametrize("seed", [1, 2])
def test_one_seed_gives_one_history(seed: int):
    def history() -> list[str]:
        world = World(seed, conditions=Conditions(delay_seconds=0.03, jitter_seconds=0.02, loss=0.05))
        world.swarm(6)
        joined(world, 6)
        world.processes["n1"].kill()
        hole = world.cut(["n2"], ["n3", "n4"])
        world.run(15.0)
        world.heal(hole)
        world.start("n1", bootstrap=["n0"])
        world.run(15.0)
        return world.history

    assert history() == history()


def test_another_seed_gives_another_history():
    histories = []
    for seed in (1, 2):
        world = swarm_of(4, seed=seed)
        world.processes["n1"].kill()
        world.run(10.0)
        histories.append(world.history)
    assert histories[0] != histories[1]
