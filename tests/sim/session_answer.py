"""One simulated answer: the real origin core, and what its client gets compared with the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swarm.config import SessionSettings
from swarm.errors import LinkDownError, NoPathError, SwarmError
from swarm.protocol.messages import Busy, Filled, Opened, Output, Refused
from swarm.sessions.effects import Embed, Emit, Fail, FindPath, Finish, Ready, Sample, Send, Shun
from swarm.sessions.hop_session import HopKey
from swarm.sessions.origin import OriginSession
from swarm.sessions.prefix import PrefixNames
from swarm.sessions.request import Request
from swarm.types import NodeId, SessionId
from tests.sim.session_engine import HIDDEN, MODEL, Reference, embed, sampled, text_of

if TYPE_CHECKING:
    from tests.sim.session_node import SessionNode

ENDS_SECONDS = 0.001
"""What the origin's own engine takes to embed or to sample."""


class Answer:
    """``emitted`` must be a prefix of ``text``, and all of it when the answer ends without an error."""

    def __init__(
        self,
        node: SessionNode,
        session: SessionId,
        prompt: tuple[int, ...],
        *,
        tokens: int,
        seed: int,
        vocabulary: int,
        deadline_seconds: float,
        drafts: int,
    ) -> None:
        self.node = node
        self.world = node.world
        self.session = session
        self.prompt = prompt
        self.seed = seed
        self.vocabulary = vocabulary
        self.text = text_of(prompt, tokens, seed, vocabulary)
        self.emitted: list[int] = []
        self.outcome = ""
        self.deadline = self.world.now + deadline_seconds
        self._truth = Reference(prompt)
        self._pumping = False
        request = Request(
            origin=node.id,
            session=session,
            model=MODEL,
            prompt=prompt,
            max_tokens=tokens,
            context_tokens=1 << 16,
            hidden_size=HIDDEN,
            stop_ids=frozenset(),
            deadline=self.deadline,
            admission_until=self.world.now + min(10.0, deadline_seconds),
        )
        settings = SessionSettings(draft_tokens=drafts)
        names = PrefixNames(node.name.encode(), "scope")
        self.core = OriginSession(request, settings, node.engine_settings, self.world.now, names)
        node.answers[session] = self
        self.pump()

    # --- inputs ---

    def received(self, sender: NodeId, message: Any, payload: bytes) -> None:
        now = self.world.now
        if isinstance(message, Output):
            self.core.output(sender, message, payload, now)
        elif isinstance(message, Opened):
            self.core.opened(sender, message, now)
        elif isinstance(message, Refused):
            self._note(f"refused by {sender}: {message.code} {message.next or ''}")
            self.core.refused(sender, message, now)
        elif isinstance(message, Filled):
            self.core.filled(sender, message, now)
        elif isinstance(message, Busy):
            self.core.busy(sender, message, now)
        self.pump()

    def tell(self, what: str, *arguments: object) -> None:
        getattr(self.core, what)(*arguments, self.world.now)
        self.pump()

    def tick(self) -> None:
        wakeup = self.core.wakeup()
        if wakeup is not None and wakeup <= self.world.now:
            self.tell("tick")

    def leave(self) -> None:
        """The client goes away."""
        self.core.cancel()
        self.pump()
        self._over("cancelled")

    def lost(self) -> None:
        """The node died, and the answer with it."""
        self._over("lost")

    # --- effects ---

    def pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        while effects := self.core.effects():
            for effect in effects:
                self._carry_out(effect)
        self._pumping = False

    def _carry_out(self, effect: object) -> None:
        if isinstance(effect, Send):
            try:
                self.node.send(effect.node, effect.message, effect.payload)
            except LinkDownError as exc:
                self.core.link_down(exc.node, self.world.now)
        elif isinstance(effect, FindPath):
            self._find(effect)
        elif isinstance(effect, Embed):
            hidden, epoch = embed(effect.tokens), effect.epoch
            self._later(lambda: self.core.embedded(epoch, hidden, self.world.now))
        elif isinstance(effect, Sample):
            position = len(self.prompt) + len(self.core.accepted) - 1
            rows = bytes(effect.hidden)
            tokens = sampled(rows, effect.drafts, self.seed, position, self.vocabulary)
            self._later(lambda: self._sampled(tokens))
        elif isinstance(effect, Emit):
            self._emit(effect.tokens)
        elif isinstance(effect, Finish):
            self._over(effect.reason)
        elif isinstance(effect, Fail):
            self._over(f"failed: {effect.error}")
        elif isinstance(effect, Shun):
            if effect.edge is not None:
                self.node.shun(effect.edge)
        elif not isinstance(effect, Ready):
            raise TypeError(f"unexpected {effect}")

    def _later(self, action: Any) -> None:
        def run() -> None:
            action()
            self.pump()

        life = self.node.life
        self.world.scheduler.after(ENDS_SECONDS, lambda: self.node.act(run, life=life))

    def _find(self, wish: FindPath) -> None:
        now = self.world.now
        try:
            path = self.node.find_path(self, wish)
        except NoPathError as exc:
            if wish.moving:
                self.core.move_missing()
            else:
                self.core.path_missing(exc, now)
            return
        except SwarmError as exc:
            self.core.path_missing(exc, now)
            return
        self._note(f"{'moves' if wish.moving else 'goes'} over {', '.join(map(_place, path.hops))}")
        if wish.moving:
            self.core.move_found(path, now)
        else:
            self.core.path_found(path, now)

    def _sampled(self, tokens: tuple[int, ...]) -> None:
        self._check_boundary()
        self.core.sampled(tokens, (None,) * len(tokens), embed(tokens[-1:]), self.world.now)

    def _emit(self, tokens: tuple[int, ...]) -> None:
        expected = self.text[len(self.emitted) : len(self.emitted) + len(tokens)]
        if list(tokens) != expected:
            self.world.problem(f"{self} got {tokens} after {len(self.emitted)} tokens, not {expected}")
        self.emitted.extend(tokens)
        self._truth.feed(tokens)

    def _check_boundary(self) -> None:
        """With an output here, every live hop of the path has the KV of all tokens so far, and the right one (I4)."""
        path = self.core.path
        if path is None:
            return
        length = len(self.prompt) + len(self.emitted)
        for hop in path.hops:
            node = self.world.nodes[hop.node]
            key = HopKey(self.node.id, self.session, hop.span.start)
            session = node.sessions.get(key)
            chain = node.engine.chain(key)
            if not node.running or node.boot != hop.boot or session is None or chain is None:
                continue
            if session.epoch != self.core.epoch:
                continue
            if session.settled < length or chain.length < length:
                self.world.problem(f"{self}: {hop.node} has {chain.length} of {length} tokens at a boundary")
                continue
            for layer, held in enumerate(chain.chains, hop.span.start):
                if held[length - 1] != self._truth.sequence.chains[layer][length - 1]:
                    self.world.problem(f"{self}: layer {layer} at {hop.node} holds something else")
                    break

    def _over(self, outcome: str) -> None:
        if self.outcome:
            return
        self.outcome = outcome
        self._note(f"{outcome} after {len(self.emitted)} tokens")
        self.node.answers.pop(self.session, None)
        if outcome in ("stop", "length") and self.emitted != self.text:
            self.world.problem(f"{self} ended with {len(self.emitted)} of {len(self.text)} tokens")
        if self.world.now > max(self.deadline, self.node.resumed_at) + 1.0:
            self.world.problem(f"{self} outlived its deadline")

    def _note(self, text: str) -> None:
        self.world.note(self.node.name, f"{self.session[:4].hex()} {text}")

    def __str__(self) -> str:
        return f"answer {self.session[:4].hex()} of {self.node.name}"


def _place(hop: Any) -> str:
    return f"{hop.node}={hop.span}"
