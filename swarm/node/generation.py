"""A running answer: the session's pure core, fed with messages and results, its effects carried out.

Knows no HTTP and no tensors; text appears here and nowhere further down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from swarm.engine.jobs import EmbedJob, EmbedResult, SampleJob, SampleResult, TokenLogprob
from swarm.engine.sampling import PromptScorer
from swarm.errors import LinkDownError, SwarmError
from swarm.node.front import FinishReason, GenerationRequest, GenerationStats, RouteHop, TokenEvent
from swarm.protocol.messages import AnyMessage, Busy, Filled, Opened, Output, Refused
from swarm.sessions.effects import (
    ChosenPath,
    Effect,
    Embed,
    Emit,
    Fail,
    FindPath,
    Finish,
    Ready,
    Sample,
    Score,
    Send,
    Shun,
)
from swarm.sessions.origin import OriginSession
from swarm.types import BootId, NodeId, SessionId

if TYPE_CHECKING:
    from swarm.engine.sampling import Sampler
    from swarm.models.tokenizer import Detokenizer
    from swarm.node.meters import Meters


log = logging.getLogger("swarm.origin")


@dataclass(frozen=True, slots=True)
class OriginTag:
    """Which answer, and which of its epochs, a job of the engine belongs to."""

    session: SessionId
    epoch: int
    scored_from: int | None = None
    """Where in the prompt a comparison with the prompt begins; None for other jobs."""


class Surroundings(Protocol):
    """What a generation needs of its node."""

    @property
    def meters(self) -> Meters: ...

    def now(self) -> float: ...

    def find_path(self, generation: RunningGeneration, wish: FindPath) -> ChosenPath:
        """Raises NoPathError."""

    def send(self, send: Send) -> None:
        """Raises LinkDownError."""

    def submit(self, job: EmbedJob | SampleJob) -> None: ...

    def shun(self, shun: Shun, boots: Mapping[NodeId, BootId]) -> None:
        """Avoid an edge for a while; ``boots`` are the processes on the path that it was part of."""

    def describe(self, generation: RunningGeneration) -> tuple[RouteHop, ...]: ...

    def ended(self, generation: RunningGeneration) -> None:
        """Called once; the generation takes no more messages."""


class RunningGeneration:
    """Implements node.front.Generation. One consumer iterates it; messages are fed by the node's loop."""

    def __init__(
        self,
        core: OriginSession,
        sampler: Sampler,
        detokenizer: Detokenizer,
        surroundings: Surroundings,
        *,
        wishes: GenerationRequest,
    ) -> None:
        self.core = core
        self.wishes = wishes
        """The request, for what it says of paths."""
        self._sampler = sampler
        self._detokenizer = detokenizer
        self._around = surroundings
        self._events: asyncio.Queue[TokenEvent | None] = asyncio.Queue()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._error: SwarmError | None = None
        self._finish: FinishReason | None = None
        self._started = surroundings.now()
        self._stats = GenerationStats(prompt_tokens=len(core.request.prompt))
        self._pumping = False
        self._timed_epoch = 0

    @property
    def session(self) -> SessionId:
        return self.core.request.session

    @property
    def age_seconds(self) -> float:
        return self._around.now() - self._started

    @property
    def route(self) -> tuple[RouteHop, ...]:
        return self._around.describe(self)

    @property
    def stats(self) -> GenerationStats:
        return self._stats

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprob, ...]:
        scoring = self.core.scoring
        return () if scoring is None else tuple(cast("list[TokenLogprob]", scoring.scores))

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._finish

    async def ready(self) -> None:
        """Wait until every hop has reserved its KV. Raises what keeps the answer from starting."""
        self.pump()
        await self._ready

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        while (event := await self._events.get()) is not None:
            yield event
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        self.core.cancel()
        self.pump()
        self._finished()

    # --- inputs; each ends by carrying out what follows from it ---

    def received(self, sender: NodeId, message: AnyMessage, payload: memoryview) -> None:
        now = self._around.now()
        if isinstance(message, Output):
            self._time_hops(sender, message)
            self.core.output(sender, message, payload, now)
        elif isinstance(message, Opened):
            self.core.opened(sender, message, now)
        elif isinstance(message, Refused):
            self.core.refused(sender, message, now)
        elif isinstance(message, Filled):
            self.core.filled(sender, message, now)
        elif isinstance(message, Busy):
            self.core.busy(sender, message, now)
        self.pump()

    def computed(self, result: EmbedResult | SampleResult) -> None:
        now = self._around.now()
        tag = cast(OriginTag, result.tag)
        if isinstance(result, EmbedResult):
            if result.error is not None:
                self._error = result.error
                self.core.cancel()
                self._finished()
            else:
                self.core.embedded(tag.epoch, result.hidden, now)
        elif result.error is None and tag.scored_from is not None:
            self.core.scored(tag.epoch, tag.scored_from, result.logprobs)
        elif result.error is not None:
            self.core.sample_failed(result.error, now)
        else:
            self.core.sampled(
                result.tokens, result.logprobs or (None,) * len(result.tokens), result.next_hidden, now
            )
        self.pump()

    def tell(self, change: Callable[[OriginSession, float], None]) -> None:
        """Hand the core news of links, members or time."""
        change(self.core, self._around.now())
        self.pump()

    def _time_hops(self, sender: NodeId, message: Output) -> None:
        """Add up what hops say they spent; on a new path the sums begin anew, as they belong to its hops."""
        path = self.core.path
        if path is None or message.epoch != self.core.epoch or sender != path.hops[-1].node:
            return
        if message.epoch != self._timed_epoch:
            self._timed_epoch = message.epoch
            self._stats.hop_compute_seconds = [0.0] * len(path.hops)
            self._stats.hop_queue_seconds = [0.0] * len(path.hops)
        self._around.meters.answered([hop.node for hop in path.hops], message.times)
        compute, queue = self._stats.hop_compute_seconds, self._stats.hop_queue_seconds
        for at, time in enumerate(message.times[: len(compute)]):
            compute[at] += time.compute_microseconds / 1e6
            queue[at] += time.queue_microseconds / 1e6

    # --- effects ---

    def pump(self) -> None:
        """Carry out the core's effects; those may cause more, which follow in order.

        The step that follows a token is sent before the token is told, so that hops compute meanwhile.
        """
        if self._pumping:
            return
        self._pumping = True
        try:
            while effects := self.core.effects():
                tokens: list[Emit[object]] = []
                for effect in effects:
                    if isinstance(effect, Emit):
                        tokens.append(effect)
                        continue
                    if isinstance(effect, Finish | Fail):
                        self._emit_all(tokens)
                    self._carry_out(effect)
                self._emit_all(tokens)
        finally:
            self._pumping = False

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Send):
            self._send(effect)
        elif isinstance(effect, Sample):
            tag = OriginTag(self.session, self.core.epoch)
            model = self.core.request.model
            self._around.submit(
                SampleJob(model, self._sampler, effect.hidden, effect.dtype, effect.drafts, tag)
            )
        elif isinstance(effect, Score):
            tag = OriginTag(self.session, effect.epoch, effect.start)
            scorer = PromptScorer(effect.tokens, self.wishes.prompt_logprobs or 0)
            model = self.core.request.model
            self._around.submit(
                SampleJob(model, scorer, effect.hidden, effect.dtype, effect.tokens[:-1], tag)
            )
        elif isinstance(effect, Embed):
            tag = OriginTag(self.session, effect.epoch)
            self._around.submit(EmbedJob(self.core.request.model, effect.tokens, effect.dtype, tag=tag))
        elif isinstance(effect, FindPath):
            self._find_path(effect)
        elif isinstance(effect, Shun):
            path = self.core.last_path
            self._around.shun(effect, {} if path is None else {hop.node: hop.boot for hop in path.hops})
        elif isinstance(effect, Ready):
            if not self._ready.done():
                self._ready.set_result(None)
        elif isinstance(effect, Finish):
            self._finish = cast(FinishReason, effect.reason)
            self._flush()
            self._finished()
        elif isinstance(effect, Fail):
            self._error = effect.error
            self._finished()

    def _send(self, effect: Send) -> None:
        try:
            self._around.send(effect)
        except LinkDownError as exc:
            self.core.link_down(exc.node, self._around.now())

    def _find_path(self, wish: FindPath) -> None:
        now = self._around.now()
        try:
            path = self._around.find_path(self, wish)
        except SwarmError as exc:
            if wish.moving:
                self.core.move_missing()
            else:
                self.core.path_missing(exc, now)
            return
        if wish.moving:
            self.core.move_found(path, now)
            return
        self.core.path_found(path, now)
        if self.core.recoveries > self._stats.recoveries:
            self._stats.recoveries = self.core.recoveries
            self._around.meters.failed_over()
            route = ", ".join(str(hop) for hop in self.route)
            log.info("an answer goes on after %d tokens over %s", self._stats.completion_tokens, route)

    def _emit_all(self, tokens: list[Emit[object]]) -> None:
        for emit in tokens:
            self._emit(emit)
        tokens.clear()

    def _emit(self, emit: Emit[object]) -> None:
        if not self._stats.completion_tokens:
            self._stats.first_token_seconds = self._around.now() - self._started
            self._stats.cached_tokens = self.core.cached_tokens
        for token, logprob in zip(emit.tokens, emit.logprobs, strict=True):
            self._stats.completion_tokens += 1
            text = self._detokenizer.push(token)
            self._events.put_nowait(TokenEvent(token, text, cast("TokenLogprob | None", logprob)))

    def _flush(self) -> None:
        """Characters held back for bytes that never came are text all the same."""
        tail = self._detokenizer.flush()
        if tail:
            self._events.put_nowait(TokenEvent(-1, tail, None))

    def _finished(self) -> None:
        if not self._ready.done():
            if self._error is not None:
                self._ready.set_exception(self._error)
            else:
                self._ready.cancel()
        self._events.put_nowait(None)
        self._around.ended(self)
        self.wishes.freed()
