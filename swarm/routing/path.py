"""The cheapest chain of live nodes that computes every layer once. Knows nothing of sessions or sockets."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby

import numpy as np

from swarm.errors import NoPathError
from swarm.routing.cost import (
    HOP_SECONDS,
    SAME_NODE_SECONDS,
    PathHop,
    link_seconds,
    path_seconds,
    queue_seconds,
    tie_break,
)
from swarm.routing.grid import Grid, cheapest_rows
from swarm.routing.placement import missing_layers
from swarm.routing.view import SpanView, SwarmView
from swarm.types import BootId, LayerSpan, ModelId, NodeId, missing_spans

OTHER_DTYPE_SECONDS = 1e4
"""Added for each layer not in the preferred dtype: more than any chain costs, so that it decides."""

MAX_BRANCHES = 200
"""Searches for a chain without a repeated node before giving up; real swarms need one, seldom four."""

Row = tuple[NodeId, BootId, str]


@dataclass(frozen=True, slots=True)
class PathRequest:
    """What a path must satisfy.

    ``first_layers_at_origin`` and ``last_layers_at_origin`` are computed by the origin itself, which then may
    come twice; any other node comes once. ``allowed`` never excludes the origin. ``max_hops`` counts every hop.
    ``prefer_dtype`` is a wish: layers in another dtype are used only where there is no other way. Different
    values of ``salt`` choose differently between nearly equal replicas; 0 takes the cheapest.
    """

    origin: NodeId
    model: ModelId
    layers: int
    avoid_nodes: frozenset[NodeId] = frozenset()
    avoid_edges: frozenset[tuple[NodeId, NodeId]] = frozenset()
    kv_tokens: int = 0
    first_layers_at_origin: int = 0
    last_layers_at_origin: int = 0
    allowed: frozenset[NodeId] | None = None
    prefer_dtype: str | None = None
    max_hops: int | None = None
    salt: int = 0
    queue_weight: float = 1.0
    """How much a second in a queue counts against a second of links and compute."""

    def private(self, layer: int) -> bool:
        """Return whether only the origin may compute ``layer``."""
        return layer < self.first_layers_at_origin or layer >= self.layers - self.last_layers_at_origin


@dataclass(frozen=True, slots=True)
class Path:
    """Hops in order, every layer once. ``cost_seconds`` is one decode token, origin back to origin."""

    hops: tuple[PathHop, ...]
    cost_seconds: float


def find_path(view: SwarmView, request: PathRequest) -> Path:
    """Return the cheapest path. Raises NoPathError: what is missing, or which constraint excludes every chain."""
    spans = _candidates(view, request)
    # A hop computes within one loaded span, so each span is a row of its own.
    spans.sort(key=lambda span: (span.node, span.boot, span.dtype, span.span))
    rows = [(span.node, span.boot, span.dtype) for span in spans]
    grid = _grid(view, request, spans, rows)
    chain = _without_repeats(grid, rows, request)
    if chain is None:
        raise NoPathError(request.model.name, (), _why_none(grid, request))
    hops = tuple(PathHop(rows[row][0], rows[row][1], span, rows[row][2]) for row, span in _runs(chain))
    return Path(hops, path_seconds(view, request.model, request.origin, hops))


def _candidates(view: SwarmView, request: PathRequest) -> list[SpanView]:
    """Return the spans that the request allows, or raise NoPathError at the first rule that opens a hole."""
    at_origin = request.origin
    rules: tuple[tuple[str, Callable[[SpanView], bool]], ...] = (
        (
            f"no live node with free KV for {request.kv_tokens} tokens holds",
            lambda span: span.free_kv_tokens >= request.kv_tokens,
        ),
        (
            "no node that this request may use holds",
            lambda span: request.allowed is None or span.node in request.allowed or span.node == at_origin,
        ),
        (
            "only nodes that just failed hold",
            lambda span: span.node not in request.avoid_nodes or span.node == at_origin,
        ),
    )
    spans = [span for span in view.spans if span.model == request.model]
    holes = missing_layers(view, request.model, request.layers)
    if holes:
        raise NoPathError(request.model.name, holes)
    for why, allows in rules:
        spans = [span for span in spans if allows(span)]
        holes = missing_spans(request.layers, [span.span for span in spans])
        if holes:
            raise NoPathError(request.model.name, holes, why)
    own = [span.span for span in spans if span.node == at_origin]
    private = tuple(_private_holes(request, own))
    if private:
        raise NoPathError(request.model.name, private, "private layers need this node itself to hold")
    return spans


def _private_holes(request: PathRequest, own: Sequence[LayerSpan]) -> Iterator[LayerSpan]:
    for is_hole, run in groupby(
        range(request.layers), lambda layer: request.private(layer) and not any(layer in span for span in own)
    ):
        if is_hole:
            layers = list(run)
            yield LayerSpan(layers[0], layers[-1] + 1)


def _grid(view: SwarmView, request: PathRequest, spans: Sequence[SpanView], rows: Sequence[Row]) -> Grid:
    """Return the request as arrays. The tie-break and the dtype wish enter these costs, not the path's."""
    factors = [tie_break(request.salt, node) for node, *_ in rows]
    compute = np.full((request.layers, len(rows)), np.inf)
    enter = np.zeros(len(rows))
    for row, span in enumerate(spans):
        seconds = span.seconds_per_layer * factors[row]
        if request.prefer_dtype not in (None, span.dtype):
            seconds += OTHER_DTYPE_SECONDS
        held = slice(span.span.start, min(span.span.end, request.layers))
        compute[held, row] = seconds
        enter[row] = queue_seconds(span) * factors[row] * request.queue_weight
    private = np.array([request.private(layer) for layer in range(request.layers)])
    for row, (node, *_) in enumerate(rows):
        if node != request.origin:
            compute[private, row] = np.inf
        elif node in request.avoid_nodes:
            compute[~private, row] = np.inf

    def link(source: NodeId, target: NodeId) -> float:
        return np.inf if (source, target) in request.avoid_edges else link_seconds(view, source, target)

    nodes = [node for node, *_ in rows]
    start = np.array(
        [
            HOP_SECONDS + link(request.origin, node) * factor
            for node, factor in zip(nodes, factors, strict=True)
        ]
    )
    end = np.array([link(node, request.origin) for node in nodes])
    moves = np.array(
        [
            [
                SAME_NODE_SECONDS if a == b else HOP_SECONDS + link(a, b) * factor + wait
                for b, factor, wait in zip(nodes, factors, enter, strict=True)
            ]
            for a in nodes
        ]
    )
    return Grid(start + enter, moves, end, compute)


