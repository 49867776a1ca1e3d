"""What this node makes of the other members: the view that routing sees, who can be reached, who gives weights.

Sends nothing but a dial; what follows from a change, for sessions and answers, is the node's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from swarm.errors import LinkDownError, SwarmError
from swarm.gossip.membership import Membership
from swarm.net.peers import Network
from swarm.node.views import build_view
from swarm.routing.view import SwarmView
from swarm.sessions.effects import Edge
from swarm.types import BootId, ModelId, NodeId

if TYPE_CHECKING:
    from swarm.config import Config
    from swarm.config.settings import NodeSettings

JOIN_SECONDS = 10.0
SYNC_SECONDS = 0.5
VIEW_SECONDS = 1.0
"""A view is built anew that often even if nothing was told: nodes that were shunned come back."""
DEFAULT_LINK_SECONDS = 0.05


def admits(settings: NodeSettings, node: NodeId) -> bool:
    """Return whether the settings let ``node`` take part."""
    return node not in settings.ban and (not settings.allow or node in settings.allow)


class Neighbours:
    """``shunned`` are the edges that answers avoid for a while, with the process that each was about."""

    def __init__(
        self,
        *,
        node: NodeId,
        config: Config,
        membership: Membership,
        network: Network,
        shunned: Callable[[], Mapping[Edge, BootId | None]],
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._config = config
        self._membership = membership
        self._network = network
        self._shunned = shunned
        self._clock = clock
        self._down: dict[NodeId, float] = {}
        self._boots: dict[NodeId, BootId] = {}
        self._linked = asyncio.Event()
        self._view: SwarmView | None = None
        self._view_until = 0.0

    # --- what others ask ---

    def view(self) -> SwarmView:
        """The swarm as routing sees it now; rebuilt after every change of members, links or load."""
        now = self._clock()
        if self._view is None or now >= self._view_until:
            self._view = build_view(
                self._node,
                self._membership.members(),
                cut_off=self._cut_off(now),
                shunned=self._shunned(),
                default_link_seconds=DEFAULT_LINK_SECONDS,
            )
            self._view_until = now + VIEW_SECONDS
        return self._view

    def known_models(self) -> set[ModelId]:
        """The models of which some member has something on its disk."""
        others = [member.record for member in self._membership.members() if member.routable]
        return {model for record in others for model in record.models} | set(self.view().layers)

    def holders(self, model: ModelId) -> list[NodeId]:
        """The members that have something of a model on their disks."""
        return [
            member.node
            for member in self._membership.members()
            if member.routable
            and member.node != self._node
            and (model in member.record.models or any(held.model == model for held in member.record.spans))
        ]

    def name_of(self, node: NodeId) -> str:
        member = self._membership.member(node)
        return member.record.name if member is not None else ""

    def labels_of(self, node: NodeId) -> tuple[str, ...]:
        member = self._membership.member(node)
        return member.record.labels if member is not None else ()

    async def connect(self, node: NodeId) -> None:
        """Link to a member that no link leads to. Raises SwarmError."""
        member = self._membership.member(node)
        if member is None or not admits(self._config.node, node):
            raise LinkDownError(node, "no verified record of it")
        error: SwarmError = LinkDownError(node, "its record names no address")
        for address in member.record.addresses:
            try:
                await self._network.connect(address, node)
            except SwarmError as exc:
                error = exc
            else:
                return
        raise error

    async def joined(self, announce: Callable[[str], None]) -> None:
        """Wait until a member is linked and its view is here; who starts a swarm waits for nothing."""
        if not self._config.node.bootstrap:
            return
        try:
            await asyncio.wait_for(self._linked.wait(), JOIN_SECONDS)
        except TimeoutError:
            announce("No member could be reached yet; going on trying.")
        else:
            await asyncio.sleep(SYNC_SECONDS)

    # --- what happened ---

    def forget_view(self) -> None:
        """Build the view anew when it is next asked for."""
        self._view = None

    def members_changed(self) -> list[NodeId]:
        """Return those whose process is gone, or another than before: it has forgotten its sessions."""
        self.forget_view()
        gone = []
        for member in self._membership.members():
            boot = member.record.boot
            if member.health.name in ("DEAD", "LEFT") or self._boots.get(member.node, boot) != boot:
                gone.append(member.node)
            self._boots[member.node] = boot
        return gone

    def link_changed(self, node: NodeId, up: bool) -> None:
        """A link came up or is trusted again; or it broke, or is suspect."""
        self.forget_view()
        if up:
            self._down.pop(node, None)
            self._linked.set()
        else:
            self._down[node] = self._clock()

    def link_closed(self, node: NodeId) -> None:
        """A link ended in good order: the node may be reached again."""
        self.forget_view()
        self._down.pop(node, None)

    def _cut_off(self, now: float) -> frozenset[NodeId]:
        """Return the nodes out of reach; where not all are dialled for ever, they are asked again after a while."""
        if self._membership.partial:
            patience = self._config.session.shun_seconds
            self._down = {node: since for node, since in self._down.items() if now - since < patience}
        return frozenset(self._down)
