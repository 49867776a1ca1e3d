"""A small world for the session rules: one origin, hops on a virtual clock, an engine that is only a hash.

A hop's KV is the list of what it was fed. The "model" samples the hash of the last hop's whole KV, so that
one token lost, doubled or left over from another epoch changes everything that follows.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from swarm.config import EngineSettings, SessionSettings
from swarm.errors import BadTensorError, NoPathError, ProtocolError, SwarmError
from swarm.protocol.limits import PREFIX_BLOCK_TOKENS
from swarm.protocol.messages import (
    CloseSession,
    Filled,
    Hop,
    HopTime,
    Opened,
    OpenSession,
    Output,
    Refused,
    Replay,
    Step,
)
from swarm.sessions.effects import ChosenPath, Embed, Emit, Fail, FindPath, Finish, Ready, Sample, Score, Send
from swarm.sessions.hop import HopSessions, refusal, ticket_of
from swarm.sessions.hop_session import Admit, HopKey, HopSession, Resend, Run
from swarm.sessions.origin import OriginSession
from swarm.sessions.prefix import PrefixNames
from swarm.sessions.request import Request
from swarm.types import BootId, LayerSpan, ModelId, NodeId, SessionId

MODEL = ModelId("org/hash", "0" * 64)
HIDDEN = 2
DTYPE = "bfloat16"
ORIGIN = NodeId("origin")
LAYERS = 6
FIRST_BOOT = BootId(b"boot0000")


def embed(token: int) -> bytes:
    return token.to_bytes(HIDDEN * 2, "big")


NAN = b"\xff" * (HIDDEN * 2)
"""No token is embedded so."""


def next_token(kv: bytes, vocabulary: int = 1 << 16) -> int:
    return int.from_bytes(hashlib.sha256(kv).digest()[:2], "big") % vocabulary


def sample(rows: bytes, drafts: tuple[int, ...]) -> tuple[int, ...]:
    """Take each row's token while the draft before the next row equals it."""
    found = [int.from_bytes(rows[at : at + HIDDEN * 2], "big") for at in range(0, len(rows), HIDDEN * 2)]
    taken = 1
    while taken < len(found) and drafts[taken - 1] == found[taken - 1]:
        taken += 1
    return tuple(found[:taken])


def text_of(prompt: tuple[int, ...], count: int, vocabulary: int = 1 << 16) -> list[int]:
    """What an undisturbed answer is. A small vocabulary repeats itself, so that drafts come true now and then."""
    kv = b"".join(embed(token) for token in prompt)
    answer = []
    for _ in range(count):
        answer.append(next_token(kv, vocabulary))
        kv += embed(answer[-1])
    return answer


def text_across(
    prompt: tuple[int, ...], count: int, switch_tokens: int, vocabulary: int = 1 << 16
) -> list[int]:
    """The same where a text of more than ``switch_tokens`` has a KV of another kind, from its first token on."""
    tokens, answer = list(prompt), []
    for _ in range(count):
        kv = b"".join(embed(token) for token in tokens)
        long = len(tokens) > switch_tokens
        answer.append(next_token(bytes(byte ^ 0xFF for byte in kv) if long else kv, vocabulary))
        tokens.append(answer[-1])
    return answer


@dataclass
class FakeHop:
    """A node that holds one span: the real rules, and a KV of bytes for each session."""

    node: NodeId
    span: LayerSpan
    boot: BootId = FIRST_BOOT
    alive: bool = True
    kv: dict[HopKey, bytes] = field(default_factory=dict)
    kept: dict[bytes, bytes] = field(default_factory=dict)
    sessions: HopSessions = None  # type: ignore[assignment]
    started: int = 0
    log_bytes: int = 1 << 28
    seconds: float = 0.002
    """What a step takes here."""
    long: dict[HopKey, bool] = field(default_factory=dict)
    """Sessions opened for more tokens than the world's switch: their KV is of another kind."""
    computed: int = 0
    """Tokens that went through this hop's layers, since it was started."""
    garbles: str = ""
    """``rows``: what it hands on is NaN; ``size``: it is too short; ``times``: it speaks of hops that there are not."""

    def start(self) -> None:
        self.started += 1
        self.boot = BootId(b"boot%04d" % self.started)
        self.alive = True
        self.kv = {}
        self.kept = {}
        self.computed = 0
        self.sessions = HopSessions(
            node=self.node,
            boot=self.boot,
            lease_seconds=12.0,
            max_per_origin=64,
            log_bytes=self.log_bytes,
        )


