"""A hop's side of one session, and what its rules answer to a message: plain values. Nothing here acts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from swarm.protocol.messages import Hop, Need, Output, Step
from swarm.sessions.outputlog import OutputLog
from swarm.types import ModelId, NodeId, SessionId


class HopKey(NamedTuple):
    """One span of one session. It outlives paths: the place in them may change, the KV of these layers stays."""

    origin: NodeId
    session: SessionId
    first_layer: int


Place = tuple[NodeId, SessionId, int]
"""Origin, session and place in the session's path: how Steps name their receiver."""


@dataclass(slots=True)
class HopSession:
    """A hop's side of one session. ``length`` counts the tokens whose KV is computed or queued to be."""

    key: HopKey
    place: int
    epoch: int
    model: ModelId
    dtype: str
    hops: tuple[Hop, ...]
    lease_until: float
    length: int
    log: OutputLog
    """What was sent on to the next hop; empty at the last hop."""
    next_step: int = 0
    held: tuple[int, NodeId, Step | Output, bytes] | None = None
    """The newest output: step, receiver, message and payload, to be sent again when asked."""
    pending: dict[int, tuple[Step, float]] = field(default_factory=dict)
    """Steps being computed, and when each came; those that only fill count down from -1."""

    @property
    def hop(self) -> Hop:
        return self.hops[self.place]

    @property
    def is_last(self) -> bool:
        return self.place == len(self.hops) - 1

    @property
    def settled(self) -> int:
        """How many leading tokens' KV is computed, whatever is still queued."""
        return min((step.position for step, _ in self.pending.values()), default=self.length)

    @property
    def upstream(self) -> NodeId:
        return self.key.origin if self.place == 0 else self.hops[self.place - 1].node

    @property
    def downstream(self) -> NodeId:
        return self.key.origin if self.is_last else self.hops[self.place + 1].node


@dataclass(frozen=True, slots=True)
class Admit:
    """OpenSession is in order: reserve ``kv_tokens``, truncate to ``keep``, then call ``admitted``."""

    key: HopKey
    keep: int
    known: bool
    """True when the session exists here and moves to a higher epoch."""


@dataclass(frozen=True, slots=True)
class Run:
    session: HopSession
    step: Step


@dataclass(frozen=True, slots=True)
class Resend:
    """``again``: of a step that was lost; else of a log, to a hop that takes another's place."""

    receiver: NodeId
    message: Step | Output
    payload: bytes
    again: bool = True


@dataclass(frozen=True, slots=True)
class Ask:
    """Steps are missing: the upstream hop is asked for them."""

    receiver: NodeId
    message: Need


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing to do; ``reason`` is counted."""

    reason: str


StepDecision = Run | Resend | Ask | Drop
