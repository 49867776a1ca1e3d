"""What is outside gossip is told of members and links: frozen values. Decides nothing."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from swarm.gossip.core import Core
from swarm.gossip.member import Entry, Health, Member
from swarm.types import NodeId


class NeighbourState(NamedTuple):
    """A link as others may see it."""

    rtt_seconds: float | None
    suspect: bool


def snapshot(entry: Entry, core: Core, stale: Container[NodeId]) -> Member:
    """Return one member as it stands. A suspect that this node itself hears stays routable."""
    node = entry.node
    link = core.links.get(node)
    heard = node == core.node or core.links.hears(node)
    trusted = entry.health is Health.ALIVE or (entry.health is Health.SUSPECT and heard)
    ready = entry.static.record.state == "ready" and entry.proof is None and node not in stale
    return Member(
        node=node,
        record=entry.static.record,
        load=entry.load.record if entry.load else None,
        health=entry.health,
        routable=trusted and ready,
        rtt_seconds=link.rtt_seconds if link else None,
        equivocating=entry.proof is not None,
    )
