"""A large swarm that forms at once: how long, in virtual time, until every node holds every record."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.sim.network import Conditions
from tests.sim.world import World

STEP_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Formed:
    """``seconds`` are virtual, from the first start; links are counted at the end."""

    seconds: float
    messages: int
    fewest_links: int
    most_links: int
    suspected: int


def form(
    nodes: int, *, seed: int = 1, over_seconds: float = 1.0, delay_seconds: float = 0.05, loss: float = 0.01
) -> Formed:
    """Start ``nodes`` that all join by the first, at random within ``over_seconds``, and run until all agree.

    Raises AssertionError after ten virtual seconds.
    """
    world = World(seed, conditions=Conditions(delay_seconds=delay_seconds, loss=loss), wire=False)
    rng = random.Random(f"forming {seed}")
    world.start("n0")
    for number in range(1, nodes):
        name = f"n{number}"
        world.scheduler.at(
            rng.random() * over_seconds,
            lambda name=name: _started(world, name),  # type: ignore[misc]
        )
    world.run(over_seconds)
    took = world.run_until(lambda: _all_know_all(world, nodes), 10.0 - over_seconds, STEP_SECONDS)
    links = [len(process.links) for process in world.alive()]
    return Formed(
        over_seconds + took, world.network.messages, min(links), max(links), len(world.ever(" SUSPECT "))
    )


def _started(world: World, name: str) -> None:
    world.start(name, bootstrap=["n0"])


def _all_know_all(world: World, nodes: int) -> bool:
    alive = world.alive()
    sizes = (len(process.membership.digest()) for process in alive)
    return len(alive) == nodes and all(size == nodes for size in sizes) and world.converged()
