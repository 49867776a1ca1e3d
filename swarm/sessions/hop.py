"""What a hop may do for whom: sessions, epochs, steps and leases. Computes nothing and sends nothing itself.

Who may send what is checked against the link's authenticated sender (docs/protocol.md, "Sessions"):
OpenSession, Renew and CloseSession come from the origin, Step from the hop before (for hop 0: the origin).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from swarm.errors import ProtocolError
from swarm.protocol.limits import MAX_PREFIX_BLOCKS, PREFIX_NAME_BYTES
from swarm.protocol.messages import (
    CloseSession,
    Hop,
    Need,
    Opened,
    OpenSession,
    Output,
    RefusalCode,
    Refused,
    Renew,
    Step,
)
from swarm.types import BootId, ModelId, NodeId, SessionId

MAX_HOPS = 256
MAX_KV_TOKENS = 1 << 24


class HopKey(NamedTuple):
    """One place in one session's path; a node that stands twice in a path has two."""

    origin: NodeId
    session: SessionId
    place: int


@dataclass(slots=True)
class HopSession:
    """A hop's side of one session. ``length`` counts the tokens whose KV is computed or queued to be."""

    key: HopKey
    epoch: int
    model: ModelId
    dtype: str
    hops: tuple[Hop, ...]
    lease_until: float
    length: int = 0
    next_step: int = 0
    held: tuple[int, NodeId, Step | Output, bytes] | None = None
    """The newest output: step, receiver, message and payload, to be sent again when asked."""
    pending: dict[int, tuple[Step, float]] = field(default_factory=dict)
    """Steps being computed, and when each came."""

    @property
    def hop(self) -> Hop:
        return self.hops[self.key.place]

    @property
    def is_last(self) -> bool:
        return self.key.place == len(self.hops) - 1

    @property
    def settled(self) -> int:
        """How many leading tokens' KV is computed, whatever is still queued."""
        return min((step.position for step, _ in self.pending.values()), default=self.length)

    @property
    def upstream(self) -> NodeId:
        return self.key.origin if self.key.place == 0 else self.hops[self.key.place - 1].node

    @property
    def downstream(self) -> NodeId:
        return self.key.origin if self.is_last else self.hops[self.key.place + 1].node


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
    receiver: NodeId
    message: Step | Output
    payload: bytes


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


