"""A model that is only a hash, and an engine that keeps its state: what it says is known beforehand.

Row i of a layer's output is a hash of the layer and of rows 0 to i of its input. So one token lost, doubled, out of
place or left over from elsewhere changes every row behind it in every layer above, however the layers are cut.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

from swarm.engine.jobs import StepJob, StepResult
from swarm.errors import EngineError, KVFullError, ModelError
from swarm.protocol.limits import PREFIX_BLOCK_TOKENS
from swarm.types import LayerSpan, ModelId
from tests.sim.scheduler import Scheduler

HIDDEN = 4
DTYPE = "bfloat16"
ROW = 2 * HIDDEN
LAYERS = 6
MODEL = ModelId("org/hash", "0" * 64)
ROWS_THAT_DOUBLE_A_STEP = 16
BLOCK_TOKENS = 16


def digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"|".join(parts), digest_size=ROW).digest()


def embed(tokens: Sequence[int]) -> bytes:
    return b"".join(token.to_bytes(ROW, "big") for token in tokens)


def chosen(seed: int, position: int, row: bytes, vocabulary: int) -> int:
    """The token sampled behind ``row``; seed 0 draws nothing."""
    drawn = digest(row, seed.to_bytes(8, "big"), position.to_bytes(8, "big")) if seed else row
    return int.from_bytes(drawn[:4], "big") % vocabulary


def sampled(rows: bytes, drafts: Sequence[int], seed: int, position: int, vocabulary: int) -> tuple[int, ...]:
    """Take each row's token while the draft before the next row equals it. Row 0 stands behind token ``position``."""
    tokens: list[int] = []
    for at in range(len(rows) // ROW):
        tokens.append(chosen(seed, position + at, rows[at * ROW : (at + 1) * ROW], vocabulary))
        if at >= len(drafts) or drafts[at] != tokens[-1]:
            break
    return tuple(tokens)


@dataclass
class Chains:
    """The KV of one sequence: the chain of hashes of each layer of a span."""

    span: LayerSpan
    chains: list[list[bytes]]

    @classmethod
    def empty(cls, span: LayerSpan) -> Chains:
        return cls(span, [[] for _ in range(len(span))])

    @property
    def length(self) -> int:
        return len(self.chains[0])

    def truncate(self, length: int) -> None:
        for chain in self.chains:
            del chain[length:]

    def append(self, row: bytes) -> bytes:
        for layer, chain in enumerate(self.chains, self.span.start):
            row = digest(layer.to_bytes(2, "big"), chain[-1] if chain else b"", row)
            chain.append(row)
        return row

    def copy(self, length: int) -> Chains:
        return Chains(self.span, [chain[:length] for chain in self.chains])


class Reference:
    """The whole model in one place, fed token by token."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.sequence = Chains.empty(LayerSpan(0, LAYERS))
        self.feed(tokens)

    def feed(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self.row = self.sequence.append(embed([token]))


def text_of(prompt: Sequence[int], count: int, seed: int, vocabulary: int) -> list[int]:
    """What an undisturbed answer is."""
    model = Reference(prompt)
    answer: list[int] = []
    for _ in range(count):
        answer.append(chosen(seed, len(prompt) + len(answer) - 1, model.row, vocabulary))
        model.feed(answer[-1:])
    return answer


@dataclass
class HashEngine:
    """As much of engine.worker.Engine as a hop's service asks for, in virtual time and one step after another."""

    scheduler: Scheduler
    spans: tuple[LayerSpan, ...]
    budget_tokens: int
    seconds_per_layer: float
    give: Callable[[StepResult], None]
    keeps: Callable[[], bool]
    """Whether an ended sequence is kept: real ones are evicted at times that depend on others."""
    slowness: float = 1.0
    slack: int | None = None
    """Tokens that a sequence can be taken back; None: all, as where no layer has a window."""
    problems: list[str] = field(default_factory=list)
    paused: bool = False
    steps: int = 0
    computed: int = 0
    _sequences: dict[Hashable, Chains] = field(default_factory=dict)
    _reserved: dict[Hashable, int] = field(default_factory=dict)
    _stages: dict[Hashable, LayerSpan] = field(default_factory=dict)
    _scopes: dict[Hashable, Hashable] = field(default_factory=dict)
    _retired: set[LayerSpan] = field(default_factory=set)
    _kept: dict[tuple[Hashable, LayerSpan, bytes], Chains] = field(default_factory=dict)
    _highest: dict[Hashable, int] = field(default_factory=dict)
    _queue: deque[tuple[Chains | None, StepJob | int]] = field(default_factory=deque)
    _running: bool = False

    # --- accounting ---

    def open(
        self,
        key: Hashable,
        model: ModelId,
        span: LayerSpan,
        kv_tokens: int,
        *,
        scope: Hashable = None,
        blocks: Sequence[bytes] = (),
    ) -> int:
        covering = [held for held in self.spans if held.covers(span) and held not in self._retired]
        if not covering:
            raise ModelError(f"{span} is not loaded here")
        self.close(key)
        self._reserve(key, kv_tokens)
        self._stages[key] = min(covering, key=len)
        for count in range(len(blocks), 0, -1):
            kept = self._kept.get((scope, span, blocks[count - 1]))
            if kept is not None:
                self._sequences[key] = kept.copy(count * PREFIX_BLOCK_TOKENS)
                break
        else:
            self._sequences[key] = Chains.empty(span)
        self._scopes[key] = scope
        self._highest[key] = self._sequences[key].length
        return self._sequences[key].length

    def _reserve(self, key: Hashable, tokens: int) -> None:
        wanted = max(-(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS, self._reserved.get(key, 0))
        others = sum(self._reserved.values()) - self._reserved.get(key, 0)
        if others + wanted > self.budget_tokens:
            raise KVFullError(wanted, self.budget_tokens - others)
        self._reserved[key] = wanted

    def grow(self, key: Hashable, kv_tokens: int) -> None:
        if key not in self._reserved:
            raise EngineError("the sequence is not open")
        self._reserve(key, kv_tokens)

    def reserved_bytes(self, key: Hashable) -> int:
        return self._reserved.get(key, 0)

    def truncate(self, key: Hashable, length: int) -> None:
        if length < self.floor(key):
            raise EngineError(f"can't go back to token {length}")
        self._queue.append((self._sequences.get(key), length))
        self._go_on()

    def floor(self, key: Hashable) -> int:
        return 0 if self.slack is None else max(0, self._highest.get(key, 0) - self.slack)

    def stage_of(self, key: Hashable) -> tuple[ModelId, LayerSpan] | None:
        return (MODEL, self._stages[key]) if key in self._stages else None

    def retire_span(self, model: ModelId, span: LayerSpan) -> None:
        self._retired.add(span)

    def close(self, key: Hashable, blocks: Sequence[bytes] = ()) -> None:
        sequence = self._sequences.pop(key, None)
        self._reserved.pop(key, None)
        self._stages.pop(key, None)
        scope = self._scopes.pop(key, None)
        if sequence is None or (self.slack is not None and blocks):
            return
        for count, name in enumerate(blocks, 1):
            if self.keeps():
                # Settled tokens are there by the time the close is carried out.
                self._kept[scope, sequence.span, name] = sequence.copy(count * PREFIX_BLOCK_TOKENS)

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(steps=self.steps, kv_budget_bytes=self.budget_tokens)

    @property
    def sequences(self) -> int:
        return len(self._sequences)

    @property
    def reserved_tokens(self) -> int:
        return sum(self._reserved.values())

    def chain(self, key: Hashable) -> Chains | None:
        return self._sequences.get(key)

    # --- the compute thread ---

    def submit(self, job: StepJob) -> None:
        if job.key in self._sequences:
            if job.position < self.floor(job.key):
                self.problems.append(f"a step at token {job.position}, below the floor")
            self._highest[job.key] = max(self._highest.get(job.key, 0), job.position + job.count)
        self._queue.append((self._sequences.get(job.key), job))
        self._go_on()

    def resume(self) -> None:
        self.paused = False
        self._go_on()

    def _go_on(self) -> None:
        while self._queue and not self._running and not self.paused:
            sequence, job = self._queue.popleft()
            if isinstance(job, int):
                if sequence is not None:
                    sequence.truncate(job)
                continue
            self._running = True
            layers = len(sequence.span) if sequence is not None else 0
            rows = 1 + job.count / ROWS_THAT_DOUBLE_A_STEP
            seconds = self.seconds_per_layer * layers * rows * self.slowness
            self.scheduler.after(seconds, lambda s=sequence, j=job, t=seconds: self._done(s, j, t))

    def _done(self, sequence: Chains | None, job: StepJob, seconds: float) -> None:
        self._running = False
        if self.paused:
            self._queue.appendleft((sequence, job))
            return
        self.steps += 1
        self.give(self._compute(sequence, job, seconds))
        self._go_on()

    def _compute(self, sequence: Chains | None, job: StepJob, seconds: float) -> StepResult:
        error: EngineError | None = None
        rows: list[bytes] = []
        if sequence is None or self._sequences.get(job.key) is not sequence:
            error = EngineError("the sequence was closed")
        elif job.position > sequence.length:
            error = EngineError(f"a step at token {job.position} of a sequence of {sequence.length}")
            self.problems.append(str(error))
        elif job.position + job.count > self._reserved.get(job.key, 0):
            error = EngineError(f"{job.position + job.count} tokens exceed what is reserved")
            self.problems.append(str(error))
        else:
            sequence.truncate(job.position)
            payload = bytes(job.hidden)
            rows = [sequence.append(payload[at : at + ROW]) for at in range(0, len(payload), ROW)]
            self.computed += job.count
        wanted = {"none": [], "last": rows[-1:], "all": rows}[job.rows]
        return StepResult(
            job.tag,
            job.key,
            job.position,
            len(wanted),
            b"".join(wanted),
            job.dtype,
            0.0,
            seconds,
            job.count,
            error,
        )
