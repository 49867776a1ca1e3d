"""Random mixtures of faults over a simulated swarm, and the claims that hold through them. One seed, one course."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import msgspec

from swarm.config import GossipSettings
from swarm.gossip.member import Health
from swarm.gossip.record import Claim, decode_static, encode
from swarm.protocol.identity import sign_claim, sign_record, verify
from swarm.protocol.messages import Gossip
from tests.sim.network import Conditions
from tests.sim.process import SWARM_ID, Process, to_wire
from tests.sim.world import World

QUIET_SECONDS = 20.0
"""After the last fault: a redial, a refutation and an anti-entropy round fit into it."""
CALM_SECONDS = 12.0
"""A node that was well so long, in a swarm without cuts, had its time to be dialled, to refute and to be believed."""
OVERLAY_MEMBERS = 8
KINDS = ("kill", "pause", "resume", "cut", "one way", "heal", "start", "leave", "lose disk")
HOSTILE = ("forge", "accuse")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a course came to. ``history`` is the SHA-256 of every line that its nodes decided."""

    problems: tuple[str, ...]
    history: str
    messages: int


def run(seed: int, nodes: int = 20, seconds: float = 120.0) -> Outcome:
    """Run the course of ``seed`` as the campaign does: every other one in an overlay, a liar among the nodes."""
    settings = GossipSettings(mesh_members=OVERLAY_MEMBERS) if seed % 2 else GossipSettings()
    course = Course(seed, nodes, seconds, settings=settings, kinds=KINDS + HOSTILE)
    history = hashlib.sha256("\n".join(course.world.history).encode()).hexdigest()
    return Outcome(tuple(course.problems()), history, course.world.network.messages)


class Course:
    """A swarm under faults for ``seconds``; then all faults end but deaths."""

    def __init__(
        self,
        seed: int,
        nodes: int = 8,
        seconds: float = 60.0,
        *,
        settings: GossipSettings | None = None,
        kinds: tuple[str, ...] = KINDS,
    ) -> None:
        self._rng = random.Random(f"course {seed}")
        self._kinds = kinds
        loss = self._rng.choice([0.0, 0.01, 0.05])
        delay = self._rng.choice([0.001, 0.05])
        conditions = Conditions(delay_seconds=delay, jitter_seconds=delay, loss=loss)
        self.world = World(seed, conditions=conditions, settings=settings)
        self.world.swarm(nodes)
        self._names = list(self.world.processes)
        self._holes: list[set[tuple[str, str]]] = []
        self._well: dict[str, float] = {}
        self._whole_since = 0.0
        self._found: list[str] = []
        self._run(3.0)
        until = self.world.now + seconds
        while self.world.now < until:
            self._fault()
            self._run(self._rng.uniform(0.0, 6.0))
        self._end()

    def problems(self) -> list[str]:
        """Return what went wrong, and what is wrong after the quiet time: the invariants I8, I9 and I10."""
        world = self.world
        found = self._found + ([] if world.converged() else ["I8: views differ"])
        for observer in world.alive():
            for name, process in world.processes.items():
                health = world.health(observer.name, name)
                if process.running and health is not Health.ALIVE:
                    found.append(f"I8: {observer.name} holds {name} for {health}")
                if not process.running and health in (Health.ALIVE, Health.SUSPECT):
                    found.append(f"I8: {observer.name} holds the dead {name} for {health}")
            found += [
                f"{observer.name}: {error}" for error in observer.protocol_errors if "signature" not in error
            ]
            if observer.identity_elsewhere:
                found.append(f"{observer.name} takes its own past for another process")
            found += [f"I10: {observer.name} {text}" for text in _forged(observer)]
        return found

    def _run(self, seconds: float) -> None:
        """Let time pass, and look every second whether somebody healthy is held for dead."""
        until = self.world.now + seconds
        while self.world.now < until:
            self.world.run(min(1.0, until - self.world.now))
            self._look()

    def _look(self) -> None:
        world = self.world
        if world.network.conditions.blocked:
            self._whole_since = world.now
        for name, process in world.processes.items():
            if not process.running or process.paused:
                self._well.pop(name, None)
            else:
                self._well.setdefault(name, world.now)
        calm = world.now - CALM_SECONDS
        if self._whole_since > calm:
            return
        healthy = [name for name, since in self._well.items() if since <= calm]
        for observer in healthy:
            for subject in healthy:
                if world.health(observer, subject) is Health.DEAD:
                    self._found.append(
                        f"I9: at {world.now:.1f} {observer} holds the healthy {subject} for dead"
                    )

    def _fault(self) -> None:
        kind = self._rng.choice(self._kinds)
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
        elif kind in HOSTILE and process.running:
            self._lie(process, kind)

    def _lie(self, liar: Process, kind: str) -> None:
        """Send all neighbours a record of another that the liar signed, or a claim that another is dead."""
        victim = self.world.processes[self._rng.choice(self._names)]
        if victim is liar:
            return
        body = decode_static(victim.membership.record().body)
        if kind == "forge":
            record = msgspec.structs.replace(body, incarnation=body.incarnation + 100, state="left")
            message = Gossip((sign_record(liar.key, SWARM_ID, "static", encode(record)),))
        else:
            claim = Claim(liar.key.node_id, victim.key.node_id, body.incarnation, dead=True)
            message = Gossip((), (sign_claim(liar.key, SWARM_ID, encode(claim)),))
        for connection in list(liar.links.values()):
            self.world.network.send(connection, liar, to_wire(message))

    def _end(self) -> None:
        for hole in self._holes:
            self.world.heal(hole)
        for process in self.world.processes.values():
            if process.paused:
                process.resume()
        self._run(QUIET_SECONDS)


def _forged(observer: Process) -> list[str]:
    """Return which records in a view their subject did not sign. Verifies anew, with no memory of the simulation."""
    found = []
    for member in observer.membership.members():
        for signed in observer.membership.signed(member.node):
            data = b"".join((b"swarm/1 record", SWARM_ID, signed.kind.encode(), signed.body))
            if not verify(member.record.public_key, signed.signature, data):
                found.append(f"holds a forged {signed.kind} record of {member.node[:8]}")
    return found
