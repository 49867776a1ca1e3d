"""The links of one node: at most one a peer, by rules that both ends apply alike. Opens none itself."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol as Interface

from swarm.config import NetSettings
from swarm.errors import AuthenticationError, ProtocolError
from swarm.net.connection import Connection
from swarm.net.gate import RateLimit, Strikes, source_of
from swarm.net.link import Link, PeerInfo
from swarm.net.traffic import Traffic
from swarm.protocol.handshake import Authenticated
from swarm.protocol.limits import PROBE_SECONDS, CloseCode
from swarm.protocol.messages import AnyMessage
from swarm.types import Address, BootId, NodeId, short

log = logging.getLogger("swarm.net")

_LINES_PER_SECOND = 0.1


class Receiver(Interface):
    """Who uses the links. Called from the event loop, synchronously: nothing here may block."""

    def link_up(self, peer: PeerInfo) -> None:
        """Take a link. A ProtocolError raised here (a record that is none) closes it; it never was up."""

    def link_down(self, node: NodeId, reason: str, graceful: bool) -> None:
        """``graceful``: closed with a code that says nothing against the peer's health, or by ourselves."""

    def received(self, node: NodeId, message: AnyMessage, payload: memoryview) -> None:
        """Take a message. A ProtocolError raised here closes the link with its code."""

    def drained(self, node: NodeId) -> None:
        """The weights that waited for this peer have been sent."""


class RefusalLog:
    """One warning a refused peer, and at most one in ten seconds for each address."""

    def __init__(self) -> None:
        self._rate = RateLimit(_LINES_PER_SECOND, burst=1)
        self._silenced = 0

    def warn(self, address: Address, reason: str) -> None:
        if not self._rate.take(source_of(address.host), asyncio.get_running_loop().time()):
            self._silenced += 1
            return
        more = f" ({self._silenced} further refusals not shown)" if self._silenced else ""
        self._silenced = 0
        log.warning("refused %s: %s%s", address, reason, more)


