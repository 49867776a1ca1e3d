"""Random mixtures of faults over a simulated swarm, and the claim that it recovers. One seed, one course."""

from __future__ import annotations

import random

from swarm.gossip.member import Health
from tests.sim.network import Conditions
from tests.sim.world import World

QUIET_SECONDS = 20.0
"""After the last fault: a redial, a refutation and an anti-entropy round fit into it."""


class Course:
    """A swarm under faults for ``seconds``; then all faults end but deaths."""

    def __init__(self, seed: int, nodes: int = 8, seconds: float = 60.0) -> None:
        self._rng = random.Random(f"course {seed}")
        loss = self._rng.choice([0.0, 0.01, 0.05])
        delay = self._rng.choice([0.001, 0.05])
        self.world = World(seed, conditions=Conditions(delay_seconds=delay, jitter_seconds=delay, loss=loss))
        self.world.swarm(nodes)
        self._names = list(self.world.processes)
        self._holes: list[set[tuple[str, str]]] = []
        self.world.run(3.0)
        until = self.world.now + seconds
        while self.world.now < until:
            self._fault()
            self.world.run(self._rng.uniform(0.0, 6.0))
        self._end()

    def problems(self) -> list[str]:
        """Return what is wrong after the quiet time: views that differ, living that are held for anything else."""
        world = self.world
        found = [] if world.converged() else ["views differ"]
        for observer in world.alive():
            for name, process in world.processes.items():
                health = world.health(observer.name, name)
                if process.running and health is not Health.ALIVE:
                    found.append(f"{observer.name} holds {name} for {health}")
                if not process.running and health in (Health.ALIVE, Health.SUSPECT):
                    found.append(f"{observer.name} holds the dead {name} for {health}")
            found += [f"{observer.name}: {error}" for error in observer.protocol_errors]
            if observer.identity_elsewhere:
                found.append(f"{observer.name} takes its own past for another process")
        return found

    def _fault(self) -> None:
        kind = self._rng.choice(
            ["kill", "pause", "resume", "cut", "one way", "heal", "start", "leave", "lose disk"]
        )
        name = self._rng.choice(self._names[1:])
        process = self.world.processes[name]
        if kind == "kill" and process.running:
            process.kill()
        elif kind == "leave" and process.running and not process.paused:
            process.leave()
        elif kind == "pause" and process.running:
            process.pause()
        elif kind == "resume" and process.paused:
            process.resume()
        elif kind in ("cut", "one way"):
            group = set(self._rng.sample(self._names, self._rng.randint(1, len(self._names) - 1)))
            others = [other for other in self._names if other not in group]
            self._holes.append(self.world.cut(sorted(group), others, one_way=kind == "one way"))
        elif kind == "heal" and self._holes:
            self.world.heal(self._holes.pop())
        elif kind in ("start", "lose disk") and not process.running:
            if kind == "lose disk":
                self.world.lose_disk(name)
            self.world.start(name, bootstrap=["n0"])

    def _end(self) -> None:
        for hole in self._holes:
            self.world.heal(hole)
        for process in self.world.processes.values():
            if process.paused:
                process.resume()
        self.world.run(QUIET_SECONDS)
