"""One path under one epoch, as its origin sees it: opened, filled where KV is missing, then stepped over. Pure.

An answer has one leg at a time, and a second one while it moves. A leg knows no token: what it is to embed, its
owner looks up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from swarm.config import EngineSettings, SessionSettings
from swarm.errors import ProtocolError
from swarm.protocol.messages import Filled, Hop, Opened, OpenSession, Output, Replay, Rows, Step
from swarm.sessions.effects import ChosenPath, Effect, Embed, Send
from swarm.sessions.fill import ORIGIN, Chunk, Filler, Flow, HopState, Plan, plan
from swarm.sessions.request import Request
from swarm.sessions.window import StepWindow
from swarm.types import DTYPE_BYTES, NodeId


@dataclass(frozen=True, slots=True)
class Reach:
    """How a hop is told to replay: the epoch it works under and its place in that epoch's path."""

    epoch: int
    place: int


Tokens = Callable[[int, int], Sequence[int]]
"""The answer's tokens from one position up to another."""


class Leg:
    """Appends what is to be done to ``effects``; told of every answer by its owner."""

    def __init__(
        self,
        request: Request,
        path: ChosenPath,
        epoch: int,
        *,
        settings: SessionSettings,
        engine: EngineSettings,
        effects: list[Effect],
        tokens: Tokens,
    ) -> None:
        self.path = path
        self.epoch = epoch
        self.open_until = 0.0
        self.unopened: set[int] = set()
        self.hits: dict[int, int] = {}
        self.states: dict[int, HopState] = {}
        self.window = self._window(path, settings)
        self.filler = Filler(
            self._window(path, settings), chunk=engine.prefill_chunk, most=engine.prefill_window
        )
        self._request = request
        self._effects = effects
        self._tokens = tokens
        self._embedding: Chunk | None = None
        self._sources: Mapping[int, Reach] = {}

    @staticmethod
    def _window(path: ChosenPath, settings: SessionSettings) -> StepWindow:
        return StepWindow(
            step_seconds=path.step_seconds,
            min_seconds=settings.step_min_seconds,
            factor=settings.step_factor,
        )

    @property
    def nodes(self) -> frozenset[NodeId]:
        return frozenset(hop.node for hop in self.path.hops)

    @property
    def last(self) -> NodeId:
        return self.path.hops[-1].node

    def hop(self, place: int) -> Hop | None:
        return self.path.hops[place] if 0 <= place < len(self.path.hops) else None

    def neighbours(self, node: NodeId, after: NodeId | None) -> bool:
        """Whether ``after`` is the hop after ``node``."""
        return any(one.node == node and two.node == after for one, two in pairwise(self.path.hops))

    # --- opening ---

    def open(
        self,
        places: Iterable[int],
        *,
        keep: int,
        kv_tokens: int,
        left_seconds: float,
        blocks: tuple[bytes, ...],
        until: float,
    ) -> None:
        """Ask the hops at ``places`` to take part, keeping what they have of the first ``keep`` tokens."""
        self.open_until = until
        for place in places:
            self.unopened.add(place)
            message = OpenSession(
                self._request.origin,
                self._request.session,
                self.epoch,
                self._request.model,
                self.path.dtype,  # type: ignore[arg-type]  # checked where records are read
                self.path.hops,
                place,
                kv_tokens,
                keep,
                max(1, int(left_seconds * 1000)),
                blocks,
            )
            self._effects.append(Send(self.path.hops[place].node, message))

    def opened(self, sender: NodeId, message: Opened) -> bool:
        """Take an answer; return whether it was awaited. Raises ProtocolError for what no honest hop says."""
        hop = self.hop(message.index)
        known = hop is not None and hop.node == sender and message.epoch == self.epoch
        if hop is None or not known or message.index not in self.unopened:
            return False
        length = message.kv_length
        if not (
            0 <= message.floor <= length
            and 0 <= message.hit_tokens <= length
            and -1 <= message.log_from <= length
        ):
            raise ProtocolError("Opened with sizes out of range")
        self.unopened.discard(message.index)
        self.hits[message.index] = message.hit_tokens
        self.states[message.index] = HopState(
            message.kv_length, message.log_from, message.floor, len(hop.span)
        )
        return True

    # --- filling ---

    def plan(self, target: int) -> Plan | None:
        """Return how all hops, which have opened, come to ``target`` tokens."""
        return plan([self.states[place] for place in range(len(self.path.hops))], target)

    def fill(self, flows: Sequence[Flow], now: float, sources: Mapping[int, Reach] | None = None) -> None:
        """Begin filling; ``sources`` are hops that still work under another epoch."""
        self._sources = sources or {}
        self.filler.add(flows)
        self.go_on_filling(now)

    def go_on_filling(self, now: float) -> None:
        while self._embedding is None and (chunk := self.filler.next()) is not None:
            if chunk.flow.source == ORIGIN:
                self._embedding = chunk
                tokens = self._tokens(chunk.start, chunk.end)
                self._effects.append(Embed(self.epoch, tokens, self.path.dtype))
                return
            place = chunk.flow.source
            reach = self._sources.get(place, Reach(self.epoch, place))
            message = Replay(
                self._request.origin,
                self._request.session,
                reach.epoch,
                reach.place,
                self.filler.sent(chunk, now),
                chunk.start,
                chunk.count,
                chunk.flow.until,
                self.path.hops[place + 1].node,
                self.epoch,
                place + 1,
            )
            self._effects.append(Send(self.path.hops[place].node, message))

    def embedded(self, hidden: bytes, now: float) -> bool:
        """Send on a chunk to fill with; False: the embedding was wanted for something else."""
        chunk, self._embedding = self._embedding, None
        if chunk is None:
            return False
        number = self.filler.sent(chunk, now)
        step = self._step(number, chunk.start, chunk.count, "none", hidden, fill_until=chunk.flow.until)
        self._effects.append(Send(self.path.hops[0].node, step, hidden))
        self.go_on_filling(now)
        return True

    def filled(self, sender: NodeId, message: Filled, now: float) -> Chunk | None:
        """Take the answer to a fill step; return what was filled, or None for an answer that was not awaited."""
        hop = self.hop(message.index)
        if hop is None or hop.node != sender or message.epoch != self.epoch:
            return None
        chunk = self.filler.filled(message.step, now)
        if chunk is None:
            return None
        for place in range(chunk.flow.source + 1, chunk.flow.until):
            state = self.states[place]
            self.states[place] = replace(state, length=chunk.end, log_from=min(state.log_from, chunk.start))
        self.go_on_filling(now)
        return chunk

    # --- stepping ---

    def send_step(self, position: int, count: int, rows: Rows, hidden: bytes, now: float) -> None:
        number = self.window.sent(count, {"none": 0, "last": 1, "all": count}[rows], now)
        step = self._step(number, position, count, rows, hidden)
        self._effects.append(Send(self.path.hops[0].node, step, hidden))

    def _step(
        self, number: int, position: int, count: int, rows: Rows, hidden: bytes, *, fill_until: int = 0
    ) -> Step:
        return Step(
            self._request.origin,
            self._request.session,
            self.epoch,
            number,
            position,
            count,
            len(hidden) // (count * DTYPE_BYTES[self.path.dtype]),
            self.path.dtype,  # type: ignore[arg-type]  # checked where records are read
            rows,
            (),
            fill_until,
        )

    def why_not(self, sender: NodeId, message: Output) -> str:
        """Say why an Output is not the one awaited; empty: it is."""
        if message.epoch != self.epoch or not self.window:
            return "output_of_old_epoch"
        if sender != self.last:
            return "output_of_stranger"
        return "" if message.step == self.window.expected else "output_of_other_step"

    # --- time ---

    def moved(self, now: float) -> None:
        self.window.moved(now)
        self.filler.moved(now)

    def deadline(self) -> float | None:
        """Return when the first answer awaited is late."""
        if self.unopened:
            return self.open_until
        times = [time for time in (self.window.deadline, self.filler.deadline) if time is not None]
        return min(times, default=None)

    def late(self, now: float) -> bool:
        deadline = self.deadline()
        return deadline is not None and now >= deadline
