"""Answers over a swarm in virtual time, under a mixture of faults. One seed gives one course and one history.

The session cores, the hop service and the path search are the real ones. Membership is not simulated here: a node holds
others for dead or cut off as late as the link tier would (tests/sim/faults.py has that tier itself).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from swarm.types import LayerSpan, NodeId, SessionId
from tests.sim.network import Conditions, Network
from tests.sim.scheduler import Scheduler
from tests.sim.session_answer import Answer
from tests.sim.session_engine import LAYERS
from tests.sim.session_node import SessionNode

SUSPECT_SECONDS = (1.0, 3.0)
"""How long a silent link stands before its end turns away."""
DEAD_SECONDS = 5.0
"""How long after its death an origin's sessions are freed by those who heard of it, at the latest by the lease."""
QUIET_SECONDS = 16.0
"""After the last answer: longer than a lease, within which everything must be free again (I6)."""


class SessionWorld:
    """Nodes by name, and what happened to them."""

    def __init__(self, seed: int, conditions: Conditions | None = None) -> None:
        self.rng = random.Random(f"sessions {seed}")
        self.scheduler = Scheduler()
        self.network = Network(self.scheduler, seed, conditions or Conditions(delay_seconds=0.005))
        self.nodes: dict[NodeId, SessionNode] = {}
        self.answers: list[Answer] = []
        self.history: list[str] = []
        self.problems: list[str] = []
        self.door_deaths_are_heard = True
        self.slack: int | None = None

    @property
    def now(self) -> float:
        return self.scheduler.now

    def note(self, name: str, text: str) -> None:
        self.history.append(f"{self.now:.6f} {name} {text}")

    def problem(self, text: str) -> None:
        self.note("!", text)
        self.problems.append(f"{self.now:.3f} {text}")

    def run(self, seconds: float) -> None:
        self.scheduler.run_until(self.now + seconds)

    # --- what may happen ---

    def add(self, name: str, span: LayerSpan | None) -> SessionNode:
        node = self.nodes[NodeId(name)] = SessionNode(self, name, span)
        for other in self.nodes.values():
            if other is not node:
                other.dial(node.id)
                node.dial(other.id)
        return node

    def ask(self, node: SessionNode, prompt: tuple[int, ...], **more: int | float) -> Answer:
        session = SessionId(self.rng.randbytes(16))
        self.note(node.name, f"{session[:4].hex()} asked with {len(prompt)} tokens")
        answer = Answer(node, session, prompt, **more)  # type: ignore[arg-type]
        self.answers.append(answer)
        return answer

    def kill(self, node: SessionNode) -> None:
        self.note(node.name, "killed")
        node.kill()
        life = node.life

        def dead() -> None:
            if self.door_deaths_are_heard and (not node.running or node.life != life):
                for other in self._running():
                    other.act(lambda other=other: other.stage.origin_gone(node.id))  # type: ignore[misc]

        self.scheduler.after(DEAD_SECONDS, dead)

    def restart(self, node: SessionNode) -> None:
        self.note(node.name, "started")
        node.start()
        for other in self.nodes.values():
            if other is not node:
                other.dial(node.id)
                node.dial(other.id)

    def pause(self, node: SessionNode) -> None:
        self.note(node.name, "paused")
        node.pause()
        for other in self._running():
            self._suspect_later(other, node)

    def resume(self, node: SessionNode) -> None:
        self.note(node.name, "resumed")
        node.resume()
        for other in self._running():
            self._trust(other, node)

    def cut(
        self, one: Iterable[SessionNode], other: Iterable[SessionNode], *, one_way: bool
    ) -> set[tuple[str, str]]:
        pairs = {(a.name, b.name) for a in one for b in other}
        if not one_way:
            pairs |= {(b, a) for a, b in pairs}
        self.network.conditions.blocked |= pairs
        self.note("cut", " ".join(sorted(f"{a}>{b}" for a, b in pairs)))
        # Heartbeats carry echoes: both ends of a link notice that one direction is gone.
        for a, b in sorted(pairs | {(b, a) for a, b in pairs}):
            self._suspect_later(self.nodes[NodeId(a)], self.nodes[NodeId(b)])
        return pairs

    def heal(self, pairs: set[tuple[str, str]]) -> None:
        self.note("healed", " ".join(sorted(f"{a}>{b}" for a, b in pairs)))
        self.network.unblock(pairs)
        for a, b in sorted(pairs | {(b, a) for a, b in pairs}):
            self._trust(self.nodes[NodeId(a)], self.nodes[NodeId(b)])

    def drain(self, node: SessionNode) -> None:
        self.note(node.name, "drains")
        node.drain()

    def _running(self) -> list[SessionNode]:
        return [node for node in self.nodes.values() if node.running]

    def _silent(self, observer: SessionNode, subject: SessionNode) -> bool:
        pairs = {(observer.name, subject.name), (subject.name, observer.name)}
        return subject.paused or bool(pairs & self.network.conditions.blocked)

    def _suspect_later(self, observer: SessionNode, subject: SessionNode) -> None:
        lives = observer.life, subject.life

        def suspect() -> None:
            if (observer.life, subject.life) == lives and self._silent(observer, subject):
                observer.act(lambda: observer.link_down(subject.id))

        self.scheduler.after(self.rng.uniform(*SUSPECT_SECONDS), suspect)

    def _trust(self, observer: SessionNode, subject: SessionNode) -> None:
        def trust() -> None:
            if subject.id in observer.links and not self._silent(observer, subject):
                observer.act(lambda: observer.trusted_again(subject.id))

        self.scheduler.after(0.25, trust)

    # --- what must hold ---

    def check_budgets(self) -> None:
        """Reservations never exceed what a hop has (I14)."""
        for node in self._running():
            if node.engine.reserved_tokens > node.engine.budget_tokens:
                self.problem(f"{node.name} reserved {node.engine.reserved_tokens} tokens")

    def check_end(self) -> None:
        """Every answer is over, and every hop has what it had before (I6, I7)."""
        for answer in self.answers:
            if not answer.outcome:
                self.problem(f"{answer} never ended")
        for node in self._running():
            left = (
                len(node.sessions),
                node.engine.sequences,
                node.engine.reserved_tokens,
                node.sessions.log_bytes,
            )
            if any(left):
                self.problem(f"{node.name} still has {left} (sessions, sequences, tokens, log bytes)")
            self.problems.extend(f"{node.name}: {problem}" for problem in node.engine.problems)


