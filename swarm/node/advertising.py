"""What this node tells of itself: its addresses and name, what it holds, how busy it is, on the local network too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

from swarm.gossip.membership import Membership
from swarm.net.discovery import Discovery, Found
from swarm.node.gossip_loop import GossipLoop
from swarm.types import Address, short

if TYPE_CHECKING:
    from swarm.config import Config
    from swarm.engine.worker import Engine
    from swarm.node.hosting import Hosting
    from swarm.node.keystore import NodeIdentity
    from swarm.node.stage_service import StageService

LOAD_SECONDS = 1.0


class Advertising:
    """The own records of one node. ``memory_bytes`` is what it may use in all."""

    def __init__(
        self,
        *,
        identity: NodeIdentity,
        config: Config,
        gossip: GossipLoop,
        hosting: Hosting,
        stage: StageService,
        engine: Engine,
        memory_bytes: int,
        announce: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._identity = identity
        self._id = identity.key.node_id
        self._config = config
        self._gossip = gossip
        self._hosting = hosting
        self._stage = stage
        self._engine = engine
        self._memory_bytes = memory_bytes
        self._announce = announce
        self._clock = clock
        self._discovery = Discovery(self._found)
        self.addresses: tuple[Address, ...] = ()
        """Where others reach this node, as it tells them."""

    def introduce(self, bound: Address) -> None:
        """Begin: say who this node is, and dial the bootstrap addresses."""
        settings = self._config.node
        self.addresses = addresses = settings.advertise or own_addresses(bound)
        api = self._config.api.listen

        def introduce(membership: Membership, now: float) -> None:
            membership.update_self(
                now,
                state="joining",
                addresses=addresses,
                name=settings.name,
                api_port=api.port if api else 0,
                labels=settings.labels,
                memory_bytes=self._memory_bytes,
            )
            if settings.bootstrap:
                membership.bootstrap(settings.bootstrap, now)

        self._gossip.change(introduce)
        self._announce(f"Node {short(self._id)} ({settings.name}) listens on {bound}")

    def holdings(self) -> None:
        """Tell what this node holds and means to hold, and whether it takes sessions."""
        spans = self._hosting.hosted()
        models = tuple(self._hosting.local_models())
        intended = self._hosting.intended()
        state = "ready" if spans or self._hosting.settled_once else None
        if self._stage.draining:
            state = "draining"
        self._gossip.change(
            lambda membership, now: membership.update_self(
                now, state=state, spans=spans, models=models, intended=intended
            )
        )

    def door_moved(self, port: int) -> None:
        """Tell where the front door is; 0: it was closed."""
        if port:
            self._hosting.door_opened()
        self._gossip.change(lambda membership, now: membership.update_self(now, api_port=port))

    async def report_load(self) -> None:
        """Say how busy this node is, for ever; the membership paces what is really sent."""
        process = psutil.Process()
        before, at = 0, self._clock()
        while True:
            stats, now = self._engine.stats(), self._clock()
            rate = (stats.rows - before) / max(now - at, 1e-9)
            before, at = stats.rows, now
            spans, rss = self._hosting.loads(), process.memory_info().rss
            head = self._hosting.head_seconds * 1e6
            self._gossip.change(
                lambda m, t, stats=stats, rate=rate, spans=spans, rss=rss, head=head: m.update_load(  # type: ignore[misc]
                    t,
                    queued_rows=stats.queued_jobs,
                    sessions=self._stage.session_count,
                    tokens_per_second=rate,
                    rss_bytes=rss,
                    spans=spans,
                    head_microseconds=head,
                )
            )
            await asyncio.sleep(LOAD_SECONDS)

    async def discover(self) -> None:
        """Be found on the local network, and dial who is of the same swarm there."""
        outside = tuple(address for address in self.addresses if not address.host.startswith("127."))
        own = Found(self._id, self._identity.keyring.preferred.swarm_id, outside or self.addresses)
        try:
            await self._discovery.start(own)
        except OSError as exc:
            self._announce(f"warning: --discover can't use mDNS on this machine: {exc.strerror or exc}")

    async def aclose(self) -> None:
        await self._discovery.aclose()

    def _found(self, found: Found) -> None:
        if found.node != self._id and self._identity.keyring.find(found.swarm_id) is not None:
            self._gossip.change(lambda membership, now: membership.bootstrap(found.addresses, now))


def own_addresses(bound: Address) -> tuple[Address, ...]:
    """Where others may reach this node: the bound address, or every interface's for a wildcard bind."""
    if bound.host not in ("0.0.0.0", "::", ""):
        return (bound,)
    hosts = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family.name == "AF_INET"
    ]
    outside = [host for host in hosts if not host.startswith("127.")]
    return tuple(Address(host, bound.port) for host in [*outside, "127.0.0.1"][:8])
