"""A whole simulated swarm: start, kill, pause, cut, heal, run, and ask. One seed gives one history."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from swarm.config import GossipSettings
from swarm.gossip.member import Health, Member
from swarm.protocol.identity import NodeKey
from tests.sim.network import Conditions, Network
from tests.sim.process import Process, key_of
from tests.sim.scheduler import Scheduler
from tests.sim.shared import share


class World:
    """Processes by name. ``history`` has a line for everything that a membership decided."""

    def __init__(
        self,
        seed: int = 0,
        *,
        conditions: Conditions | None = None,
        settings: GossipSettings | None = None,
        wire: bool = True,
    ) -> None:
        share()
        self.scheduler = Scheduler()
        self.network = Network(self.scheduler, seed, conditions or Conditions())
        self.processes: dict[str, Process] = {}
        self.history: list[str] = []
        self.carrying: dict[str, set[str]] = {}
        """Names of the peers that sessions of a process travel to."""
        self._wire = wire
        self._seed = seed
        self._settings = settings or GossipSettings()
        self._disks: dict[str, dict[str, int]] = {}
        self._lives: dict[str, int] = {}

    @property
    def now(self) -> float:
        return self.scheduler.now

    def start(
        self,
        name: str,
        *,
        bootstrap: Iterable[str] = (),
        key: NodeKey | None = None,
        address: str | None = None,
        clock_offset: float = 0.0,
    ) -> Process:
        """Start a process, or start it again with what is on its disk."""
        self._lives[name] = self._lives.get(name, 0) + 1
        process = Process(
            name,
            scheduler=self.scheduler,
            network=self.network,
            seed=self._seed,
            life=self._lives[name],
            disk=self._disks.setdefault(name, {}),
            settings=self._settings,
            log=self._note,
            wire=self._wire,
            carries=lambda node: any(key_of(peer).node_id == node for peer in self.carrying.get(name, ())),
            key=key,
            address=address,
            clock_offset=clock_offset,
        )
        addresses = tuple(self.processes[other].address for other in bootstrap)
        self.processes[name] = process
        process.act(lambda now: process.membership.bootstrap(addresses, now))
        return process

    def swarm(self, count: int) -> list[Process]:
        """Start ``count`` processes that all join by the first."""
        names = [f"n{number}" for number in range(count)]
        return [self.start(name, bootstrap=names[:1] if name != names[0] else ()) for name in names]

    def lose_disk(self, name: str) -> None:
        self._disks[name] = {}

    def cut(self, one: Iterable[str], other: Iterable[str], *, one_way: bool = False) -> set[tuple[str, str]]:
        """Black-hole everything between two groups; nobody is told. Returns what ``heal`` takes."""
        pairs = {(a, b) for a in one for b in other}
        if not one_way:
            pairs |= {(b, a) for a, b in pairs}
        self.network.conditions.blocked |= pairs
        return pairs

    def heal(self, pairs: set[tuple[str, str]]) -> None:
        self.network.unblock(pairs)

    def run(self, seconds: float) -> None:
        self.scheduler.run_until(self.now + seconds)

    def run_until(self, condition: Callable[[], bool], within: float, step: float = 0.05) -> float:
        """Run until ``condition`` holds and return how long that took. Raises AssertionError after ``within``."""
        started = self.now
        while not condition():
            if self.now - started >= within:
                raise AssertionError(f"not so after {within} virtual seconds")
            self.run(step)
        return self.now - started

    def alive(self) -> list[Process]:
        return [process for process in self.processes.values() if process.running and not process.paused]

    def seen(self, observer: str, subject: str) -> Member | None:
        return self.processes[observer].membership.member(self.processes[subject].key.node_id)

    def health(self, observer: str, subject: str) -> Health | None:
        member = self.seen(observer, subject)
        return member.health if member else None

    def all_see(self, subject: str, health: Health) -> bool:
        return all(self.health(p.name, subject) is health for p in self.alive() if p.name != subject)

    def all_linked(self) -> bool:
        alive = self.alive()
        return all(len(process.links) >= len(alive) - 1 for process in alive)

    def converged(self) -> bool:
        """Return whether all live processes hold equal static records and healths of the members present."""
        views = {
            tuple((e.node, e.incarnation, e.sequence, e.digest, e.state) for e in p.membership.digest())
            for p in self.alive()
        }
        return len(views) == 1

    def ever(self, word: str) -> list[str]:
        """Return the lines of the history that contain ``word``."""
        return [line for line in self.history if word in line]

    def _note(self, name: str, text: str) -> None:
        self.history.append(f"{self.now:.6f} {name} {text}")
