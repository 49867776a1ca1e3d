"""Path search against brute force, and each constraint by itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import NoPathError
from swarm.routing.cost import TIE_BREAK, PathHop, path_seconds
from swarm.routing.path import Path, PathRequest, find_path
from swarm.routing.view import SpanView, SwarmView
from swarm.types import BootId, LayerSpan, ModelId, NodeId

MODEL = ModelId("tiny", "0" * 64)
OTHER = ModelId("other", "1" * 64)
BOOT = BootId(b"bootboot")
A, B, C, D = (NodeId(letter * 32) for letter in "abcd")
LAYERS = 6


def span(node: NodeId, start: int, end: int, seconds: float = 0.01, **fields: object) -> SpanView:
    values = {"boot": BOOT, "model": MODEL, "dtype": "float32", **fields}
    return SpanView(node=node, span=LayerSpan(start, end), seconds_per_layer=seconds, **values)


def spans_of(path: Path) -> list[tuple[NodeId, str]]:
    return [(hop.node, str(hop.span)) for hop in path.hops]


def chains(view: SwarmView, request: PathRequest) -> Iterator[tuple[PathHop, ...]]:
    """Every assignment of layers to loaded spans that the request allows, as hops."""
    holders = [
        [s for s in view.spans if layer in s.span and s.node not in request.avoid_nodes]
        for layer in range(request.layers)
    ]
    for chain in product(*holders):
        hops: list[PathHop] = []
        for number, (held, run) in enumerate(groupby(enumerate(chain), key=lambda one: one[1])):
            layers = [layer for layer, _ in run]
            hops.append(PathHop(held.node, BOOT, LayerSpan(layers[0], layers[-1] + 1), "float32"))
            assert number + 1 == len(hops)
        stays = [node for node, _ in groupby(hop.node for hop in hops)]
        edges = set(zip([request.origin, *stays], [*stays, request.origin], strict=True))
        once = len(set(stays)) == len(stays)
        short_enough = request.max_hops is None or len(hops) <= request.max_hops
        if once and short_enough and not edges & request.avoid_edges:
            yield tuple(hops)


seconds = st.sampled_from([0.001, 0.002, 0.005, 0.02])


@st.composite
def swarms(draw: st.DrawFn) -> tuple[SwarmView, PathRequest]:
    nodes = [A, B, C, D][: draw(st.integers(1, 4))]
    spans = []
    for node in nodes:
        for _ in range(draw(st.integers(1, 2))):
            start = draw(st.integers(0, LAYERS - 1))
            end = draw(st.integers(start + 1, LAYERS))
            spans.append(span(node, start, end, draw(seconds), queued_rows=draw(st.sampled_from([0, 8, 64]))))
    pairs = [(a, b) for a in nodes for b in nodes if a != b]
    links = {pair: draw(seconds) for pair in pairs}
    edges = draw(st.frozensets(st.sampled_from(pairs), max_size=3)) if pairs else frozenset()
    request = PathRequest(
        origin=draw(st.sampled_from(nodes)),
        model=MODEL,
        layers=LAYERS,
        avoid_nodes=draw(st.frozensets(st.sampled_from(nodes), max_size=1)),
        avoid_edges=edges,
        max_hops=draw(st.none() | st.integers(1, 3)),
    )
    return SwarmView(tuple(spans), links), request


@settings(max_examples=400, deadline=None)
@given(swarms())
def test_the_path_is_the_cheapest_of_all_that_satisfy_the_request(case: tuple[SwarmView, PathRequest]):
    view, request = case
    costs = [path_seconds(view, MODEL, request.origin, hops) for hops in chains(view, request)]
    if not costs:
        with pytest.raises(NoPathError):
            find_path(view, request)
        return
    path = find_path(view, request)
    assert path.cost_seconds == pytest.approx(min(costs))
    assert path.hops in set(chains(view, request))


@settings(max_examples=150, deadline=None)
@given(swarms(), st.integers(1, 2**32))
def test_a_salted_path_costs_at_most_the_tie_break_more(case: tuple[SwarmView, PathRequest], salt: int):
    view, request = case
    costs = [path_seconds(view, MODEL, request.origin, hops) for hops in chains(view, request)]
    if costs:
        salted = PathRequest(
            request.origin,
            MODEL,
            LAYERS,
            avoid_nodes=request.avoid_nodes,
            avoid_edges=request.avoid_edges,
            max_hops=request.max_hops,
            salt=salt,
        )
        assert find_path(view, salted).cost_seconds <= min(costs) * (1 + TIE_BREAK) + 1e-9


@settings(max_examples=150, deadline=None)
@given(swarms(), st.integers(0, 3), st.integers(0, 3))
def test_every_layer_is_computed_once_in_order_and_private_ones_by_the_origin(
    case: tuple[SwarmView, PathRequest], first: int, last: int
):
    view, plain = case
    view = SwarmView(
        (*view.spans, span(plain.origin, 0, first or 1), span(plain.origin, 6 - (last or 1), 6)), view.links
    )
    request = PathRequest(
        plain.origin,
        MODEL,
        LAYERS,
        plain.avoid_nodes,
        first_layers_at_origin=first,
        last_layers_at_origin=last,
    )
    try:
        path = find_path(view, request)
    except NoPathError:
        return
    assert [layer for hop in path.hops for layer in range(hop.span.start, hop.span.end)] == list(
        range(LAYERS)
    )
    for hop in path.hops:
        assert any(s.span.covers(hop.span) for s in view.spans if s.node == hop.node)
        shared = [layer for layer in range(hop.span.start, hop.span.end) if request.private(layer)]
        assert hop.node == request.origin or not shared
        assert hop.node not in request.avoid_nodes or hop.node == request.origin
    stays = [node for node, _ in groupby(hop.node for hop in path.hops)]
    others = [node for node in stays if node != request.origin]
    assert len(set(others)) == len(others)


def test_a_node_computes_through_two_spans_in_a_row_as_two_hops():
    view = SwarmView((span(A, 0, 2), span(A, 2, 6), span(B, 2, 6, 0.02)), {})
    assert spans_of(find_path(view, PathRequest(C, MODEL, LAYERS))) == [(A, "0:2"), (A, "2:6")]


def test_one_span_is_better_than_two_of_the_same_node():
    view = SwarmView((span(A, 0, 3), span(A, 3, 6), span(A, 0, 6)), {})
    assert spans_of(find_path(view, PathRequest(C, MODEL, LAYERS))) == [(A, "0:6")]


def test_overlapping_spans_are_used_in_part():
    view = SwarmView((span(A, 0, 4), span(B, 2, 6)), {})
    assert spans_of(find_path(view, PathRequest(C, MODEL, LAYERS))) in (
        [(A, "0:2"), (B, "2:6")],
        [(A, "0:3"), (B, "3:6")],
        [(A, "0:4"), (B, "4:6")],
    )


def test_private_layers_put_the_origin_at_both_ends():
    view = SwarmView((span(A, 0, 6), span(B, 0, 6, seconds=0.0001)), {(A, B): 0.001, (B, A): 0.001})
    request = PathRequest(A, MODEL, LAYERS, first_layers_at_origin=2, last_layers_at_origin=1)
    assert spans_of(find_path(view, request)) == [(A, "0:2"), (B, "2:5"), (A, "5:6")]


def test_private_layers_need_an_origin_that_holds_them():
    view = SwarmView((span(A, 0, 1), span(B, 0, 6)), {})
    with pytest.raises(NoPathError, match="private layers need this node itself") as caught:
        find_path(view, PathRequest(A, MODEL, LAYERS, first_layers_at_origin=2))
    assert caught.value.missing == (LayerSpan(1, 2),)


def test_a_node_is_not_visited_twice_even_if_that_were_cheaper():
    slow, fast = span(A, 0, 6, seconds=0.1), span(B, 2, 4, seconds=0.0001)
    view = SwarmView((slow, fast), dict.fromkeys([(A, B), (B, A)], 0.0001))
    assert [hop.node for hop in find_path(view, PathRequest(A, MODEL, LAYERS)).hops].count(A) == 1


def test_missing_layers_are_named_with_a_way_to_add_them():
    view = SwarmView((span(A, 0, 2), span(B, 5, 6), span(C, 2, 5, model=OTHER)), {})
    with pytest.raises(NoPathError, match="no live node holds layers 2:5 of tiny") as caught:
        find_path(view, PathRequest(A, MODEL, LAYERS))
    assert caught.value.missing == (LayerSpan(2, 5),)


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        ({"kv_tokens": 100}, "free KV for 100 tokens"),
        ({"allowed": frozenset({A})}, "this request may use"),
        ({"avoid_nodes": frozenset({B})}, "just failed"),
        ({"avoid_edges": frozenset({(A, B)})}, "links that are down or just failed"),
        ({"max_hops": 1}, "at most 1 nodes"),
    ],
)
def test_an_error_says_which_constraint_excludes_every_chain(constraint: dict[str, object], text: str):
    view = SwarmView((span(A, 0, 3), span(B, 3, 6, free_kv_tokens=99)), {})
    find_path(view, PathRequest(A, MODEL, LAYERS))
    with pytest.raises(NoPathError, match=text):
        find_path(view, PathRequest(A, MODEL, LAYERS, **constraint))


def test_an_unreachable_edge_is_gone_around():
    view = SwarmView(
        (span(A, 0, 3), span(B, 3, 6, seconds=0.001), span(C, 3, 6)), {}, unreachable=frozenset({(A, B)})
    )
    assert spans_of(find_path(view, PathRequest(A, MODEL, LAYERS))) == [(A, "0:3"), (C, "3:6")]


def test_the_preferred_dtype_wins_over_speed_and_yields_to_need():
    view = SwarmView((span(A, 0, 6, dtype="bfloat16", seconds=0.0001), span(B, 0, 4, dtype="float32")), {})
    path = find_path(view, PathRequest(C, MODEL, LAYERS, prefer_dtype="float32"))
    assert [(hop.node, str(hop.span), hop.dtype) for hop in path.hops] == [
        (B, "0:4", "float32"),
        (A, "4:6", "bfloat16"),
    ]
    assert path.cost_seconds < 1


def test_a_queue_moves_requests_to_the_idle_replica():
    view = SwarmView((span(A, 0, 6, queued_rows=64), span(B, 0, 6)), {})
    assert spans_of(find_path(view, PathRequest(C, MODEL, LAYERS))) == [(B, "0:6")]


def test_a_little_noise_in_round_trips_adds_no_hop():
    # The way over A looks shorter by half a millisecond: not worth a second pass and another wake-up.
    links = {(C, A): 0.001, (A, B): 0.001, (B, C): 0.001, (C, B): 0.0025}
    view = SwarmView((span(A, 0, 6, 0.01), span(B, 0, 6, 0.0099)), links, default_link_seconds=0.003)
    for salt in range(50):
        assert len(find_path(view, PathRequest(C, MODEL, LAYERS, salt=salt)).hops) == 1


def test_equal_replicas_are_all_used():
    view = SwarmView(tuple(span(node, 0, 6) for node in (A, B, C)), {})
    used = [find_path(view, PathRequest(D, MODEL, LAYERS, salt=salt)).hops[0].node for salt in range(1, 301)]
    assert all(used.count(node) > 60 for node in (A, B, C))


def test_the_same_salt_gives_the_same_path():
    view = SwarmView(tuple(span(node, 0, 6) for node in (A, B, C)), {})
    request = PathRequest(D, MODEL, LAYERS, salt=7)
    assert find_path(view, request) == find_path(view, request)


def test_a_heavier_queue_weight_takes_the_detour_around_a_busy_node() -> None:
    busy = span(B, 0, LAYERS, 0.01, queued_rows=8, free_kv_tokens=1 << 20)
    slower = span(C, 0, LAYERS, 0.0175, queued_rows=0, free_kv_tokens=1 << 20)
    view = SwarmView((busy, slower), {}, frozenset(), {MODEL: LAYERS}, 0.001)
    assert find_path(view, PathRequest(A, MODEL, LAYERS)).hops[0].node == B
    assert find_path(view, PathRequest(A, MODEL, LAYERS, queue_weight=4.0)).hops[0].node == C
