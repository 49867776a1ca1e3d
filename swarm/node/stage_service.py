"""A hop at work: sessions opened, steps computed and handed on. Tensors and sockets are others' business."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast, get_args

from swarm.engine.jobs import StepJob, StepResult
from swarm.errors import BadTensorError, EngineError, KVFullError, LinkDownError, ModelError, SwarmError
from swarm.protocol.limits import PREFIX_BLOCK_TOKENS
from swarm.protocol.messages import (
    Busy,
    CloseSession,
    Drain,
    Filled,
    HopTime,
    Need,
    Opened,
    OpenSession,
    Output,
    RefusalCode,
    Refused,
    Renew,
    Replay,
    Step,
)
from swarm.sessions.hop import HopSessions, refusal, ticket_of
from swarm.sessions.hop_session import Admit, Ask, Drop, HopKey, HopSession, Resend, Run
from swarm.sessions.room import Shortage, Turnover, gives_way
from swarm.types import LayerSpan, ModelId, NodeId, SessionId, short

if TYPE_CHECKING:
    from swarm.config import SessionSettings
    from swarm.engine.worker import Engine
    from swarm.node.bus import Bus
    from swarm.node.meters import Meters

log = logging.getLogger("swarm.stage")

T = TypeVar("T")

REFUSAL_CODES = frozenset(get_args(RefusalCode))
BUSY_SECONDS = 0.4
"""Origins hear that often of steps that have waited or been computed for that long."""
STUCK_SECONDS = 10.0
"""A compute thread that finishes no step for so long is no longer called busy: its origins turn elsewhere."""
MAX_LINKS_AWAITED = 128
"""Sessions that wait for a link to their next hop, and replays for one to their receiver, at once."""

Connect = Callable[[NodeId], Awaitable[None]]
"""Opens a link to a member by its verified record; raises SwarmError."""


@dataclass(frozen=True, slots=True)
class StepTag:
    key: HopKey
    epoch: int
    ticket: int


class StageService:
    """Answers OpenSession, Step, Replay, Renew and CloseSession with the engine's help."""

    def __init__(
        self,
        *,
        sessions: HopSessions,
        engine: Engine,
        bus: Bus,
        settings: SessionSettings,
        node: NodeId,
        kv_share: float,
        connect: Connect,
        spawn: Callable[[Awaitable[None]], object],
        clock: Callable[[], float],
        meters: Meters,
        passed: Callable[[tuple[ModelId, LayerSpan], int, int, float], None],
    ) -> None:
        """``passed`` is told of each pass of one step alone: the loaded span, its layers passed, rows, seconds."""
        self._passed = passed
        self._meters = meters
        self._sessions = sessions
        self._engine = engine
        self._bus = bus
        self._settings = settings
        self._node = node
        self._kv_share = kv_share
        self._connect = connect
        self._spawn = spawn
        self._clock = clock
        self._reserved: dict[HopKey, int] = {}
        self._links_awaited = 0
        self._turnover = Turnover()
        self._progress = 0
        self._moved_at = self._busy_at = clock()
        self._retired: set[tuple[ModelId, LayerSpan]] = set()
        self.draining = False
        self.counts: Counter[str] = Counter()

    @property
    def session_count(self) -> int:
        return len(self._sessions)

    def uses(self, node: NodeId) -> bool:
        """Return whether a session here has ``node`` for its origin or beside it in its path."""
        return any(node in (s.key.origin, s.upstream, s.downstream) for s in self._sessions)

    # --- messages ---

    def on_open(self, sender: NodeId, message: OpenSession) -> None:
        decision = self._sessions.open(sender, message)
        if isinstance(decision, Drop):
            self.counts[decision.reason] += 1
            return
        if isinstance(decision, Refused):
            self._answer(sender, decision)
            return
        if self.draining and not decision.known:
            self._answer(sender, refusal(message, "draining"))
            return
        try:
            length, hit_tokens = self._with_room(
                decision.key, lambda: self._reserve(decision, message), grows=decision.known
            )
        except KVFullError as exc:
            retry = self._turnover.retry_milliseconds(self._clock())
            self._answer(sender, refusal(message, "full", str(exc), retry_milliseconds=retry))
            return
        except ModelError as exc:
            self._answer(sender, refusal(message, "no_model", str(exc)))
            return
        opened = self._sessions.admitted(
            decision,
            message,
            self._clock(),
            length=length,
            hit_tokens=hit_tokens,
            floor=self._engine.floor(decision.key),
        )
        session = self._sessions.get(decision.key)
        if session is None or self._bus.linked(session.downstream):
            self._answer(sender, opened)
        else:
            self._linking(session, self._open_downstream(session, opened))

    def _reserve(self, admit: Admit, message: OpenSession) -> tuple[int, int]:
        """Make room; return how many tokens' KV is there, and how many of them an ended session left."""
        stays = admit.known and self._engine.stage_of(admit.key) not in self._retired
        if stays and admit.keep and admit.keep >= self._engine.floor(admit.key):
            self._grow(admit.key, message.kv_tokens)
            self._engine.truncate(admit.key, admit.keep)
            return admit.keep, 0
        hit_tokens = self._engine.open(
            admit.key,
            message.model,
            message.hops[message.index].span,
            message.kv_tokens,
            scope=(message.origin, message.dtype),
            blocks=message.blocks,
        )
        self._reserved[admit.key] = message.kv_tokens
        return hit_tokens, hit_tokens

    async def _open_downstream(self, session: HopSession, opened: Opened) -> None:
        """Link to the next hop first: Opened promises that steps can be handed on."""
        node = session.downstream
        try:
            await self._link_to(node)
        except SwarmError as exc:
            log.info("no link to the next hop %s: %s", short(node), exc)
            if self._sessions.get(session.key) is session:
                self._unreachable(session, node, exc)
            return
        if self._sessions.get(session.key) is session:
            self._answer(session.key.origin, opened)

    def _linking(self, session: HopSession | None, work: Coroutine[None, None, None]) -> None:
        """Run what waits for a link; more than so much at once is nobody's honest wish."""
        if self._links_awaited >= MAX_LINKS_AWAITED:
            work.close()
            self.counts["too_many_links"] += 1
            if session is not None:
                self._refuse(session, "full", "too many new links are awaited")
            return
        self._links_awaited += 1
        self._spawn(work)

    async def _link_to(self, node: NodeId) -> None:
        try:
            await self._connect(node)
        finally:
            self._links_awaited -= 1

    def _unreachable(self, session: HopSession, node: NodeId, why: SwarmError) -> None:
        """The session stays: its origin finds a way around with what it holds, or ends it."""
        message = refusal(session, "unreachable", str(why)[:300], next_node=node)
        self._answer(session.key.origin, message)

    def on_step(self, sender: NodeId, message: Step, payload: memoryview) -> None:
        now = self._clock()
        decision = self._sessions.step(sender, message, now)
        if isinstance(decision, Run):
            self._run(decision, payload, now)
        elif isinstance(decision, Resend):
            self._resend(decision)
        elif isinstance(decision, Ask):
            self._answer(decision.receiver, decision.message)
        else:
            self.counts[decision.reason] += 1

    def _run(self, run: Run, payload: memoryview, now: float) -> None:
        session, step = run.session, run.step
        try:
            if session.length > self._reserved[session.key]:
                wanted = session.length + self._settings.reserve_tokens
                self._with_room(session.key, lambda: self._grow(session.key, wanted), grows=True)
        except KVFullError as exc:
            self._refuse(session, "full", str(exc))
            return
        self._engine.submit(
            StepJob(
                key=session.key,
                position=step.position,
                count=step.count,
                hidden=payload,
                dtype=step.dtype,
                rows=step.rows if session.is_last else "all",
                tag=StepTag(session.key, step.epoch, ticket_of(step)),
                hops=len(session.hops),
                received_at=now,
            )
        )

    def on_need(self, sender: NodeId, message: Need) -> None:
        self._send_again(self._sessions.need(sender, message))

    def on_replay(self, sender: NodeId, message: Replay) -> None:
        self._send_again(self._sessions.replay(sender, message))

    def _send_again(self, decision: Resend | Refused | Drop) -> None:
        if isinstance(decision, Drop):
            self.counts[decision.reason] += 1
        elif isinstance(decision, Refused):
            self._answer(decision.origin, decision)
        elif self._bus.linked(decision.receiver):
            self._resend(decision)
        else:
            self._linking(None, self._resend_over_new_link(decision))

    async def _resend_over_new_link(self, resend: Resend) -> None:
        """A hop that is to take another's place may be one that this node has no link to yet."""
        try:
            await self._link_to(resend.receiver)
        except SwarmError as exc:
            # The origin waits for Filled, and is late.
            log.info("no link to %s for a replay: %s", short(resend.receiver), exc)
            return
        self._resend(resend)

    def on_renew(self, sender: NodeId, message: Renew) -> None:
        self._sessions.renew(sender, message, self._clock())

    def on_close(self, sender: NodeId, message: CloseSession) -> None:
        for session in self._sessions.close(sender, message):
            if self._reserved.pop(session.key, None) is not None:
                self._turnover.ended(self._clock())
                self._engine.close(session.key, message.blocks[: session.settled // PREFIX_BLOCK_TOKENS])

    # --- results ---

    def on_result(self, result: StepResult) -> None:
        tag = result.tag
        if not isinstance(tag, StepTag):
            raise TypeError("a step's result without its tag")
        found = self._sessions.finished(tag.key, tag.epoch, tag.ticket)
        if found is None:
            self.counts["result_of_old_epoch"] += 1
            return
        session, step = found
        if result.error is not None:
            self._failed(session, result.error)
            return
        self._meters.stepped(
            queue_seconds=result.queue_seconds,
            compute_seconds=result.compute_seconds,
            rows=result.batch_rows,
        )
        stage = self._engine.stage_of(result.key)
        if stage is not None and step.count == result.batch_rows:
            self._passed(stage, len(session.hop.span), result.batch_rows, result.compute_seconds)
        time = HopTime(
            max(0, int(result.queue_seconds * 1e6)),
            int(result.compute_seconds * 1e6),
            min(result.batch_rows, 1 << 16),
        )
        times = (*step.times, time)
        if not session.is_last:
            self._sessions.computed(session, step, result.hidden)
        if step.fill_until == session.place + 1:
            self._answer(session.key.origin, _filled(session, step, times))
            return
        message = _forward(session, step, result, times)
        if not step.fill_until:
            session.held = (step.step, session.downstream, message, result.hidden)
        try:
            self._bus.send(session.downstream, message, result.hidden)
        except LinkDownError as exc:
            if not session.is_last:
                self._unreachable(session, session.downstream, exc)

    def _failed(self, session: HopSession, error: EngineError) -> None:
        """End a session whose step failed; what came to a hop bad is the doing of the one before it."""
        received = isinstance(error, BadTensorError) and error.received and session.place
        before = session.upstream if received else None
        self._refuse(session, _refusal_code(error), str(error), about=before)

    # --- leaving ---

    @property
    def foreign_sessions(self) -> int:
        """Sessions of other nodes' front doors."""
        return sum(session.key.origin != self._sessions.node for session in self._sessions)

    def drain(self) -> None:
        """Take no new sessions, and ask the origins of those here to move them."""
        self.draining = True
        origins = {session.key.origin for session in self._sessions} - {self._sessions.node}
        for origin in sorted(origins):
            self._answer(origin, Drain())

    def retire(self, model: ModelId, span: LayerSpan) -> None:
        """Open nothing new on one loaded span, and ask origins to move what uses it. May be said again."""
        self._retired.add((model, span))
        self._engine.retire_span(model, span)
        by_origin: dict[NodeId, list[SessionId]] = {}
        for session in self._on(model, span):
            by_origin.setdefault(session.key.origin, []).append(session.key.session)
        for origin, sessions in sorted(by_origin.items()):
            self._answer(origin, Drain(tuple(sessions)))

    def sessions_on(self, model: ModelId, span: LayerSpan) -> int:
        return len(self._on(model, span))

    def end_sessions_on(self, model: ModelId, span: LayerSpan) -> int:
        """Refuse what still uses a retired span, which is about to be unloaded; return how many those were."""
        left = self._on(model, span)
        for session in left:
            self._refuse(session, "draining", "its layers go away here")
        self._retired.discard((model, span))
        return len(left)

    def _on(self, model: ModelId, span: LayerSpan) -> list[HopSession]:
        return [s for s in self._sessions if self._engine.stage_of(s.key) == (model, span)]

    # --- time and faults ---

    def tick(self) -> None:
        """Free what no origin renews; tell origins whose steps wait that the queue moves."""
        now = self._clock()
        expired = self._sessions.expire(now)
        if expired:
            log.info("freed %d sessions whose origin fell silent", len(expired))
            self._release(expired)
        waiting = self._sessions.waiting(now - BUSY_SECONDS)
        steps = self._engine.stats().steps
        if steps != self._progress or not waiting:
            self._progress, self._moved_at = steps, now
        if waiting and now - self._moved_at < STUCK_SECONDS and now - self._busy_at >= BUSY_SECONDS:
            self._busy_at = now
            for session, step in waiting:
                key = session.key
                self._answer(key.origin, Busy(key.origin, key.session, session.epoch, step.step))

    def origin_gone(self, origin: NodeId) -> None:
        self._release(self._sessions.origin_gone(origin))

    # --- inside ---

    def _with_room(self, key: HopKey, reserve: Callable[[], T], *, grows: bool) -> T:
        """Reserve; where there is no room, end who has to give way first. Raises KVFullError when nobody has."""
        while True:
            try:
                return reserve()
            except KVFullError as exc:
                held = {held: self._engine.reserved_bytes(held) for held in self._reserved}
                share_bytes = self._kv_share * self._engine.stats().kv_budget_bytes
                need = Shortage(key, exc.wanted_bytes, grows)
                ended = gives_way(need, held, own=self._node, share_bytes=share_bytes)
                session = self._sessions.get(ended) if ended is not None else None
                if session is None:
                    raise
                self.counts["preempted"] += 1
                self._refuse(session, "full", "an older session, or one of another origin, needs the room")

    def _grow(self, key: HopKey, kv_tokens: int) -> None:
        if kv_tokens > self._reserved[key]:
            self._engine.grow(key, kv_tokens)
            self._reserved[key] = kv_tokens

    def _refuse(
        self, session: HopSession, code: RefusalCode, detail: str, *, about: NodeId | None = None
    ) -> None:
        """End the session here and tell its origin why, and which neighbour is to blame if one is."""
        self._release([self._sessions.forget(session.key)])
        self._answer(session.key.origin, refusal(session, code, detail[:300], next_node=about))

    def _release(self, keys: list[HopKey]) -> None:
        for key in keys:
            if self._reserved.pop(key, None) is not None:
                self._turnover.ended(self._clock())
                self._engine.close(key)

    def _resend(self, resend: Resend) -> None:
        self.counts["resent" if resend.again else "replayed"] += 1
        self._answer(resend.receiver, resend.message, resend.payload)

    def _answer(
        self,
        node: NodeId,
        message: Opened | Refused | Need | Busy | Filled | Drain | Step | Output,
        payload: bytes = b"",
    ) -> None:
        try:
            self._bus.send(node, message, payload)
        except LinkDownError:
            # Nothing is owed to who is gone: its lease runs out, or it asks again over its next link.
            self.counts["unanswerable"] += 1


def _forward(
    session: HopSession, step: Step, result: StepResult, times: tuple[HopTime, ...]
) -> Step | Output:
    """Build what follows a computed step: the next hop's Step, or the origin's Output."""
    if session.is_last:
        return Output(
            step.origin,
            step.session,
            step.epoch,
            step.step,
            step.position,
            result.count,
            result.width,
            step.dtype,
            times,
        )
    return Step(
        step.origin,
        step.session,
        step.epoch,
        step.step,
        step.position,
        step.count,
        result.width,
        step.dtype,
        step.rows,
        times,
        step.fill_until,
        session.place + 1,
    )


def _filled(session: HopSession, step: Step, times: tuple[HopTime, ...]) -> Filled:
    return Filled(
        step.origin, step.session, step.epoch, step.step, step.position + step.count, session.place, times
    )


def _refusal_code(error: EngineError) -> RefusalCode:
    return cast("RefusalCode", error.wire_code) if error.wire_code in REFUSAL_CODES else "failed"
