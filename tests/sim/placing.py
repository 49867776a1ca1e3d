"""Simulated nodes that choose their layers: the real placement over the real membership, loads that only take time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from swarm.gossip.record import HostedSpan, IntendedSpan, SpanLoad
from swarm.models.footprint import Footprint
from swarm.models.memory import Held, Memory, Wish, portions, reach, taken_bytes
from swarm.node.views import build_view
from swarm.routing.placement import Machine, missing_layers
from swarm.routing.placer import Intend, Load, Placer, Retire, Say
from swarm.routing.view import SwarmView
from swarm.types import LayerSpan, ModelId, missing_spans
from tests.sim.process import Process
from tests.sim.world import World

MODEL = ModelId("simulated", "0" * 64)
OTHER = ModelId("simulated-too", "1" * 64)
LAYERS = 24
LOOK_SECONDS = 0.25
DRAIN_SECONDS = 1.0


def sizes(layers: int) -> Footprint:
    """A model whose layers take a byte each and nothing else, so that memory is counted in layers."""
    return Footprint((1,) * layers, (0,) * layers, (None,) * layers, 0, 1, "float32")


@dataclass
class Slot:
    """What one process holds of one model, and who decides it."""

    model: ModelId
    layers: int
    placer: Placer
    spans: list[LayerSpan] = field(default_factory=list)
    intended: LayerSpan | None = None
    firm: bool = False
    portion: int = 0
    """Layers that it is to get beside the other models, until its first span is there."""

    @property
    def held(self) -> Held:
        """What counts for other models: what is loaded and what is about to be."""
        intended = [self.intended] if self.intended is not None else []
        return Held(sizes(self.layers), tuple(dict.fromkeys([*self.spans, *intended])))


@dataclass
class Placed:
    """One process's layers. ``most`` layers fit into its memory; both spans of a move fit if ``roomy``."""

    world: World
    process: Process
    most: int
    seconds_per_layer: float = 0.001
    load_seconds: float = 2.0
    roomy: bool = True
    models: Sequence[ModelId] = (MODEL,)
    moves: int = 0
    slots: dict[ModelId, Slot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = random.Random(f"placing {self.process.name} {self.process.boot.hex()}")
        for model in self.models:
            self.slots[model] = Slot(model, LAYERS, Placer(self.process.key.node_id, model, rng.uniform))
        # As a node waits until it is linked and has its first view.
        self.world.scheduler.after(1.0 + rng.uniform(0, LOOK_SECONDS), self._begin)

    @property
    def spans(self) -> list[LayerSpan]:
        return self.slots[self.models[0]].spans

    def _begin(self) -> None:
        if self.process.running and len(self.models) > 1:
            view = self._view()
            wishes = [
                Wish(sizes(slot.layers), False, missing=missing_layers(view, slot.model, slot.layers))
                for slot in self.slots.values()
            ]
            for slot, part in zip(
                self.slots.values(), portions(Memory(self.most, overhead_bytes=0), wishes), strict=True
            ):
                slot.portion = part
        self._look()

    def _view(self) -> SwarmView:
        return build_view(
            self.process.key.node_id,
            self.process.membership.members(),
            cut_off=frozenset(),
            shunned={},
            default_link_seconds=0.01,
        )

    def _look(self) -> None:
        if not self.process.running:
            return
        for slot in self.slots.values():
            slot.placer.tick(self._view(), self._machine(slot), self.roomy, self.world.now)
            if not slot.placer.undecided:
                slot.portion = 0
            self._carry_out(slot)
        self.world.scheduler.after(LOOK_SECONDS, self._look)

    def _machine(self, slot: Slot) -> Machine:
        others = (other for other in self.slots.values() if other is not slot)
        taken = sum(max(taken_bytes(other.held), other.portion) for other in others)
        limit = Memory(self.most, overhead_bytes=0, others_bytes=taken)
        return Machine(self.process.key.node_id, self.seconds_per_layer, reach(limit, sizes(slot.layers)))

    def _carry_out(self, slot: Slot) -> None:
        for action in slot.placer.actions():
            match action:
                case Intend(span, firm):
                    slot.intended, slot.firm = span, firm
                    self._tell()
                case Load(span):
                    self.world.scheduler.after(self.load_seconds, lambda span=span: self._loaded(slot, span))
                case Retire(span):
                    slot.spans.remove(span)
                    self._tell()
                    self.world.scheduler.after(DRAIN_SECONDS, lambda: self._retired(slot))
                case Say(text):
                    self.moves += text.startswith("Moving")

    def _loaded(self, slot: Slot, span: LayerSpan) -> None:
        if self.process.running:
            slot.spans.append(span)
            self._tell()
            slot.placer.loaded()
            self._carry_out(slot)

    def _retired(self, slot: Slot) -> None:
        if self.process.running:
            slot.placer.retired(self.world.now)
            self._carry_out(slot)

    def _tell(self) -> None:
        speed = self.seconds_per_layer * 1e6
        spans = tuple(
            HostedSpan(slot.model, span, "float32", slot.layers)
            for slot in self.slots.values()
            for span in slot.spans
        )
        intended = tuple(
            IntendedSpan(slot.model, slot.intended, slot.layers, slot.firm, speed)
            for slot in self.slots.values()
            if slot.intended is not None
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

    def missing(self, model: ModelId = MODEL) -> tuple[LayerSpan, ...]:
        slots = [node.slots[model] for node in self.running if model in node.slots]
        return missing_spans(LAYERS, [span for slot in slots for span in slot.spans])

    def covered(self, *models: ModelId) -> bool:
        return not any(self.missing(model) for model in models or (MODEL,))

    def settled(self) -> bool:
        """Return whether everybody that can hold something holds one span and means to load nothing."""
        slots = [slot for node in self.running for slot in node.slots.values()]
        return all(len(slot.spans) == 1 and slot.intended is None for slot in slots)

    def holders(self, layer: int) -> int:
        return sum(layer in span for node in self.running for span in node.spans)
