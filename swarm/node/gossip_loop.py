"""Membership at work: the pure core fed with links, messages and time, its effects carried out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from swarm.errors import AuthenticationError, DialError, LinkDownError, PeerError, ProtocolError, SwarmError
from swarm.gossip.effects import (
    Abort,
    Close,
    Dial,
    Effect,
    LinkSuspect,
    LinkTrusted,
    MemberChanged,
    OwnIdentityElsewhere,
    SaveIncarnation,
    Send,
)
from swarm.gossip.member import Health
from swarm.gossip.membership import Membership
from swarm.protocol.limits import CloseCode
from swarm.types import Address, NodeId, short

if TYPE_CHECKING:
    from swarm.net.peers import Network, PeerInfo
    from swarm.protocol.messages import AnyMessage

log = logging.getLogger("swarm.gossip")

LONGEST_SLEEP_SECONDS = 0.25
"""Bounds the sleep so that the lag of this process's own loop is measured that often."""


class GossipLoop:
    """Owns a node's Membership. ``on_members`` and ``on_link`` tell the rest of the node what changed.

    ``on_closed`` is told of a link that ended in good order: nothing is wrong with the peer, but nothing travels there.
    """

    def __init__(
        self,
        membership: Membership,
        network: Network,
        *,
        save_incarnation: Callable[[int], None],
        on_members: Callable[[], None],
        on_link: Callable[[NodeId, bool], None],
        on_closed: Callable[[NodeId], None],
        on_duplicate: Callable[[str], None],
        spawn: Callable[[Awaitable[None]], object],
        clock: Callable[[], float],
    ) -> None:
        self.membership = membership
        self._network = network
        self._save_incarnation = save_incarnation
        self._on_members = on_members
        self._on_link = on_link
        self._on_closed = on_closed
        self._on_duplicate = on_duplicate
        self._spawn = spawn
        self._clock = clock
        self._kick = asyncio.Event()
        self._refused: dict[Address, str] = {}
        self._told: dict[NodeId, str] = {}

    # --- inputs ---

    def link_up(self, peer: PeerInfo) -> None:
        self.membership.link_up(peer.node, peer.public_key, peer.boot, peer.record, self._clock())
        self._on_link(peer.node, True)
        self.flush()

    def link_down(self, node: NodeId, graceful: bool) -> None:
        self.membership.link_down(node, graceful, self._clock())
        if graceful:
            self._on_closed(node)
        else:
            self._on_link(node, False)
        self.flush()

    def received(self, sender: NodeId, message: AnyMessage) -> None:
        self.membership.receive(sender, message, self._clock())
        self.flush()

    def change(self, action: Callable[[Membership, float], None]) -> None:
        """Update what this node says of itself, and spread it."""
        action(self.membership, self._clock())
        self.flush()

    async def run(self) -> None:
        """Tick the membership whenever it wants to be."""
        while True:
            self._kick.clear()
            due = min(max(0.0, self.membership.wakeup() - self._clock()), LONGEST_SLEEP_SECONDS)
            before = self._clock()
            try:
                # Not wait_for: on Python 3.11 it swallows a cancellation that meets the kick.
                async with asyncio.timeout(due):
                    await self._kick.wait()
            except TimeoutError:
                now = self._clock()
                self.membership.observe_lag(now, max(0.0, now - before - due))
            self.membership.tick(self._clock())
            self.flush()

    # --- effects ---

    def flush(self) -> None:
        """Carry out, in order, what the membership decided."""
        changed = False
        for effect in self.membership.effects():
            if isinstance(effect, MemberChanged):
                changed = True
                self._tell(effect.node)
            self._carry_out(effect)
        if changed:
            self._on_members()
        self._kick.set()

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Send):
            try:
                self._network.send(effect.node, effect.message)
            except LinkDownError:
                # The link's end is reported on its own; gossip lost with it is healed by anti-entropy.
                log.debug("no link to %s any more", short(effect.node))
        elif isinstance(effect, Dial):
            self._spawn(self._dial(effect))
        elif isinstance(effect, Abort):
            self._network.abort(effect.node, effect.reason)
        elif isinstance(effect, Close):
            self._network.close(effect.node)
        elif isinstance(effect, SaveIncarnation):
            self._save_incarnation(effect.value)
        elif isinstance(effect, LinkSuspect):
            log.info("the link to %s is suspect", short(effect.node))
            self._on_link(effect.node, False)
        elif isinstance(effect, LinkTrusted):
            self._on_link(effect.node, True)
        elif isinstance(effect, OwnIdentityElsewhere):
            self._on_duplicate(effect.detail)

    async def _dial(self, effect: Dial) -> None:
        address = effect.address
        try:
            node = await self._network.connect(address, effect.expected)
        except (DialError, ProtocolError, PeerError) as exc:
            if isinstance(exc, DialError) and exc.own:
                self.membership.address_is_own(address)
            else:
                busy = isinstance(exc, DialError) and exc.overloaded
                self.membership.dial_failed(address, effect.expected, self._clock(), overloaded=busy)
            self._report(address, str(exc))
            self.flush()
            self._note_duplicate(exc)
        else:
            self.membership.dial_succeeded(address, node)
            self._refused.pop(address, None)

    def _note_duplicate(self, error: SwarmError) -> None:
        """A newcomer whose key is in use is the copy. Who has links is not told so by a single member."""
        duplicate = isinstance(error, AuthenticationError) and error.close_code == CloseCode.DUPLICATE
        if duplicate and not self._network.links():
            self._on_duplicate(str(error))

    def _report(self, address: Address, reason: str) -> None:
        """Say why an address can't be joined, once for each new reason."""
        if self._refused.get(address) != reason:
            self._refused[address] = reason
            log.warning(
                "can't join by %s", reason if reason.startswith(str(address)) else f"{address}: {reason}"
            )

    def _tell(self, node: NodeId) -> None:
        """Log what becomes of a member, once for each change that a person would care about."""
        member = self.membership.member(node)
        if member is None or node == self.membership.node_id:
            return
        holds = ", ".join(hosted.span.described() for hosted in member.record.spans) or "no layers"
        now = (
            "gone" if member.health in (Health.DEAD, Health.LEFT) else f"{member.record.state}, holds {holds}"
        )
        if self._told.get(node) != now and not (node not in self._told and now == "gone"):
            self._told[node] = now
            log.info("%s (%s) is %s", short(node), member.record.name, now)
