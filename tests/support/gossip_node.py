"""Nodes that only gossip: the real membership over the real network, without engine, sessions or front door."""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

from swarm.config import GossipSettings, NetSettings
from swarm.errors import SwarmError
from swarm.gossip.member import Health
from swarm.gossip.membership import Membership
from swarm.net.peers import Network, PeerInfo
from swarm.node.gossip_loop import GossipLoop
from swarm.protocol.identity import Keyring, NodeKey, SwarmSecret
from swarm.protocol.messages import AnyMessage
from swarm.types import Address, BootId, NodeId
from tests.support.links import SECRET


class GossipNode:
    """A member on a port of its own. ``host`` is where it listens and dials from: an address of 127.0.0.0/8."""

    def __init__(
        self,
        seed: bytes | None = None,
        *,
        host: str = "127.0.0.1",
        secret: SwarmSecret = SECRET,
        settings: GossipSettings | None = None,
        ban: frozenset[NodeId] = frozenset(),
    ) -> None:
        self.key = NodeKey.from_seed(seed or secrets.token_bytes(32))
        self.boot = BootId(secrets.token_bytes(8))
        self.duplicate: list[str] = []
        self.downs: list[tuple[NodeId, str, bool]] = []
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None
        self.membership = Membership(
            key=self.key,
            swarm_id=secret.swarm_id,
            boot=self.boot,
            settings=settings or GossipSettings(),
            incarnation=1,
            rng=random.Random(),
            now=time.perf_counter(),
            ban=ban,
        )
        self.network = Network(
            key=self.key,
            keyring=Keyring((secret,)),
            boot=self.boot,
            settings=NetSettings(dial_from=host),
            receiver=self,
            hello=self.membership.record,
            admit=lambda node: node not in ban,
        )
        self.loop = GossipLoop(
            self.membership,
            self.network,
            save_incarnation=lambda _: None,
            on_members=lambda: None,
            on_link=lambda _node, _up: None,
            on_closed=lambda _: None,
            on_duplicate=self.duplicate.append,
            spawn=self._spawn,
            clock=time.perf_counter,
        )

    @property
    def node(self) -> NodeId:
        return self.key.node_id

    async def start(self, bootstrap: Sequence[Address] = (), **record: object) -> Address:
        """Listen, join by ``bootstrap``, and return the own address."""
        address = await self.network.start(Address(self._host, 0))
        self._running = asyncio.create_task(self.loop.run(), name="gossip loop")
        self.loop.change(
            lambda m, now: m.update_self(now, addresses=(address,), state="ready", **record)  # type: ignore[arg-type]
        )
        self.loop.change(lambda m, now: m.bootstrap(bootstrap, now))
        return address

    async def aclose(self) -> None:
        for task in [*self._tasks, *([self._running] if self._running else [])]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.network.aclose()

    def alive(self) -> list[NodeId]:
        return [m.node for m in self.membership.members() if m.health is Health.ALIVE]

    def alive_count(self) -> int:
        """As ``alive``, without a snapshot of each: a hundred nodes can be asked often and lose no time by it."""
        entries = self.membership._core.table.entries.values()
        return sum(entry.health is Health.ALIVE for entry in entries)

    def known_count(self) -> int:
        """How many members it has a record of, itself among them."""
        return len(self.membership._core.table.entries)

    def routable(self, node: NodeId) -> bool:
        member = self.membership.member(node)
        return member is not None and member.routable

    # --- the network's receiver ---

    def link_up(self, peer: PeerInfo) -> None:
        self.loop.link_up(peer)

    def link_down(self, node: NodeId, reason: str, graceful: bool) -> None:
        self.downs.append((node, reason, graceful))
        self.loop.link_down(node, graceful)

    def received(self, node: NodeId, message: AnyMessage, payload: memoryview) -> None:
        self.loop.received(node, message)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        async def carry_out() -> None:
            try:
                await work
            except SwarmError as exc:
                self.downs.append((self.node, f"spawned work: {exc}", False))

        task = asyncio.create_task(carry_out(), name="gossip work")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())


def loopback(number: int) -> str:
    """Return an address for one of many nodes, so that limits count each for itself as they would machines.

    Linux has all of 127.0.0.0/8; where there is only 127.0.0.1 that is returned for all.
    """
    host = f"127.0.{1 + number // 250}.{1 + number % 250}"
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return "127.0.0.1"
    return host


async def gossiping(
    count: int, make: Callable[[int], GossipNode], entrances: int = 3, over_seconds: float = 0.0
) -> list[GossipNode]:
    """Start ``count`` nodes that join by the first ``entrances``: at once, or evenly over some seconds."""
    nodes = [make(number) for number in range(count)]
    addresses = [await node.start() for node in nodes[:entrances]]
    for node in nodes[1:entrances]:
        node.loop.change(lambda m, now: m.bootstrap(addresses[:1], now))

    async def join(number: int) -> None:
        await asyncio.sleep(over_seconds * (number - entrances + 1) / (count - entrances))
        await nodes[number].start(addresses)

    await asyncio.gather(*map(join, range(entrances, count)))
    return nodes


@dataclass(frozen=True, slots=True)
class Joined:
    """From the last start: ``records_seconds`` until each had every record, ``seconds`` until it held all for alive.

    Then, in ``stayed`` seconds, the worst that was seen.
    """

    records_seconds: float
    seconds: float
    stayed: float
    fewest_alive: int
    """Of all views, the one with the fewest members held alive."""
    most_doubted: float
    """Of all pairs of nodes, the largest share in which one held the other for suspect at one time."""
    dead: int
    """Members held dead by anybody at the end."""
    most_links: int


async def join_and_stay(
    count: int, stay_seconds: float, over_seconds: float = 0.0, patience: float = 60.0
) -> Joined:
    """Start ``count`` nodes evenly over some seconds, wait until each holds every other for alive, then watch them.

    Raises AssertionError when they do not agree within ``patience`` seconds.
    """
    nodes = await gossiping(
        count, lambda number: GossipNode(host=loopback(number)), over_seconds=over_seconds
    )
    began = time.perf_counter()
    try:
        known = 0.0
        while not all(node.alive_count() == count for node in nodes):
            if not known and all(node.known_count() == count for node in nodes):
                known = time.perf_counter()
            if time.perf_counter() > began + patience:
                knowing = sorted(node.alive_count() for node in nodes)
                raise AssertionError(f"after {patience:g} s they hold so many for alive: {knowing}")
            await asyncio.sleep(0.05)
        whole = time.perf_counter()
        fewest, doubted = count, 0
        while time.perf_counter() < whole + stay_seconds:
            await asyncio.sleep(0.5)
            alive = [node.alive_count() for node in nodes]
            fewest, doubted = min(fewest, *alive), max(doubted, count * count - sum(alive))
        healths = [member.health for node in nodes for member in node.membership.members()]
        return Joined(
            records_seconds=(known or whole) - began,
            seconds=whole - began,
            stayed=time.perf_counter() - whole,
            fewest_alive=fewest,
            most_doubted=doubted / count**2,
            dead=healths.count(Health.DEAD),
            most_links=max(len(node.network.links()) for node in nodes),
        )
    finally:
        await asyncio.gather(*(node.aclose() for node in nodes))