class HopSessions:
    """All sessions one node takes part in."""

    def __init__(self, *, node: NodeId, boot: BootId, lease_seconds: float, max_per_origin: int) -> None:
        self._node = node
        self._boot = boot
        self._lease_seconds = lease_seconds
        self._max_per_origin = max_per_origin
        self._sessions: dict[HopKey, HopSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[HopSession]:
        return iter(self._sessions.values())

    def get(self, key: HopKey) -> HopSession | None:
        return self._sessions.get(key)

    def open(self, sender: NodeId, message: OpenSession) -> Admit | Refused | Drop:
        """Check an OpenSession. Raises ProtocolError for what no honest origin sends."""
        if sender != message.origin:
            raise ProtocolError("OpenSession for a session of another origin")
        if not 0 <= message.index < len(message.hops) <= MAX_HOPS:
            raise ProtocolError("OpenSession with a hop index outside its hops")
        if not (message.keep >= 0 and 0 < message.kv_tokens <= MAX_KV_TOKENS and len(message.session) == 16):
            raise ProtocolError("OpenSession with sizes out of range")
        _check_names(message.blocks)
        hop = message.hops[message.index]
        key = HopKey(message.origin, message.session, message.index)
        if hop.node != self._node or hop.boot != self._boot:
            return refusal(message, "not_yours", "this process is another start of that node")
        known = self._sessions.get(key)
        if known is not None and message.epoch <= known.epoch:
            return Drop("old_epoch")
        if known is None and self._count(message.origin) >= self._max_per_origin:
            return refusal(message, "full", f"{self._max_per_origin} sessions of this origin are open here")
        if known is not None and (known.hop.span != hop.span or known.model != message.model):
            return refusal(message, "not_yours", "an open session can't change its span or model")
        keep = min(message.keep, known.length) if known else 0
        return Admit(key, keep, known is not None)

    def admitted(self, admit: Admit, message: OpenSession, now: float, *, hit_tokens: int = 0) -> Opened:
        """Record an admission whose KV is reserved, of which ``hit_tokens`` are filled already."""
        length = max(admit.keep, hit_tokens)
        self._sessions[admit.key] = HopSession(
            key=admit.key,
            epoch=message.epoch,
            model=message.model,
            dtype=message.dtype,
            hops=message.hops,
            lease_until=now + self._lease_seconds,
            length=length,
        )
        return Opened(message.origin, message.session, message.epoch, length, hit_tokens, index=message.index)

    def step(self, sender: NodeId, message: Step, now: float) -> StepDecision:
        """Decide about a Step. Raises ProtocolError for one that its sender may not send."""
        session = self._sessions.get(HopKey(message.origin, message.session, message.index))
        if session is None:
            return Drop("no_session")
        if message.epoch != session.epoch:
            return Drop("old_epoch" if message.epoch < session.epoch else "future_epoch")
        if sender != session.upstream:
            raise ProtocolError("Step from a node that is not the hop before")
        if message.dtype != session.dtype or message.count < 1:
            raise ProtocolError("Step of another dtype than its session, or without tokens")
        if message.step < session.next_step:
            held = session.held
            if held is not None and held[0] == message.step:
                return Resend(held[1], held[2], held[3])
            return Drop("seen_step")
        if message.step > session.next_step:
            need = Need(message.origin, message.session, message.epoch, session.next_step, session.length)
            return Ask(sender, need)
        if message.position > session.length:
            raise ProtocolError(
                f"Step at position {message.position} beyond the session's {session.length} tokens"
            )
        session.next_step += 1
        session.length = message.position + message.count
        session.pending[message.step] = (message, now)
        return Run(session, message)

    def finished(self, key: HopKey, epoch: int, step: int) -> tuple[HopSession, Step] | None:
        """Return whose step this was, or None when the session has ended or moved on meanwhile."""
        session = self._sessions.get(key)
        if session is None or session.epoch != epoch:
            return None
        asked = session.pending.pop(step, None)
        return None if asked is None else (session, asked[0])

    def renew(self, sender: NodeId, message: Renew, now: float) -> None:
        """Start the leases of the sender's own sessions anew; names of others' sessions match nothing."""
        wanted = set(message.sessions)
        for session in self._sessions.values():
            if session.key.origin == sender and session.key.session in wanted:
                session.lease_until = now + self._lease_seconds

    def close(self, sender: NodeId, message: CloseSession) -> list[HopSession]:
        """End the sender's session at every place it has here; an older epoch's close is void."""
        if sender != message.origin:
            raise ProtocolError("CloseSession for a session of another origin")
        _check_names(message.blocks)
        ended = [
            session
            for key, session in self._sessions.items()
            if key[:2] == (sender, message.session) and session.epoch <= message.epoch
        ]
        for session in ended:
            self.forget(session.key)
        return ended

    def need(self, sender: NodeId, message: Need) -> Resend | Refused:
        """Answer the next hop that lacks steps: the held output, or a log gap for the origin."""
        for session in self._sessions.values():
            if session.key[:2] == (message.origin, message.session) and session.downstream == sender:
                if (
                    session.epoch == message.epoch
                    and session.held is not None
                    and session.held[0] == message.step
                ):
                    return Resend(session.held[1], session.held[2], session.held[3])
                return refusal(session, "log_gap", f"step {message.step} is no longer held")
        raise ProtocolError("Need from a node that is not the hop after")

    def waiting(self, before: float) -> list[tuple[HopSession, Step]]:
        """Return the oldest step of each session that came before ``before`` and is not computed yet."""
        oldest = ((s, next(iter(s.pending.values()))) for s in self._sessions.values() if s.pending)
        return [(session, step) for session, (step, came) in oldest if came < before]

    def forget(self, key: HopKey) -> HopKey:
        self._sessions.pop(key, None)
        return key

    def expire(self, now: float) -> list[HopKey]:
        """End the sessions whose origin has been silent for a whole lease."""
        return [self.forget(s.key) for s in list(self._sessions.values()) if s.lease_until <= now]

    def origin_gone(self, origin: NodeId) -> list[HopKey]:
        """End every session of an origin that is dead, or was started anew and so has forgotten them."""
        return [self.forget(key) for key in list(self._sessions) if key.origin == origin]

    def wakeup(self) -> float | None:
        return min((s.lease_until for s in self._sessions.values()), default=None)

    def _count(self, origin: NodeId) -> int:
        return len({key.session for key in self._sessions if key.origin == origin})


def _check_names(names: tuple[bytes, ...]) -> None:
    if len(names) > MAX_PREFIX_BLOCKS or any(len(name) != PREFIX_NAME_BYTES for name in names):
        raise ProtocolError("prefix blocks are named by at most 2,048 names of 16 bytes")


def refusal(
    about: OpenSession | HopSession,
    code: RefusalCode,
    detail: str = "",
    *,
    retry_milliseconds: int = 0,
    next_node: NodeId | None = None,
) -> Refused:
    """Build the answer to the origin for a session that can't start or go on here."""
    origin, session = (about.origin, about.session) if isinstance(about, OpenSession) else about.key[:2]
    return Refused(origin, session, about.epoch, code, retry_milliseconds, detail, next_node)