@dataclass
class Outcome:
    """What a seed came to. ``problems`` is empty when every invariant held."""

    problems: list[str]
    history: list[str]
    messages: int
    ended: dict[str, int] = field(default_factory=dict)


class Course:
    """Random answers and faults for a while; then all faults but deaths end, and everything must come to rest."""

    def __init__(self, seed: int, nodes: int, seconds: float) -> None:
        self._rng = rng = random.Random(f"course of sessions {seed}")
        delay = rng.choice([0.001, 0.01, 0.05])
        conditions = Conditions(delay_seconds=delay, jitter_seconds=delay, loss=rng.choice([0.0, 0.0, 0.02]))
        self.world = SessionWorld(seed, conditions)
        self._vocabulary = rng.choice([2, 7, 1 << 16])
        self._holes: list[set[tuple[str, str]]] = []
        self._prompts: list[tuple[int, ...]] = []
        # Else only leases free what dead doors left.
        self.world.door_deaths_are_heard = rng.random() < 0.5
        self.world.slack = rng.choice([None, None, None, 12, 40])
        cut = sorted(rng.sample(range(1, LAYERS), rng.choice([1, 2, 2, 3])))
        spans = [LayerSpan(a, b) for a, b in zip([0, *cut], [*cut, LAYERS], strict=True)]
        budget = rng.choice([1 << 20, 1 << 20, 2048])
        log_bytes = rng.choice([1 << 28, 1 << 28, 8000, 0])
        for number in range(nodes):
            # A few nodes hold other layers than the rest, so that paths change their length.
            odd = number >= 2 * len(spans) and rng.random() < 0.3
            start = rng.randrange(LAYERS)
            span = LayerSpan(start, rng.randint(start + 1, LAYERS)) if odd else spans[number % len(spans)]
            node = self.world.add(f"n{number:02}", span)
            node.budget_tokens = node.engine.budget_tokens = budget
            node.log_bytes = log_bytes
            node.sessions._max_log_bytes = log_bytes
        self.world.run(1.0)
        until = self.world.now + seconds
        while self.world.now < until:
            for _ in range(rng.randint(0, 2)):
                self._ask()
            if rng.random() < 0.6:
                self._fault()
            self.world.check_budgets()
            self.world.run(rng.expovariate(1.5))
        self._end()

    def _ask(self) -> None:
        rng = self._rng
        doors = [node for node in self.world.nodes.values() if node.running and not node.paused]
        if not doors or len([answer for answer in self.world.answers if not answer.outcome]) > 12:
            return
        if self._prompts and rng.random() < 0.4:
            known = rng.choice(self._prompts)
            prompt = known[: rng.randint(1, len(known))] + tuple(self._tokens(rng.randint(0, 20)))
        else:
            prompt = tuple(self._tokens(rng.choice([1, 5, 40, 150])))
        self._prompts.append(prompt)
        answer = self.world.ask(
            rng.choice(doors),
            prompt,
            tokens=rng.choice([1, 10, 60, 150]),
            seed=rng.choice([0, rng.getrandbits(32)]),
            vocabulary=self._vocabulary,
            deadline_seconds=rng.choice([5.0, 60.0, 120.0]),
            drafts=rng.choice([0, 7]),
        )
        if rng.random() < 0.15:
            self.world.scheduler.after(rng.uniform(0.0, 3.0), answer.leave)

    def _tokens(self, count: int) -> list[int]:
        return [self._rng.randrange(self._vocabulary) for _ in range(count)]

    def _fault(self) -> None:
        """One fault; most end by themselves, so that answers have a way to go on, and the next meets them on it."""
        rng, world = self._rng, self.world
        nodes = list(world.nodes.values())
        node = rng.choice(nodes)
        kind = rng.choice(
            ["kill", "kill", "kill", "pause", "group", "pair", "pair", "drain", "drain", "slow"]
        )
        if not node.running or node.paused or node.draining:
            return
        if kind == "kill":
            world.kill(node)
            self._later(6.0, lambda: not node.running and world.restart(node))
        elif kind == "pause":
            world.pause(node)
            self._later(8.0, lambda: node.running and node.paused and world.resume(node))
        elif kind in ("group", "pair"):
            group = rng.sample(nodes, 1 if kind == "pair" else rng.randint(1, len(nodes) // 2))
            others = [other for other in nodes if other not in group]
            others = rng.sample(others, 1) if kind == "pair" else others
            hole = world.cut(group, others, one_way=rng.random() < 0.3)
            self._holes.append(hole)
            self._later(6.0, lambda: self._heal(hole))
        elif kind == "drain":
            world.drain(node)
            life = node.life
            self._later(10.0, lambda: node.running and node.life == life and world.kill(node))
            self._later(16.0, lambda: not node.running and world.restart(node))
        elif kind == "slow":
            node.engine.slowness = rng.choice([1.0, 20.0])

    def _later(self, within: float, action: Callable[[], object]) -> None:
        if self._rng.random() < 0.9:
            self.world.scheduler.after(self._rng.uniform(0.0, within), action)

    def _heal(self, hole: set[tuple[str, str]]) -> None:
        if hole in self._holes:
            self._holes.remove(hole)
            self.world.heal(hole)

    def _end(self) -> None:
        world = self.world
        for hole in self._holes:
            world.heal(hole)
        for node in world.nodes.values():
            if node.running and node.paused:
                world.resume(node)
            elif not node.running:
                world.restart(node)
        while any(not answer.outcome for answer in world.answers) and world.now < 1e4:
            world.run(1.0)
            world.check_budgets()
            if world.now > max(answer.deadline for answer in world.answers) + 2.0:
                break
        world.run(QUIET_SECONDS)
        world.check_end()


def run(seed: int, nodes: int = 8, seconds: float = 20.0) -> Outcome:
    """Play one course to its end."""
    world = Course(seed, nodes, seconds).world
    ended: dict[str, int] = {}
    for answer in world.answers:
        kind = answer.outcome.partition(":")[0]
        ended[kind] = ended.get(kind, 0) + 1
        for what, count in (("recoveries", answer.core.recoveries), ("moves", answer.core.moves)):
            ended[what] = ended.get(what, 0) + count
    return Outcome(world.problems, world.history, world.network.messages, ended)
