"""Member records turned into what routing and people see. Pure; knows no sockets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from swarm.gossip.member import Health, Member
from swarm.routing.view import Intention, SpanView, SwarmView
from swarm.types import BootId, ModelId, NodeId

PREFIX = 8


def build_view(
    own: NodeId,
    members: Iterable[Member],
    *,
    cut_off: frozenset[NodeId],
    shunned: Mapping[tuple[NodeId, NodeId], BootId | None],
    default_link_seconds: float,
) -> SwarmView:
    """Build routing's snapshot: spans of routable members, one-way link times, edges known to be dead.

    ``cut_off`` are the nodes that this one can't reach now, whatever gossip says of them.
    """
    members = list(members)
    routable = [m for m in members if m.routable and m.node not in cut_off]
    by_prefix = {m.node[:PREFIX]: m.node for m in routable}
    spans: list[SpanView] = []
    layers: dict[ModelId, int] = {}
    links: dict[tuple[NodeId, NodeId], float] = {}
    doors: dict[NodeId, float] = {}
    intentions: list[Intention] = []
    boots = {m.node: m.record.boot for m in routable}
    # A process that began since is another: what kept its predecessor from being reached is over.
    unreachable = {
        edge for edge, boot in shunned.items() if boot is None or boots.get(edge[1]) in (None, boot)
    }
    for member in members:
        # Who joins is not routable yet; what it means to hold counts all the same.
        if member.health is Health.ALIVE and member.record.state in ("joining", "ready"):
            intentions.extend(_intentions(member))
    for member in routable:
        spans.extend(_spans(member))
        for hosted in member.record.spans:
            layers.setdefault(hosted.model, hosted.layers)
        if member.load is not None and member.record.api_port:
            doors[member.node] = member.load.head_microseconds / 1e6
        if member.rtt_seconds is not None:
            links[own, member.node] = links[member.node, own] = member.rtt_seconds / 2
        for link in member.load.links if member.load else ():
            other = by_prefix.get(link.node_prefix)
            if other is None or own in (other, member.node):
                continue
            if link.unreachable:
                unreachable.add((member.node, other))
            else:
                links[member.node, other] = link.rtt_microseconds / 2e6
                links.setdefault((other, member.node), link.rtt_microseconds / 2e6)
    return SwarmView(
        tuple(spans),
        links,
        frozenset(unreachable),
        layers,
        default_link_seconds,
        sum(member.health is Health.ALIVE and member.node != own for member in members),
        tuple(intentions),
        doors,
    )


def _intentions(member: Member) -> list[Intention]:
    return [
        Intention(member.node, one.model, one.span, one.firm, one.microseconds_per_layer / 1e6)
        for one in member.record.intended
    ]


def _spans(member: Member) -> list[SpanView]:
    loads = {load.index: load for load in member.load.spans} if member.load else {}
    found = []
    for index, hosted in enumerate(member.record.spans):
        load = loads.get(index)
        found.append(
            SpanView(
                node=member.node,
                boot=member.record.boot,
                model=hosted.model,
                span=hosted.span,
                dtype=hosted.dtype,
                quantize=hosted.quantize,
                seconds_per_layer=load.microseconds_per_layer / 1e6 if load else UNKNOWN_SECONDS_PER_LAYER,
                seconds_per_row=load.row_microseconds / 1e6 if load else 0.0,
                queued_rows=member.load.queued_rows if member.load else 0,
                free_kv_tokens=load.free_kv_tokens if load else 1 << 40,
            )
        )
    return found


UNKNOWN_SECONDS_PER_LAYER = 0.001
"""For a span whose first load record has not come yet."""


def names(members: Iterable[Member]) -> Mapping[NodeId, str]:
    return {m.node: m.record.name for m in members}
