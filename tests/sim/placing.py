"""Simulated nodes that choose their layers: the real placement over the real membership, loads that only take time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from swarm.gossip.record import HostedSpan, IntendedSpan, SpanLoad
from swarm.node.views import build_view
from swarm.routing.placement import Machine
from swarm.routing.placer import Intend, Load, Placer, Retire, Say
from swarm.types import LayerSpan, ModelId, missing_spans
from tests.sim.process import Process
from tests.sim.world import World

MODEL = ModelId("simulated", "0" * 64)
LAYERS = 24
LOOK_SECONDS = 0.25
DRAIN_SECONDS = 1.0


@dataclass
class Placed:
    """One process's layers. ``most`` layers fit into its memory; both spans of a move fit if ``roomy``."""

    world: World
    process: Process
    most: int
    seconds_per_layer: float = 0.001
    load_seconds: float = 2.0
    roomy: bool = True
    spans: list[LayerSpan] = field(default_factory=list)
    intended: LayerSpan | None = None
    firm: bool = False
    moves: int = 0

    def __post_init__(self) -> None:
        rng = random.Random(f"placing {self.process.name} {self.process.boot.hex()}")
        self.placer = Placer(self.process.key.node_id, MODEL, rng.uniform)
        reach = tuple(min(LAYERS, start + self.most) for start in range(LAYERS))
        self.machine = Machine(self.process.key.node_id, self.seconds_per_layer, reach)
        # As a node waits until it is linked and has its first view.
        self.world.scheduler.after(1.0 + rng.uniform(0, LOOK_SECONDS), self._look)

    def _look(self) -> None:
        if not self.process.running:
            return
        now = self.world.now
        view = build_view(
            self.process.key.node_id,
            self.process.membership.members(),
            cut_off=frozenset(),
            shunned=frozenset(),
            default_link_seconds=0.01,
        )
        self.placer.tick(view, self.machine, self.roomy, now)
        self._carry_out()
        self.world.scheduler.after(LOOK_SECONDS, self._look)

    def _carry_out(self) -> None:
        for action in self.placer.actions():
            match action:
                case Intend(span, firm):
                    self.intended, self.firm = span, firm
                    self._tell()
                case Load(span):
                    self.world.scheduler.after(self.load_seconds, lambda span=span: self._loaded(span))
                case Retire(span):
                    self.spans.remove(span)
                    self._tell()
                    self.world.scheduler.after(DRAIN_SECONDS, self._retired)
                case Say(text):
                    self.moves += text.startswith("Moving")

    def _loaded(self, span: LayerSpan) -> None:
        if self.process.running:
            self.spans.append(span)
            self._tell()
            self.placer.loaded()
            self._carry_out()

    def _retired(self) -> None:
        if self.process.running:
            self.placer.retired(self.world.now)
            self._carry_out()

    def _tell(self) -> None:
        speed = self.seconds_per_layer * 1e6
        spans = tuple(HostedSpan(MODEL, span, "float32", LAYERS) for span in self.spans)
        intended = (
            () if self.intended is None else (IntendedSpan(MODEL, self.intended, LAYERS, self.firm, speed),)
        )
        loads = tuple(SpanLoad(index, speed, 1 << 20) for index in range(len(spans)))
        self.process.act(lambda now: self.process.membership.update_self(now, spans=spans, intended=intended))
        self.process.act(
            lambda now: self.process.membership.update_load(
                now, queued_rows=0, sessions=0, tokens_per_second=0.0, rss_bytes=0, spans=loads
            )
        )


class PlacedSwarm:
    """A world whose nodes choose their layers."""

    def __init__(self, seed: int = 0) -> None:
        self.world = World(seed)
        self.nodes: dict[str, Placed] = {}
        self._ended_moves = 0

    def add(self, name: str, most: int, **more: object) -> Placed:
        first = next((other for other, node in self.nodes.items() if node.process.running), None)
        process = self.world.start(name, bootstrap=[first] if first is not None else [])
        if name in self.nodes:
            self._ended_moves += self.nodes[name].moves
        self.nodes[name] = Placed(self.world, process, most, **more)  # type: ignore[arg-type]
        return self.nodes[name]

    def kill(self, name: str) -> None:
        self.nodes[name].process.kill()

    @property
    def running(self) -> list[Placed]:
        return [node for node in self.nodes.values() if node.process.running]

    @property
    def moves(self) -> int:
        return self._ended_moves + sum(node.moves for node in self.nodes.values())

    def missing(self) -> tuple[LayerSpan, ...]:
        return missing_spans(LAYERS, [span for node in self.running for span in node.spans])

    def covered(self) -> bool:
        return not self.missing()

    def settled(self) -> bool:
        """Return whether everybody that can hold something holds one span and means to load nothing."""
        return all(len(node.spans) == 1 and node.intended is None for node in self.running)

    def holders(self, layer: int) -> int:
        return sum(layer in span for node in self.running for span in node.spans)
