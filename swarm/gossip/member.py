"""One member as this node knows it. Knows nothing of links, clocks or how the knowledge came."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from swarm.gossip.record import LoadRecord, StaticRecord
from swarm.protocol.messages import DigestEntry, SignedRecord
from swarm.types import NodeId


class Health(IntEnum):
    """How alive a member is held to be; of one incarnation the worst is true."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


EQUIVOCATING = 4
"""Added to the health in a DigestEntry's state."""
HEALTH_MASK = 3
DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Member:
    """A snapshot for everybody outside gossip. ``rtt_seconds`` is of this node's own link to it, if any."""

    node: NodeId
    record: StaticRecord
    load: LoadRecord | None
    health: Health
    routable: bool
    """May get new sessions: ready, alive, of one story, and its load record advances."""
    rtt_seconds: float | None
    equivocating: bool


@dataclass(frozen=True, slots=True)
class HeldStatic:
    """A verified static record, its bytes and the digest that breaks ties between equal versions."""

    signed: SignedRecord
    record: StaticRecord
    digest: bytes

    @classmethod
    def of(cls, signed: SignedRecord, record: StaticRecord) -> HeldStatic:
        return cls(signed, record, hashlib.sha256(signed.body).digest())

    @property
    def version(self) -> tuple[int, int, bytes]:
        return self.record.incarnation, self.record.sequence, self.digest


@dataclass(frozen=True, slots=True)
class HeldLoad:
    """A verified load record and its bytes."""

    signed: SignedRecord
    record: LoadRecord
    digest: bytes

    @classmethod
    def of(cls, signed: SignedRecord, record: LoadRecord) -> HeldLoad:
        return cls(signed, record, hashlib.sha256(signed.body).digest())

    @property
    def version(self) -> tuple[int, int, bytes]:
        return self.record.incarnation, self.record.sequence, self.digest


class _DigestOf(NamedTuple):
    """A digest entry and what it was made of: most are asked for again and again, unchanged."""

    static: HeldStatic
    load: HeldLoad | None
    health: Health
    proof: tuple[SignedRecord, SignedRecord] | None
    entry: DigestEntry


@dataclass(slots=True)
class Entry:
    """What the view holds of one member. Changed by the table and by verdicts only."""

    static: HeldStatic
    first_seen: float
    load_advanced_at: float
    held_load: HeldLoad | None = None
    verdict: Health = Health.ALIVE
    """ALIVE, SUSPECT or DEAD at the held incarnation."""
    verdict_at: float = 0.0
    proof: tuple[SignedRecord, SignedRecord] | None = field(default=None)
    """Two bodies of one version of the held incarnation."""
    _digest: _DigestOf | None = None

    @property
    def node(self) -> NodeId:
        return self.static.record.node

    @property
    def incarnation(self) -> int:
        return self.static.record.incarnation

    @property
    def health(self) -> Health:
        return Health.LEFT if self.static.record.state == "left" else self.verdict

    @property
    def gone(self) -> bool:
        return self.verdict >= Health.DEAD or self.static.record.state == "left"

    @property
    def load(self) -> HeldLoad | None:
        """The load record of the current incarnation: an earlier one says nothing of this process."""
        held = self.held_load
        return held if held is not None and held.record.incarnation == self.incarnation else None

    def digest_entry(self) -> DigestEntry:
        load, health = self.load, self.health
        cached = self._digest
        if (
            cached is not None
            and cached.static is self.static
            and cached.load is load
            and cached.health is health
            and cached.proof is self.proof
        ):
            return cached.entry
        record = self.static.record
        entry = DigestEntry(
            node=record.node,
            incarnation=record.incarnation,
            sequence=record.sequence,
            load_sequence=load.record.sequence if load else 0,
            state=int(health) | (EQUIVOCATING if self.proof else 0),
            digest=self.static.digest[:DIGEST_BYTES],
        )
        self._digest = _DigestOf(self.static, load, health, self.proof, entry)
        return entry
