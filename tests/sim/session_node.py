"""A simulated node of the session world: the real hop service and origin cores over a hash engine."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from swarm.config import EngineSettings, SessionSettings
from swarm.errors import LinkDownError, NoPathError, ProtocolError
from swarm.node.meters import Meters
from swarm.node.stage_service import StageService
from swarm.protocol.messages import (
    AnyMessage,
    Busy,
    CloseSession,
    Drain,
    Filled,
    Hop,
    Need,
    Opened,
    OpenSession,
    Output,
    Refused,
    Renew,
    Replay,
    Step,
)
from swarm.routing.cost import PathHop, expected_seconds
from swarm.routing.patch import patched
from swarm.routing.path import Path, PathRequest, find_path
from swarm.routing.view import SpanView, SwarmView
from swarm.sessions.effects import ChosenPath, Edge, FindPath
from swarm.sessions.hop import HopSessions
from swarm.types import BootId, LayerSpan, NodeId, SessionId
from tests.sim.network import Connection, Endpoint, Outcome
from tests.sim.session_answer import Answer
from tests.sim.session_engine import DTYPE, LAYERS, MODEL, HashEngine

if TYPE_CHECKING:
    from tests.sim.sessions import SessionWorld

TICK_SECONDS = 0.05
REDIAL_SECONDS = 1.0
SHUN_SECONDS = 5.0


class SessionNode:
    """Holds one span and has a front door; ``start`` begins a new life with nothing but the name."""

    def __init__(self, world: SessionWorld, name: str, span: LayerSpan | None) -> None:
        self.world = world
        self.name = name
        self.id = NodeId(name)
        self.span = span
        self.life = 0
        self.running = False
        self.paused = False
        self.slowness = 1.0
        self.resumed_at = 0.0
        self.budget_tokens = 1 << 20
        self.log_bytes = 1 << 28
        self.start()

    def start(self) -> None:
        world = self.world
        self.life += 1
        self.boot = BootId(hashlib.sha256(f"{self.name} {self.life}".encode()).digest()[:8])
        self.running, self.paused, self.draining = True, False, False
        self.links: dict[NodeId, Connection] = {}
        self.down: set[NodeId] = set()
        self.answers: dict[SessionId, Answer] = {}
        self._shunned: dict[Edge, float] = {}
        self._inbox: list[Callable[[], None]] = []
        self._renewed_at = world.now
        self.settings = SessionSettings()
        self.engine_settings = EngineSettings(prefill_chunk=16, prefill_window=3)
        self.engine = HashEngine(
            world.scheduler,
            (self.span,) if self.span else (),
            self.budget_tokens,
            0.001,
            self._computed,
            lambda: world.rng.random() < 0.7,
            slowness=self.slowness,
            slack=world.slack,
        )
        self.sessions = HopSessions(
            node=self.id,
            boot=self.boot,
            lease_seconds=self.settings.lease_seconds,
            max_per_origin=64,
            log_bytes=self.log_bytes,
        )
        self.stage = StageService(
            sessions=self.sessions,
            engine=self.engine,  # type: ignore[arg-type]
            bus=self,  # type: ignore[arg-type]
            settings=self.settings,
            node=self.id,
            kv_share=0.5,
            connect=self._connect,
            spawn=_run_now,
            clock=lambda: world.now,
            meters=Meters(),
            passed=lambda *_: None,
        )
        world.network.listen(self.name, self)
        self._tick(self.life)

    # --- links, as tests/sim/network.py wants them ---

    def connected(self, connection: Connection) -> None:
        peer = NodeId(connection.peer(self).name)
        self.links[peer] = connection
        self.down.discard(peer)
        self.act(lambda: self._each(lambda answer: answer.tell("view_changed")))

    def disconnected(self, connection: Connection, graceful: bool) -> None:
        peer = NodeId(connection.peer(self).name)
        if self.links.get(peer) is connection:
            del self.links[peer]
            self.act(lambda: self.link_down(peer))
            self.dial(peer)

    def arrived(self, connection: Connection, message: tuple[AnyMessage, bytes]) -> None:
        peer = NodeId(connection.peer(self).name)
        self.act(lambda: self.received(peer, *message))

    def accepts(self, dialler: Endpoint) -> bool:
        return self.running and NodeId(dialler.name) not in self.links

    def linked_to(self, peer: Endpoint) -> Connection | None:
        return self.links.get(NodeId(peer.name))

    def dial(self, peer: NodeId) -> None:
        """The lower name of a pair dials, again and again."""
        life = self.life

        def again() -> None:
            if self.running and self.life == life and peer not in self.links:
                self.world.scheduler.after(REDIAL_SECONDS, lambda: self.dial(peer))

        if self.running and self.name < peer and peer not in self.links:
            self.world.network.dial(self, peer, Outcome(linked=lambda _: None, failed=again))

    def link_down(self, peer: NodeId) -> None:
        """The link broke, or is suspect."""
        self.down.add(peer)
        self._each(lambda answer: answer.tell("link_down", peer))

    def trusted_again(self, peer: NodeId) -> None:
        self.down.discard(peer)
        self._each(lambda answer: answer.tell("view_changed"))

    def _each(self, action: Callable[[Answer], None]) -> None:
        for answer in list(self.answers.values()):
            action(answer)

    # --- the node's bus ---

    def send(self, node: NodeId, message: AnyMessage, payload: bytes | memoryview = b"") -> None:
        frame = (message, bytes(payload))
        if node == self.id:
            life = self.life
            self.world.scheduler.after(
                0.0, lambda: self.act(lambda: self.received(self.id, *frame), life=life)
            )
        elif node in self.links:
            self.world.network.send(self.links[node], self, frame)
        else:
            raise LinkDownError(node, "there is no link to it")

    def linked(self, node: NodeId) -> bool:
        return node == self.id or node in self.links

    async def _connect(self, node: NodeId) -> None:
        if not self.linked(node):
            raise LinkDownError(node, "nobody answers there")

    # --- running ---

    def act(self, action: Callable[[], None], *, life: int | None = None) -> None:
        """Do something now; once it goes on, while it is paused; never, in another life."""
        if not self.running or life not in (None, self.life):
            return
        if self.paused:
            self._inbox.append(action)
            return
        action()

    def pause(self) -> None:
        self.paused = self.engine.paused = True

    def resume(self) -> None:
        self.paused = False
        self.resumed_at = self.world.now
        inbox, self._inbox = self._inbox, []
        for action in inbox:
            action()
        self.engine.resume()
        self._tick(self.life)

    def kill(self) -> None:
        self.running = False
        for answer in list(self.answers.values()):
            answer.lost()
        for connection in list(self.links.values()):
            self.world.network.close(connection, self, graceful=False)
        self.links.clear()

    def drain(self) -> None:
        """Begin to leave in good order."""
        self.draining = True
        self.act(self.stage.drain)

    def _tick(self, life: int) -> None:
        if not self.running or self.paused or life != self.life:
            return
        now = self.world.now
        self.stage.tick()
        self._each(lambda answer: answer.tick())
        if now - self._renewed_at >= self.settings.renew_seconds:
            self._renewed_at = now
            self._renew()
        self.world.scheduler.after(TICK_SECONDS, lambda: self._tick(life))

    def _renew(self) -> None:
        by_hop: dict[NodeId, list[SessionId]] = {}
        for answer in self.answers.values():
            for node in sorted(answer.core.hop_nodes):
                by_hop.setdefault(node, []).append(answer.session)
        for node, sessions in by_hop.items():
            if self.linked(node):
                self.send(node, Renew(tuple(sessions)))

    def _computed(self, result: Any) -> None:
        self.act(lambda: self.stage.on_result(result))

    # --- messages, as node/dispatch.py hands them out ---

    def received(self, sender: NodeId, message: AnyMessage, payload: bytes) -> None:
        try:
            self._dispatch(sender, message, payload)
        except ProtocolError as exc:
            self.world.problem(f"{self.name} calls {type(message).__name__} of {sender} malformed: {exc}")

    def _dispatch(self, sender: NodeId, message: AnyMessage, payload: bytes) -> None:
        handlers: dict[type, Callable[[], None]] = {
            Step: lambda: self.stage.on_step(sender, message, memoryview(payload)),  # type: ignore[arg-type]
            OpenSession: lambda: self.stage.on_open(sender, message),  # type: ignore[arg-type]
            CloseSession: lambda: self.stage.on_close(sender, message),  # type: ignore[arg-type]
            Renew: lambda: self.stage.on_renew(sender, message),  # type: ignore[arg-type]
            Need: lambda: self.stage.on_need(sender, message),  # type: ignore[arg-type]
            Replay: lambda: self.stage.on_replay(sender, message),  # type: ignore[arg-type]
            Drain: lambda: self._each(lambda answer: answer.tell("leave", sender)),
        }
        handler = handlers.get(type(message))
        if handler is not None:
            handler()
        elif isinstance(message, Output | Opened | Refused | Busy | Filled):
            answer = self.answers.get(message.session)
            if answer is not None and message.origin == self.id:
                answer.received(sender, message, payload)

    # --- paths, as node/origin.py finds them ---

    def view(self) -> SwarmView:
        now = self.world.now
        spans = [
            SpanView(node.id, node.boot, MODEL, node.span, DTYPE, 0.001)
            for node in self.world.nodes.values()
            if node.span is not None
            and node.running
            and not node.draining
            and (node is self or (node.id in self.links and node.id not in self.down))
        ]
        shunned = frozenset(edge for edge, until in self._shunned.items() if until > now)
        return SwarmView(tuple(spans), {}, shunned, {MODEL: LAYERS}, 0.005)

    def find_path(self, answer: Answer, wish: FindPath) -> ChosenPath:
        view = self.view()
        asked = PathRequest(
            origin=self.id,
            model=MODEL,
            layers=LAYERS,
            avoid_nodes=wish.avoid_nodes,
            avoid_edges=wish.avoid_edges,
            salt=int.from_bytes(answer.session[:4], "big") + wish.attempt,
        )
        path = self._patch(view, asked, wish) or find_path(view, asked)
        hops = tuple(Hop(hop.node, hop.boot, hop.span) for hop in path.hops)
        return ChosenPath(hops, DTYPE, path.cost_seconds, expected_seconds(view, MODEL, path.hops))

    def _patch(self, view: SwarmView, asked: PathRequest, wish: FindPath) -> Path | None:
        held = [
            PathHop(hop.node, hop.boot, hop.span, DTYPE)
            for hop in wish.held
            if hop.node not in wish.avoid_nodes and self.linked(hop.node)
        ]
        settled = patched(view, MODEL, LAYERS, held)
        try:
            return find_path(settled, asked) if settled is not None else None
        except NoPathError:
            return None

    def shun(self, edge: Edge) -> None:
        self._shunned[edge] = self.world.now + SHUN_SECONDS


def _run_now(work: Awaitable[None]) -> None:
    """Run what only waits for links, which are there or not."""
    assert isinstance(work, Coroutine)
    try:
        work.send(None)
    except StopIteration:
        return
    raise RuntimeError("simulated work must not wait")
