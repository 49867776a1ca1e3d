"""The state that the parts of membership share, and how this node speaks. Decides nothing about others."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.config import GossipSettings
from swarm.gossip.broadcasts import Broadcasts, News, Random
from swarm.gossip.effects import Effect, MemberChanged, SaveIncarnation, Send
from swarm.gossip.links import LinkTier
from swarm.gossip.local_health import LocalHealth
from swarm.gossip.own import OwnRecords
from swarm.gossip.record import NeighbourLink
from swarm.gossip.suspicion import Claims
from swarm.gossip.table import Table
from swarm.protocol.identity import NodeKey
from swarm.protocol.messages import AnyMessage
from swarm.types import SHORT_ID_CHARACTERS, NodeId


@dataclass(slots=True)
class Core:
    """Owned by one Membership. Effects are appended in the order in which they must be executed."""

    key: NodeKey
    swarm_id: bytes
    """Signed for; ``accepted_swarm_ids``, which include it, are verified for."""
    accepted_swarm_ids: tuple[bytes, ...]
    settings: GossipSettings
    rng: Random
    own: OwnRecords
    table: Table
    links: LinkTier
    local_health: LocalHealth
    claims: Claims = field(default_factory=Claims)
    broadcasts: Broadcasts = field(default_factory=Broadcasts)
    effects: list[Effect] = field(default_factory=list)
    partial: bool = False
    """Whether this node links to a few members only (Overlay decides it): most others can't tell whether one lives."""

    @property
    def node(self) -> NodeId:
        return self.key.node_id

    def emit(self, effect: Effect) -> None:
        self.effects.append(effect)

    def send(self, node: NodeId, message: AnyMessage) -> None:
        self.effects.append(Send(node, message))

    def changed(self, node: NodeId) -> None:
        self.effects.append(MemberChanged(node))

    def patience(self, now: float) -> float:
        return self.local_health.factor(now)

    def late(self, now: float) -> bool:
        """Whether this process was not on time itself lately, so that what it fails to reach may well be there."""
        return self.local_health.factor(now) > 1.0

    def announce_static(self, now: float) -> None:
        """Put the own static record into the view and spread it."""
        self.table.place(self.own.static, now)
        self.broadcasts.add(("static", self.node), News(self.own.static.signed, fanout=None), now)
        self.changed(self.node)

    def announce_load(self, now: float) -> None:
        """Sign a load record, put it into the view and spread it."""
        load = self.own.publish_load(self._reported_links(), now)
        self.table.place_load(self.table.entries[self.node], load, now)
        self.broadcasts.add(("load", self.node), News(load.signed, fanout=None), now)
        self.changed(self.node)

    def reincarnate(self, overruled: int, now: float) -> None:
        """Take an incarnation above ``overruled`` and the current one. It is saved before anybody hears of it."""
        incarnation = max(overruled, self.own.record.incarnation) + 1
        self.own.reincarnate(incarnation)
        self.emit(SaveIncarnation(incarnation))
        self.announce_static(now)
        self.announce_load(now)

    def _reported_links(self) -> list[NeighbourLink]:
        """Return the own links, those first that routing needs most: broken ones, next hops, near ones."""
        starts = {(held.model, held.span.end) for held in self.own.record.spans}

        def rank(node: NodeId) -> tuple[bool, bool, float]:
            entry = self.table.get(node)
            link = self.links.get(node)
            spans = entry.static.record.spans if entry else ()
            follows = any(model == s.model and end in s.span for model, end in starts for s in spans)
            rtt = link.rtt_seconds if link is not None else None
            return not (link and link.suspect), not follows, rtt if rtt is not None else float("inf")

        return [
            NeighbourLink(
                link.node[:SHORT_ID_CHARACTERS], round((link.rtt_seconds or 0.0) * 1e6), link.suspect
            )
            for link in map(self.links.get, sorted(self.links.nodes(), key=rank))
            if link is not None and (link.suspect or link.rtt_seconds is not None)
        ]
