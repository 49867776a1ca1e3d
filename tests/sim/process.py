"""One simulated process: drives a Membership as a node's event loop would, and may be paused or killed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from swarm.config import GossipSettings
from swarm.errors import ProtocolError
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
from swarm.protocol.identity import NodeKey
from swarm.protocol.messages import AnyMessage, Heartbeat
from swarm.types import Address, BootId, NodeId
from tests.sim.network import Connection, Endpoint, Network, Outcome
from tests.sim.scheduler import Scheduler

SWARM_ID = b"simulated swarm!"


to_wire = msgspec.msgpack.Encoder().encode
from_wire = msgspec.msgpack.Decoder(AnyMessage).decode


@lru_cache(4096)
def key_of(name: str) -> NodeKey:
    return NodeKey.from_seed(hashlib.sha256(name.encode()).digest())


class Process:
    """A running node. ``disk`` outlives it: its incarnation is there after a restart, unless it was lost.

    Without ``wire`` messages travel as the frozen values they are, and only bad news is logged: for large swarms.
    """

    def __init__(
        self,
        name: str,
        *,
        scheduler: Scheduler,
        network: Network,
        seed: int,
        life: int,
        disk: dict[str, int],
        settings: GossipSettings,
        log: Callable[[str, str], None],
        carries: Callable[[NodeId], bool] = lambda _: False,
        wire: bool = True,
        clock_offset: float = 0.0,
        key: NodeKey | None = None,
        address: str | None = None,
    ) -> None:
        self.name = name
        self.key = key or key_of(name)
        self.running = True
        self.paused = False
        self.disk = disk
        self.address = Address(address or name, 7000)
        self.boot = BootId(hashlib.sha256(f"{name} life {life} {seed}".encode()).digest()[:8])
        self.links: dict[Endpoint, Connection] = {}
        self._by_node: dict[str, Process] = {}
        self.suspected_links = 0
        self.identity_elsewhere = False
        self.protocol_errors: list[str] = []
        self._wire = wire
        self._clock_offset = clock_offset
        self._scheduler = scheduler
        self._network = network
        self._log = log
        self._inbox: list[Callable[[], None]] = []
        self._wakeup = float("inf")
        self.membership = Membership(
            key=self.key,
            swarm_id=SWARM_ID,
            boot=self.boot,
            settings=settings,
            incarnation=disk.get("incarnation", 0) + 1,
            rng=random.Random(f"{name} {life} {seed}"),
            now=self._now(),
            carries=carries,
        )
        network.listen(str(self.address), self)
        self.act(
            lambda now: self.membership.update_self(now, addresses=(self.address,), state="ready", name=name)
        )

    def act(self, action: Callable[[float], None]) -> None:
        """Call into the membership, execute what it wants, and set the next tick; later, while paused."""
        if not self.running:
            return
        if self.paused:
            self._inbox.append(lambda: self.act(action))
            return
        action(self._now())
        for effect in self.membership.effects():
            self._execute(effect)
        self._plan_tick()

    def _now(self) -> float:
        """What this process's own clock says."""
        return self._scheduler.now + self._clock_offset

    def pause(self) -> None:
        """Stand still, as under SIGSTOP: the kernel goes on accepting what arrives."""
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        inbox, self._inbox = self._inbox, []
        for event in inbox:
            event()
        self.act(self.membership.tick)

    def kill(self) -> None:
        """End as by SIGKILL: the kernel resets all connections."""
        self.running = False
        for connection in list(self.links.values()):
            self._network.close(connection, self, graceful=False)
        self.links.clear()
        self._by_node.clear()

    def leave(self) -> None:
        self.act(self.membership.leave)
        for connection in list(self.links.values()):
            self._network.close(connection, self, graceful=True)
        self.links.clear()
        self._by_node.clear()
        self.running = False

    # --- the network's side ------------------------------------------------------------------------------------

    def linked_to(self, peer: Endpoint) -> Connection | None:
        return self.links.get(peer)

    def accepts(self, dialler: Endpoint) -> bool:
        """Refuse what net refuses: this node itself, and a second process of a key that a live link has."""
        if not self.running or not isinstance(dialler, Process) or dialler.key is self.key:
            return False
        return not any(isinstance(p, Process) and p.running and p.key is dialler.key for p in self.links)

    def connected(self, connection: Connection) -> None:
        peer = connection.peer(self)
        if not isinstance(peer, Process):
            raise TypeError("processes link to processes")
        self.links[peer] = connection
        self._by_node[peer.key.node_id] = peer
        key, boot, record = peer.key, peer.boot, peer.membership.record()
        self.act(lambda now: self.membership.link_up(key.node_id, key.public_bytes, boot, record, now))

    def disconnected(self, connection: Connection, graceful: bool) -> None:
        peer = connection.peer(self)
        if self.links.get(peer) is connection and isinstance(peer, Process):
            self._unlink(peer)
            node = peer.key.node_id
            self.act(lambda now: self.membership.link_down(node, graceful, now))

    def arrived(self, connection: Connection, message: Any) -> None:
        peer = connection.peer(self)
        if self.links.get(peer) is connection and isinstance(peer, Process):
            sender, decoded = peer, from_wire(message) if self._wire else message
            if isinstance(decoded, Heartbeat) and self.running and not self.paused:
                # It never brings a timer forward by more than a beat: no need to plan anew.
                self.membership.receive(sender.key.node_id, decoded, self._now())
                if self.membership.pending:
                    self.act(lambda _: None)
            else:
                self.act(lambda now: self._receive(sender, decoded, now))

    def _receive(self, sender: Process, message: Any, now: float) -> None:
        if sender not in self.links:
            return
        try:
            self.membership.receive(sender.key.node_id, message, now)
        except ProtocolError as exc:
            self._log(self.name, f"closes {sender.name}: {exc}")
            self.protocol_errors.append(str(exc))
            self._drop(sender, now, graceful=False)

    # --- the membership's side ---------------------------------------------------------------------------------

    def _execute(self, effect: Effect) -> None:
        match effect:
            case Send(node, message):
                peer = self._peer(node)
                if peer is not None:
                    self._network.send(self.links[peer], self, to_wire(message) if self._wire else message)
            case Dial(address, expected):
                outcome = Outcome(
                    lambda peer: self._reached(address, peer),
                    lambda: self.act(lambda now: self.membership.dial_failed(address, expected, now)),
                )
                self._network.dial(self, str(address), outcome)
                if address == self.address:
                    self.membership.address_is_own(address)
            case Abort(node, reason):
                self._end(node, f"aborts {node[:8]}: {reason}", graceful=False)
            case Close(node):
                self._end(node, f"closes the link to {node[:8]}", graceful=True)
            case SaveIncarnation(value):
                self.disk["incarnation"] = value
                self._log(self.name, f"saves incarnation {value}")
            case LinkSuspect(node):
                self.suspected_links += 1
                self._log(self.name, f"suspects the link to {node[:8]}")
            case LinkTrusted(node):
                self._log(self.name, f"trusts the link to {node[:8]}")
            case OwnIdentityElsewhere(detail):
                self.identity_elsewhere = True
                self._log(self.name, detail)
            case MemberChanged(node):
                self._note_change(node)

    def _reached(self, address: Address, peer: Endpoint) -> None:
        if isinstance(peer, Process):
            node = peer.key.node_id
            self.act(lambda _: self.membership.dial_succeeded(address, node))

    def _note_change(self, node: NodeId) -> None:
        member = self.membership.member(node)
        if member is None:
            self._log(self.name, f"sees {node[:8]} forgotten")
        elif self._wire or member.health is not Health.ALIVE:
            flags = (
                f"{' routable' if member.routable else ''}{' equivocating' if member.equivocating else ''}"
            )
            version = f"{member.record.incarnation}.{member.record.sequence}"
            self._log(self.name, f"sees {node[:8]} {member.health.name} {version}{flags}")

    def _end(self, node: NodeId, reason: str, *, graceful: bool) -> None:
        self._log(self.name, reason)
        peer = self._peer(node)
        if peer is not None:
            self._scheduler.after(0.0, lambda: self.act(lambda now: self._drop(peer, now, graceful=graceful)))

    def _drop(self, peer: Endpoint, now: float, *, graceful: bool) -> None:
        connection = self.links.get(peer)
        if connection is not None and isinstance(peer, Process):
            self._unlink(peer)
            self._network.close(connection, self, graceful=graceful)
            self.membership.link_down(peer.key.node_id, graceful, now)

    def _unlink(self, peer: Process) -> None:
        del self.links[peer]
        if self._by_node.get(peer.key.node_id) is peer:
            del self._by_node[peer.key.node_id]

    def _peer(self, node: str) -> Process | None:
        return self._by_node.get(node)

    def _plan_tick(self) -> None:
        wakeup = max(self.membership.wakeup() - self._clock_offset, self._scheduler.now + 0.0005)
        if wakeup < self._wakeup:
            self._wakeup = wakeup
            self._scheduler.at(wakeup, lambda: self._tick(wakeup))

    def _tick(self, planned: float) -> None:
        if planned == self._wakeup:
            self._wakeup = float("inf")
            self.act(self.membership.tick)