class LinkTable:
    """Which peer has which link. Tells the receiver of each link that came and went, in that order."""

    def __init__(
        self, node: NodeId, boot: BootId, settings: NetSettings, receiver: Receiver, refusals: RefusalLog
    ) -> None:
        self._node = node
        self._boot = boot
        self._settings = settings
        self._receiver = receiver
        self._refusals = refusals
        self.traffic = Traffic()
        self._links: dict[NodeId, Link] = {}
        self._ending: set[Link] = set()
        self._strikes = Strikes()
        self._downs: list[tuple[NodeId, str, bool]] = []
        self._awaited: dict[NodeId, asyncio.Future[None]] = {}
        self.received = receiver.received

    def __contains__(self, node: NodeId) -> bool:
        return node in self._links

    def nodes(self) -> tuple[NodeId, ...]:
        return tuple(self._links)

    def get(self, node: NodeId) -> Link | None:
        return self._links.get(node)

    def items(self) -> list[tuple[NodeId, Link]]:
        return list(self._links.items())

    # --- coming ---------------------------------------------------------------------------------------------

    async def check(self, peer: Authenticated, *, dialled: bool) -> None:
        """Let an authenticated peer pass, or raise AuthenticationError with the close code that says why not.

        A peer that comes with another boot id is let pass only if its older link is silent for PROBE_SECONDS.
        """
        if peer.node == self._node:
            if peer.boot == self._boot:
                raise AuthenticationError("it is this very process", CloseCode.SELF)
            raise AuthenticationError("another process uses this node's key", CloseCode.DUPLICATE)
        if self._strikes.refused(peer.node, asyncio.get_running_loop().time()):
            raise AuthenticationError(
                f"node {short(peer.node)} sent malformed frames again and again", CloseCode.MALFORMED
            )
        old = self._links.get(peer.node)
        if old is None or old.down:
            return
        if old.info.boot != peer.boot:
            if await old.answers(PROBE_SECONDS):
                raise AuthenticationError(
                    f"node {short(peer.node)} is linked already, from another running process",
                    CloseCode.DUPLICATE,
                )
        elif self._keeps(old, dialled):
            raise AuthenticationError(f"node {short(peer.node)} is linked already", CloseCode.SECOND_LINK)

    def add(
        self, connection: Connection, peer: Authenticated, dialled: Address | None, observed: Address
    ) -> bool:
        """Make a connection the peer's link; False if it ended, or was closed because an older one stays."""
        if connection.closing:
            return False
        old = self._links.get(peer.node)
        if old is not None and not old.down:
            same_boot = old.info.boot == peer.boot
            if same_boot and self._keeps(old, dialled is not None):
                connection.close(CloseCode.SECOND_LINK)
                return False
            self._retire(old, CloseCode.SECOND_LINK, "replaced by a newer link", graceful=same_boot)
        info = PeerInfo(
            node=peer.node,
            public_key=peer.public_key,
            boot=peer.boot,
            record=peer.record,
            dialled=dialled,
            observed=observed,
            observed_self=peer.observed,
        )
        link = Link(connection, info, self._settings, self, self.traffic)
        self._links[peer.node] = link
        self._report_downs()
        try:
            self._receiver.link_up(info)
        except ProtocolError as exc:
            # It never was up for anybody: nothing of it is left, as of any refused connection.
            del self._links[peer.node]
            self._refuse(info, exc)
            connection.close(exc.close_code)
            return False
        link.start()
        awaited = self._awaited.pop(peer.node, None)
        if awaited is not None and not awaited.done():
            awaited.set_result(None)
        return True

    async def arrives(self, node: NodeId, seconds: float) -> bool:
        """Wait until a link with ``node`` is up; False if none is within that time."""
        if node in self._links:
            return True
        awaited = self._awaited.setdefault(node, asyncio.get_running_loop().create_future())
        await asyncio.wait([awaited], timeout=seconds)
        return node in self._links

    def _keeps(self, old: Link, dialled: bool) -> bool:
        """Whether an older link of the same two processes stays: the one dialled by the lower id does."""
        old_dialled = old.info.dialled is not None
        if old_dialled == dialled:
            # Twice by us: one is enough. Twice by the peer: it lost the first, or will close one itself.
            return dialled
        return old_dialled == (self._node < old.info.node)

    # --- going ----------------------------------------------------------------------------------------------

    def close(self, node: NodeId, code: int, reason: str) -> None:
        link = self._links.get(node)
        if link is not None:
            self._retire(link, code, reason, graceful=True)

    def abort(self, node: NodeId, reason: str) -> None:
        link = self._links.get(node)
        if link is not None:
            link.abort()
            self.lost(link, reason, graceful=False)

    async def close_all(self, code: int, seconds: float) -> None:
        """Close every link and wait until their sockets are gone; after ``seconds`` they are dropped."""
        for link in list(self._links.values()):
            self._retire(link, code, "this node stops", graceful=True)
        self._report_downs()
        ending = {link.closed: link for link in self._ending}
        if ending:
            _, late = await asyncio.wait(ending, timeout=seconds)
            for closed in late:
                ending[closed].abort()
            if late:
                await asyncio.wait(late)

    def _retire(self, link: Link, code: int, reason: str, *, graceful: bool) -> None:
        self.lost(link, reason, graceful=graceful)
        link.close(code)

    # --- what links tell ------------------------------------------------------------------------------------

    def misbehaved(self, link: Link, error: ProtocolError) -> None:
        self._refuse(link.info, error)
        self._retire(link, error.close_code, str(error), graceful=True)

    def _refuse(self, peer: PeerInfo, error: ProtocolError) -> None:
        if error.close_code == CloseCode.MALFORMED:
            self._strikes.strike(peer.node, asyncio.get_running_loop().time())
        self._refusals.warn(peer.observed, f"node {short(peer.node)}: {error}")

    def lost(self, link: Link, reason: str, *, graceful: bool) -> None:
        """Forget a link. The receiver hears of it in a step of its own, before any newer link of the peer."""
        if self._links.get(link.info.node) is not link:
            return
        del self._links[link.info.node]
        self._ending.add(link)
        link.closed.add_done_callback(lambda _: self._ending.discard(link))
        if not self._downs:
            asyncio.get_running_loop().call_soon(self._report_downs)
        self._downs.append((link.info.node, reason, graceful))

    def drained(self, link: Link) -> None:
        if self._links.get(link.info.node) is link:
            self._receiver.drained(link.info.node)

    def _report_downs(self) -> None:
        downs, self._downs = self._downs, []
        for node, reason, graceful in downs:
            self._receiver.link_down(node, reason, graceful)