def _runs(chain: Sequence[int]) -> list[tuple[int, LayerSpan]]:
    """Group the row of each layer into hops: adjacent layers on one row are one hop."""
    runs: list[tuple[int, LayerSpan]] = []
    layer = 0
    for row, group in groupby(chain):
        length = len(list(group))
        runs.append((row, LayerSpan(layer, layer + length)))
        layer += length
    return runs


def _without_repeats(grid: Grid, rows: Sequence[Row], request: PathRequest) -> list[int] | None:
    """Return the cheapest chain in which nobody returns to a node (but to the origin for its private end).

    Branch and bound: of a repeated node either its first stay ends earlier, or its second begins later, or it
    keeps everything between, in whichever of its spans. The cheapest relaxation that repeats nothing is the optimum.
    """
    number = count()
    open_problems: list[tuple[float, int, list[int], Grid]] = []

    def consider(problem: Grid) -> None:
        found = cheapest_rows(problem, request.max_hops)
        if found is not None:
            heapq.heappush(open_problems, (found[0], next(number), found[1], problem))

    consider(grid)
    for _ in range(MAX_BRANCHES):
        if not open_problems:
            return None
        _, _, chain, problem = heapq.heappop(open_problems)
        repeat = _repeated(_runs(chain), rows, request)
        if repeat is None:
            return chain
        (row, first), (second_row, second) = repeat
        consider(problem.without(first.end - 1, row))
        consider(problem.without(second.start, second_row))
        own = [number for number, (node, *_) in enumerate(rows) if node == rows[row][0]]
        consider(problem.only(first.end - 1, second.start, own))
    return None


def _repeated(
    runs: Sequence[tuple[int, LayerSpan]], rows: Sequence[Row], request: PathRequest
) -> tuple[tuple[int, LayerSpan], tuple[int, LayerSpan]] | None:
    """Return the first two runs on one node, with others between them, that may not both be there; or None."""
    last_of: dict[NodeId, tuple[int, LayerSpan]] = {}
    for row, span in runs:
        node = rows[row][0]
        earlier = last_of.get(node)
        if earlier is not None and earlier[1].end < span.start:
            both_private = request.private(earlier[1].start) and request.private(span.end - 1)
            if not (
                node == request.origin
                and both_private
                and earlier[1].start == 0
                and span.end == request.layers
            ):
                return earlier, (row, span)
        last_of[node] = (row, span)
    return None


def _why_none(grid: Grid, request: PathRequest) -> str:
    if request.max_hops is not None and cheapest_rows(grid) is not None:
        return f"no chain of at most {request.max_hops} nodes computes"
    if cheapest_rows(grid) is not None:
        return "no chain that uses each node once computes"
    return "links that are down or just failed leave no way through"
