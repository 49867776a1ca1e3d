"""What described machines would hold of a model and how fast they would answer. Asks no machine and loads nothing.

The machines join one after another and then move, by the very functions that running nodes use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from swarm.errors import NoPathError
from swarm.models.footprint import Footprint
from swarm.models.memory import Held, Memory, divide, reach
from swarm.routing.path import PathRequest, find_path
from swarm.routing.placement import Machine, Move, choose_move, choose_span, missing_layers
from swarm.routing.predict import Prediction, predict
from swarm.routing.view import SpanView, SwarmView
from swarm.types import BootId, LayerSpan, ModelId, NodeId

LAYER_SECONDS = 0.0002
"""What a layer takes beside reading its weights, for one token: small operators and Python between them."""

PROMPT_ROWS = 10
"""So many further rows of a prompt take as long as one token, as measured with SmolLM2-135M in bfloat16 on one core."""

WORTH_TELLING = 1.02
"""A change that gains less is not told."""

_BOOT = BootId(b"described")
_PASSES = 4


@dataclass(frozen=True, slots=True)
class Described:
    """A machine that might be: how much memory it gives, and how fast it reads weights."""

    name: str
    memory: Memory
    seconds_per_byte: float
    pinned: LayerSpan | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """A swarm as it runs, seen from ``origin``; ``memory_bytes`` is what each node may use, 0 where it is unknown."""

    model: ModelId
    view: SwarmView
    origin: NodeId
    names: Mapping[NodeId, str]
    memory_bytes: Mapping[NodeId, int]

    def name(self, node: NodeId) -> str:
        return self.names.get(node) or node[:8]


@dataclass(frozen=True, slots=True)
class Holding:
    """What one machine would hold. ``span`` is None with the reason."""

    name: str
    span: LayerSpan | None
    reason: str
    memory_bytes: int
    weights_bytes: int
    kv_tokens: int
    seconds_per_layer: float


@dataclass(frozen=True, slots=True)
class Improvement:
    """A change, and the tokens a second of one answer with it."""

    change: str
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Plan:
    holdings: tuple[Holding, ...]
    missing: tuple[LayerSpan, ...]
    prediction: Prediction | None
    """Of an answer at the first machine's front door; None when layers are missing."""
    helps: Improvement | None
    """What of the changes tried would help most; None when nothing would."""

    @property
    def tokens_per_second(self) -> float:
        return 1 / self.prediction.token_seconds if self.prediction is not None else 0.0


def plan(
    model: ModelId,
    sizes: Footprint,
    machines: Sequence[Described],
    *,
    link_seconds: float,
    chunk_tokens: int = 256,
) -> Plan:
    """Return where the layers of ``model`` go and what that gives; ``link_seconds`` is one way, between any two."""
    bare = _arranged(model, sizes, machines, link_seconds, chunk_tokens)
    tried = [
        Improvement(change, _arranged(model, sizes, others, link, chunk_tokens).tokens_per_second)
        for change, others, link in _changes(sizes, machines, link_seconds)
    ]
    best = max(tried, key=lambda one: one.tokens_per_second, default=None)
    helps = (
        best if best is not None and best.tokens_per_second > bare.tokens_per_second * WORTH_TELLING else None
    )
    return replace(bare, helps=helps)


def plan_running(swarm: Running, sizes: Footprint | None, *, chunk_tokens: int = 256) -> Plan:
    """Return the same of a swarm as it runs, for answers at the origin's door. Without ``sizes`` less is told."""
    model, view = swarm.model, swarm.view
    holdings = tuple(
        Holding(
            swarm.name(held.node),
            held.span,
            "holds it",
            swarm.memory_bytes.get(held.node, 0),
            sizes.weights(held.span) if sizes is not None else 0,
            held.free_kv_tokens,
            held.seconds_per_layer,
        )
        for held in view.spans
        if held.model == model
    )
    found = _predicted(view, model, swarm.origin, chunk_tokens)
    tried = [
        Improvement(change, 1 / prediction.token_seconds)
        for change, changed in _changed_views(swarm, sizes)
        if (prediction := _predicted(changed, model, swarm.origin, chunk_tokens)) is not None
    ]
    best = max(tried, key=lambda one: one.tokens_per_second, default=None)
    now = 1 / found.token_seconds if found is not None else 0.0
    helps = best if best is not None and best.tokens_per_second > now * WORTH_TELLING else None
    return Plan(holdings, missing_layers(view, model, view.layers[model]), found, helps)


def _predicted(view: SwarmView, model: ModelId, origin: NodeId, chunk_tokens: int) -> Prediction | None:
    try:
        path = find_path(view, PathRequest(origin, model, view.layers[model]))
    except NoPathError:
        return None
    head = view.doors.get(origin, 0.0)
    return predict(view, model, origin, path.hops, head_seconds=head, chunk_tokens=chunk_tokens)


