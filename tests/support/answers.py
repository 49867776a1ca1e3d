"""Answers computed through an Engine, many at once: each takes one job a round, so that their rows mix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from swarm.engine.jobs import (
    EmbedJob,
    EmbedResult,
    SampleJob,
    SampleResult,
    StepJob,
    StepResult,
    TokenLogprob,
)
from swarm.engine.params import SamplingParams
from swarm.engine.sampling import Sampler
from swarm.engine.worker import Engine
from swarm.sessions.prefix import PrefixNames
from swarm.types import LayerSpan, ModelId

Result = StepResult | EmbedResult | SampleResult
Job = StepJob | EmbedJob | SampleJob


@dataclass
class Answer:
    """One greedy answer: a prompt sent in chunks through ``route``, then one token after the other."""

    prompt: Sequence[int]
    route: Sequence[LayerSpan]
    tokens_wanted: int
    chunk: int = 1 << 20
    starts_at: int = 0
    """Round in which it joins."""
    top_logprobs: int | None = None
    dtype: str = "float32"
    scope: str | None = None
    """Within which scope its blocks are named and kept; None: no prefix is reused."""
    forgetful_hop: int | None = None
    """A hop that has forgotten what it kept."""
    switch_tokens: int = 0
    """Beyond so many tokens it is opened anew, as an origin does for longrope; 0: never."""
    hit_tokens: int = 0
    accepted: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    """The row behind the last layer for each token, as it went to the head."""
    largest_batch: int = 0
    _hop: int = -1
    _position: int = 0
    _hidden: bytes = b""
    _waiting: bytes = b""

    def __post_init__(self) -> None:
        self.sampler = Sampler(SamplingParams(temperature=0.0, top_logprobs=self.top_logprobs))

    @property
    def done(self) -> bool:
        return len(self.accepted) >= self.tokens_wanted

    def open(self, engine: Engine, model: ModelId) -> None:
        names = self._names([*self.prompt[:-1]])
        tokens = len(self.prompt) + self.tokens_wanted
        if not self.outgrown:
            tokens = min(tokens, self.switch_tokens or tokens)
        hits = [
            engine.open(
                self._key(hop),
                model,
                span,
                tokens,
                blocks=() if hop == self.forgetful_hop else names,
            )
            for hop, span in enumerate(self.route)
        ]
        self.hit_tokens = self._position = min(hits)

    @property
    def outgrown(self) -> bool:
        return 0 < self.switch_tokens < len(self.prompt) + len(self.accepted)

    def begin_anew(self, engine: Engine, model: ModelId) -> None:
        """Open every hop again, with nothing."""
        self.open(engine, model)
        self.switch_tokens, self._hop = 0, -1

    def close(self, engine: Engine) -> None:
        names = self._names([*self.prompt, *self.accepted[:-1]])
        for hop in range(len(self.route)):
            engine.close(self._key(hop), names)

    def _names(self, tokens: Sequence[int]) -> tuple[bytes, ...]:
        if self.scope is None:
            return ()
        names = PrefixNames(b"secret", self.scope)
        names.extend(tokens)
        return names.covering(len(tokens))

    def rewind(self, engine: Engine, tokens: int) -> None:
        """Forget the last ``tokens`` tokens here and at every hop, as a rejected draft would."""
        del self.accepted[-tokens:]
        del self.outputs[-tokens:]
        self._position = len(self.prompt) + len(self.accepted) - 1
        self.sampler = Sampler(self.sampler.params)
        for hop in range(len(self.route)):
            engine.truncate(self._key(hop), self._position)
        self._hop = -1

    def next_job(self, model: ModelId, tag: int) -> Job:
        if self._hop < 0:
            known = [*self.prompt, *self.accepted]
            return EmbedJob(model, known[self._position :], self.dtype, tag)
        if self._hop == len(self.route):
            self.outputs.append(bytes(self._hidden))
            return SampleJob(model, self.sampler, self._hidden, self.dtype, tag=tag)
        last = self._hop == len(self.route) - 1
        rows = "all" if not last else ("none" if self._waiting else "last")
        return StepJob(self._key(self._hop), self._position, self._sent, self._hidden, self.dtype, rows, tag)

    def receive(self, result: Result) -> None:
        assert result.error is None, result.error
        if isinstance(result, EmbedResult):
            rows = len(self.prompt) + len(self.accepted) - self._position
            self._row_bytes = len(result.hidden) // rows
            self._waiting = result.hidden
            self._next_chunk()
        elif isinstance(result, SampleResult):
            self.accepted.extend(result.tokens)
            self.logprobs.extend(result.logprobs)
            self._hidden, self._hop = result.next_hidden, 0
        else:
            self._receive_step(result)

    def _receive_step(self, result: StepResult) -> None:
        self.largest_batch = max(self.largest_batch, result.batch_rows)
        self._hop += 1
        if self._hop < len(self.route):
            self._hidden = result.hidden
            return
        self._position += self._sent
        if self._waiting:
            self._next_chunk()
        else:
            self._hidden = result.hidden
            self._sent = 1

    def _next_chunk(self) -> None:
        size = self.chunk * self._row_bytes
        self._hidden, self._waiting = self._waiting[:size], self._waiting[size:]
        self._sent = len(self._hidden) // self._row_bytes
        self._hop = 0

    def _key(self, hop: int) -> tuple[int, int]:
        return (id(self), hop)


class Driver:
    """Sends jobs to an engine and waits for their results."""

    def __init__(self, engine: Engine, model: ModelId) -> None:
        self.engine = engine
        self.model = model
        self._results: AsyncIterator[list[Result]] = engine.results()

    async def ask(self, jobs: Sequence[Job]) -> list[Result]:
        """Submit ``jobs``, tagged 0, 1, …; return their results in that order."""
        for job in jobs:
            self.engine.submit(job)
        found: dict[object, Result] = {}
        while len(found) < len(jobs):
            found.update((result.tag, result) for result in await anext(self._results))
        return [found[tag] for tag in range(len(jobs))]

    async def run(self, answers: Sequence[Answer]) -> None:
        """Compute all of ``answers`` to their ends; they join as they say and leave as they finish."""
        now = 0
        open_answers: list[Answer] = []
        left = sorted(answers, key=lambda answer: answer.starts_at)
        while left or open_answers:
            while left and left[0].starts_at <= now:
                left[0].open(self.engine, self.model)
                open_answers.append(left.pop(0))
            now += 1
            await self.advance(open_answers)
            for answer in open_answers:
                if answer.accepted and answer.outgrown and not answer.done:
                    answer.begin_anew(self.engine, self.model)
            for answer in [answer for answer in open_answers if answer.done]:
                answer.close(self.engine)
                open_answers.remove(answer)

    async def advance(self, answers: Sequence[Answer]) -> None:
        """Let each of ``answers`` do one job."""
        jobs = [answer.next_job(self.model, tag) for tag, answer in enumerate(answers)]
        for answer, result in zip(answers, await self.ask(jobs), strict=True):
            answer.receive(result)