def garbled(hop: FakeHop, rows: bytes, times: tuple[HopTime, ...]) -> tuple[bytes, tuple[HopTime, ...]]:
    if hop.garbles == "rows":
        return NAN * (len(rows) // len(NAN)), times
    if hop.garbles == "size":
        return rows[:-1], times
    return rows, times * 9 if hop.garbles == "times" else times


class World:
    """Delivers messages after a random delay, in order on each link; ``at`` runs faults at chosen times."""

    def __init__(
        self, seed: int, spans: dict[str, LayerSpan], *, delay: float = 0.01, vocabulary: int = 1 << 16
    ) -> None:
        self.vocabulary = vocabulary
        self.switch_tokens = 0
        self.forgetful = False
        """Whether hops now and then keep nothing of what they could."""
        self.rng = random.Random(seed)
        self.now = 0.0
        self.delay = delay
        self.hops = {NodeId(name): FakeHop(NodeId(name), span) for name, span in spans.items()}
        for hop in self.hops.values():
            hop.start()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._busy_until: dict[tuple[NodeId, NodeId], float] = {}
        self.emitted: list[int] = []
        self.finish: str | None = None
        self.error: SwarmError | None = None
        self.ready = False
        self.violations: list[str] = []
        self.emitted_at: list[float] = []
        self.draining: set[NodeId] = set()

    # --- running ---

    def ask(self, prompt: tuple[int, ...], max_tokens: int, **more: object) -> OriginSession:
        request = Request(
            origin=ORIGIN,
            session=SessionId(bytes(16)),
            model=MODEL,
            prompt=prompt,
            max_tokens=max_tokens,
            context_tokens=4096,
            hidden_size=HIDDEN,
            stop_ids=frozenset(more.pop("stop_ids", ())),  # type: ignore[call-overload]
            deadline=float(more.pop("deadline", 120.0)),  # type: ignore[arg-type]
            hold_seconds=float(more.pop("hold", "inf")),  # type: ignore[arg-type]
            admission_until=float(more.pop("admission", 10.0)),  # type: ignore[arg-type]
            score_prompt=bool(more.pop("score_prompt", False)),
            switch_tokens=self.switch_tokens,
        )
        settings = EngineSettings(prefill_chunk=4, prefill_window=3)
        names = None if self.switch_tokens else PrefixNames(b"secret", "")
        self.core = OriginSession(request, SessionSettings(), settings, self.now, names)
        self.pump()
        return self.core

    def at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._count), action))

    def run(self, until: float = 200.0) -> None:
        while self._events and not self.core.ended:
            wakeup = self.core.wakeup()
            time, _, action = self._events[0]
            if wakeup is not None and wakeup < time:
                self.now = max(self.now, wakeup)
                self.core.tick(self.now)
                self.pump()
                continue
            heapq.heappop(self._events)
            self.now = max(self.now, time)
            if self.now > until:
                break
            action()
            self.pump()
        while not self.core.ended and (wakeup := self.core.wakeup()) is not None and wakeup <= until:
            self.now = max(self.now, wakeup)
            self.core.tick(self.now)
            self.pump()
            if self._events:
                self.run(until)

    def settle(self) -> None:
        """Deliver what is still under way, such as the goodbyes of an ended answer."""
        while self._events:
            self.now, _, action = heapq.heappop(self._events)
            action()

    def send(self, sender: NodeId, receiver: NodeId, action: Callable[[], None]) -> None:
        """Links keep their order, as TCP does."""
        link = (sender, receiver)
        arrival = max(self.now + self.delay * (0.5 + self.rng.random()), self._busy_until.get(link, 0.0))
        self._busy_until[link] = arrival
        self.at(arrival, action)

    # --- the origin's driver ---

    def pump(self) -> None:
        while effects := self.core.effects():
            for effect in effects:
                self._carry_out(effect)

    def _carry_out(self, effect: object) -> None:
        if isinstance(effect, FindPath):
            self._find(effect)
        elif isinstance(effect, Send):
            node, message, payload = effect.node, effect.message, effect.payload
            self.send(ORIGIN, node, lambda: self.deliver(ORIGIN, node, message, payload))
        elif isinstance(effect, Embed):
            hidden, epoch = b"".join(embed(token) for token in effect.tokens), effect.epoch
            self.at(self.now + 0.001, lambda: self.core.embedded(epoch, hidden, self.now))
        elif isinstance(effect, Sample) and NAN in bytes(effect.hidden):
            self.at(self.now + 0.001, lambda: self.core.sample_failed(BadTensorError("NaN"), self.now))
        elif isinstance(effect, Sample):
            tokens = sample(bytes(effect.hidden), effect.drafts)
            logprobs = (None,) * len(tokens)
            self.at(
                self.now + 0.001, lambda: self.core.sampled(tokens, logprobs, embed(tokens[-1]), self.now)
            )
        elif isinstance(effect, Score):
            rows = bytes(effect.hidden)
            said = [
                int.from_bytes(rows[at : at + HIDDEN * 2], "big") for at in range(0, len(rows), HIDDEN * 2)
            ]
            pairs = list(zip(said, effect.tokens, strict=True))
            epoch, start = effect.epoch, effect.start
            self.at(self.now + 0.001, lambda: self.core.scored(epoch, start, pairs))
        elif isinstance(effect, Emit):
            self.emitted.extend(effect.tokens)
            self.emitted_at.extend([self.now] * len(effect.tokens))
        elif isinstance(effect, Ready):
            self.ready = True
        elif isinstance(effect, Finish):
            self.finish = effect.reason
        elif isinstance(effect, Fail):
            self.error = effect.error

    def _find(self, wish: FindPath) -> None:
        try:
            path = self.find_path(wish)
        except NoPathError as exc:
            if wish.moving:
                self.core.move_missing()
            else:
                self.core.path_missing(exc, self.now)
            return
        if wish.moving:
            self.core.move_found(path, self.now)
        else:
            self.core.path_found(path, self.now)

    def find_path(self, wish: FindPath) -> ChosenPath:
        hops, layer = [], 0
        while layer < LAYERS:
            fitting = [
                h
                for h in self.hops.values()
                if h.alive
                and layer in h.span
                and h.node not in wish.avoid_nodes
                and h.node not in self.draining
            ]
            if not fitting:
                raise NoPathError(MODEL.name, [LayerSpan(layer, LAYERS)])
            held = [h for h in fitting if Hop(h.node, h.boot, LayerSpan(layer, h.span.end)) in wish.held]
            chosen = self.rng.choice(held or fitting)
            hops.append(Hop(chosen.node, chosen.boot, LayerSpan(layer, chosen.span.end)))
            layer = chosen.span.end
        return ChosenPath(tuple(hops), DTYPE, 0.01)

    # --- hops ---

    def deliver(self, sender: NodeId, receiver: NodeId, message: object, payload: bytes = b"") -> None:
        hop = self.hops[receiver]
        if not hop.alive:
            return
        try:
            if isinstance(message, OpenSession):
                self._open(hop, sender, message)
            elif isinstance(message, Step):
                decision = hop.sessions.step(sender, message, self.now)
                if isinstance(decision, Run):
                    self._compute(hop, decision, payload)
            elif isinstance(message, Replay):
                answer = hop.sessions.replay(sender, message)
                if isinstance(answer, Resend):
                    self.send(
                        receiver,
                        answer.receiver,
                        lambda: self.deliver(receiver, answer.receiver, answer.message, answer.payload),
                    )
                elif isinstance(answer, Refused):
                    self.to_origin(hop, answer)
            elif isinstance(message, CloseSession):
                for session in hop.sessions.close(sender, message):
                    self._close(hop, session, message)
        except ProtocolError as exc:
            self.violations.append(str(exc))

    def _open(self, hop: FakeHop, sender: NodeId, message: OpenSession) -> None:
        decision = hop.sessions.open(sender, message)
        answer: object = decision
        if isinstance(decision, Admit):
            hit = 0
            if decision.known and decision.keep:
                hop.kv[decision.key] = hop.kv[decision.key][: decision.keep * HIDDEN * 2]
            else:
                found = next((hop.kept[name] for name in reversed(message.blocks) if name in hop.kept), b"")
                hop.kv[decision.key] = found
                hop.long[decision.key] = 0 < self.switch_tokens < message.kv_tokens
                hit = len(found) // (HIDDEN * 2)
            answer = hop.sessions.admitted(decision, message, self.now, hit_tokens=hit)
        if isinstance(answer, Opened | Refused):
            self.to_origin(hop, answer)

    def _close(self, hop: FakeHop, session: HopSession, message: CloseSession) -> None:
        kv = hop.kv.pop(session.key, b"")
        if self.forgetful and self.rng.random() < 0.5:
            return
        for count, name in enumerate(message.blocks[: session.settled // PREFIX_BLOCK_TOKENS], 1):
            hop.kept[name] = kv[: count * PREFIX_BLOCK_TOKENS * HIDDEN * 2]

    def _compute(self, hop: FakeHop, run: Run, payload: bytes) -> None:
        session, step = run.session, run.step
        boot = hop.boot
        if NAN in payload or len(payload) != step.count * HIDDEN * 2:
            hop.sessions.forget(session.key)
            hop.kv.pop(session.key, None)
            before = session.upstream if session.place else None
            self.to_origin(hop, refusal(session, "bad_tensor", next_node=before))
            return

        def done() -> None:
            if not hop.alive or hop.boot != boot:
                return
            kept = hop.kv.get(session.key, b"")[: step.position * HIDDEN * 2]
            turned = bytes(byte ^ 0xFF for byte in payload) if hop.long[session.key] else payload
            kv = hop.kv[session.key] = kept + turned
            hop.computed += step.count
            found = hop.sessions.finished(session.key, step.epoch, ticket_of(step))
            if found is None:
                return
            times = (*step.times, HopTime(0, int(hop.seconds * 1e6), 1))
            if not session.is_last:
                hop.sessions.computed(session, step, payload)
            if step.fill_until == session.place + 1:
                end = step.position + step.count
                self.to_origin(
                    hop, Filled(step.origin, step.session, step.epoch, step.step, end, session.place)
                )
            elif session.is_last:
                wanted = {"none": 0, "last": 1, "all": step.count}[step.rows]
                ends = range(len(kv) - (wanted - 1) * HIDDEN * 2, len(kv) + 1, HIDDEN * 2) if wanted else ()
                rows = b"".join(embed(next_token(kv[:end], self.vocabulary)) for end in ends)
                rows, times = garbled(hop, rows, times)
                count = wanted
                self.to_origin(
                    hop,
                    Output(
                        step.origin,
                        step.session,
                        step.epoch,
                        step.step,
                        step.position,
                        count,
                        HIDDEN,
                        DTYPE,
                        times,
                    ),
                    rows,
                )
            else:
                after = session.downstream
                onward = Step(
                    step.origin, step.session, step.epoch, step.step, step.position, step.count, HIDDEN,
                    DTYPE, step.rows, times, step.fill_until, session.place + 1,
                )  # fmt: skip
                sent, _ = garbled(hop, payload, ())
                self.send(hop.node, after, lambda: self.deliver(hop.node, after, onward, sent))

        self.at(self.now + hop.seconds, done)

    def to_origin(self, hop: FakeHop, message: object, payload: bytes = b"") -> None:
        def arrive() -> None:
            if isinstance(message, Opened):
                self.core.opened(hop.node, message, self.now)
            elif isinstance(message, Filled):
                self.core.filled(hop.node, message, self.now)
            elif isinstance(message, Refused):
                self.core.refused(hop.node, message, self.now)
            elif isinstance(message, Output):
                self.core.output(hop.node, message, payload, self.now)

        self.send(hop.node, ORIGIN, arrive)

    # --- faults ---

    def kill(self, name: str, *, notice: float | None = 0.004) -> None:
        """End a node; the origin's link breaks after ``notice`` seconds (None: it never hears of it)."""
        hop = self.hops[NodeId(name)]
        if not hop.alive:
            return
        hop.alive = False
        hop.kv = {}
        if notice is not None:
            self.at(self.now + notice, lambda: self.core.link_down(hop.node, self.now))

    def drain(self, name: str) -> None:
        """Have a node's sessions leave it; it takes no new ones."""
        self.draining.add(NodeId(name))
        self.core.leave(NodeId(name), self.now)

    def start(self, name: str) -> None:
        hop = self.hops[NodeId(name)]
        if not hop.alive:
            hop.start()
            self.core.view_changed(self.now)

    def sessions_open(self) -> int:
        return sum(len(hop.sessions) for hop in self.hops.values() if hop.alive)


@pytest.fixture
def world() -> type[World]:
    return World


@pytest.fixture
def undisturbed() -> Callable[[tuple[int, ...], int], list[int]]:
    return text_of
