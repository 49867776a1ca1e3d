"""What routing sees of members: which edges are out of the question."""

from __future__ import annotations

from swarm.gossip.member import Health, Member
from swarm.gossip.record import StaticRecord
from swarm.node.views import build_view
from swarm.routing.view import SwarmView
from swarm.types import BootId, NodeId

OWN, OTHER = NodeId("a" * 52), NodeId("b" * 52)
FIRST, SECOND = BootId(b"1" * 8), BootId(b"2" * 8)
EDGE = (OWN, OTHER)


def member(node: NodeId, boot: BootId) -> Member:
    record = StaticRecord(node, b"", 1, 1, boot, (), 1, 1, "ready")
    return Member(node, record, None, Health.ALIVE, True, 0.01, False)


def view(*members: Member, shunned: BootId | None) -> SwarmView:
    return build_view(OWN, members, cut_off=frozenset(), shunned={EDGE: shunned}, default_link_seconds=0.01)


def test_an_edge_is_shunned_while_the_process_at_its_end_is_the_one_that_failed():
    assert EDGE in view(member(OTHER, FIRST), shunned=FIRST).unreachable


def test_a_node_that_was_restarted_is_not_shunned_for_its_predecessor():
    assert EDGE not in view(member(OTHER, SECOND), shunned=FIRST).unreachable


def test_an_edge_to_a_process_nobody_knows_is_shunned():
    assert EDGE in view(member(OTHER, FIRST), shunned=None).unreachable
    assert EDGE in view(shunned=FIRST).unreachable
