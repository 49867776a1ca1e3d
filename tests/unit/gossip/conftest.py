"""Members with keys, their signed records and claims, and a Membership with links to feed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from swarm.config import GossipSettings
from swarm.gossip.effects import Effect, Send
from swarm.gossip.membership import Membership
from swarm.gossip.record import Claim, LoadRecord, StaticRecord, encode
from swarm.protocol.identity import NodeKey, sign_claim, sign_record
from swarm.protocol.messages import AnyMessage, SignedRecord, SignedSuspicion
from swarm.types import BootId, NodeId

SWARM = b"a swarm for tests"[:16]


class Peer:
    """A member that says whatever a test wants, correctly signed."""

    def __init__(self, name: str) -> None:
        self.key = NodeKey.from_seed(hashlib.sha256(name.encode()).digest())
        self.node: NodeId = self.key.node_id
        self.boot = BootId(hashlib.sha256(name.encode()).digest()[:8])

    def static(self, incarnation: int = 1, sequence: int = 1, **fields: Any) -> SignedRecord:
        record = StaticRecord(
            node=self.node,
            public_key=self.key.public_bytes,
            incarnation=incarnation,
            sequence=sequence,
            boot=self.boot,
            addresses=(),
            protocol_min=1,
            protocol_max=1,
            state="ready",
        )
        return self.sign("static", encode(msgspec.structs.replace(record, **fields)))

    def load(self, incarnation: int = 1, sequence: int = 1, **fields: Any) -> SignedRecord:
        record = LoadRecord(self.node, incarnation, sequence, 0, 0, 0.0, 0)
        return self.sign("load", encode(msgspec.structs.replace(record, **fields)))

    def sign(self, kind: Any, body: bytes) -> SignedRecord:
        return sign_record(self.key, SWARM, kind, body)

    def accuses(self, subject: NodeId, incarnation: int = 1, *, dead: bool = False) -> SignedSuspicion:
        return sign_claim(self.key, SWARM, encode(Claim(self.node, subject, incarnation, dead)))


class Driven:
    """A Membership, its clock, and what it wanted done."""

    def __init__(self) -> None:
        self.me = Peer("me")
        self.now = 100.0
        self.done: list[Effect] = []
        self.membership = Membership(
            key=self.me.key,
            swarm_id=SWARM,
            boot=self.me.boot,
            settings=GossipSettings(),
            incarnation=1,
            rng=random.Random(1),
            now=self.now,
        )
        self.settle()

    def settle(self) -> list[Effect]:
        new = self.membership.effects()
        self.done += new
        return new

    def link(self, *peers: Peer) -> None:
        for peer in peers:
            self.membership.link_up(peer.node, peer.key.public_bytes, peer.boot, peer.static(), self.now)
        self.settle()

    def receive(self, sender: Peer, message: AnyMessage) -> list[Effect]:
        self.membership.receive(sender.node, message, self.now)
        return self.settle()

    def wait(self, seconds: float, speaking: Callable[[], None] = lambda: None) -> list[Effect]:
        """Let time pass in steps of a heartbeat; ``speaking`` is called at each."""
        before = len(self.done)
        for _ in range(round(seconds / 0.25)):
            self.now += 0.25
            speaking()
            self.membership.tick(self.now)
            self.settle()
        return self.done[before:]

    def sent(self, kind: type[Any], effects: list[Effect] | None = None) -> list[Send]:
        found = self.done if effects is None else effects
        return [effect for effect in found if isinstance(effect, Send) and isinstance(effect.message, kind)]


@pytest.fixture
def peer() -> Callable[[str], Peer]:
    return Peer


@pytest.fixture
def driven() -> Driven:
    return Driven()


@pytest.fixture(scope="session")
def swarm_id() -> bytes:
    return SWARM