def _changed_views(swarm: Running, sizes: Footprint | None) -> Iterator[tuple[str, SwarmView]]:
    """Yield what could be done to a running swarm, as (words, view)."""
    view = swarm.view
    held = [span for span in view.spans if span.model == swarm.model]
    for node in sorted({span.node for span in held}):
        spans = tuple(
            replace(span, seconds_per_layer=span.seconds_per_layer / (2 if span.node == node else 1))
            for span in view.spans
        )
        yield f"a machine twice as fast in place of {swarm.name(node)}", replace(view, spans=spans)
    halved = {pair: seconds / 2 for pair, seconds in view.links.items()}
    yield "links of half the delay", replace(view, links=halved)
    if sizes is None or not held:
        return
    fastest = min(held, key=lambda span: span.seconds_per_layer)
    limit = Memory(max(swarm.memory_bytes.values(), default=0))
    machine = Machine(NodeId("one more"), fastest.seconds_per_layer, reach(limit, sizes))
    choice = choose_span(view, swarm.model, machine)
    if choice.span is None:
        return
    another = replace(fastest, node=machine.node, span=choice.span, queued_rows=0)
    here = swarm.origin
    near = min((view.links.get((here, span.node), 0.0) for span in held if span.node != here), default=0.0)
    links = dict(view.links)
    for node in {span.node for span in view.spans} | {here}:
        links[node, machine.node] = links[machine.node, node] = near
    words = f"one more machine like {swarm.name(fastest.node)} with {choice.span.described()}"
    yield words, replace(view, spans=(*view.spans, another), links=links)


def _arranged(
    model: ModelId, sizes: Footprint, machines: Sequence[Described], link: float, chunk: int
) -> Plan:
    held: dict[int, LayerSpan] = {}
    reasons: dict[int, str] = {}
    nodes = [NodeId(f"{number:032d}") for number in range(len(machines))]
    asking = [_machine(node, sizes, one) for node, one in zip(nodes, machines, strict=True)]
    doors = {node: one.door_seconds for node, one in zip(nodes, asking, strict=True) if one.door_seconds}

    def view() -> SwarmView:
        spans = tuple(
            SpanView(
                nodes[number],
                _BOOT,
                model,
                span,
                sizes.dtype,
                asking[number].seconds_per_layer,
                seconds_per_row=asking[number].seconds_per_layer / PROMPT_ROWS,
            )
            for number, span in sorted(held.items())
        )
        return SwarmView(spans, layers={model: sizes.layers}, default_link_seconds=link, doors=doors)

    for number, one in enumerate(machines):
        choice = choose_span(view(), model, asking[number])
        span = one.pinned or choice.span
        reasons[number] = "told to" if one.pinned else choice.reason
        if span is not None:
            held[number] = span
    free = [number for number, one in enumerate(machines) if one.pinned is None]
    for number, move in _moves(view, held, [asking[number] for number in free], free, model):
        held[number], reasons[number] = move.span, move.reason
    seen = view()
    found = _predicted(seen, model, nodes[0], chunk) if machines else None
    holdings = tuple(
        _holding(one, asking[number], sizes, held.get(number), reasons[number])
        for number, one in enumerate(machines)
    )
    return Plan(holdings, missing_layers(seen, model, sizes.layers), found, None)


def _moves(
    view: Callable[[], SwarmView],
    held: Mapping[int, LayerSpan],
    asking: Sequence[Machine],
    numbers: Sequence[int],
    model: ModelId,
) -> Iterator[tuple[int, Move]]:
    """Yield one move after another until nobody gains by one; each is made before the next is looked for."""
    for _ in range(_PASSES):
        moved = False
        for number, machine in zip(numbers, asking, strict=True):
            span = held.get(number)
            move = choose_move(view(), model, machine, span) if span is not None else None
            if move is not None:
                moved = True
                yield number, move
        if not moved:
            return


def _machine(node: NodeId, sizes: Footprint, one: Described) -> Machine:
    layer = sum(sizes.layer_bytes) / sizes.layers
    return Machine(
        node,
        one.seconds_per_byte * layer + LAYER_SECONDS,
        reach(one.memory, sizes),
        one.seconds_per_byte * sizes.ends_bytes / 2 if one.memory.door else 0.0,
    )


def _holding(one: Described, machine: Machine, sizes: Footprint, span: LayerSpan | None, why: str) -> Holding:
    spans = [span] if span is not None else []
    parts = divide(one.memory, [Held(sizes, tuple(spans), one.memory.door)])
    per_token = sum(sizes.kv(held, 1) for held in spans)
    return Holding(
        one.name,
        span,
        why,
        one.memory.total_bytes,
        parts.weights_bytes + parts.ends_bytes,
        parts.kv_bytes // per_token if per_token else 0,
        machine.seconds_per_layer,
    )


def _changes(
    sizes: Footprint, machines: Sequence[Described], link: float
) -> Iterator[tuple[str, Sequence[Described], float]]:
    """Yield what could be done, as (words, machines, link)."""
    for number, one in enumerate(machines):
        more = replace(one, memory=replace(one.memory, total_bytes=2 * one.memory.total_bytes))
        yield f"twice the memory on {one.name}", _with(machines, number, more), link
        faster = replace(one, seconds_per_byte=one.seconds_per_byte / 2)
        yield f"a machine twice as fast in place of {one.name}", _with(machines, number, faster), link
    if machines:
        largest = max(machines, key=lambda one: one.memory.total_bytes)
        another = replace(largest, name="another", memory=replace(largest.memory, door=False), pinned=None)
        yield f"one more machine like {largest.name}", [*machines, another], link
    if link > 0:
        yield "links of half the delay", machines, link / 2
    if sizes.dtype == "float32":
        yield (
            "computing in bfloat16 (--dtype bfloat16)",
            [replace(one, seconds_per_byte=one.seconds_per_byte / 2) for one in machines],
            link,
        )


def _with(machines: Sequence[Described], number: int, one: Described) -> list[Described]:
    return [*machines[:number], one, *machines[number + 1 :]]
