"""What a hop may do for whom: sessions, epochs, steps and leases. Computes nothing and sends nothing itself.

Who may send what is checked against the link's authenticated sender (docs/protocol.md, "Sessions"):
OpenSession, Replay, Renew and CloseSession come from the origin, Step from the hop before (for hop 0: the origin).
"""

from __future__ import annotations

from collections.abc import Iterator

from swarm.errors import ProtocolError
from swarm.protocol.limits import (
    MAX_PAYLOAD_BYTES,
    MAX_PENDING_STEPS,
    MAX_PREFIX_BLOCKS,
    MAX_TOKENS,
    PREFIX_NAME_BYTES,
)
from swarm.protocol.messages import (
    CloseSession,
    Need,
    Opened,
    OpenSession,
    RefusalCode,
    Refused,
    Renew,
    Replay,
    Step,
)
from swarm.sessions.hop_session import (
    Admit,
    Ask,
    Drop,
    HopKey,
    HopSession,
    Place,
    Resend,
    Run,
    StepDecision,
)
from swarm.sessions.outputlog import OutputLog
from swarm.types import DTYPE_BYTES, BootId, NodeId, SessionId

MAX_HOPS = 256
MAX_KV_TOKENS = 1 << 24


class HopSessions:
    """All sessions one node takes part in."""

    def __init__(
        self,
        *,
        node: NodeId,
        boot: BootId,
        lease_seconds: float,
        max_per_origin: int,
        log_bytes: int = 1 << 28,
    ) -> None:
        """``log_bytes`` bounds the output logs of all sessions together; the longest gives way."""
        self.node = node
        self._boot = boot
        self._lease_seconds = lease_seconds
        self._max_per_origin = max_per_origin
        self._max_log_bytes = log_bytes
        self.log_bytes = 0
        self.logs_dropped = 0
        self._sessions: dict[HopKey, HopSession] = {}
        self._places: dict[Place, HopSession] = {}

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
        key = HopKey(message.origin, message.session, hop.span.start)
        if hop.node != self.node or hop.boot != self._boot:
            return refusal(message, "not_yours", "this process is another start of that node")
        known = self._sessions.get(key)
        if known is not None and message.epoch <= known.epoch:
            return Drop("old_epoch")
        if known is None and self._count(message.origin, message.session) >= self._max_per_origin:
            return refusal(message, "full", f"{self._max_per_origin} sessions of this origin are open here")
        if known is not None and (known.hop.span != hop.span or known.model != message.model):
            known = None  # other layers: nothing of what is here can be kept
        return Admit(key, min(message.keep, known.settled) if known else 0, known is not None)

    def admitted(
        self,
        admit: Admit,
        message: OpenSession,
        now: float,
        *,
        length: int | None = None,
        hit_tokens: int = 0,
        floor: int = 0,
    ) -> Opened:
        """Record an admission whose KV is reserved, of which ``length`` tokens are filled already."""
        length = max(admit.keep, hit_tokens) if length is None else length
        before = self._sessions.get(admit.key)
        log = OutputLog(length)
        if before is not None:
            self._forget_place(before)
            self.log_bytes -= before.log.bytes
            if admit.known and before.dtype == message.dtype:
                log = before.log
                log.truncate(length)
                if log.end < length:
                    log.clear(length)
                self.log_bytes += log.bytes
        session = HopSession(
            key=admit.key,
            place=message.index,
            epoch=message.epoch,
            model=message.model,
            dtype=message.dtype,
            hops=message.hops,
            lease_until=now + self._lease_seconds,
            length=length,
            log=log,
        )
        self._sessions[admit.key] = session
        self._places[message.origin, message.session, message.index] = session
        return Opened(
            message.origin,
            message.session,
            message.epoch,
            length,
            hit_tokens,
            floor,
            message.index,
            log.start,
        )

    def step(self, sender: NodeId, message: Step, now: float) -> StepDecision:
        """Decide about a Step. Raises ProtocolError for one that its sender may not send."""
        session = self._places.get((message.origin, message.session, message.index))
        if session is None:
            return Drop("no_session")
        if message.epoch != session.epoch:
            return Drop("old_epoch" if message.epoch < session.epoch else "future_epoch")
        if message.dtype != session.dtype or message.count < 1 or message.position < 0:
            raise ProtocolError("Step of another dtype than its session, or without tokens")
        if len(message.times) > session.place:
            raise ProtocolError("Step with times of more hops than it came through")
        if len(session.pending) >= MAX_PENDING_STEPS:
            raise ProtocolError(f"more than {MAX_PENDING_STEPS} steps of one session at once")
        if message.fill_until:
            return self._fill(session, sender, message, now)
        if sender != session.upstream:
            raise ProtocolError("Step from a node that is not the hop before")
        if message.step < session.next_step:
            return _held(session, message.step) or Drop("seen_step")
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

    def _fill(self, session: HopSession, sender: NodeId, message: Step, now: float) -> StepDecision:
        """Fill steps come before the others of their epoch; a lost one is noticed by the origin, which waits for it."""
        if sender != session.upstream:
            raise ProtocolError("Step from a node that is not the hop before")
        if not session.place < message.fill_until <= len(session.hops) or message.step < 0:
            raise ProtocolError("Step that fills hops outside its path")
        ticket = ticket_of(message)
        if session.next_step or ticket in session.pending:
            return Drop("late_fill")
        if message.position > session.length:
            return Drop("fill_gap")
        session.length = message.position + message.count
        session.pending[ticket] = (message, now)
        return Run(session, message)

    def finished(self, key: HopKey, epoch: int, ticket: int) -> tuple[HopSession, Step] | None:
        """Return whose step this was, or None when the session has ended or moved on meanwhile."""
        session = self._sessions.get(key)
        if session is None or session.epoch != epoch:
            return None
        asked = session.pending.pop(ticket, None)
        return None if asked is None else (session, asked[0])

    def computed(self, session: HopSession, step: Step, rows: bytes) -> None:
        """Keep what a step's computation gave, which is sent on, for a hop that may take the next one's place."""
        self.log_bytes += session.log.append(step.position, step.count, rows)
        if self.log_bytes > self._max_log_bytes:
            longest = max(self._sessions.values(), key=lambda one: one.log.bytes).log
            self.log_bytes -= longest.bytes
            longest.clear(longest.end)
            self.logs_dropped += 1

    def replay(self, sender: NodeId, message: Replay) -> Resend | Refused | Drop:
        """Answer the origin's wish for rows of the log. Raises ProtocolError for what it may not ask."""
        if sender != message.origin:
            raise ProtocolError("Replay for a session of another origin")
        if message.count < 1 or message.count > MAX_TOKENS or message.position < 0 or message.step < 0:
            raise ProtocolError("Replay with sizes out of range")
        if not 0 <= message.to_index < message.fill_until <= MAX_HOPS:
            raise ProtocolError("Replay to hops outside a path")
        session = self._places.get((message.origin, message.session, message.index))
        if session is None or session.epoch != message.epoch:
            return Drop("no_session" if session is None else "old_epoch")
        rows = session.log.rows(message.position, message.count)
        if rows is None or len(rows) > MAX_PAYLOAD_BYTES:
            return refusal(session, "log_gap", f"the log begins at token {session.log.start}")
        hidden = len(rows) // message.count // DTYPE_BYTES[session.dtype]
        step = Step(
            message.origin,
            message.session,
            message.to_epoch,
            message.step,
            message.position,
            message.count,
            hidden,
            session.dtype,  # type: ignore[arg-type]  # checked when the session was opened
            "none",
            (),
            message.fill_until,
            message.to_index,
        )
        return Resend(message.to, step, rows, again=False)

    def renew(self, sender: NodeId, message: Renew, now: float) -> None:
        """Start the leases of the sender's own sessions anew; names of others' sessions match nothing."""
        wanted = set(message.sessions)
        for session in self._sessions.values():
            if session.key.origin == sender and session.key.session in wanted:
                session.lease_until = now + self._lease_seconds

    def close(self, sender: NodeId, message: CloseSession) -> list[HopSession]:
        """End the sender's session at one or every place it has here; an older epoch's close is void."""
        if sender != message.origin:
            raise ProtocolError("CloseSession for a session of another origin")
        _check_names(message.blocks)
        ended = [
            session
            for key, session in self._sessions.items()
            if key[:2] == (sender, message.session)
            and session.epoch <= message.epoch
            and message.index in (-1, session.place)
        ]
        for session in ended:
            self.forget(session.key)
        return ended

    def need(self, sender: NodeId, message: Need) -> Resend | Refused | Drop:
        """Answer the next hop that lacks steps: the held output, or a log gap for the origin.

        It may be late: the session may have ended meanwhile, or gone on with another hop after this one.
        """
        here = [s for s in self._sessions.values() if s.key[:2] == (message.origin, message.session)]
        session = next((s for s in here if s.epoch == message.epoch and s.downstream == sender), None)
        if session is not None:
            return _held(session, message.step) or refusal(
                session, "log_gap", f"step {message.step} is no longer held"
            )
        if any(s.epoch == message.epoch for s in here):
            raise ProtocolError("Need from a node that is not the hop after")
        return Drop("old_epoch" if here else "no_session")

    def waiting(self, before: float) -> list[tuple[HopSession, Step]]:
        """Return the oldest step of each session that came before ``before`` and is not computed yet."""
        oldest = ((s, next(iter(s.pending.values()))) for s in self._sessions.values() if s.pending)
        return [(session, step) for session, (step, came) in oldest if came < before]

    def forget(self, key: HopKey) -> HopKey:
        session = self._sessions.pop(key, None)
        if session is not None:
            self._forget_place(session)
            self.log_bytes -= session.log.bytes
        return key

    def _forget_place(self, session: HopSession) -> None:
        place = (session.key.origin, session.key.session, session.place)
        if self._places.get(place) is session:
            del self._places[place]

    def expire(self, now: float) -> list[HopKey]:
        """End the sessions whose origin has been silent for a whole lease."""
        return [self.forget(s.key) for s in list(self._sessions.values()) if s.lease_until <= now]

    def origin_gone(self, origin: NodeId) -> list[HopKey]:
        """End every session of an origin that is dead, or was started anew and so has forgotten them."""
        return [self.forget(key) for key in list(self._sessions) if key.origin == origin]

    def wakeup(self) -> float | None:
        return min((s.lease_until for s in self._sessions.values()), default=None)

    def _count(self, origin: NodeId, session: SessionId) -> int:
        """How many sessions of ``origin`` are open here, beside ``session``."""
        return len({key.session for key in self._sessions if key.origin == origin} - {session})


def _held(session: HopSession, step: int) -> Resend | None:
    held = session.held
    return Resend(held[1], held[2], held[3]) if held is not None and held[0] == step else None


def ticket_of(step: Step) -> int:
    """Tell steps of an epoch apart: those that fill have numbers of their own."""
    return ~step.step if step.fill_until else step.step


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
    if isinstance(about, OpenSession):
        origin, session, index = about.origin, about.session, about.index
    else:
        origin, session, index = about.key.origin, about.key.session, about.place
    return Refused(origin, session, about.epoch, code, retry_milliseconds, detail, next_node, index)
