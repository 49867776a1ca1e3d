"""A path over the hops that hold an answer's KV: only what lies between them is searched."""

from __future__ import annotations

import pytest

from swarm.errors import NoPathError
from swarm.routing.cost import PathHop
from swarm.routing.patch import patched
from swarm.routing.path import PathRequest, find_path
from swarm.routing.view import SpanView, SwarmView
from swarm.types import BootId, LayerSpan, ModelId, NodeId

MODEL = ModelId("org/model", "0" * 64)
BOOT = BootId(b"bootboot")
LAYERS = 9


def span(name: str, start: int, end: int, seconds: float = 0.001) -> SpanView:
    return SpanView(NodeId(name), BOOT, MODEL, LayerSpan(start, end), "float32", seconds)


def hop(name: str, start: int, end: int) -> PathHop:
    return PathHop(NodeId(name), BOOT, LayerSpan(start, end), "float32")


def search(view: SwarmView, *held: PathHop, **more: object) -> list[tuple[str, str]]:
    settled = patched(view, MODEL, LAYERS, held)
    assert settled is not None
    path = find_path(settled, PathRequest(NodeId("origin"), MODEL, LAYERS, **more))  # type: ignore[arg-type]
    return [(found.node, str(found.span)) for found in path.hops]


def test_held_hops_stay_even_where_others_would_be_cheaper():
    view = SwarmView((span("a", 0, 3), span("c", 6, 9), span("fast", 0, 9, 1e-6)))
    assert search(view, hop("a", 0, 3), hop("c", 6, 9)) == [("a", "0:3"), ("fast", "3:6"), ("c", "6:9")]


def test_a_hole_may_be_filled_by_several_nodes():
    view = SwarmView((span("a", 0, 3), span("c", 6, 9), span("x", 2, 5), span("y", 5, 7)))
    found = search(view, hop("a", 0, 3), hop("c", 6, 9))
    assert found == [("a", "0:3"), ("x", "3:5"), ("y", "5:6"), ("c", "6:9")]


def test_a_held_node_that_the_view_no_longer_names_still_counts():
    view = SwarmView((span("b", 3, 9),))
    assert search(view, hop("leaving", 0, 3)) == [("leaving", "0:3"), ("b", "3:9")]


def test_held_nodes_take_nothing_more():
    view = SwarmView((span("a", 0, 9),))
    with pytest.raises(NoPathError):
        search(view, hop("a", 0, 3))


def test_an_edge_that_failed_is_not_used_in_a_patch():
    view = SwarmView((span("a", 0, 3), span("b", 3, 9), span("b2", 3, 9, 0.002)))
    avoided = frozenset({(NodeId("a"), NodeId("b"))})
    assert search(view, hop("a", 0, 3), avoid_edges=avoided) == [("a", "0:3"), ("b2", "3:9")]


def test_overlapping_or_no_hops_are_no_base():
    view = SwarmView((span("a", 0, 9),))
    assert patched(view, MODEL, LAYERS, []) is None
    assert patched(view, MODEL, LAYERS, [hop("a", 0, 3), hop("b", 2, 5)]) is None
